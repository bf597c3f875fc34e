"""Generators, and critics of items, without normalisation; dense ones, and convolutions for images.

B batch, S event shape, Z latent dimensions, K classes (label K means "no class"), F critic features.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genloom.core.errors import ConfigError
from genloom.core.events import Bounded, Leaf

SLOPE = 0.2
"""Of the leaky rectifiers below zero: both networks pass gradients everywhere."""


def widths(side: int) -> tuple[int, ...]:
    """Return convolution widths that take an image of this shorter side down to 2 or 3 pixels.

    Images below 8 pixels get none: dense layers suit them better.
    """
    return () if side < 8 else tuple(min(32 * 2**i, 256) for i in range(int(math.log2(side)) - 1))


def check_depth(leaf: Leaf, channels: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` if the image is too small to be halved once for each width."""
    if min(leaf.extents[1:]) < 2 ** len(channels):
        raise ConfigError(
            f"{len(channels)} channels halve the image as often: it needs sides of at least "
            f"{2 ** len(channels)} pixels, not {leaf.extents[1]}x{leaf.extents[2]}; give fewer channels"
        )


def gradient_norm(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the Euclidean norm (B,) of the critic's gradient at each x, itself differentiable.

    Args:
        critic: maps (B, *S) to (B,), row by row.
        x: (B, *S).
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)


@torch.no_grad()
def he_start(layer: nn.Linear | nn.ConvTranspose2d) -> None:
    """Start a layer so that signals keep their size through it and its rectifier.

    Smaller weights would let the code fade beside the label, and the first items of a class be all alike.
    Source: He et al. 2015, arXiv:1502.01852, eq. 15; a transposed convolution's output sees only one in
    stride^2 of its kernel's weights.
    """
    seen: float = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        seen = layer.weight[:, 0].numel() / math.prod(layer.stride)
    layer.weight.normal_(std=math.sqrt(2 / ((1 + SLOPE**2) * seen)))


class Generator(nn.Module):
    """Maps normal codes (B, Z) and labels (B,) in 0..K-1 to items (B, *S).

    The label's vector is added to the first layer, which equals concatenating a one-hot label to the code.
    """

    def __init__(self, latent_dim: int, classes: int, width: int, body: nn.Module) -> None:
        super().__init__()
        self.entry = nn.Linear(latent_dim, width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.body = body
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                he_start(layer)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        h = self.entry(z)
        return self.body(h if self.label is None else h + self.label(label)).to(z.dtype)


class Critic(nn.Module):
    """Maps items (B, *S) and labels (B,) in 0..K to scores (B,).

    The label enters by projection (Miyato & Koyama 2018, arXiv:1802.05637, eq. 3): w.h + embedding(label).h.
    Only differences of scores matter, so there is no bias. The score is computed in the item's own
    precision, whatever that of the features.
    """

    def __init__(self, classes: int, width: int, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 1, bias=False)
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.body(x).to(x.dtype)
        with torch.autocast("cpu", enabled=False):
            score = self.head(h).squeeze(-1)
            return score if self.label is None else score + (self.label(label) * h).sum(-1)


class Range(nn.Module):
    """Squashes real numbers into [lo, hi]."""

    def __init__(self, lo: float, hi: float) -> None:
        super().__init__()
        self.centre, self.radius = (lo + hi) / 2, (hi - lo) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.centre + self.radius * x.tanh()


def output_layer(leaf: Leaf) -> nn.Module:
    """Return the generator's last layer, which keeps to the event's range."""
    return Range(leaf.kind.lo, leaf.kind.hi) if isinstance(leaf.kind, Bounded) else nn.Identity()


def dense_generator(leaf: Leaf, latent_dim: int, hidden: int, layers: int, classes: int) -> Generator:
    """Return a generator of dense layers, without normalisation."""
    body: list[nn.Module] = [nn.LeakyReLU(SLOPE)]
    for _ in range(layers - 1):
        body += [nn.Linear(hidden, hidden), nn.LeakyReLU(SLOPE)]
    body += [nn.Linear(hidden, leaf.dim), output_layer(leaf), nn.Unflatten(1, leaf.extents)]
    return Generator(latent_dim, classes, hidden, nn.Sequential(*body))


def dense_critic(leaf: Leaf, hidden: int, layers: int, classes: int) -> Critic:
    """Return a critic of dense layers, without normalisation."""
    body: list[nn.Module] = [nn.Flatten()]
    for inputs in [leaf.dim, *[hidden] * (layers - 1)]:
        body += [nn.Linear(inputs, hidden), nn.LeakyReLU(SLOPE)]
    return Critic(classes, hidden, nn.Sequential(*body))


def convolutional_generator(
    leaf: Leaf, latent_dim: int, channels: tuple[int, ...], classes: int
) -> Generator:
    """Return a generator of transposed convolutions that double the image, without normalisation."""
    depth, (colours, *sides) = len(channels), leaf.extents
    size = [[-(-side // 2**i) for side in sides] for i in range(depth, -1, -1)]
    body: list[nn.Module] = [nn.Unflatten(1, (channels[-1], *size[0]))]
    for (inputs, outputs), (h, w) in zip(
        itertools.pairwise([*reversed(channels), colours]), size[1:], strict=True
    ):
        kernel = (4 - h % 2, 4 - w % 2)
        body += [nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=1)]
    body.append(output_layer(leaf))
    return Generator(latent_dim, classes, channels[-1] * math.prod(size[0]), nn.Sequential(*body))


def convolutional_critic(leaf: Leaf, channels: tuple[int, ...], classes: int) -> Critic:
    """Return a critic of strided convolutions, without normalisation."""
    body: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([leaf.extents[0], *channels]):
        body += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
    pixels = math.prod(side >> len(channels) for side in leaf.extents[1:])
    return Critic(classes, channels[-1] * pixels, nn.Sequential(*body, nn.Flatten()))
