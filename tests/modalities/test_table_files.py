"""Tables of numbers, and Parquet with images."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genloom.core.errors import DataError, MissingExtra
from genloom.modalities import pictures
from genloom.modalities.readers import read_path

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")


def table(folder: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2.5\n-3e2,4\n",
        "a;b\n1;2.5\n-3e2;4\n",
        "a\tb\n1\t2.5\n-3e2\t4\n",
        "  a   b\n 1   2.5\n-3e2 4\n",
        '"a","b"\r\n"1",2.5\r\n\r\n-3e2, 4',
        "\n\na,b\n1,2.5\n-3e2,4\n\n",
    ],
)
def test_delimiters_and_headers(tmp_path: Path, text: str) -> None:
    reading = read_path(table(tmp_path, text), None, None)
    assert reading.columns == ("a", "b")
    assert reading.parts["all"].items.dtype == torch.float64
    assert reading.parts["all"].items.tolist() == [[1, 2.5], [-300, 4]]


def test_byte_order_mark_and_no_header(tmp_path: Path) -> None:
    assert read_path(table(tmp_path, "a,b\n1,2\n", encoding="utf-8-sig"), None, None).columns == ("a", "b")
    bare = read_path(table(tmp_path, "1,2\n3,4\n"), None, None)
    assert bare.columns == ("column 1", "column 2")
    assert bare.parts["all"].items.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,red\n", r"t\.csv:3: column 'b': 'red' is not a number: .*--data\.label"),
        ("a,b\n1,2\n\n3,\n", r"t\.csv:4: column 'b': the cell is empty"),
        ("a,b\n1,nan\n", r"t\.csv:2: column 'b': nan is not a finite number"),
        ("a,b\n1,2\n1,-inf\n", r"t\.csv:3: column 'b': -inf is not a finite number"),
        ("1,2\n3\n", r"t\.csv:2: 1 cells, but the first line has 2"),
        ("M,1\nF,2\n", r"t\.csv:1: column 'column 1': 'M' is not a number"),
        ("a,b\n", "has no rows"),
        ("", "no column of numbers"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_path(table(tmp_path, text), None, None)


def test_what_is_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_path(tmp_path / "t.csv", None, None)
    monkeypatch.setattr(pictures, "MAX_BYTES", 5)
    with pytest.raises(DataError, match="more than"):
        read_path(tmp_path / "t.csv", None, None)


def test_a_label_column_may_be_text(tmp_path: Path) -> None:
    path = table(tmp_path, "x,colour,y\n1,red,2\n3,blue,4\n5,red,6\n")
    reading = read_path(path, None, "colour")
    assert (reading.columns, reading.classes) == (("x", "y"), ("blue", "red"))
    whole = reading.parts["all"]
    assert whole.labels is not None
    assert whole.labels.tolist() == [1, 0, 1]
    assert whole.items.tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(DataError, match=r"no column 'color'; did you mean colour\?"):
        read_path(path, None, "color")


def test_more_labels_than_classes_can_be(tmp_path: Path) -> None:
    path = table(tmp_path, "x,y\n" + "".join(f"{i},{i}\n" for i in range(1_001)))
    with pytest.raises(DataError, match="1,001 different labels"):
        read_path(path, None, "y")


def test_folders_of_tables(tmp_path: Path) -> None:
    table(tmp_path, "a,b\n1,2\n3,4\n", "train.csv")
    table(tmp_path, "a,b\n5,6\n", "test.csv")
    reading = read_path(tmp_path, None, None)
    assert {name: part.items.tolist() for name, part in reading.parts.items()} == {
        "train": [[1, 2], [3, 4]],
        "test": [[5, 6]],
    }
    table(tmp_path, "a,c\n5,6\n", "test.csv")
    with pytest.raises(DataError, match="do not have the same columns"):
        read_path(tmp_path, None, None)
    table(tmp_path, "a,b\n5,6\n", "other.csv")
    with pytest.raises(DataError, match="several tables"):
        read_path(tmp_path, None, None)


def test_numeric_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1, 2], "b": [0.5, 1.5], "c": [True, False], "k": ["u", "v"]}), path)
    reading = read_path(path, None, "k")
    assert (reading.columns, reading.classes) == (("a", "b", "c"), ("u", "v"))
    assert reading.parts["all"].items.tolist() == [[1, 0.5, 1], [2, 1.5, 0]]
    with pytest.raises(DataError, match="column 'k' holds string, not numbers"):
        read_path(path, None, None)
    pq.write_table(pa.table({"a": [1, None, 3]}), path)
    with pytest.raises(DataError, match="row 2, column 'a' is not a finite number"):
        read_path(path, None, None)
    path.write_bytes(b"PAR1 rubbish PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_path(path, None, None)


def test_parquet_memory_is_checked_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"a": np.arange(1_000.0)}), tmp_path / "t.parquet")
    monkeypatch.setattr(pictures, "MAX_BYTES", 4_000)
    monkeypatch.setattr(pq, "read_table", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match="more than"):
        read_path(tmp_path / "t.parquet", None, None)


def image_parquet(path: Path, cells: list[bytes], labels: list[int], metadata: Any = None) -> None:
    images = [{"bytes": cell, "path": None} for cell in cells]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    made = pa.table({"image": pa.array(images, kind), "label": labels})
    pq.write_table(made.replace_schema_metadata(metadata), path)


def test_parquet_of_images(tmp_path: Path, encoded: Callable[..., bytes]) -> None:
    feature = {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    cells = [encoded(i, mode="RGB") for i in range(6)]
    image_parquet(tmp_path / "train-00000-of-00002.parquet", cells[:2], [0, 1], metadata)
    image_parquet(tmp_path / "train-00001-of-00002.parquet", cells[2:4], [1, 1], metadata)
    image_parquet(tmp_path / "test-00000-of-00001.parquet", cells[4:], [0, 1], metadata)
    reading = read_path(tmp_path, None, None)
    assert reading.classes == ("cat", "dog", "eel")
    train = reading.parts["train"]
    assert train.items.shape == (4, 3, 4, 6)
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 1, 1]
    assert len(reading.parts["test"]) == 2
    assert read_path(tmp_path, 3, None).parts["train"].items.shape == (4, 3, 3, 3)


def test_parquet_of_images_without_names_or_with_bad_rows(
    tmp_path: Path, encoded: Callable[..., bytes]
) -> None:
    path = tmp_path / "t.parquet"
    cells = [encoded(i) for i in range(25)]
    cells[3] = cells[3][:40]
    image_parquet(path, cells, [7, 8, 8, 8, *[9] * 21])
    reading = read_path(path, None, None)
    assert reading.classes == ("7", "8", "9")
    assert reading.notes == ("skipped 1 of 25 images that cannot be read: row 4 of image",)
    labels = reading.parts["all"].labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 1, *[2] * 21]
    feature = {"_type": "ClassLabel", "names": ["cat"]}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    image_parquet(path, cells[:1], [1], metadata)
    with pytest.raises(DataError, match="whole numbers 0 to 0"):
        read_path(path, None, None)


def test_a_plain_column_of_bytes_holds_images_too(tmp_path: Path, encoded: Callable[..., bytes]) -> None:
    pq.write_table(pa.table({"png": [encoded(0), encoded(1)]}), tmp_path / "t.parquet")
    whole = read_path(tmp_path / "t.parquet", None, None).parts["all"]
    assert whole.items.shape == (2, 1, 4, 6)
    assert whole.labels is None


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    pq.write_table(pa.table({"a": np.arange(3)}), tmp_path / "t.parquet")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"genloom\[tables\]"):
        read_path(tmp_path / "t.parquet", None, None)


def test_a_missing_label_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,x\n2,\n3,y\n")
    with pytest.raises(DataError, match="column 'b' lacks 1 labels"):
        read_path(path, None, "b")
