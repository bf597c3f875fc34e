"""PixelSNAIL: causal convolutions and attention over earlier pixels. Chen et al. 2018, arXiv:1712.09763.

Shapes: B batch, C image channels, H height, W width, N = H W pixels, D channels of a stack, E width of a key,
P parameters of one pixel.
"""

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
from genloom.nn.causal_conv import GatedLayer, GatedLayerCache, Stem, StemCache
from genloom.nn.raster import (
    PixelModel,
    PixelNetwork,
    Reader,
    maximum_likelihood,
    pixel_head,
    pixel_model,
)

SMALL_IMAGE = 16 * 16
"""Up to this many pixels narrow stacks suffice."""

CHUNK = 112
"""Queries taken together: their weights stay in a CPU's cache, and later keys cost nothing."""


class Config(card.Config):
    """Settings of a PixelSNAIL."""

    channels: int = Field(32, gt=0, description="width of both stacks, and of what is attended to")
    blocks: int = Field(2, gt=0, description="each is gated layers and one attention; the paper's 12 is slow")
    dilations: card.Widths = Field((1, 2, 4), description="one gated layer of a block each")
    keys: int = Field(16, gt=0, description="width of keys and queries, the paper's")
    reach: int = Field(3, gt=0, description="the first layer sees this far: 3 is a 7x7 window")
    mixtures: int = Field(10, gt=0, description="logistics a pixel where levels are many, as in PixelCNN++")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(3e-3, gt=0, description="peak rate of Adam, which decays as a cosine")
    batch_size: int = Field(32, gt=0, description="activations of 32 images of 28x28 stay in a CPU's cache")

    @classmethod
    def preset(cls, event: Event) -> Self:
        channels, height, width = image_leaf(event).extents
        if height * width <= SMALL_IMAGE:
            return cls(channels=16, dilations=(1, 2), lr=5e-3)
        return cls() if channels == 1 else cls(channels=64, blocks=4, lr=1e-3)

    def build(self, event: Event, cond: Event | None) -> PixelModel:
        def network(shape: tuple[int, int, int], outputs: int, classes: int) -> Network:
            stem = Stem(shape, self.channels, self.reach, classes)
            blocks = [Block(shape, self.channels, self.dilations, self.keys) for _ in range(self.blocks)]
            return Network(stem, blocks, outputs)

        return pixel_model("ar.pixelsnail", event, cond, self.mixtures, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, PixelModel)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=10.0)
        return [Stage("fit", maximum_likelihood(model, optimiser, self.label_dropout), self.batch_size)]


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return what each query finds among the keys up to its own, (B, N, D).

    Written out: PyTorch's fused kernel is no faster for keys this narrow in bfloat16 on a CPU.

    Args:
        queries, keys: (B, N, E).
        values: (B, N, D).
    """
    found = []
    for start in range(0, queries.shape[1], CHUNK):
        some = queries[:, start : start + CHUNK]
        end = start + some.shape[1]
        later = torch.ones(some.shape[1], end, dtype=torch.bool, device=some.device).triu(start + 1)
        hidden = torch.zeros_like(later, dtype=some.dtype).masked_fill(later, -torch.inf)
        scores = torch.baddbmm(hidden, some, keys[:, :end].mT, alpha=keys.shape[-1] ** -0.5)
        found.append(scores.softmax(-1) @ values[:, :end])
    return torch.cat(found, 1)


def coordinates(height: int, width: int) -> Tensor:
    """Return the row and column of every pixel, in [-1/2, 1/2], (H, W, 2)."""
    rows, columns = (torch.linspace(-0.5, 0.5, n) for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)


class Attention(nn.Module):
    """Every pixel looks among those before it, and mixes what it finds into the horizontal stack.

    What is remembered of a pixel lies one place later, behind an empty first place, so that a query sees
    places up to its own: only pixels before it, and nothing at the first. Source: figure 3 of the paper.
    """

    place: Tensor

    def __init__(self, shape: tuple[int, int, int], width: int, keys: int) -> None:
        super().__init__()
        channels, height, columns = shape
        self.register_buffer("place", coordinates(height, columns).flatten(0, 1), persistent=False)
        self.keys = keys
        self.query = nn.Linear(width + 2, keys)
        self.memory = nn.Linear(width + channels + 2, keys + width)
        self.mix = nn.Linear(2 * width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Advance the horizontal stack (B, H, W, D), given the pixels (B, H, W, C)."""
        flat = h.flatten(1, 2)
        place = self.place.to(h.dtype).expand(len(h), -1, -1)
        memory = self.memory(torch.cat([flat, x.flatten(1, 2).to(h.dtype), place], -1))
        keys, values = F.pad(memory, (0, 0, 1, 0))[:, :-1].split([self.keys, h.shape[-1]], -1)
        queries = self.query(torch.cat([flat, place], -1))
        return self.mixed(h, attend(queries, keys, values).view_as(h))

    def mixed(self, h: Tensor, found: Tensor) -> Tensor:
        """Return the stack (..., D) with what was found (..., D)."""
        return h + self.out(F.glu(self.mix(torch.cat([h, found], -1))))


