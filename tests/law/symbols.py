"""Tiny sequences of symbols: all there are of two events, and how often each occurs."""

import itertools
from collections import Counter

import torch
from torch import Tensor

from genloom.core.events import Categorical, Leaf, Length, Padded

VARYING = Leaf((Length(4),), Categorical(3))
FIXED = Leaf((4,), Categorical(3))


def everything(event: Leaf) -> Padded | Tensor:
    """Return every item of ``VARYING`` or ``FIXED``."""
    whole = torch.tensor(list(itertools.product(range(3), repeat=4)))
    if event is FIXED:
        return whole
    parts = [torch.unique(whole[:, :n], dim=0) for n in range(1, 5)]
    rows = [torch.zeros(1, 4, dtype=torch.int64)]
    rows += [torch.cat([part, torch.zeros(len(part), 4 - part.shape[1]).long()], 1) for part in parts]
    lengths = [torch.full((len(part),), n) for n, part in enumerate(rows[:1] + parts)]
    return Padded(torch.cat(rows), torch.cat(lengths))


def listed(items: Padded | Tensor) -> list[tuple[int, ...]]:
    """Return the symbols of each item."""
    if isinstance(items, Tensor):
        return [tuple(row) for row in items.tolist()]
    rows = zip(items.values.tolist(), items.lengths.tolist(), strict=True)
    return [tuple(row[:n]) for row, n in rows]


def counted(items: object) -> Counter[tuple[int, ...]]:
    """Count items by their symbols."""
    assert isinstance(items, Padded | Tensor)
    return Counter(listed(items))
