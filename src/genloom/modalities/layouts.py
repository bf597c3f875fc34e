"""How files and folders name splits and classes."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.modalities.base import Split
from genloom.modalities.characters import to_items

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
}

MAX_CLASSES = 1_000


def split_name(name: str) -> str | None:
    """Return the split that a word of a file or folder name says, as in train-00000 or plants.test.data."""
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS), None)


def split_names(names: Sequence[str]) -> dict[str, str]:
    """Map each name to its split, or all to ``all`` unless every name has one and train is among them.

    Where there is no test split, the validation split becomes the test split.
    """
    found = {name: split_name(name) or "all" for name in names}
    if not {"train"} < set(found.values()) <= {"train", "valid", "test"}:
        return dict.fromkeys(names, "all")
    if "test" not in found.values():
        return {name: "test" if split == "valid" else split for name, split in found.items()}
    return found


def part(
    items: Tensor, labels: Tensor | None, tags: Sequence[str], captions: Sequence[str] | None = None
) -> dict[str, Split]:
    """Gather items by the split that each one's tag names."""
    whole = Split(items, labels, None if captions is None else to_items(captions))
    return {tag: whole.take(torch.tensor([t == tag for t in tags])) for tag in dict.fromkeys(tags)}


def number_classes(values: Sequence[str] | None, source: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """Number class names from 0, numbers first and by size, then in alphabetical order; None has no classes.

    Raises:
        DataError: more than 1,000 different names.
    """
    if values is None:
        return None, ()
    if missing := sum(not value.strip() for value in values):
        raise DataError(f"{source} lacks {missing:,} labels: fill them or remove the rows")
    names = sorted(set(values), key=_natural)
    if len(names) > MAX_CLASSES:
        raise DataError(f"{source} has {len(names):,} different labels, at most {MAX_CLASSES:,} are classes")
    number = {name: i for i, name in enumerate(names)}
    return torch.tensor([number[value] for value in values], dtype=torch.int64), tuple(names)


def _natural(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
