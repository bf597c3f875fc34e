"""Texts out of records and folders: what is read, how it is split, and what is refused."""

import json
from pathlib import Path

import pytest

import genloom
from genloom.core.errors import DataError
from genloom.modalities.characters import to_texts
from genloom.modalities.datasets import DataOptions, open_data

RECORDS = [
    {"text": f"{'good' if i % 2 else 'bad'} film {i}", "mood": "+" if i % 2 else "-"} for i in range(60)
]


def write_json(path: Path, records: list[object]) -> str:
    path.write_text("".join(f"{json.dumps(r)}\n" for r in records), encoding="utf-8")
    return str(path)


def write_table(path: Path, records: list[dict[str, str]], delimiter: str) -> str:
    lines = [delimiter.join(records[0]), *(delimiter.join(r.values()) for r in records)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_parquet(path: Path, records: list[dict[str, str]]) -> str:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist(records), path)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_records_are_texts_with_classes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"films.{kind}"
    if kind == "jsonl":
        source = write_json(path, list(RECORDS))
    elif kind == "parquet":
        source = write_parquet(path, RECORDS)
    else:
        source = write_table(path, RECORDS, "," if kind == "csv" else "\t")
    data = open_data(source, DataOptions(column="text", label="mood"))
    assert data.modality.name == "texts"
    assert sorted(data.classes) == ["+", "-"]
    for split in (data.train, data.valid, data.test):
        assert split.labels is not None
        moods = [data.classes[i] for i in split.labels.tolist()]
        assert [text.startswith("good") for text in to_texts(split.items)] == [m == "+" for m in moods]
    found = {text for s in (data.train, data.valid, data.test) for text in to_texts(s.items)}
    assert found == {r["text"] for r in RECORDS}


def test_a_model_of_labelled_texts_learns_the_labels(tmp_path: Path) -> None:
    source = write_json(tmp_path / "films.jsonl", list(RECORDS) * 4)
    trained = genloom.fit(
        "seq.lstm",
        source,
        out=tmp_path / "run",
        data={"label": "mood"},
        model={"units": 48},
        train={"steps": 150},
    )
    for mood, word in (("+", "good"), ("-", "bad")):
        found = trained.continue_texts([""] * 10, length=20, label=mood, temperature=0.5, guidance_scale=1.5)
        assert sum(one.text.startswith(word) for one in found) >= 9


def test_texts_of_several_lines_are_documents(tmp_path: Path) -> None:
    records = [{"body": f"first {i}\r\nsecond {i}"} for i in range(30)]
    data = open_data(write_json(tmp_path / "a.jsonl", list(records)), DataOptions(column="body"))
    assert "documents of up to" in data.description
    texts = to_texts(data.test.items)
    assert all(text.count("\n") == 1 for text in texts)
    paths = data.modality.write(data.test.items, None, tmp_path / "out")
    assert [p.read_text(encoding="utf-8") for p in paths] == texts
    assert data.modality.count_units(data.test.items).tolist() == [len(t) + 1 for t in texts]


def test_a_folder_is_split_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / "inner").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    for i in range(10):
        place = folder / "inner" if i % 2 else folder
        (place / f"f{i}.py").write_text("".join(f"x{i} = {j}\n" for j in range(20 + i)))
    (folder / "picture.bin").write_bytes(bytes(range(256)))
    (folder / "zero.txt").write_text("a\0b")
    data = open_data(str(folder), DataOptions(text="documents", block=64))
    assert data.notes[0] == "left out 2 files that are no UTF-8 text"
    names = [
        {text.partition(" ")[0].rpartition("\n")[2] for text in to_texts(s.items) if "=" in text}
        for s in (data.train, data.valid, data.test)
    ]
    files = [{n for n in part if n.startswith("x")} for part in names]
    assert [len(part) for part in files] == [6, 2, 2]
    assert not files[0] & files[1] | files[0] & files[2] | files[1] & files[2]
    assert max(map(len, to_texts(data.train.items))) == 64
    assert open_data(str(folder), DataOptions(text="documents", block=64)).fingerprint == data.fingerprint


def test_refusals(tmp_path: Path) -> None:
    good = write_json(tmp_path / "good.jsonl", list(RECORDS))
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    numbers = write_json(tmp_path / "numbers.jsonl", [{"text": ["a"]}])
    blank = write_json(tmp_path / "blank.jsonl", [{"text": " "}] * 3)
    (tmp_path / "empty").mkdir()
    for source, options, words in (
        (good, {"column": "texts"}, "did you mean text?"),
        (good, {"label": "moods"}, "has no 'moods'"),
        (str(tmp_path / "broken.jsonl"), {}, "broken.jsonl:2 is no JSON"),
        (numbers, {}, "is no text"),
        (blank, {}, "has no text in its column 'text'"),
        (str(tmp_path / "empty"), {"text": "documents"}, "0 files of text"),
        ("digits", {"column": "text"}, "no column of texts"),
        ("iris", {"text": "blocks"}, "no text file"),
    ):
        with pytest.raises(DataError) as caught:
            open_data(source, DataOptions(**options))
        assert words.lower() in str(caught.value).lower(), caught.value
    (tmp_path / "one.txt").write_text("some words\n\nand more\n")
    with pytest.raises(DataError, match="files of a folder"):
        open_data(str(tmp_path / "one.txt"), DataOptions(text="documents"))
