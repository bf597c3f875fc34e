"""Captions of images: from templates and from files, and what models see of them."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from genloom.core.errors import DataError
from genloom.core.events import Padded
from genloom.modalities import datasets
from genloom.modalities.base import Split
from genloom.modalities.characters import to_items, to_texts
from genloom.modalities.datasets import DataOptions, open_data
from genloom.modalities.images import Images
from genloom.modalities.prompts import MOST_BYTES, ROOM, PromptedView
from genloom.modalities.templates import COLOURS, NEW_FRAMES, named_colours, with_captions

SHADES = {
    "black": (20, 25, 22),
    "grey": (120, 125, 122),
    "white": (240, 238, 236),
    "red": (220, 30, 40),
    "orange": (240, 140, 20),
    "brown": (120, 80, 50),
    "yellow": (235, 220, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 200),
    "purple": (140, 40, 190),
}


def plain(colour: tuple[int, int, int], side: int = 8) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, side, side)


def test_colours_are_named_by_the_middle() -> None:
    items = torch.stack([plain(SHADES[name]) for name in COLOURS])
    assert [COLOURS[i] for i in named_colours(items, 256)] == list(COLOURS)
    framed = torch.stack([plain(SHADES["green"])]).clone()
    framed[:, :, 2:6, 2:6] = plain(SHADES["red"], 4)
    assert COLOURS[named_colours(framed, 256)[0]] == "red"


def test_templates_name_class_and_colour_and_tests_have_frames_of_their_own() -> None:
    items = torch.stack([plain(SHADES["red"]), plain(SHADES["orange"])] * 200)
    split = Split(items, torch.tensor([0, 1] * 200))
    texts = {n: to_texts(with_captions(split, ("truck", "ape"), 256, n).captions) for n in ("train", "test")}
    assert set(texts["test"][::2]) == {frame.format("a red truck") for frame in NEW_FRAMES}
    assert set(texts["test"][1::2]) == {frame.format("an orange ape") for frame in NEW_FRAMES}
    assert not set(texts["test"]) & set(texts["train"])
    assert 0.6 < sum("red" in text for text in texts["train"][::2]) / 200 < 0.8
    assert texts["train"] == to_texts(with_captions(split, ("truck", "ape"), 256, "train").captions)


def test_digits_are_handwritten_and_templates_need_classes() -> None:
    digits = open_data("digits", DataOptions(captions="templates"))
    texts = to_texts(digits.test.captions)
    assert texts[0].endswith(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
    assert all("handwritten" in text for text in texts)
    assert digits.fingerprint == open_data("digits").fingerprint
    with pytest.raises(DataError, match="templates need class labels"):
        with_captions(Split(digits.test.items), digits.classes, 17, "test")


def test_models_see_bytes_in_small_letters() -> None:
    digits = open_data("digits", DataOptions(captions="templates"))
    view = digits.modality.views()[0]
    assert isinstance(view, PromptedView)
    read = view.read(["A  Photo", "é"])
    assert isinstance(read, Padded)
    assert bytes(read.values[0, : read.lengths[0]].tolist()).decode() == "a photo"
    assert bytes(read.values[1, : read.lengths[1]].tolist()).decode() == "é"
    assert read.lengths.tolist() == [7, 2]
    longest = max(len(text) for part in (digits.train, digits.test) for text in to_texts(part.captions))
    assert read.values.shape[1] == view.longest_prompt == ROOM * longest
    with pytest.raises(DataError, match="at most"):
        view.read(["x" * (view.longest_prompt + 1)])
    given = view.conditions(digits.test)
    assert isinstance(given, Padded)
    assert given.lengths.tolist() == [len(text) for text in to_texts(digits.test.captions)]
    assert view.conditions(Split(digits.test.items)) is None
    again = datasets.from_json(json.loads(json.dumps(digits.modality.describe())))
    assert isinstance(again, Images)
    assert [v.given for v in again.views()] == [view.given] * 4


def test_captions_follow_their_items() -> None:
    split = Split(torch.arange(6)[:, None], None, to_items([f"item {i}" for i in range(6)]))
    assert to_texts(split.take(torch.tensor([4, 1])).captions) == ["item 4", "item 1"]
    longer = Split(torch.arange(1)[:, None], None, to_items(["a longer caption"]))
    assert to_texts(split.take(slice(0, 1)).joined(longer).captions) == ["item 0", "a longer caption"]


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), (number, 255 - number, number // 2), np.uint8)).save(file, "png")
    return file.getvalue()


def test_a_column_of_parquet_has_captions(tmp_path: Path) -> None:
    texts = [f"shade {i}" for i in range(60)]
    table = pa.table({"image": [png(i) for i in range(60)], "text": texts})
    pq.write_table(table, tmp_path / "shades.parquet")
    path = str(tmp_path / "shades.parquet")
    data = open_data(path, DataOptions(captions="text"))
    for part in (data.train, data.valid, data.test):
        assert to_texts(part.captions) == [f"shade {i}" for i in part.items[:, 0, 0, 0].tolist()]
    assert open_data(path).train.captions is None
    assert data.fingerprint != open_data(path).fingerprint
    with pytest.raises(DataError, match="no column 'txt'; did you mean text"):
        open_data(path, DataOptions(captions="txt"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions_stand_beside_image_files(tmp_path: Path, kind: str) -> None:
    rows = [(f"{i:02d}.png", f"shade {i}") for i in range(60)]
    for i, (name, _) in enumerate(rows):
        (tmp_path / name).write_bytes(png(i))
    with pytest.raises(DataError, match="no metadata"):
        open_data(str(tmp_path), DataOptions(captions="text"))
    lines = {
        "csv": ["file_name,text", *map(",".join, rows)],
        "jsonl": [json.dumps({"file_name": name, "text": text}) for name, text in rows],
    }
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines[kind]))
    data = open_data(str(tmp_path), DataOptions(captions="text"))
    assert to_texts(data.train.captions) == [f"shade {i}" for i in data.train.items[:, 0, 0, 0].tolist()]
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines[kind][:-2]))
    with pytest.raises(DataError, match=r"58\.png has no caption, nor 1 more"):
        open_data(str(tmp_path), DataOptions(captions="text"))


def test_captions_are_for_images_and_of_a_size() -> None:
    with pytest.raises(DataError, match=r"leave --data\.captions out"):
        open_data("iris", DataOptions(captions="templates"))
    with pytest.raises(DataError, match=r"leave --data\.captions out"):
        open_data("digits", DataOptions(captions="text"))
    too_long = Split(torch.zeros(1, 1, 8, 8), None, to_items(["x" * (MOST_BYTES + 1)]))
    with pytest.raises(DataError, match="shorten"):
        datasets.longest_prompt_of([too_long])
