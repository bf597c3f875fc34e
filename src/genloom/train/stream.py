"""Batches as a pure function of (seed, stage, step, phase, repeat)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.events import Batch, Value, rows, take
from genloom.core.randomness import Noise, generator


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
