"""Batches as a pure function of (seed, stage, step, phase, repeat)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.events import Batch, Padded, Value, rows, take
from genloom.core.randomness import Noise, generator

POOL = 64
"""Batches that are made of the same rows where items of about the same length come together."""


@dataclass(frozen=True)
class Stream:
    """Encoded training rows, their conditions, and the perturbation that each step applies anew."""

    x: Value
    cond: Value | None
    perturb: Callable[[Value, Noise], Value]

    def __len__(self) -> int:
        return rows(self.x)

    def batch(self, index: Tensor, noise: Noise) -> Batch:
        """Return the rows ``index`` as a model sees them."""
        batch = {"x": self.perturb(take(self.x, index), noise)}
        return batch if self.cond is None else {**batch, "cond": take(self.cond, index)}


def lengths(stream: Stream) -> Tensor:
    """Return how long each row is, its condition included, (n,); 0 where nothing varies in length."""
    parts = [part.lengths for part in (stream.x, stream.cond) if isinstance(part, Padded)]
    return sum(parts, torch.zeros(len(stream), dtype=torch.int64))


class Order:
    """An endless sequence of row numbers, reshuffled every epoch; any stretch of it can be asked for."""

    def __init__(self, n: int, *parts: int | str) -> None:
        self._n, self._parts = n, parts
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    def _rows_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            source = generator("order", *self._parts, epoch)
            self._epoch, self._permutation = epoch, torch.randperm(self._n, generator=source)
        return self._permutation

    def __call__(self, draw: int, size: int) -> Tensor:
        """Return rows ``draw * size`` to ``(draw + 1) * size`` of the sequence, (size,) int64."""
        start, stop = draw * size, (draw + 1) * size
        pieces = []
        while start < stop:
            epoch, offset = divmod(start, self._n)
            piece = self._rows_of(epoch)[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        return torch.cat(pieces)


class Alike:
    """An order whose batches are of rows of about the same length.

    The rows of ``POOL`` batches, or of one epoch where that is less, are sorted by length and dealt out in
    batches, which come in keyed order.
    """

    def __init__(self, order: Order, lengths: Tensor, *parts: int | str) -> None:
        self._order, self._lengths, self._parts = order, lengths, parts

    def __call__(self, draw: int, size: int) -> Tensor:
        """Return rows of batch number ``draw``, (size,) int64."""
        count = min(POOL, max(1, len(self._lengths) // size))
        pool, place = divmod(draw, count)
        rows = self._order(pool, count * size)
        number = int(torch.randperm(count, generator=generator("alike", *self._parts, pool))[place])
        return rows[self._lengths[rows].argsort(stable=True)][number * size : (number + 1) * size]
