"""What autoregressive models of images share: one walk in raster order, the model, and its objective.

Shapes: B batch, C image channels, H height, W width, P parameters of one pixel.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Infill, Likelihood, Sampler
from genloom.core.card import binary_image, class_count, level_image
from genloom.core.errors import DataError
from genloom.core.events import Batch, Event, Value, categories, describe, image_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.pixels import UNKNOWN, PixelDistribution, pixel_distribution, scale_levels


class Reader(ABC):
    """A network that reads images pixel by pixel, in raster order, and keeps what it has computed."""

    @abstractmethod
    def row(self, i: int) -> None:
        """Begin row i: all rows above it have been read."""

    @abstractmethod
    def predict(self, i: int, j: int) -> Tensor:
        """Return the parameters (B, P) of pixel (i, j), which is the next to be read."""

    @abstractmethod
    def read(self, i: int, j: int, pixel: Tensor) -> None:
        """Take pixel (i, j), (B, C) in [-1, 1]."""


class PixelNetwork(nn.Module, ABC):
    """Predicts each pixel of an image from those before it in raster order."""

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor, noise: Noise | None = None) -> Tensor:
        """Return the parameters of every pixel, (B, H, W, P).

        Args:
            x: (B, H, W, C) in [-1, 1].
            label: (B,) int64, the number of classes for none.
            noise: of dropout, while training.
        """

    @abstractmethod
    def reader(self, label: Tensor) -> Reader:
        """Return a reader of as many images as there are labels (B,)."""


class PixelModel(nn.Module, Sampler, Likelihood, Infill):
    """A network in raster order under an exact distribution of each pixel."""

    def __init__(
        self, shape: tuple[int, int, int], pixel: PixelDistribution, network: PixelNetwork, classes: int
    ) -> None:
        super().__init__()
        self.shape, self.pixel, self.network, self.classes = shape, pixel, network, classes

    def forward(self, x: Tensor, cond: Value | None = None, noise: Noise | None = None) -> Tensor:
        """Return the parameters (B, H, W, P) of every pixel given those before it.

        Args:
            x: (B, C, H, W) int64 levels.
            cond: (B,) int64 labels, ``classes`` for none.
            noise: of dropout, while training.
        """
        dtype = next(self.network.parameters()).dtype
        inputs = scale_levels(items(x, self.shape), self.pixel.levels, dtype).permute(0, 2, 3, 1)
        return self.network(inputs, labels_or_null(cond, self.classes, len(x)), noise).to(dtype)

    def log_density(self, x: Value, cond: Value | None = None, noise: Noise | None = None) -> Tensor:
        """Return log p(x | cond), (B,) nats; ``noise`` is of dropout, while training."""
        images = tensor(x)
        return self.pixel.log_prob(self(images, cond, noise), images.permute(0, 2, 3, 1)).flatten(1).sum(1)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(x, cond), Bound.EXACT, given(cond))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        """Draw (B, C, H, W) int64 levels."""
        uniforms = self._uniforms(noise)
        nothing = torch.full((len(uniforms), *self.shape), UNKNOWN, device=uniforms.device)
        return self._complete(nothing, uniforms, cond)

    @torch.no_grad()
    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Tensor:
        """Draw each unknown value from p(value | all values before it), known or drawn.

        Values go in raster order, the channels of a pixel in turn. Known values after an unknown one do not
        bear on it: these are samples of p(unknown | known) where all known values come first.
        """
        levels = items(x, self.shape).masked_fill(~items(known, self.shape), UNKNOWN)
        return self._complete(levels, self._uniforms(noise), cond)

    def _uniforms(self, noise: Noise) -> Tensor:
        """Return the noise of every pixel, (B, H, W, U)."""
        _, height, width = self.shape
        return noise.uniform(height, width, self.pixel.uniforms_needed).to(next(self.parameters()))

    def _complete(self, x: Tensor, uniforms: Tensor, cond: Value | None) -> Tensor:
        """Draw the ``UNKNOWN`` levels of images (B, C, H, W)."""
        _, height, width = self.shape
        x = x.permute(0, 2, 3, 1).contiguous()
        reader = self.network.reader(labels_or_null(cond, self.classes, len(x)))
        for i in range(height):
            reader.row(i)
            for j in range(width):
                drawn = self.pixel.draw(reader.predict(i, j), uniforms[:, i, j], x[:, i, j])
                reader.read(i, j, scale_levels(drawn, self.pixel.levels, uniforms.dtype))
                x[:, i, j] = drawn
        return x.permute(0, 3, 1, 2).contiguous()


def pixel_model(
    family: str,
    event: Event,
    cond: Event | None,
    mixtures: int,
    network: Callable[[tuple[int, int, int], int, int], PixelNetwork],
) -> PixelModel:
    """Return a model of images of ordered or binary levels.

    Args:
        family: its name, for the error.
        mixtures: logistics of a pixel where levels are many.
        network: makes the network from the image's shape, P, and the number of classes.

    Raises:
        DataError: the event is something else.
    """
    if not (level_image(event) or binary_image(event)):
        raise DataError(f"{family} needs an image of ordered or binary levels, not {describe(event)}")
    leaf, classes = image_leaf(event), class_count(cond)
    channels, height, width = leaf.extents
    pixel = pixel_distribution(channels, categories(leaf.kind), mixtures)
    shape = (channels, height, width)
    return PixelModel(shape, pixel, network(shape, pixel.parameters_needed, classes), classes)


def pixel_head(width: int, outputs: int) -> nn.Sequential:
    """Return a network of two layers that maps the features of a pixel to its parameters."""
    return nn.Sequential(nn.ReLU(), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, outputs))


def maximum_likelihood(model: PixelModel, optimiser: Optimiser, label_dropout: float) -> Objective:
    """Return maximum likelihood, a share of the labels hidden, with averaged weights."""

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        cond = batch.get("cond")
        if cond is not None and model.classes:
            cond = hide_labels(tensor(cond), model.classes, label_dropout, noise)
        return Loss({"nll": -model.log_density(batch["x"], cond, noise).mean()})

    phase = Phase("likelihood", ("network",), loss)
    return Objective({"network": Group(model, optimiser)}, [phase], Average())
