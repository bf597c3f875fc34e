"""Captions of photographs, in English, each labelled by the first of some nouns that it has."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from genloom.modalities.base import Reading, Split
from genloom.modalities.characters import to_items
from genloom.modalities.parallel import PARALLEL, lines_of

SUBJECTS: Mapping[str, str] = {
    "man": "man guy gentleman male",
    "woman": "woman lady female",
    "boy": "boy",
    "girl": "girl",
    "child": "child kid baby toddler infant",
    "dog": "dog dogs puppy",
    "people": (
        "people men women group crowd couple children boys girls kids guys ladies persons adults band team "
        "family workers players teenagers"
    ),
}
"""Nouns by the class that they stand for."""

OTHER = "other"
CLASSES = (*SUBJECTS, OTHER)
_CLASS_OF = {noun: number for number, nouns in enumerate(SUBJECTS.values()) for noun in nouns.split()}


def subject(caption: str) -> int:
    """Return the class of the first noun of ``SUBJECTS`` in a caption in small letters, else ``OTHER``."""
    words = re.findall(r"[a-z]+", caption)
    return next((_CLASS_OF[word] for word in words if word in _CLASS_OF), len(SUBJECTS))


def read_captions(folder: Path) -> Reading:
    """Read the English side of Multi30k in small letters, with its official split."""
    parts = {}
    for split, stem in PARALLEL["multi30k"].files.items():
        texts = lines_of(folder / f"{stem}.en.gz", lower=True)
        parts[split] = Split(to_items(texts), torch.tensor([subject(text) for text in texts]))
    return Reading(parts, "Multi30k's English side", CLASSES, text="lines")
