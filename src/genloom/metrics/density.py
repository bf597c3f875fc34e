"""Parzen-window log-likelihood: the crude estimate for models that have no likelihood of their own."""

import math

import torch
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.metrics._rows import chunks, pair, squared_distances


def parzen_log_likelihood(
    samples: Tensor, test: Tensor, *, bandwidth: float | None = None, valid: Tensor | None = None
) -> Tensor:
    """Return the log-density of test rows under Gaussians of one width placed on a model's samples.

    Only a crude estimate: in more than a few dimensions even a perfect model's samples score far below its
    true likelihood, however many are drawn, and a k-means codebook can outscore the data itself (Theis et
    al. 2016, section 3.2). Report it as kind ``estimate``, never beside exact likelihoods.

    Args:
        samples: (n, d) drawn from the model.
        test: (m, d).
        bandwidth: standard deviation of each Gaussian; unless given, chosen on ``valid``.
        valid: (v, d) validation rows, neither test nor training rows.

    Returns:
        (m,) nats.

    Source: Breuleux et al. 2011; Goodfellow et al. 2014, section 5.
    """
    samples, test = pair(samples, test)
    if bandwidth is None:
        if valid is None:
            raise ConfigError("parzen needs a bandwidth, or validation rows to choose one on")
        bandwidth = parzen_bandwidth(samples, valid)
    if bandwidth <= 0:
        raise ConfigError(f"bandwidth must be positive, not {bandwidth}")
    return _log_density(samples, test, torch.tensor([bandwidth], dtype=torch.float64))[:, 0]


def parzen_bandwidth(samples: Tensor, valid: Tensor) -> float:
    """Return the width of greatest mean validation log-density, to 2%: a coarse grid, then a fine one.

    Args:
        samples: (n, d).
        valid: (v, d).

    Returns:
        A width between 1/1000 and 10 times the root mean squared distance between the two sets.
    """
    samples, valid = pair(samples, valid)
    mean_square = (samples.square().sum(1).mean() + valid.square().sum(1).mean()) - 2 * (
        samples.mean(0) @ valid.mean(0)
    )
    centre, reach = math.log(max(mean_square.item(), 1e-24)) / 2 - math.log(10), math.log(100)
    for _ in range(3):
        grid = torch.linspace(centre - reach, centre + reach, 11, dtype=torch.float64)
        centre = grid[_log_density(samples, valid, grid.exp()).mean(0).argmax()].item()
        reach /= 5
    return math.exp(centre)


def _log_density(samples: Tensor, rows: Tensor, widths: Tensor) -> Tensor:
    """Return (m, W) log-densities of rows under each width, in blocks."""
    n, d = samples.shape
    constant = -math.log(n) - d * (widths.log() + 0.5 * math.log(2 * math.pi))
    blocks = []
    for part in chunks(len(rows), n):
        squares = squared_distances(rows[part], samples)
        blocks.append(torch.stack([torch.logsumexp(squares / (-2 * w * w), 1) for w in widths], 1))
    return torch.cat(blocks) + constant
