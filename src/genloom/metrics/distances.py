"""Distances between two samples of features: Fréchet, kernel, sliced Wasserstein, and the inception score."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.core.randomness import generator
from genloom.metrics._rows import chunks, pair, squared_distances

Kernel = Callable[[Tensor, Tensor], Tensor]


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return the squared 2-Wasserstein distance between Gaussians fitted to both samples, as in the FID.

    |mu_r - mu_f|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) for covariances A and B (divisor n - 1). With A = R'R
    and B = S'S from QR decompositions of the centred rows, the last trace is the sum of the singular values
    of R S': no square root of a matrix is taken, so singular covariances (n <= d) lose no digits.
    Biased upward by a term of order 1/n: compare only equal numbers of rows.

    Args:
        real: (n, d).
        fake: (m, d).

    Returns:
        A number >= 0, in squared units of the features.

    Source: Heusel et al. 2017, equation 6; Dowson & Landau 1982.
    """
    real, fake = pair(real, fake)
    shift = (real.mean(0) - fake.mean(0)).square().sum()
    left, right = _factor(real), _factor(fake)
    cross = torch.linalg.svdvals(left @ right.T).sum()
    return max(0.0, (shift + left.square().sum() + right.square().sum() - 2 * cross).item())


def kernel_distance(
    real: Tensor, fake: Tensor, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> float:
    """Return the unbiased squared MMD with a polynomial kernel, the KID, over all rows at once.

    Args:
        real: (n, d).
        fake: (m, d).
        degree, gamma, coef0: the kernel (gamma <x, y> + coef0)^degree; ``gamma`` is 1/d unless given.

    Returns:
        An unbiased estimate, which may be negative.

    Source: Binkowski et al. 2018, section 3 and equation 4. They average over random subsets; using all rows
    needs no draw and has the least variance.
    """
    real, fake = pair(real, fake)
    kernel = polynomial(real, degree=degree, gamma=gamma, coef0=coef0)
    return _squared_mmd_all(kernel, real, fake)


def mmd_rbf(real: Tensor, fake: Tensor, *, bandwidths: Sequence[float] | None = None) -> float:
    """Return the unbiased squared MMD with a mixture of Gaussian kernels.

    Args:
        real: (n, d).
        fake: (m, d).
        bandwidths: standard deviations of the kernels; unless given, 1/2, 1 and 2 times the median distance
            between real rows.

    Returns:
        An unbiased estimate in [-1, 2].

    Source: Gretton et al. 2012, equation 3. Their median runs over both samples; ours over the real rows
    alone, so that every model is measured by the same kernel.
    """
    real, fake = pair(real, fake)
    return _squared_mmd_all(gaussian_mixture(real, bandwidths=bandwidths), real, fake)


def inception_score(probs: Tensor) -> float:
    """Return exp(mean KL(p(y|x) || p(y))), over all rows without splits.

    Args:
        probs: (n, classes) class probabilities; each row sums to 1.

    Returns:
        A number from 1 (every row alike) to the number of classes.

    Source: Salimans et al. 2016, section 4. They average ten splits, which lowers the score with n.
    """
    probs = probs.detach().to("cpu", torch.float64)
    if probs.ndim != 2 or not torch.allclose(probs.sum(-1), torch.ones(len(probs), dtype=torch.float64)):
        raise DataError("probs must be (n, classes) with rows that sum to 1; apply a softmax first")
    if (probs < 0).any():
        raise DataError("probs must not be negative; apply a softmax first")
    marginal = probs.mean(0)
    entropy = torch.special.entr(marginal).sum()
    return math.exp((entropy - torch.special.entr(probs).sum(1).mean()).item())


def sliced_wasserstein(real: Tensor, fake: Tensor, *, projections: int = 128, seed: int = 0) -> float:
    """Return the root mean square, over random directions, of the exact 2-Wasserstein distance along each.

    Args:
        real: (n, d).
        fake: (m, d), m may differ from n.
        projections: number of directions, uniform on the sphere.
        seed: keys the directions; figures are comparable only under the same directions.

    Returns:
        A number >= 0, in units of the features; biased upward by the number of rows.

    Source: Bonneel et al. 2015, equation 8.
    """
    real, fake = pair(real, fake)
    source = generator("sliced_wasserstein", seed)
    directions = torch.randn(projections, real.shape[1], generator=source, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    along_real, along_fake = directions @ real.T, directions @ fake.T
    return _squared_transport(along_real, along_fake).mean().sqrt().item()


def polynomial(real: Tensor, *, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> Kernel:
    """Return the kernel (gamma <x, y> + coef0)^degree on the features of (n, d) real rows."""
    scale = 1 / real.shape[1] if gamma is None else gamma
    return lambda x, y: (scale * (x @ y.T) + coef0) ** degree


def gaussian_mixture(real: Tensor, *, bandwidths: Sequence[float] | None = None) -> Kernel:
    """Return the mean of Gaussian kernels with the given bandwidths, or those of the real rows' median."""
    widths = [median_distance(real) * f for f in (0.5, 1.0, 2.0)] if bandwidths is None else list(bandwidths)
    if not widths or min(widths) <= 0:
        raise ConfigError(f"bandwidths must be positive numbers, not {widths}")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = squared_distances(x, y)
        return torch.stack([torch.exp(squares / (-2 * w * w)) for w in widths]).mean(0)

    return kernel


def median_distance(rows: Tensor) -> float:
    """Return the median distance between up to 1,000 rows, evenly spaced; 1 if they are all equal."""
    some = rows[:: math.ceil(len(rows) / 1000)]
    apart = torch.pdist(some)
    apart = apart[apart > 0]
    return apart.median().item() if len(apart) else 1.0


def squared_mmd(kernel: Kernel, real: Tensor, fake: Tensor, keep_real: Tensor, keep_fake: Tensor) -> Tensor:
    """Return the unbiased squared MMD of G subsets of the rows in one pass over the kernel matrix.

    Args:
        kernel: maps (n, d) and (m, d) to (n, m).
        real: (n, d).
        fake: (m, d).
        keep_real: (n, G) of 0 and 1: which rows each subset keeps.
        keep_fake: (m, G).

    Returns:
        (G,).

    Source: Gretton et al. 2012, equation 3.
    """
    n, m = keep_real.sum(0), keep_fake.sum(0)
    within = _within(kernel, real, keep_real) / (n * (n - 1)) + _within(kernel, fake, keep_fake) / (
        m * (m - 1)
    )
    cross = sum(
        (keep_real[part] * (kernel(real[part], fake) @ keep_fake)).sum(0)
        for part in chunks(len(real), len(fake))
    )
    return within - 2 * cross / (n * m)


def _squared_mmd_all(kernel: Kernel, real: Tensor, fake: Tensor) -> float:
    return squared_mmd(kernel, real, fake, real.new_ones(len(real), 1), fake.new_ones(len(fake), 1)).item()


def _within(kernel: Kernel, rows: Tensor, keep: Tensor) -> Tensor:
    """Sum the kernel over ordered pairs of distinct kept rows: (G,)."""
    total = keep.new_zeros(keep.shape[1])
    for part in chunks(len(rows), len(rows)):
        block = kernel(rows[part], rows)
        block.diagonal(part.start).zero_()
        total += (keep[part] * (block @ keep)).sum(0)
    return total


def _factor(rows: Tensor) -> Tensor:
    """Return R with R'R the covariance of the rows."""
    centred = (rows - rows.mean(0)) / math.sqrt(len(rows) - 1)
    return torch.linalg.qr(centred, mode="r").R


def _squared_transport(x: Tensor, y: Tensor) -> Tensor:
    """Return (P,) squared 2-Wasserstein distances between the empirical distributions of (P, n) and (P, m).

    Quantile functions step at i/n and j/m: in units of 1/(nm), at the integers i m and j n.
    """
    n, m = x.shape[1], y.shape[1]
    steps = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = torch.cat([steps.new_zeros(1), steps[:-1]])
    weight = (steps - starts).double() / (n * m)
    gap = x.sort(1).values[:, starts // m] - y.sort(1).values[:, starts // n]
    return gap.square() @ weight
