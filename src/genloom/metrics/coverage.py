"""Nearest-neighbour fidelity and diversity: precision, recall, density and coverage."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.metrics._rows import chunks, distances, pair

_SPARE = 20
"""Neighbours kept beyond the k-th: none of the k left is missed unless one group holds more of them."""


def prdc(real: Tensor, fake: Tensor, *, k: int = 5) -> dict[str, float]:
    """Return precision, recall, density and coverage.

    A closed ball stands around every row, out to its k-th nearest neighbour in its own sample (itself not
    counted). Precision: the share of fake rows inside some real ball. Recall: the share of real rows inside
    some fake ball. Density: the mean number of real balls around a fake row, over k. Coverage: the share of
    real balls that hold a fake row. All depend on the numbers of rows. Memory is bounded by blocks.

    Args:
        real: (n, d), n > k.
        fake: (m, d), m > k.
        k: which neighbour sets the radius.

    Returns:
        precision, recall and coverage in [0, 1]; density >= 0, near 1 for equal distributions.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2; Naeem et al. 2020, equations 3 and 4.
    """
    real, fake = pair(real, fake)
    left, right = Grouped.whole(real), Grouped.whole(fake)
    names = ("precision", "recall", "density", "coverage")
    return {name: prdc_deleted(name, left, right, k=k).item() for name in names}


@dataclass(frozen=True)
class Grouped:
    """Rows (n, d) in ``count`` groups: ``group`` (n,) int64, -1 for rows that are never left out."""

    rows: Tensor
    group: Tensor
    count: int

    @classmethod
    def whole(cls, rows: Tensor) -> "Grouped":
        """Return rows of which the one group to leave out is empty."""
        return cls(rows, torch.full((len(rows),), -1), 1)

    @property
    def kept(self) -> Tensor:
        """(n, count) of 0 and 1: the rows left without each group."""
        return (self.group[:, None] != torch.arange(self.count)).double()

    @property
    def left(self) -> Tensor:
        """(count,) how many rows are left without each group."""
        return self.kept.sum(0)


def prdc_deleted(name: str, real: Grouped, fake: Grouped, *, k: int = 5) -> Tensor:
    """Return one of the four figures without each group of both samples: (count,)."""
    if min(real.left.min().item(), fake.left.min().item()) <= k:
        raise ConfigError(
            f"{name} with k={k} needs more than {k} rows on either side; give more rows or lower k"
        )
    if name == "recall":
        return _balls(fake, real, k).reached.sum(0) / real.left
    balls = _balls(real, fake, k)
    if name == "precision":
        return balls.reached.sum(0) / fake.left
    if name == "density":
        return balls.hits / (k * fake.left)
    return balls.held.sum(0) / real.left


@dataclass(frozen=True)
class _Balls:
    """Points reached by some ball (m, count), balls that hold a point (n, count), and pairs (count,)."""

    reached: Tensor
    held: Tensor
    hits: Tensor


def _balls(centres: Grouped, points: Grouped, k: int) -> _Balls:
    n, m, count = len(centres.rows), len(points.rows), centres.count
    reached = torch.zeros(m, count, dtype=torch.bool)
    held = torch.zeros(n, count, dtype=torch.bool)
    hits = torch.zeros(count, dtype=torch.float64)
    for part in chunks(n, m):
        radii = _radii(centres, part, k)
        apart = distances(centres.rows[part], points.rows)
        for g in range(count):
            inside = (apart <= radii[:, g, None]) & (points.group != g)
            reached[:, g] |= inside.any(0)
            held[part, g] = inside.any(1)
            hits[g] += inside.sum()
    return _Balls(reached, held, hits)


def _radii(sample: Grouped, part: slice, k: int) -> Tensor:
    """Return (part, count) distances to the k-th neighbour left without each group; -1 for rows left out."""
    apart = distances(sample.rows[part], sample.rows)
    apart.diagonal(part.start).fill_(torch.inf)
    near, index = apart.topk(min(k + _SPARE, len(sample.rows) - 1), largest=False)
    alive = sample.group[index][:, :, None] != torch.arange(sample.count)
    kth = (alive.cumsum(1) < k).sum(1).clamp_max(near.shape[1] - 1)
    own = sample.group[part, None] == torch.arange(sample.count)
    return near.gather(1, kth).masked_fill(own, -1.0)
