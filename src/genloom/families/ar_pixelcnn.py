"""Gated PixelCNN: exact likelihood, pixel by pixel. van den Oord et al. 2016, arXiv:1606.05328.

Shapes: B batch, C image channels, H height, W width, P parameters of one pixel.
"""

from typing import Self

from pydantic import Field
from torch import Tensor, nn

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
"""Up to this many pixels two narrow layers see enough; wider ones overfit a small set of such images."""


class Config(card.Config):
    """Settings of a gated PixelCNN."""

    channels: int = Field(32, gt=0, description="width of both stacks; cost grows with its square")
    dilations: card.Widths = Field(
        (1, 2, 4, 1, 2, 4), description="one layer each; spread taps see 28 pixels in 6 layers"
    )
    reach: int = Field(3, gt=0, description="the first layer sees this far: 3 is the paper's 7x7 window")
    mixtures: int = Field(10, gt=0, description="logistics a pixel where levels are many, as in PixelCNN++")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(3e-3, gt=0, description="peak rate of Adam, which decays as a cosine")
    warmup: float = Field(0.02, ge=0, lt=1, description="share of the steps over which the rate rises")
    batch_size: int = Field(32, gt=0, description="activations of 32 images of 28x28 stay in a CPU's cache")

    @classmethod
    def preset(cls, event: Event) -> Self:
        channels, height, width = image_leaf(event).extents
        if height * width <= SMALL_IMAGE:
            return cls(channels=16, dilations=(1, 2), lr=1e-2)
        return cls() if channels == 1 else cls(channels=48, lr=1e-3)

    def build(self, event: Event, cond: Event | None) -> PixelModel:
        def network(shape: tuple[int, int, int], outputs: int, classes: int) -> Network:
            return Network(shape, outputs, classes, self.channels, self.dilations, self.reach)

        return pixel_model("ar.pixelcnn", event, cond, self.mixtures, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, PixelModel)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=self.warmup)
        return [Stage("fit", maximum_likelihood(model, optimiser, self.label_dropout), self.batch_size)]


class Network(PixelNetwork):
    """Two causal stacks of gated layers, and a small network of every pixel on top."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        classes: int,
        channels: int,
        dilations: tuple[int, ...],
        reach: int,
    ) -> None:
        super().__init__()
        self.stem = Stem(shape, channels, reach, classes)
        self.layers = nn.ModuleList(GatedLayer(channels, d) for d in dilations)
        self.head = pixel_head(channels, outputs)

    def forward(self, x: Tensor, label: Tensor, noise: Noise | None = None) -> Tensor:  # noqa: ARG002
        v, h = self.stem(x, label)
        for layer in self.layers:
            v, h = layer(v, h)
        return self.head(h)

    def reader(self, label: Tensor) -> "NetworkReader":
        return NetworkReader(self, label)


class NetworkReader(Reader):
    """Computes one new activation a layer for each pixel, and one row a layer for each row."""

    def __init__(self, network: Network, label: Tensor) -> None:
        height, width, _ = network.stem.position.shape
        self.stem, self.head = StemCache(network.stem, label), network.head
        self.layers = [GatedLayerCache(layer, len(label), height, width) for layer in network.layers]

    def row(self, i: int) -> None:
        v = self.stem.row(i)
        for layer in self.layers:
            v = layer.row(i, v)

    def predict(self, i: int, j: int) -> Tensor:
        h = self.stem.pixel(i, j)
        for layer in self.layers:
            h = layer.pixel(j, h)
        return self.head(h)

    def read(self, i: int, j: int, pixel: Tensor) -> None:
        self.stem.read(i, j, pixel)


CARD = Card(
    name="ar.pixelcnn",
    title="Gated PixelCNN",
    summary="Predicts each pixel from those above and to the left, with an exact likelihood.",
    events=(level_image, binary_image),
    conditions="class",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "van den Oord et al.",
            2016,
            "Conditional image generation with PixelCNN decoders",
            "arXiv:1606.05328",
        ),
        Reference(
            "Salimans et al.",
            2017,
            "PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood",
            "arXiv:1701.05517",
        ),
    ),
    good_at=("Likelihood of images: among the best for its cost.", "Textures and strokes."),
    bad_at=("Drawing is one step a pixel.", "Global shape, which it must build up from local choices."),
    autocast=True,
)