class AttentionCache:
    """The keys and values of an ``Attention`` as far as they are known."""

    def __init__(self, attention: Attention, batch: int) -> None:
        self.attention, pixels = attention, len(attention.place)
        width = attention.out.weight.shape[0]
        self.memory = attention.out.weight.new_zeros(batch, pixels + 1, attention.keys + width)
        self.last: tuple[Tensor, Tensor] = (self.memory, self.memory)

    def pixel(self, place: int, h: Tensor) -> Tensor:
        """Advance a pixel of the horizontal stack, (B, D)."""
        attention = self.attention
        where = attention.place[place].expand(len(h), -1)
        keys, values = self.memory[:, : place + 1].split([attention.keys, h.shape[-1]], -1)
        query = attention.query(torch.cat([h, where], -1))[:, :, None]
        weights = ((keys @ query) * attention.keys**-0.5).softmax(1)
        self.last = h, where
        return attention.mixed(h, (weights.mT @ values)[:, 0])

    def read(self, place: int, x: Tensor) -> None:
        """Remember the pixel that was advanced last, now that its value (B, C) is known."""
        h, where = self.last
        self.memory[:, place + 1] = self.attention.memory(torch.cat([h, x, where], -1))


class Block(nn.Module):
    """Gated layers, and attention on top of them."""

    def __init__(
        self, shape: tuple[int, int, int], width: int, dilations: tuple[int, ...], keys: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GatedLayer(width, d) for d in dilations)
        self.attention = Attention(shape, width, keys)

    def forward(self, x: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Advance both stacks, each (B, H, W, D), given the pixels (B, H, W, C)."""
        for layer in self.layers:
            v, h = layer(v, h)
        return v, self.attention(x, h)


class BlockCache:
    """A ``Block`` whose vertical stack is computed row by row, and the rest pixel by pixel."""

    def __init__(self, block: nn.Module, batch: int, height: int, width: int) -> None:
        assert isinstance(block, Block)
        self.layers = [GatedLayerCache(layer, batch, height, width) for layer in block.layers]
        self.attention = AttentionCache(block.attention, batch)

    def row(self, i: int, v: Tensor) -> Tensor:
        """Advance row i of the vertical stack, (B, W, D)."""
        for layer in self.layers:
            v = layer.row(i, v)
        return v

    def pixel(self, j: int, place: int, h: Tensor) -> Tensor:
        """Advance pixel j of the current row of the horizontal stack, (B, D)."""
        for layer in self.layers:
            h = layer.pixel(j, h)
        return self.attention.pixel(place, h)


class Network(PixelNetwork):
    """Blocks of convolutions and attention, and a small network of every pixel on top.

    Source: figure 4 of the paper. Deviations, for speed: gated layers of two stacks, as in a gated PixelCNN,
    stand for its residual blocks; attention acts on the horizontal stack, with one head.
    """

    def __init__(self, stem: Stem, blocks: list[Block], outputs: int) -> None:
        super().__init__()
        self.stem, self.blocks = stem, nn.ModuleList(blocks)
        self.head = pixel_head(stem.position.shape[2] // 2, outputs)

    def forward(self, x: Tensor, label: Tensor, noise: Noise | None = None) -> Tensor:  # noqa: ARG002
        v, h = self.stem(x, label)
        for block in self.blocks:
            v, h = block(x, v, h)
        return self.head(h)

    def reader(self, label: Tensor) -> "NetworkReader":
        return NetworkReader(self, label)


class NetworkReader(Reader):
    """Computes one new activation a layer for each pixel, one row a layer for each row."""

    def __init__(self, network: Network, label: Tensor) -> None:
        height, self.width, _ = network.stem.position.shape
        self.stem, self.head = StemCache(network.stem, label), network.head
        self.blocks = [BlockCache(block, len(label), height, self.width) for block in network.blocks]

    def row(self, i: int) -> None:
        v = self.stem.row(i)
        for block in self.blocks:
            v = block.row(i, v)

    def predict(self, i: int, j: int) -> Tensor:
        h = self.stem.pixel(i, j)
        for block in self.blocks:
            h = block.pixel(j, i * self.width + j, h)
        return self.head(h)

    def read(self, i: int, j: int, pixel: Tensor) -> None:
        self.stem.read(i, j, pixel)
        for block in self.blocks:
            block.attention.read(i * self.width + j, pixel)


CARD = Card(
    name="ar.pixelsnail",
    title="PixelSNAIL",
    summary="Predicts each pixel by convolutions and by attention to those before it; exact likelihood.",
    events=(level_image, binary_image),
    conditions="class",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Chen et al.",
            2018,
            "PixelSNAIL: An improved autoregressive generative model",
            "arXiv:1712.09763",
        ),
    ),
    good_at=("Likelihood of images: it sees all earlier pixels at once.", "Repetition and symmetry."),
    bad_at=("Drawing is one step a pixel.", "Attention costs the square of the number of pixels."),
    autocast=True,
)
