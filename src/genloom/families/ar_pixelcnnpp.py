"""PixelCNN++: causal residual blocks at several scales. Salimans et al. 2017, arXiv:1701.05517.

Shapes: B batch, C image channels, H height, W width, D channels of a stream, P parameters of one pixel.
"""

from functools import partial
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.card import Card, Reference, binary_image, level_image
from genloom.core.events import Event, image_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.nn.causal_conv import ConvCache, ShiftedConv, Stem, StemCache
from genloom.nn.dropout import Map, dropout, identity
from genloom.nn.raster import PixelModel, PixelNetwork, Reader, maximum_likelihood, pixel_model

SMALL_IMAGE = 16 * 16
"""Up to this many pixels two scales of narrow streams see enough."""


class Config(card.Config):
    """Settings of a PixelCNN++."""

    channels: int = Field(32, gt=0, description="width of both streams; the paper's is 160")
    scales: int = Field(3, gt=0, description="each halves the size of the one before; the paper's 3")
    depth: int = Field(1, gt=0, description="blocks of a scale on the way down, and again up; the paper's 5")
    reach: int = Field(3, gt=0, description="the first layer sees this far: 3 is a 7x7 window")
    dropout: float = Field(0.0, ge=0, lt=1, description="inside blocks; the paper's 0.5 suits long training")
    mixtures: int = Field(10, gt=0, description="logistics a pixel where levels are many, as in the paper")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(4e-3, gt=0, description="peak rate of Adam, which decays as a cosine")
    batch_size: int = Field(32, gt=0, description="activations of 32 images of 28x28 stay in a CPU's cache")

    @classmethod
    def preset(cls, event: Event) -> Self:
        channels, height, width = image_leaf(event).extents
        if height * width <= SMALL_IMAGE:
            return cls(channels=16, scales=2, reach=2, dropout=0.1, lr=5e-3)
        return cls() if channels == 1 else cls(channels=64, depth=2, lr=1e-3)

    def build(self, event: Event, cond: Event | None) -> PixelModel:
        def network(shape: tuple[int, int, int], outputs: int, classes: int) -> Network:
            stem = Stem(shape, self.channels, self.reach, classes)
            return Network(stem, Scale(self.channels, self.depth, self.scales - 1), outputs, self.dropout)

        return pixel_model("ar.pixelcnnpp", event, cond, self.mixtures, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, PixelModel)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=10.0)
        return [Stage("fit", maximum_likelihood(model, optimiser, self.label_dropout), self.batch_size)]


def concat_elu(x: Tensor) -> Tensor:
    """Return elu(x) and elu(-x) side by side, (..., D) to (..., 2 D)."""
    return F.elu(torch.cat([x, -x], -1))


class Block(nn.Module):
    """A gated residual block of one stream, with further inputs: other streams and earlier blocks.

    Source: section 2.3 and figure 2 of the paper. Deviation: no weight normalisation.
    """

    def __init__(self, width: int, kernel: tuple[int, int], linked: int) -> None:
        super().__init__()
        self.first = ShiftedConv(2 * width, width, kernel, above=1, left=1)
        self.second = ShiftedConv(2 * width, 2 * width, kernel, above=1, left=1)
        self.link = nn.Linear(2 * linked, width) if linked else None

    def forward(self, x: Tensor, linked: list[Tensor], drop: Map) -> Tensor:
        """Advance the stream, (B, H, W, D)."""
        return self.step(x, linked, drop, self.first, self.second)

    def step(self, x: Tensor, linked: list[Tensor], drop: Map, first: Map, second: Map) -> Tensor:
        """Advance a map, a row or a pixel (..., D), by convolutions of the same kind."""
        y = first(concat_elu(x))
        if self.link is not None:
            y = y + self.link(concat_elu(torch.cat(linked, -1)))
        a, b = second(drop(concat_elu(y))).chunk(2, -1)
        return x + a * b.sigmoid()


