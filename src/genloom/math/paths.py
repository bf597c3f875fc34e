"""Paths from data to noise: x_t = alpha x_0 + sigma eps at times t in [0, 1], of which 0 is nearest to data.

What is seen depends, but for a factor, on the ratio s = sigma / alpha alone, which rises with time: a path
says how fast. Song et al. 2021, arXiv:2011.13456; Kingma et al. 2021, arXiv:2107.00630, section 5.1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genloom.math.mixtures import Mixture

PathName = Literal["cosine", "vp", "subvp", "ve", "straight", "scaled_linear"]

Map = Callable[[Tensor], Tensor]

BETAS = (0.1, 20.0)
"""Rates of noise at both ends. Song et al. 2021, appendix C."""

SCALED_BETAS = (0.85, 12.0)
"""Rates of noise at both ends of the path whose rates have even roots."""

SIGMAS = (2e-3, 80.0)
"""Noise at both ends of the exploding path. Karras et al. 2022, arXiv:2206.00364, table 1."""

LARGEST = 2e3
"""Ratio of noise to data at which every path ends; there is next to nothing left to see."""


@dataclass(frozen=True)
class Path:
    """A path by its shares of data and noise at times, in float64, and the times of their ratios.

    Args:
        alpha, sigma: of times.
        time: of ratios.
    """

    alpha: Map
    sigma: Map
    time: Map

    def at(self, time: Tensor) -> Mixture:
        """Return what is seen at times."""
        return Mixture(self.alpha(time), self.sigma(time))

    def velocity(self, time: Tensor) -> Mixture:
        """Return the derivative of what is seen by time."""
        time, one = time.contiguous(), torch.ones_like(time)
        alpha, sigma = (torch.func.jvp(part, (time,), (one,))[1] for part in (self.alpha, self.sigma))
        return Mixture(alpha, sigma)

    @property
    def end(self) -> float:
        """The last time."""
        return min(1.0, float(self.time(torch.tensor(LARGEST, dtype=torch.float64))))


def _integrated(time: Tensor) -> Tensor:
    """Return the integral of beta from 0 to times."""
    low, high = BETAS
    return low * time + (high - low) / 2 * time.square()


def _times_of_integrals(total: Tensor) -> Tensor:
    """Return the times at which the integral of beta is as given."""
    low, high = BETAS
    return 2 * total / (low + (low**2 + 2 * (high - low) * total).sqrt())


def _roots() -> tuple[float, float]:
    """Return the root of the first of ``SCALED_BETAS`` and how far that of the last is from it."""
    low, high = (math.sqrt(beta) for beta in SCALED_BETAS)
    return low, high - low


def _integrated_squares(time: Tensor) -> Tensor:
    """Return the integral of beta, the square of evenly rising roots, from 0 to times."""
    low, rise = _roots()
    return time * (low**2 + low * rise * time + (rise * time).square() / 3)


def _times_of_squares(total: Tensor) -> Tensor:
    low, rise = _roots()
    return ((3 * rise * total + low**3) ** (1 / 3) - low) / rise


def _decayed(time: Tensor) -> Tensor:
    return (-_integrated(time) / 2).exp()


def _exploded(time: Tensor) -> Tensor:
    low, high = SIGMAS
    return low * (high / low) ** time


PATHS: Mapping[PathName, Path] = {
    "cosine": Path(
        lambda t: (t * math.pi / 2).cos(),
        lambda t: (t * math.pi / 2).sin(),
        lambda s: s.atan() * 2 / math.pi,
    ),
    "vp": Path(
        _decayed,
        lambda t: (-torch.expm1(-_integrated(t))).sqrt(),
        lambda s: _times_of_integrals(s.square().log1p()),
    ),
    "subvp": Path(
        _decayed,
        lambda t: -torch.expm1(-_integrated(t)),
        lambda s: _times_of_integrals(2 * (s / 2).asinh()),
    ),
    "ve": Path(
        torch.ones_like,
        _exploded,
        lambda s: (s / SIGMAS[0]).log() / math.log(SIGMAS[1] / SIGMAS[0]),
    ),
    "straight": Path(lambda t: 1 - t, lambda t: t, lambda s: s / (1 + s)),
    "scaled_linear": Path(
        lambda t: (-_integrated_squares(t) / 2).exp(),
        lambda t: (-torch.expm1(-_integrated_squares(t))).sqrt(),
        lambda s: _times_of_squares(s.square().log1p()),
    ),
}
"""By name. Cosine: Salimans & Ho 2022, arXiv:2202.00512, section 4. Variance-preserving, its sub-variant and
variance-exploding: Song et al. 2021, equations 29 and 31. Straight: Lipman et al. 2023, arXiv:2210.02747,
equation 22 with sigma_min = 0; Liu et al. 2022, arXiv:2209.03003, equation 1. Scaled linear: the limit of
many steps of the schedule of Rombach et al. 2022, arXiv:2112.10752, as published with their models."""
