"""What tests of latent-variable models share: lively weights, and evidence by quadrature."""

import itertools
import math

import torch
from torch import Tensor, nn

from genloom.core.randomness import SampleNoise, generator


def lively(model: nn.Module, scale: float = 0.5) -> nn.Module:
    """Return the model in float64 with every parameter drawn anew, so that nothing is zero."""
    source = generator("lively")
    model = model.double().requires_grad_(False)
    for p in model.parameters():
        p.copy_(scale * torch.randn(p.shape, generator=source, dtype=torch.float64))
    return model


def noise(rows: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(rows))


def bits(count: int) -> Tensor:
    """Return every vector of ``count`` bits, (2^count, count)."""
    return torch.tensor(list(itertools.product([0, 1], repeat=count)))


def grid(dim: int, points: int, reach: float = 9.0) -> tuple[Tensor, float]:
    """Return a grid (points^dim, dim) on [-reach, reach]^dim and the log of one cell's volume."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    mesh = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    return mesh, dim * math.log(2 * reach / (points - 1))
