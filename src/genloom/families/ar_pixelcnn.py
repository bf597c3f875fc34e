"""Gated PixelCNN: exact likelihood, pixel by pixel. van den Oord et al. 2016, arXiv:1606.05328.

Shapes: B batch, C image channels, H height, W width, D hidden channels, K levels, M mixture components,
P parameters and U uniforms of one pixel.
"""

from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Likelihood, Sampler
from genloom.core.card import Card, Reference, binary_image, class_count, level_image
from genloom.core.errors import DataError
from genloom.core.events import Batch, Event, Value, categories, describe, image_leaf, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.math.logistic import discretised_logistic
from genloom.nn.causal_conv import GatedLayer, GatedLayerCache, pixels_left, rows_above
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.likelihoods import SOFTMAX_LEVELS

SMALL_IMAGE = 16 * 16
"""Up to this many pixels two narrow layers see enough; wider ones overfit a small set of such images."""


class Config(card.Config):
    """Settings of a gated PixelCNN."""

    channels: int = Field(32, gt=0, description="width of both stacks; cost grows with its square")
    dilations: tuple[int, ...] = Field(
        (1, 2, 4, 1, 2, 4), min_length=1, description="one layer each; spread taps see 28 pixels in 6 layers"
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

    def build(self, event: Event, cond: Event | None) -> "Model":
        if not (level_image(event) or binary_image(event)):
            raise DataError(f"ar.pixelcnn needs an image of ordered or binary levels, not {describe(event)}")
        channels, height, width = image_leaf(event).extents
        levels = categories(image_leaf(event).kind)
        return Model(
            (channels, height, width),
            levels,
            class_count(cond),
            self.channels,
            self.dilations,
            self.reach,
            self.mixtures,
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        return [Stage("fit", pixelcnn_objective(model, self), self.batch_size)]


def scale_levels(x: Tensor, levels: int, dtype: torch.dtype) -> Tensor:
    """Map levels 0..K-1 to [-1, 1]."""
    return x.to(dtype) * (2 / max(levels - 1, 1)) - 1


def invert_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """Return the categories (...) at which the cumulative softmax of (..., K) logits passes u (...)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    return (u.unsqueeze(-1) > cumulative).sum(-1).clamp_max(logits.shape[-1] - 1)


class Levels(nn.Module):
    """A softmax over the levels of each channel; earlier channels of the pixel shift its logits."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        self.parameters_needed, self.uniforms_needed = channels * levels, channels
        self.earlier = nn.ModuleList(nn.Embedding(c * levels, levels) for c in range(1, channels))

    def _logits(self, params: Tensor, x: Tensor, c: int) -> Tensor:
        """Return the logits (..., K) of channel c given channels before it, x (..., >= c)."""
        logits = params[..., c * self.levels : (c + 1) * self.levels]
        if c == 0:
            return logits
        offsets = torch.arange(c, device=x.device) * self.levels
        return logits + self.earlier[c - 1](x[..., :c] + offsets).sum(-2)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats (...) of pixels x (..., C) given their parameters (..., P)."""
        terms = []
        for c in range(self.channels):
            logits = self._logits(params, x, c)
            nats = F.cross_entropy(logits.flatten(0, -2), x[..., c].flatten(), reduction="none")
            terms.append(-nats.view(x.shape[:-1]))
        return torch.stack(terms).sum(0)

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return pixels (B, C) for parameters (B, P) and uniforms (B, U)."""
        x = torch.zeros_like(u, dtype=torch.int64)
        for c in range(self.channels):
            x[:, c] = invert_cdf(self._logits(params, x, c), u[:, c])
        return x


class LogisticMixture(nn.Module):
    """A mixture of discretised logistics; means are linear in earlier channels of the pixel.

    Source: Salimans et al. 2017, arXiv:1701.05517, equations 2 and 3, for any number of channels.
    """

    def __init__(self, channels: int, levels: int, mixtures: int) -> None:
        super().__init__()
        self.channels, self.levels, self.mixtures = channels, levels, mixtures
        self.sizes = [1, channels, channels, channels * (channels - 1) // 2]
        self.parameters_needed, self.uniforms_needed = sum(self.sizes) * mixtures, channels + 1

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits, means, log-scales and channel coefficients, each (..., its size, M)."""
        parts = params.unflatten(-1, (-1, self.mixtures)).split(self.sizes, -2)
        logits, means, log_scales, coefficients = parts
        return logits.squeeze(-2), means, log_scales.clamp_min(-7), coefficients.tanh()

    def _mean(self, means: Tensor, coefficients: Tensor, values: Tensor, c: int) -> Tensor:
        """Return the means (..., M) of channel c given scaled values (..., >= c, 1 or M) before it."""
        start = c * (c - 1) // 2
        return means[..., c, :] + (coefficients[..., start : start + c, :] * values[..., :c, :]).sum(-2)

    def log_prob(self, params: Tensor, x: Tensor) -> Tensor:
        """Return nats (...) of pixels x (..., C) given their parameters (..., P)."""
        logits, means, log_scales, coefficients = self._split(params)
        values = scale_levels(x, self.levels, params.dtype).unsqueeze(-1)
        joint = logits.log_softmax(-1)
        for c in range(self.channels):
            mean = self._mean(means, coefficients, values, c)
            joint = joint + discretised_logistic(values[..., c, :], mean, log_scales[..., c, :], self.levels)
        return joint.logsumexp(-1)

    def draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Return pixels (B, C) for parameters (B, P) and uniforms (B, U)."""
        logits, *others = self._split(params)
        component = invert_cdf(logits, u[:, 0])[:, None, None]
        means, log_scales, coefficients = (
            torch.gather(t, -1, component.expand(-1, t.shape[1], -1)) for t in others
        )
        spread = log_scales.squeeze(-1).exp() * torch.logit(u[:, 1:])
        x = torch.zeros(len(u), self.channels, dtype=torch.int64, device=u.device)
        for c in range(self.channels):
            values = scale_levels(x, self.levels, params.dtype).unsqueeze(-1)
            value = self._mean(means, coefficients, values, c).squeeze(-1) + spread[:, c]
            x[:, c] = ((value + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1).long()
        return x


class Model(nn.Module, Sampler, Likelihood):
    """Two causal stacks under an exact distribution of each pixel.

    Class labels and learned positions (the paper's location-dependent bias, section 2.3) are added to both
    stacks once, at their start: the residual streams carry them to every layer.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        classes: int,
        channels: int,
        dilations: tuple[int, ...],
        reach: int,
        mixtures: int,
    ) -> None:
        super().__init__()
        self.shape, self.levels, self.classes, self.reach = shape, levels, classes, reach
        image_channels, height, width = shape
        self.pixel: Levels | LogisticMixture = (
            Levels(image_channels, levels)
            if levels <= SOFTMAX_LEVELS
            else LogisticMixture(image_channels, levels, mixtures)
        )
        self.above = rows_above(image_channels, channels, reach)
        self.left = pixels_left(image_channels, channels, reach)
        self.position = nn.Parameter(torch.zeros(height, width, 2 * channels))
        self.label = nn.Embedding(classes + 1, 2 * channels) if classes else None
        self.layers = nn.ModuleList(GatedLayer(channels, d) for d in dilations)
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Linear(channels, 2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, self.pixel.parameters_needed),
        )

    def _start(self, cond: Value | None, batch: int) -> tuple[Tensor, Tensor]:
        """Return what is added at the start of the vertical and the horizontal stack, (B or 1, H, W, D)."""
        start = self.position[None]
        if self.label is not None:
            labels = labels_or_null(cond, self.classes, batch)
            start = start + self.label(labels)[:, None, None]
        v, h = start.chunk(2, -1)
        return v, h

    def forward(self, x: Tensor, cond: Value | None = None) -> Tensor:
        """Return the parameters (B, H, W, P) of every pixel given those before it.

        Args:
            x: (B, C, H, W) int64 levels.
            cond: (B,) int64 labels, ``classes`` for none.
        """
        inputs = scale_levels(x, self.levels, self.position.dtype).permute(0, 2, 3, 1)
        v, h = self.above(inputs), self.left(inputs)
        start_v, start_h = self._start(cond, len(x))
        v, h = v + start_v.to(v.dtype), h + start_h.to(h.dtype)
        for layer in self.layers:
            v, h = layer(v, h)
        return self.head(h).to(self.position.dtype)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        images = tensor(x)
        nats = self.pixel.log_prob(self(images, cond), images.permute(0, 2, 3, 1))
        return LogProb(nats.flatten(1).sum(1), Bound.EXACT, given(cond))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        """Draw (B, C, H, W) int64 levels; each pixel costs one new activation a layer."""
        channels, height, width = self.shape
        u = noise.uniform(height, width, self.pixel.uniforms_needed).to(self.position)
        batch, reach = len(u), self.reach
        levels = torch.zeros(batch, height, width, channels, dtype=torch.int64, device=u.device)
        canvas = u.new_zeros(batch, height + reach, width + 2 * reach, channels)
        start_v, start_h = self._start(cond, batch)
        caches = [GatedLayerCache(layer, batch, height, width) for layer in self.layers]
        left = self.left.weight.permute(2, 3, 1, 0).flatten(0, 2)
        for i in range(height):
            v = self.above.windowed(canvas[:, i : i + reach]).squeeze(1) + start_v[:, i]
            for cache in caches:
                v = cache.row(i, v)
            offset = start_h[:, i] + self.left.bias
            for j in range(width):
                window = canvas[:, i + reach, j : j + reach].flatten(1)
                h = window @ left + offset[:, j]
                for cache in caches:
                    h = cache.pixel(j, h)
                pixel = self.pixel.draw(self.head(h), u[:, i, j])
                levels[:, i, j] = pixel
                canvas[:, i + reach, j + reach] = scale_levels(pixel, self.levels, u.dtype)
        return levels.permute(0, 3, 1, 2).contiguous()


def pixelcnn_objective(model: Model, config: Config) -> Objective:
    """Return maximum likelihood, some labels hidden, with averaged weights."""

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        cond = batch.get("cond")
        if cond is not None and model.classes:
            cond = hide_labels(tensor(cond), model.classes, config.label_dropout, noise)
        return Loss({"nll": -model.log_prob(batch["x"], cond, noise=noise).value.mean()})

    optimiser = Optimiser(config.lr, schedule="cosine", warmup=config.warmup)
    phase = Phase("likelihood", ("network",), loss)
    return Objective({"network": Group(model, optimiser)}, [phase], Average())


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
