"""Splitting: stratified, keyed, without copies across splits; and fingerprints of the result."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.randomness import SampleNoise, key
from genloom.modalities.base import Split

MAX_VALID = 5_000
"""The most items cut from a given training split for validation."""

REPEATING = 0.2
"""From this share of repeats within the training split, items are taken to repeat by nature."""


def stratified(labels: Tensor | None, total: int, count: int, seed: int, name: str) -> Tensor:
    """Choose ``count`` of ``total`` items so that each class gives its share, to within one item.

    The items are put in keyed order, sorted by class, and picked at equal distances.

    Returns:
        A mask (total,) bool.
    """
    order = SampleNoise(key("split", name, seed), torch.arange(total)).uniform().argsort(stable=True)
    if labels is not None:
        order = order[labels[order].argsort(stable=True)]
    picks = ((torch.arange(count, dtype=torch.float64) + 0.5) * total / max(count, 1)).long()
    mask = torch.zeros(total, dtype=torch.bool)
    mask[order[picks]] = True
    return mask


def cut(whole: Split, count: int, seed: int, name: str) -> tuple[Split, Split]:
    """Return the split without ``count`` stratified items, and those items, both in the given order."""
    mask = stratified(whole.labels, len(whole), count, seed, name)
    return whole.take(~mask), whole.take(mask)


def divide(
    parts: Mapping[str, Split], test_fraction: float, valid_fraction: float, seed: int, distinct: bool = True
) -> tuple[dict[str, Split], list[str]]:
    """Make train, valid and test of what a reader found.

    A given test split is kept as it is. A given training split yields ``valid_fraction`` of its items, at
    most 5,000, for validation. What is not split yet is divided by both fractions.

    Args:
        distinct: exact copies across splits are removed; else they are taken to repeat by nature.

    Returns:
        The three splits by name, and notes.

    Raises:
        DataError: a split would be empty.
    """
    if "all" in parts:
        rest, test = cut(parts["all"], round(test_fraction * len(parts["all"])), seed, "test")
        train, valid = cut(rest, round(valid_fraction * len(parts["all"])), seed, "valid")
    else:
        train, test = parts["train"], parts["test"]
        if "valid" in parts:
            valid = parts["valid"]
        else:
            train, valid = cut(train, min(round(valid_fraction * len(train)), MAX_VALID), seed, "valid")
    found = {"train": train, "valid": valid, "test": test}
    found, notes = without_copies(found, "all" not in parts) if distinct else (found, [])
    if empty := [name for name, split in found.items() if len(split) == 0]:
        total = sum(map(len, parts.values()))
        raise DataError(f"{total:,} items are too few: no {empty[0]} item is left after splitting")
    return found, notes


def without_copies(splits: dict[str, Split], keep_test: bool) -> tuple[dict[str, Split], list[str]]:
    """Remove exact copies across splits: from valid and test, or from train where the test split is given.

    Nothing is removed where the training items repeat one another by nature, as rows of few values do.

    Returns:
        The splits, and notes that count what was removed or found.
    """
    train, valid, test = (digests(splits[name].items) for name in ("train", "valid", "test"))
    distinct = set(train)
    if len(train) - len(distinct) > REPEATING * len(train):
        copies = sum(d in distinct for d in valid + test)
        return splits, [f"{copies:,} valid and test items also occur in train: items here repeat by nature"]
    if keep_test:
        splits, notes = _drop(splits, "train", train, set(test), "test")
    else:
        splits, notes = _drop(splits, "test", test, distinct, "training")
    splits, more = _drop(splits, "valid", valid, distinct | set(test), "training and test")
    return splits, notes + more


def _drop(
    splits: dict[str, Split], name: str, digest: list[bytes], known: set[bytes], of: str
) -> tuple[dict[str, Split], list[str]]:
    mask = torch.tensor([d in known for d in digest], dtype=torch.bool)
    removed = int(mask.sum())
    notes = [f"removed from {name}: {removed:,} exact copies of {of} items"] if removed else []
    return {**splits, name: splits[name].take(~mask)}, notes


def digests(items: Tensor) -> list[bytes]:
    """Hash each item to 16 bytes."""
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in items.numpy()]


def fingerprint(splits: Iterable[Split], *facts: object) -> str:
    """Hash splits and the facts that give their numbers a meaning, to 16 hexadecimal digits."""
    state = hashlib.blake2b(repr(facts).encode(), digest_size=8)
    for split in splits:
        parts = (split.items, split.labels, *(() if split.captions is None else (split.captions,)))
        for part in parts:
            state.update(b"-" if part is None else f"{part.dtype}{tuple(part.shape)}".encode())
            if part is not None:
                state.update(part.contiguous().numpy().data)
    return state.hexdigest()
