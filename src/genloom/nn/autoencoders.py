"""Encoders and decoders of leaves: dense ones, and convolutions for images; and deterministic autoencoders.

B batch, S event shape, D values of an item, C H W the shape of images, Z latent dimensions, P numbers per
scalar of what is decoded.
"""

import itertools
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.capabilities import Latent
from genloom.core.events import Bounded, Categorical, Leaf, Value, items, nearest_level
from genloom.nn.ladder import Residual
from genloom.nn.likelihoods import Output, to_input

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


def map_encoder(inputs: int, channels: int, halvings: int, blocks: int, dim: int) -> nn.Sequential:
    """Return convolutions (B, C, H, W) -> (B, dim, H >> halvings, W >> halvings)."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, channels, 4, 2, 1)]
    for _ in range(halvings - 1):
        layers += [nn.SiLU(), nn.Conv2d(channels, channels, 4, 2, 1)]
    layers += [Residual(channels, 3) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, dim, 1))


def map_decoder(dim: int, channels: int, halvings: int, blocks: int, outputs: int) -> nn.Sequential:
    """Return convolutions (B, dim, H, W) -> (B, outputs, H << halvings, W << halvings)."""
    layers: list[nn.Module] = [nn.Conv2d(dim, channels, 3, 1, 1)]
    layers += [Residual(channels, 3) for _ in range(blocks)]
    for _ in range(halvings - 1):
        layers += [nn.SiLU(), nn.Conv2d(channels, 4 * channels, 1), nn.PixelShuffle(2)]
    last = [nn.Conv2d(channels, channels, 3, 1, 1), nn.SiLU(), nn.Conv2d(channels, 4 * outputs, 3, 1, 1)]
    return nn.Sequential(*layers, nn.SiLU(), *last, nn.PixelShuffle(2))


def map_input(leaf: Leaf, shape: tuple[int, int, int], x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return items (B, *S) as an encoder of maps takes them, filled up with zeros to a shape (C, H, W)."""
    h = to_input(leaf, items(x, leaf.extents), dtype)
    h = F.pad(h, (0, shape[2] - h.shape[3], 0, shape[1] - h.shape[2]))
    return h.contiguous(memory_format=torch.channels_last)


def map_parameters(leaf: Leaf, y: Tensor) -> Tensor:
    """Return what a decoder of maps gives, (B, C P, H, W), as parameters (B, *S, P), cut to the item."""
    channels, height, width = leaf.extents
    return y[:, :, :height, :width].unflatten(1, (channels, -1)).movedim(2, -1)


class Autoencoder(nn.Module, Latent):
    """A deterministic encoder, a decoder, and the distribution of items whose parameters it gives."""

    def __init__(self, leaf: Leaf, encoder: nn.Module, decoder: nn.Module, output: Output) -> None:
        super().__init__()
        self.leaf, self.encoder, self.decoder, self.output = leaf, encoder, decoder, output

    def inputs(self, x: Value) -> Tensor:
        """Return items as the encoder takes them, (B, D), names as one-hot vectors."""
        return network_input(self.leaf, items(x, self.leaf.extents), next(self.parameters()).dtype)

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Return the code of each item, (B, Z)."""
        h = self.inputs(x)
        return self.encoder(h).to(h.dtype)

    def parameters_of(self, z: Tensor) -> Tensor:
        """Return the parameters (B, *S, P) of the distribution of items at each code."""
        return self.shaped(self.decoder(z).to(z.dtype))

    def shaped(self, flat: Tensor) -> Tensor:
        """Return what the decoder gives, (B, D P), as parameters (B, *S, P)."""
        return flat.view(len(flat), *self.leaf.extents, self.output.parameters_per_scalar)

    def error(self, x: Value, z: Tensor) -> Tensor:
        """Return -log p(x | z), (B,) nats."""
        return -self.output(self.parameters_of(z), items(x, self.leaf.extents))

    def decode(self, z: Tensor, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Return the most typical item for each code, (B, *S)."""
        return legal(self.output.typical(self.parameters_of(z)), self.leaf)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the two networks, which are what is called."""
        self.encoder.compile(*args, **kwargs)
        self.decoder.compile(*args, **kwargs)


def autoencoder(
    leaf: Leaf, network: Network, output: Output, *, hidden: int, channels: int, latent_dim: int
) -> Autoencoder:
    """Return an autoencoder of the networks that suit a leaf; names are coded by dense ones."""
    if isinstance(leaf.kind, Categorical) and not leaf.kind.ordered:
        width = leaf.dim * leaf.kind.k
        encoder, decoder = mlp(width, hidden, latent_dim), mlp(latent_dim, hidden, width)
        return Autoencoder(leaf, encoder, decoder, output)
    nets = encoder_and_decoder(
        leaf,
        network,
        hidden=hidden,
        channels=channels,
        codes=latent_dim,
        latent_dim=latent_dim,
        features=0,
        per_scalar=output.parameters_per_scalar,
    )
    return Autoencoder(leaf, *nets, output)


def network_input(leaf: Leaf, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return items (B, *S) as flat numbers: about [-1, 1] where they have an order, names one-hot."""
    if isinstance(leaf.kind, Categorical) and not leaf.kind.ordered:
        return F.one_hot(x, leaf.kind.k).to(dtype).flatten(1)
    return to_input(leaf, x, dtype).flatten(1)


def legal(x: Tensor, leaf: Leaf) -> Tensor:
    """Return the nearest legal values: in the range of bounded ones, on a level where there are any."""
    if not isinstance(leaf.kind, Bounded):
        return x
    return nearest_level(x.clamp(leaf.kind.lo, leaf.kind.hi), leaf.kind)
