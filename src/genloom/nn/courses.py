"""What a diffusion model learns, and where on the way from data to noise.  B batch."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genloom.core.randomness import Noise
from genloom.math.coupling import Coupling
from genloom.math.mixtures import Mixture, PredictionName, determinant, prediction
from genloom.math.paths import PATHS, PathName

Weighting = Literal["own", "epsilon", "x0", "v", "velocity", "min_snr"]
"""Whose squared error is learnt from: of what the network predicts, or of another prediction that follows."""

WEIGHT_LIMIT = 1e4
"""Of squared errors; what says nothing of another prediction next to the data would count without end."""

SNR_LIMIT = 5.0
"""Gamma of Hang et al. 2023, arXiv:2303.09556, section 4.2."""


@dataclass(frozen=True)
class Course:
    """What a network learns, and where.

    Args:
        path: from data to noise.
        predicted: what the network says.
        std: deviation of data that scales what it sees and says.
        ratios: mean and deviation of the logarithm of the ratio of noise to data at random times; times are
            even along the path if None.
        weighting: of squared errors.
        coupling: of noise and data.
    """

    path: PathName
    predicted: PredictionName
    std: float
    ratios: tuple[float, float] | None
    weighting: Weighting
    coupling: Coupling = "independent"

    def draw(self, noise: Noise) -> Tensor:
        """Draw a time for each item, (B,) float64."""
        path = PATHS[self.path]
        if self.ratios is None:
            return noise.uniform().double() * path.end
        mean, deviation = self.ratios
        return path.time((mean + deviation * noise.normal().double()).exp()).clamp(0, path.end)

    def seen(self, time: Tensor) -> Mixture:
        """Return what is seen at times."""
        return PATHS[self.path].at(time)

    def told(self, time: Tensor, name: PredictionName | None = None) -> Mixture:
        """Return what the network says at times, or would by another prediction."""
        path = PATHS[self.path]
        return prediction(name or self.predicted, path.at(time), lambda: path.velocity(time), self.std)

    def weight(self, time: Tensor) -> Tensor:
        """Return what the network's squared errors count at times.

        The errors of two predictions of the same x are as their determinants.
        """
        if self.weighting == "own":
            return torch.ones_like(time)
        seen, told = self.seen(time), self.told(time)
        scale = determinant(seen, told)
        if self.weighting != "min_snr":
            other = determinant(seen, self.told(time, self.weighting))
            return (other / scale).square().nan_to_num(0).clamp_max(WEIGHT_LIMIT)
        snr = (seen.data / seen.noise).square()
        return snr.clamp_max(SNR_LIMIT) * (seen.noise / scale).square()
