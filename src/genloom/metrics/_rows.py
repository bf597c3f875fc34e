"""Rows of features: checks and distances that every metric shares."""

from collections.abc import Iterator

import torch
from torch import Tensor

from genloom.core.errors import DataError

CHUNK = 1 << 22
"""Elements of the largest temporary block: 32 MiB of float64."""


def checked(name: str, rows: Tensor) -> Tensor:
    """Return rows as (n, d) float64 on the CPU, or raise ``DataError`` with one clear line."""
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise DataError(f"{name} must be (n, d) with at least 2 rows, not {tuple(rows.shape)}")
    rows = rows.detach().to("cpu", torch.float64)
    if not rows.isfinite().all():
        raise DataError(f"{name} contains NaN or infinity; drop or repair those rows first")
    return rows


def pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Check two sets of rows that must share their columns."""
    real, fake = checked("real", real), checked("fake", fake)
    if real.shape[1] != fake.shape[1]:
        raise DataError(f"real has {real.shape[1]} columns and fake {fake.shape[1]}; use the same features")
    return real, fake


def chunks(n: int, width: int) -> Iterator[slice]:
    """Cut ``n`` rows into slices whose blocks of ``width`` columns stay within ``CHUNK`` elements."""
    step = max(1, CHUNK // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return (n, m) Euclidean distances by differences, so that equal rows are exactly 0 apart."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return (n, m) squared distances by one matrix product: fast, and zero only to rounding."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return squares.addmm_(x, y.T, alpha=-2).clamp_min_(0)
