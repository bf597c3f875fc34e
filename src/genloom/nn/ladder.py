"""Blocks of hierarchical VAEs: a bottom-up path of features and a top-down path of stochastic layers.

B batch, C channels, Z code channels, H W the size of a scale; a vector is a map of size 1x1.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


def padded(shape: tuple[int, ...], halvings: int) -> tuple[int, int, int]:
    """Return (C, H, W) with H and W raised to what can be halved that often."""
    channels, height, width = shape
    step = 1 << halvings
    return channels, -(-height // step) * step, -(-width // step) * step


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with weight and bias zero, so that what it adds begins as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def bottleneck(inputs: int, width: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return three convolutions, the middle one with the kernel, whose result begins as nothing."""
    return nn.Sequential(
        nn.SiLU(),
        nn.Conv2d(inputs, width, 1),
        nn.SiLU(),
        nn.Conv2d(width, width, kernel, padding=kernel // 2),
        nn.SiLU(),
        zeroed(nn.Conv2d(width, outputs, 1)),
    )


class Residual(nn.Module):
    """h plus a bottleneck of it."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.branch = bottleneck(channels, -(-channels // 2), channels, kernel)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = h + self.branch(h)
        return out


class StochasticLayer(nn.Module):
    """One layer of codes, p(z | h) and q(z | h, x), and what the code adds to h.

    Codes are handled in the prior's own units, u = (z - mean) / std: p(u) is a standard normal, and the
    divergence of q(u) = N(m, s^2) from it is that of q(z) from p(z).

    Source: Child 2021, arXiv:2011.10650, figure 3; posterior relative to the prior as in Vahdat & Kautz
        2020, arXiv:2007.03898, section 3.2.
    """

    def __init__(self, channels: int, codes: int, kernel: int) -> None:
        super().__init__()
        self.codes = codes
        self.prior = nn.Sequential(nn.SiLU(), zeroed(nn.Conv2d(channels, 2 * codes, 1)))
        self.infer = bottleneck(2 * channels, -(-channels // 2), 2 * codes, kernel)
        self.merge = nn.Conv2d(codes, channels, 1)
        self.residual = Residual(channels, kernel)

    def posterior(self, h: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of u, (B, Z, H, W) each, from h and the item's features."""
        mean, log_std = self.infer(torch.cat([h, features], 1)).to(_precise(h)).chunk(2, 1)
        return mean, log_std.clamp(-7, 2)

    def forward(self, h: Tensor, u: Tensor) -> Tensor:
        """Return h (B, C, H, W) after the code u (B, Z, H, W) was read."""
        mean, log_std = self.prior(h).to(u.dtype).chunk(2, 1)
        out: Tensor = self.residual(h + self.merge(mean + log_std.clamp(-5, 3).exp() * u))
        return out


def _precise(h: Tensor) -> torch.dtype:
    return torch.float64 if h.dtype is torch.float64 else torch.float32


class Scale(nn.Module):
    """One resolution of the ladder: how features come up to it, how h comes down to it, and its layers."""

    def __init__(
        self,
        up: nn.Module,
        down: nn.Module,
        channels: int,
        size: tuple[int, int],
        layers: int,
        codes: int,
    ) -> None:
        super().__init__()
        kernel = 1 if size == (1, 1) else 3
        self.size, self.codes = size, codes
        self.up = nn.Sequential(up, Residual(channels, kernel))
        self.down = down
        self.layers = nn.ModuleList(StochasticLayer(channels, codes, kernel) for _ in range(layers))


def make_scales(
    shape: tuple[int, int, int],
    counts: tuple[int, ...],
    widths: tuple[int, ...],
    codes: tuple[int, ...],
) -> list[Scale]:
    """Return the scales of a ladder from its top, a vector, to the finest map, at half the items' size.

    Args:
        shape: (C, H, W) of the items, the size divisible by 2 for every scale but the top.
        counts, widths, codes: stochastic layers, channels and code channels of each scale.
    """
    depth = len(counts)
    maps = [(shape[1] >> i, shape[2] >> i) for i in range(depth - 1, 0, -1)]
    sizes, below = [(1, 1), *maps], [*widths[1:], shape[0]]
    flat = below[0] * math.prod((*maps, shape[1:])[0])
    ups = [flat_to_map(flat, widths[0], (1, 1)), *map(halve, below[1:], widths[1:])]
    downs: list[nn.Module] = [nn.Identity()]
    downs += [flat_to_map(widths[0], width, size) for width, size in zip(widths[1:2], maps[:1], strict=True)]
    downs += [double(above, width) for above, width in pairwise(widths[1:])]
    parts = zip(ups, downs, widths, sizes, counts, codes, strict=True)
    return [Scale(*part) for part in parts]


def flat_to_map(inputs: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """Return a linear layer from everything at once to a map (B, C, H, W)."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, channels * math.prod(size)), nn.Unflatten(1, (channels, *size))
    )


def halve(inputs: int, outputs: int) -> nn.Module:
    """Return a convolution to half the size; few channels need the wider window."""
    return nn.Conv2d(inputs, outputs, 4, 2, 1) if inputs < 8 else nn.Conv2d(inputs, outputs, 2, 2)


def double(inputs: int, outputs: int) -> nn.Module:
    """Return a convolution to twice the size."""
    return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))
