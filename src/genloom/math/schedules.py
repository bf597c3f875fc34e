"""Discrete variance-preserving diffusion schedules and their Gaussian algebra.

T steps, t in 1..T; index 0 is the data. B batch. q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).
Functions of ``abar`` take tensors that broadcast against x; ``earlier`` is abar at the earlier time s < t.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def linear_alpha_bar(steps: int) -> Tensor:
    """Return abar_0..abar_T of betas that rise linearly, (T + 1,) float64 in (0, 1].

    The ends 1e-4 and 0.02 belong to T = 1,000; other T rescale them, so that abar_T hardly changes.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4; the rescaling is Nichol & Dhariwal's.
    """
    scale = 1000 / steps
    beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp_max(0.999)
    return _with_data(torch.cumprod(1 - beta, 0))


def cosine_alpha_bar(steps: int, offset: float = 0.008) -> Tensor:
    """Return abar_0..abar_T of the squared-cosine schedule, (T + 1,) float64 in (0, 1].

    Args:
        offset: s; a larger one adds more noise in the first steps.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17, betas clipped at 0.999.
    """
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    beta = (1 - f[1:] / f[:-1]).clamp_max(0.999)
    return _with_data(torch.cumprod(1 - beta, 0))


def _with_data(alpha_bar: Tensor) -> Tensor:
    """Put abar_0 = 1 in front."""
    return torch.cat([alpha_bar.new_ones(1), alpha_bar])


def posterior_mean(x: Tensor, x0: Tensor, abar: Tensor, earlier: Tensor) -> Tensor:
    """Return the mean of q(x_s | x_t, x_0).

    Source: Ho et al. 2020, equation 7, with alpha_t = abar_t / abar_s for any s < t.
    """
    alpha = abar / earlier
    on_x0 = earlier.sqrt() * (1 - alpha) / (1 - abar)
    on_x = alpha.sqrt() * (1 - earlier) / (1 - abar)
    return on_x0 * x0 + on_x * x


def forward_variance(abar: Tensor, earlier: Tensor) -> Tensor:
    """Return beta, the variance of q(x_t | x_s); best for the reverse step if x_0 is standard normal."""
    return 1 - abar / earlier


def posterior_variance(abar: Tensor, earlier: Tensor) -> Tensor:
    """Return beta tilde, the variance of q(x_s | x_t, x_0); best for the reverse step if x_0 is one point.

    Source: Ho et al. 2020, equation 7.
    """
    return (1 - earlier) / (1 - abar) * (1 - abar / earlier)


def gaussian_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) of each element, in nats."""
    ratio = variance / other_variance
    distance = (mean - other_mean).square() / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + distance)


def gaussian_log_density(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return log N(x; mean, variance) of each element, in nats."""
    return -0.5 * ((2 * math.pi * variance).log() + (x - mean).square() / variance)


def discretised_gaussian(
    x: Tensor, mean: Tensor, variance: Tensor, lo: float, hi: float, levels: int
) -> Tensor:
    """Return the log-mass a Gaussian gives to the bin around each level; the end bins reach to infinity.

    Args:
        x: values on the grid of ``levels`` points from lo to hi, ends included.

    Returns:
        Nats of each element; their exponentials sum to 1 over the levels.

    Source: Ho et al. 2020, equation 13. Bins in the upper tail are reflected into the lower one, where
    differences of log-cdfs keep their digits.
    """
    half = (hi - lo) / (2 * (levels - 1))
    std = variance.sqrt()
    infinity = torch.full_like(x, torch.inf)
    upper = torch.where(x > hi - half, infinity, (x + half - mean) / std)
    lower = torch.where(x < lo + half, -infinity, (x - half - mean) / std)
    flip = upper + lower > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper: Tensor = torch.special.log_ndtr(upper)
    log_lower: Tensor = torch.special.log_ndtr(lower)
    return log_upper + torch.log1p(-torch.exp(log_lower - log_upper))


def spaced_times(steps: int, number: int) -> list[int]:
    """Return T > ... > 0: at most ``number`` equal moves from T to the data.

    Source: Song et al. 2021, appendix D.2 (linear spacing).
    """
    number = min(number, steps)
    return [round(steps * i / number) for i in range(number, -1, -1)]


@dataclass(frozen=True)
class Strata:
    """A partition of the times first..last into ranges, for an unbiased estimate of a sum over them.

    ``start`` and ``count`` (K,) int64: range j holds start_j .. start_j + count_j - 1.
    """

    start: Tensor
    count: Tensor


def strata(first: int, last: int, number: int) -> Strata:
    """Split the times first..last into at most ``number`` ranges whose lengths grow with time.

    The terms of a diffusion bound fall roughly as 1/t, so that geometric boundaries give ranges of like
    weight, and a sum over one random time of each has less variance than with equal ranges.
    """
    span = last - first + 1
    number = min(number, span)
    rank = torch.arange(1, number + 1, dtype=torch.float64)
    edges = torch.unique(torch.maximum((span ** (rank / number)).round(), rank).long())
    start = torch.cat([edges.new_zeros(1), edges[:-1]])
    return Strata(start + first, edges - start)


def draw_times(ranges: Strata, u: Tensor) -> Tensor:
    """Return one time from each range: ``u`` (B, K) uniform in (0, 1) gives (B, K) int64."""
    offset = (u * ranges.count).long()
    return ranges.start + torch.minimum(offset, ranges.count - 1)
