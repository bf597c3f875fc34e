"""Mixtures of data and noise: what is seen on the way between them, and what a network says of it.

A mixture is a x_0 + b eps. What is seen at a time is one, x_t = alpha x_0 + sigma eps; what a network
predicts there is another, and the two together give data and noise, so that all predictions say the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionName = Literal["epsilon", "x0", "v", "velocity"]
"""What is predicted: the noise, the data, what is at right angles to what is seen, or its velocity."""


@dataclass(frozen=True)
class Mixture:
    """The shares of data and of noise, tensors that broadcast against both."""

    data: Tensor
    noise: Tensor

    def of(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return the mixture of data and noise."""
        return self.data * x0 + self.noise * eps

    def deviation(self, std: float) -> Tensor:
        """Return the deviation of the mixture where that of data is ``std``."""
        return (self.data * std).hypot(self.noise)

    def angle(self, std: float) -> Tensor:
        """Return how much of it is noise, from 0 to pi / 2, where the deviation of data is ``std``."""
        return torch.atan2(self.noise, self.data * std)

    def over(self, scale: Tensor) -> "Mixture":
        """Return the mixture divided by numbers."""
        return Mixture(self.data / scale, self.noise / scale)

    def to(self, like: Tensor) -> "Mixture":
        """Return the shares of each item in the precision of a batch, shaped to broadcast against it."""
        return Mixture(beside(self.data, like), beside(self.noise, like))


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Return a value of each item (B,) in the precision of a batch, shaped to broadcast against it."""
    return values.to(like).view(-1, *(1,) * (like.dim() - 1))


def prediction(name: PredictionName, seen: Mixture, velocity: Callable[[], Mixture], std: float) -> Mixture:
    """Return what is predicted of what is seen, scaled to a deviation of 1 where that of data is ``std``.

    The scale is Karras et al.'s (2022, arXiv:2206.00364, table 1 and appendix B.6), whose preconditioning is
    v in their coordinates, alpha = 1, but for its sign.

    Args:
        velocity: returns the change of what is seen with time.

    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 (epsilon and x_0); Salimans & Ho 2022,
    arXiv:2202.00512, section 4 (v); Lipman et al. 2023, arXiv:2210.02747, equation 15 (velocity).
    """
    one, zero = torch.ones_like(seen.data), torch.zeros_like(seen.data)
    mixtures: Mapping[PredictionName, Callable[[], Mixture]] = {
        "epsilon": lambda: Mixture(zero, one),
        "x0": lambda: Mixture(one, zero),
        "v": lambda: Mixture(-seen.noise / std, seen.data * std),
        "velocity": velocity,
    }
    found = mixtures[name]()
    return found.over(found.deviation(std))


def determinant(seen: Mixture, told: Mixture) -> Tensor:
    """Return how much the second mixture says that the first does not; 0 where they differ by a factor."""
    return seen.data * told.noise - seen.noise * told.data


def separate(seen: Mixture, x: Tensor, told: Mixture, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return data and noise of which one mixture is x and another is y.

    Where the two mixtures are the same but for a factor, the result is not finite.
    """
    scale = determinant(seen, told)
    return (told.noise * x - seen.noise * y) / scale, (seen.data * y - told.data * x) / scale
