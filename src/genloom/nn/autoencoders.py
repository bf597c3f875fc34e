"""Encoders and decoders of leaves: dense ones, and convolutions for images.

B batch, C H W the shape of images, P numbers per scalar of what is decoded.
"""

import itertools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from genloom.core.events import Leaf

Network = Literal["auto", "mlp", "conv"]


def encoder_and_decoder(
    leaf: Leaf,
    network: Network,
    *,
    hidden: int,
    channels: int,
    codes: int,
    latent_dim: int,
    features: int,
    per_scalar: int,
) -> tuple[nn.Module, nn.Module]:
    """Return an encoder (B, D + features) -> (B, codes) and a decoder (B, latent_dim + features) -> (B, D P).

    Args:
        network: ``auto`` chooses convolutions for colour images and those of more than 1,024 pixels.
        hidden: width of the two hidden layers of dense networks.
        channels: channels after the first convolution, doubled at each halving.
        codes: how many numbers the encoder gives.
        features: how many numbers about a condition stand beside the input of both.
    """
    large = len(leaf.extents) == 3 and (leaf.extents[0] > 1 or leaf.dim > 1024)
    if network == "conv" or (network == "auto" and large):
        return (
            ConvEncoder(leaf.extents, channels, codes, features),
            ConvDecoder(leaf.extents, channels, latent_dim + features, per_scalar),
        )
    return (
        mlp(leaf.dim + features, hidden, codes),
        mlp(latent_dim + features, hidden, leaf.dim * per_scalar),
    )


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )


def halvings(height: int, width: int) -> int:
    """Return how often an image can be halved before a side falls below 4."""
    return max(1, int(math.log2(max(min(height, width), 8) / 4)))


class ConvEncoder(nn.Module):
    """Strided convolutions, then a linear layer. Takes (B, C*H*W + features)."""

    def __init__(self, shape: tuple[int, ...], channels: int, outputs: int, features: int) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape[0], *(channels * 2**i for i in range(halvings(*shape[1:])))]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.SiLU(), nn.Conv2d(b, b, 3, 1, 1), nn.SiLU()]
        self.convs = nn.Sequential(*layers)
        with torch.no_grad():
            flat = self.convs(torch.zeros(1, *shape)).numel()
        self.out = nn.Linear(flat + features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        image, rest = x.split([math.prod(self.shape), x.shape[1] - math.prod(self.shape)], 1)
        h = self.convs(image.view(-1, *self.shape).contiguous(memory_format=torch.channels_last))
        return self.out(torch.cat([h.flatten(1), rest], 1))


class ConvDecoder(nn.Module):
    """A linear layer, then upsampling convolutions, cropped to the image. Returns (B, C*H*W*P)."""

    def __init__(self, shape: tuple[int, ...], channels: int, inputs: int, per_scalar: int) -> None:
        super().__init__()
        self.shape, self.per_scalar = shape, per_scalar
        n = halvings(*shape[1:])
        self.small = (-(-shape[1] // 2**n), -(-shape[2] // 2**n))
        widths = [channels * 2**i for i in reversed(range(n))]
        self.start = nn.Linear(inputs, widths[0] * math.prod(self.small))
        layers: list[nn.Module] = []
        for a, b in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.SiLU(), nn.Conv2d(a, 4 * b, 3, 1, 1), nn.PixelShuffle(2)]
        self.convs = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, shape[0] * per_scalar, 3, 1, 1))

    def forward(self, z: Tensor) -> Tensor:
        h = self.start(z).view(z.shape[0], -1, *self.small)
        y = self.convs(h.contiguous(memory_format=torch.channels_last))
        c, height, width = self.shape
        y = y[:, :, :height, :width].reshape(-1, c, self.per_scalar, height, width)
        return y.movedim(2, -1).reshape(z.shape[0], -1)
