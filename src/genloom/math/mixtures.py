"""Mixtures of data and noise: what is seen on the way between them, and what a network says of it.

A mixture is a x_0 + b eps. What is seen at a time is one, x_t = alpha x_0 + sigma eps; what a network
predicts there is another, and the two together give data and noise, so that all predictions say the same.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionName = Literal["epsilon", "x0", "v"]
"""What is predicted: the noise, the data, or alpha eps - sigma x_0."""


@dataclass(frozen=True)
class Mixture:
    """The shares of data and of noise, tensors that broadcast against both."""

    data: Tensor
    noise: Tensor

    def of(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return the mixture of data and noise."""
        return self.data * x0 + self.noise * eps


def prediction(name: PredictionName, seen: Mixture) -> Mixture:
    """Return what is predicted of what is seen.

    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 (epsilon and x_0); Salimans & Ho 2022,
    arXiv:2202.00512, section 4 (v).
    """
    one, zero = torch.ones_like(seen.data), torch.zeros_like(seen.data)
    mixtures = {
        "epsilon": Mixture(zero, one),
        "x0": Mixture(one, zero),
        "v": Mixture(-seen.noise, seen.data),
    }
    return mixtures[name]


def separate(seen: Mixture, x: Tensor, told: Mixture, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return data and noise of which one mixture is x and another is y.

    Where the two mixtures are the same but for a factor, the result is not finite.
    """
    scale = seen.data * told.noise - seen.noise * told.data
    return (told.noise * x - seen.noise * y) / scale, (seen.data * y - told.data * x) / scale
