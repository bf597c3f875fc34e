"""Captions: whom they are about, and the set as it was published."""

import gzip
import os
from pathlib import Path

import pytest
import torch

from genloom.modalities.captions import CLASSES, read_captions, subject
from genloom.modalities.characters import to_texts
from genloom.modalities.datasets import DataOptions, open_data

HERE = os.environ.get("GENLOOM_DATA")
HELD = bool(HERE and Path(HERE, "multi30k").is_dir())


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man walks his dog.", "man"),
        ("two women and a man talk.", "people"),
        ("a dog runs past a woman.", "dog"),
        ("a snowmobile jumps.", "other"),
        ("a fireman waves.", "other"),
        ("the girl's ball", "girl"),
    ],
)
def test_the_first_noun_says_whom_a_caption_is_about(caption: str, expected: str) -> None:
    assert CLASSES[subject(caption)] == expected


def test_captions_are_read_with_their_labels(tmp_path: Path) -> None:
    for stem in ("train", "val", "test_2016_flickr"):
        with gzip.open(tmp_path / f"{stem}.en.gz", "wt", encoding="utf-8") as file:
            file.write(f"A Woman in {stem}.\nA cat.\n")
    reading = read_captions(tmp_path)
    assert to_texts(reading.parts["valid"].items) == ["a woman in val.", "a cat."]
    labels = reading.parts["test"].labels
    assert labels is not None
    assert [reading.classes[i] for i in labels.tolist()] == ["woman", "other"]


@pytest.mark.skipif(not HELD, reason="no multi30k folder in $GENLOOM_DATA")
def test_the_published_set() -> None:
    found = open_data("captions", DataOptions())
    assert [len(part) for part in (found.train, found.valid, found.test)] == [29_000, 1_014, 1_000]
    assert found.train.labels is not None
    counts = torch.bincount(found.train.labels).tolist()
    assert dict(zip(found.classes, counts, strict=True))["dog"] == 1_632
    assert sum(counts) == 29_000
