"""Terms of a diffusion model's variational bound, and a cheap estimate of their sum.  K strata."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