class BlockCache:
    """A ``Block`` that is computed row by row or pixel by pixel."""

    def __init__(self, block: nn.Module, batch: int, height: int, width: int) -> None:
        assert isinstance(block, Block)
        self.block = block
        self.first, self.second = (ConvCache(c, batch, height, width) for c in (block.first, block.second))

    def row(self, i: int, x: Tensor, linked: list[Tensor]) -> Tensor:
        """Advance row i of the stream, (B, W, D)."""
        convolutions = (partial(cache.row, i) for cache in (self.first, self.second))
        return self.block.step(x, linked, identity, *convolutions)

    def pixel(self, i: int, j: int, x: Tensor, linked: list[Tensor]) -> Tensor:
        """Advance pixel (i, j) of the stream, (B, D)."""
        convolutions = (partial(cache.pixel, i, j) for cache in (self.first, self.second))
        return self.block.step(x, linked, identity, *convolutions)


class Grow(nn.Module):
    """Turns each place into a square of four: a transposed convolution without overlap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.corners = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Map (B, H/2, W/2, D) to the shape of ``like``, (B, H, W, D)."""
        y = self.corners(x).unflatten(-1, (2, 2, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return y[:, : like.shape[1], : like.shape[2]]

    def row(self, i: int, x: Tensor, width: int) -> Tensor:
        """Return row i of the finer map from its row of the coarser one, (B, W/2, D)."""
        half = self.corners(x).unflatten(-1, (2, 2, -1))[:, :, i % 2]
        return half.flatten(1, 2)[:, :width]

    def pixel(self, i: int, j: int, x: Tensor) -> Tensor:
        """Return pixel (i, j) of the finer map from its place of the coarser one, (B, D)."""
        return self.corners(x).unflatten(-1, (2, 2, -1))[:, i % 2, j % 2]


class Scale(nn.Module):
    """Both streams at one scale: blocks on the way down, coarser scales, blocks on the way up.

    The vertical stream sees rows above and the horizontal one the pixels before, as in a gated PixelCNN: a
    coarse place (i, j) stands for the fine place (2 i, 2 j), and so sees what that sees. What finer places
    know beyond it comes by the links from blocks on the way down (section 2.4 of the paper).
    """

    def __init__(self, width: int, depth: int, coarser: int) -> None:
        super().__init__()
        vertical, horizontal = (2, 3), (2, 2)
        self.downs_v = nn.ModuleList(Block(width, vertical, 0) for _ in range(depth))
        self.downs_h = nn.ModuleList(Block(width, horizontal, width) for _ in range(depth))
        self.inner = None
        if coarser:
            self.shrink_v = ShiftedConv(width, width, vertical, above=1, left=1, stride=2)
            self.shrink_h = ShiftedConv(width, width, horizontal, above=1, left=1, stride=2)
            self.inner = Scale(width, depth, coarser - 1)
            self.grow_v, self.grow_h = Grow(width), Grow(width)
        self.ups_v = nn.ModuleList(Block(width, vertical, width) for _ in range(depth))
        self.ups_h = nn.ModuleList(Block(width, horizontal, 2 * width) for _ in range(depth))

    def forward(self, v: Tensor, h: Tensor, drop: Map) -> tuple[Tensor, Tensor]:
        """Advance both streams, each (B, H, W, D)."""
        skips = []
        for vertical, horizontal in zip(self.downs_v, self.downs_h, strict=True):
            v = vertical(v, [], drop)
            h = horizontal(h, [v], drop)
            skips.append((v, h))
        if self.inner is not None:
            coarse_v, coarse_h = self.inner(self.shrink_v(v), self.shrink_h(h), drop)
            v, h = self.grow_v(coarse_v, v), self.grow_h(coarse_h, h)
        for vertical, horizontal in zip(self.ups_v, self.ups_h, strict=True):
            skip_v, skip_h = skips.pop()
            v = vertical(v, [skip_v], drop)
            h = horizontal(h, [v, skip_h], drop)
        return v, h


class ScaleCache:
    """A ``Scale`` whose vertical stream is computed row by row, and the horizontal one pixel by pixel.

    A coarser scale is only computed at even rows and pixels, as by Ramachandran et al. 2017,
    arXiv:1704.06001.
    """

    def __init__(self, scale: Scale, batch: int, height: int, width: int) -> None:
        def caches(blocks: nn.ModuleList) -> list[BlockCache]:
            return [BlockCache(block, batch, height, width) for block in blocks]

        self.scale, self.inner = scale, None
        self.downs_v, self.downs_h = caches(scale.downs_v), caches(scale.downs_h)
        self.ups_v, self.ups_h = caches(scale.ups_v), caches(scale.ups_h)
        self.rows_down: list[Tensor] = []
        self.rows_up: list[Tensor] = []
        if scale.inner is not None:
            self.shrink_v = ConvCache(scale.shrink_v, batch, height, width)
            self.shrink_h = ConvCache(scale.shrink_h, batch, height, width)
            self.inner = ScaleCache(scale.inner, batch, -(-height // 2), -(-width // 2))
            blank = scale.shrink_v.bias.new_zeros(batch, -(-width // 2), len(scale.shrink_v.bias))
            self.coarse_v, self.coarse_h = blank, blank.clone()

    def row(self, i: int, v: Tensor) -> Tensor:
        """Advance row i of the vertical stream, (B, W, D)."""
        width, self.rows_down, self.rows_up = v.shape[1], [], []
        for down in self.downs_v:
            v = down.row(i, v, [])
            self.rows_down.append(v)
        if self.inner is not None:
            shrunk = self.shrink_v.row(i, v)
            if i % 2 == 0:
                self.coarse_v = self.inner.row(i // 2, shrunk)
            v = self.scale.grow_v.row(i, self.coarse_v, width)
        for up, skip in zip(self.ups_v, reversed(self.rows_down), strict=True):
            v = up.row(i, v, [skip])
            self.rows_up.append(v)
        return v

    def pixel(self, i: int, j: int, h: Tensor) -> Tensor:
        """Advance pixel (i, j) of the horizontal stream, (B, D)."""
        skips = []
        for down, v in zip(self.downs_h, self.rows_down, strict=True):
            h = down.pixel(i, j, h, [v[:, j]])
            skips.append(h)
        if self.inner is not None:
            shrunk = self.shrink_h.pixel(i, j, h)
            if i % 2 == 0 and j % 2 == 0:
                self.coarse_h[:, j // 2] = self.inner.pixel(i // 2, j // 2, shrunk)
            h = self.scale.grow_h.pixel(i, j, self.coarse_h[:, j // 2])
        for up, v in zip(self.ups_h, self.rows_up, strict=True):
            h = up.pixel(i, j, h, [v[:, j], skips.pop()])
        return h


class Network(PixelNetwork):
    """Two streams through all scales, and a linear map of every pixel on top."""

    def __init__(self, stem: Stem, scale: Scale, outputs: int, dropout: float) -> None:
        super().__init__()
        self.stem, self.scale, self.dropout = stem, scale, dropout
        self.head = nn.Sequential(nn.ELU(), nn.Linear(stem.position.shape[2] // 2, outputs))

    def forward(self, x: Tensor, label: Tensor, noise: Noise | None = None) -> Tensor:
        drop = dropout(self.dropout, noise)
        _, h = self.scale(*self.stem(x, label), drop)
        return self.head(h)

    def reader(self, label: Tensor) -> "NetworkReader":
        return NetworkReader(self, label)


class NetworkReader(Reader):
    """Computes each activation once."""

    def __init__(self, network: Network, label: Tensor) -> None:
        height, width, _ = network.stem.position.shape
        self.stem, self.head = StemCache(network.stem, label), network.head
        self.scale = ScaleCache(network.scale, len(label), height, width)

    def row(self, i: int) -> None:
        self.scale.row(i, self.stem.row(i))

    def predict(self, i: int, j: int) -> Tensor:
        return self.head(self.scale.pixel(i, j, self.stem.pixel(i, j)))

    def read(self, i: int, j: int, pixel: Tensor) -> None:
        self.stem.read(i, j, pixel)


CARD = Card(
    name="ar.pixelcnnpp",
    title="PixelCNN++",
    summary="Predicts each pixel from those before it, seen at several scales, with an exact likelihood.",
    events=(level_image, binary_image),
    conditions="class",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Salimans et al.",
            2017,
            "PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood",
            "arXiv:1701.05517",
        ),
        Reference(
            "Ramachandran et al.",
            2017,
            "Fast generation for convolutional autoregressive models",
            "arXiv:1704.06001",
        ),
    ),
    good_at=("Likelihood of images with many levels.", "A long reach by halving the size, not by depth."),
    bad_at=("Drawing is one step a pixel.", "More work a step than a gated PixelCNN."),
    autocast=True,
)
