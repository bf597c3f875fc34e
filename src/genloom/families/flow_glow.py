"""Glow: invertible 1x1 convolutions between affine couplings. Kingma & Dhariwal 2018, arXiv:1807.03039.

B batch, C channels, H height, W width, F hidden channels, D = C H W values of an image.
"""

import math
from collections.abc import Iterator
from typing import Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Invertible, Likelihood, Sampler
from genloom.core.card import Card, Reference, real_image
from genloom.core.errors import DataError
from genloom.core.events import Event, Value, describe, image_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import ActNorm, LUMatrix, exactly, limited, log_normal, maximum_likelihood

Shape = tuple[int, int, int]


class Config(card.Config):
    """Settings of Glow."""

    scales: int = Field(2, gt=0, description="each halves the sides, while they are even")
    steps: int = Field(8, gt=0, description="steps of flow at each scale; the paper uses 32 on GPUs")
    channels: int = Field(64, gt=0, description="hidden width of each coupling's network; the paper's is 512")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, cosine to zero")
    warmup: float = Field(0.05, ge=0, lt=1, description="first steps are small while scales leave one")
    clip: float = Field(1.0, gt=0, description="exponentials of scales make rare large gradients")
    batch_size: int = Field(64, gt=0, description="many small steps fit a short budget best")

    @classmethod
    def preset(cls, event: Event) -> Self:
        return cls(channels=32, steps=4) if image_leaf(event).dim <= 64 else cls()

    def build(self, event: Event, cond: Event | None) -> "Model":
        if not real_image(event):
            raise DataError(f"flow.glow needs an image of real numbers, not {describe(event)}")
        channels, height, width = image_leaf(event).extents
        if height % 2 or width % 2:
            raise DataError(
                f"flow.glow needs images with even sides, not {width}x{height}: scale them with --data.size"
            )
        return Model((channels, height, width), condition_for(cond), self.scales, self.steps, self.channels)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=self.warmup, clip=self.clip)
        score = exactly(model.log_density)
        objective = maximum_likelihood(
            model, model.initialise, score, model.condition, self.label_dropout, optimiser
        )
        return [Stage("fit", objective, self.batch_size)]


class ChannelNorm(nn.Module):
    """A learned shift and scale of every channel, set from one batch (section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardised channels (B, C, H, W) and the log-determinant ()."""
        return (x - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum() * x[0, 0].numel()

    def inverse(self, z: Tensor) -> Tensor:
        """Undo ``forward``."""
        return z * self.log_scale.exp() + self.shift

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set the parameters in place from images (B, C, H, W)."""
        values = x.transpose(0, 1).flatten(1)
        self.shift.copy_(values.mean(1)[:, None, None])
        if values.shape[1] > 1:
            self.log_scale.copy_(values.std(1, correction=0).clamp_min(1e-3).log()[:, None, None])


class Mix(nn.Module):
    """An invertible 1x1 convolution in its LU form (section 3.2, equation 10).

    Deviation: it starts as a random order of the channels, not as a random rotation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = LUMatrix(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed channels (B, C, H, W) and the log-determinant ()."""
        y, log_det = self.matrix(x.transpose(0, 1).flatten(1))
        return y.unflatten(1, (len(x), *x.shape[2:])).transpose(0, 1), log_det * x[0, 0].numel()

    def inverse(self, y: Tensor) -> Tensor:
        """Undo ``forward``."""
        x = self.matrix.inverse(y.transpose(0, 1).flatten(1))
        return x.unflatten(1, (len(y), *y.shape[2:])).transpose(0, 1)


class Network(nn.Module):
    """Three convolutions that end in zeros, with a learned vector for each position and for the condition.

    Deviation: the paper's networks do not know positions.
    """

    def __init__(
        self, inputs: int, outputs: int, sides: tuple[int, int], condition: Condition | None, channels: int
    ) -> None:
        super().__init__()
        self.entry = nn.Conv2d(inputs, channels, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(channels, *sides))
        self.context = None if condition is None else nn.Linear(condition.features, channels, bias=False)
        self.middle = nn.Conv2d(channels, channels, 1)
        self.exit = nn.Conv2d(channels, outputs, 3, padding=1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(cast(Tensor, self.exit.bias))

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W) in the dtype of x."""
        start = self.position
        if self.context is not None:
            start = start + self.context(context)[:, :, None, None]
        h = self.entry(x.contiguous(memory_format=torch.channels_last))
        h = self.middle(F.relu(h + start.to(h.dtype)))
        return self.exit(h.relu()).to(x.dtype)


class Step(nn.Module):
    """One step of flow: normalise the channels, mix them, then scale and shift half by the other half.

    Source: figure 2a and table 1. Deviation: log-scales are limited smoothly instead of a sigmoid.
    """

    def __init__(self, shape: Shape, condition: Condition | None, channels: int) -> None:
        super().__init__()
        self.kept = shape[0] // 2
        self.norm, self.mix = ChannelNorm(shape[0]), Mix(shape[0])
        self.network = Network(self.kept, 2 * (shape[0] - self.kept), shape[1:], condition, channels)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the transformed values (B, C, H, W) and the log-determinant (B,)."""
        x, scaled = self.norm(x)
        x, mixed = self.mix(x)
        kept, moved = x.split((self.kept, x.shape[1] - self.kept), 1)
        raw, shift = self.network(kept, context).chunk(2, 1)
        log_scale = limited(raw)
        y = torch.cat((kept, moved * log_scale.exp() + shift), 1)
        return y, log_scale.flatten(1).sum(1) + scaled + mixed

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        kept, moved = y.split((self.kept, y.shape[1] - self.kept), 1)
        raw, shift = self.network(kept, context).chunk(2, 1)
        x = torch.cat((kept, (moved - shift) * (-limited(raw)).exp()), 1)
        return self.norm.inverse(self.mix.inverse(x))


class Scale(nn.Module):
    """A squeeze and its steps; then half of the channels leave, standardised by what the others tell of them.

    Source: figure 2b; the learned normal of what leaves is that of Dinh et al. 2017, section 3.6, as its
        inverse: codes are standard normals.
    """

    def __init__(
        self, shape: Shape, kept: int, condition: Condition | None, steps: int, channels: int
    ) -> None:
        super().__init__()
        self.kept, self.left = kept, shape[0] - kept
        self.steps = nn.ModuleList(Step(shape, condition, channels) for _ in range(steps))
        self.prior = Network(kept, 2 * self.left, shape[1:], condition, channels) if self.left else None

    def walk(self) -> list[Step]:
        """Return the steps in order."""
        return cast(list[Step], list(self.steps))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what goes on (B, kept, H, W), codes (B, left, H, W), and the log-determinant (B,)."""
        x = F.pixel_unshuffle(x, 2)
        log_det = x.new_zeros(len(x))
        for step in self.walk():
            x, more = step(x, context)
            log_det = log_det + more
        kept, left = x.split((self.kept, self.left), 1)
        if self.prior is None:
            return kept, left, log_det
        mean, raw = self.prior(kept, context).chunk(2, 1)
        log_std = limited(raw)
        return kept, (left - mean) * (-log_std).exp(), log_det - log_std.flatten(1).sum(1)

    def inverse(self, kept: Tensor, code: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        left = code
        if self.prior is not None:
            mean, raw = self.prior(kept, context).chunk(2, 1)
            left = mean + limited(raw).exp() * code
        x = torch.cat((kept, left), 1)
        for step in reversed(self.walk()):
            x = step.inverse(x, context)
        return F.pixel_shuffle(x, 2)


def plan_scales(shape: Shape, scales: int) -> Iterator[tuple[Shape, int]]:
    """Yield the squeezed shape of each scale and how many channels go on; all do at the last."""
    for index in range(scales):
        channels, height, width = shape[0] * 4, shape[1] // 2, shape[2] // 2
        last = index + 1 == scales or bool(height % 2 or width % 2)
        yield (channels, height, width), channels if last else channels // 2
        if last:
            return
        shape = (channels // 2, height, width)


class Model(nn.Module, Sampler, Likelihood, Invertible):
    """Standardisation, then scales of steps; at each scale but the last half of the channels become code."""

    def __init__(
        self, shape: Shape, condition: Condition | None, scales: int, steps: int, channels: int
    ) -> None:
        super().__init__()
        self.shape, self.dim, self.condition = shape, math.prod(shape), condition
        plan = list(plan_scales(shape, scales))
        self.norm = ActNorm(self.dim)
        self.scales = nn.ModuleList(Scale(s, kept, condition, steps, channels) for s, kept in plan)
        self.codes = [(s[0] - kept, *s[1:]) for s, kept in plan] + [(plan[-1][1], *plan[-1][0][1:])]

    def _walk(self) -> list[Scale]:
        return cast(list[Scale], list(self.scales))

    def _context(self, cond: Value | None, like: Tensor) -> Tensor | None:
        """Return the features (B, F) of conditions."""
        return None if self.condition is None else self.condition(cond, len(like), like.dtype)

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Value | None) -> None:
        """Set every normalisation in place from images (B, C, H, W), one after another."""
        self.norm.initialise(x.flatten(1))
        context = self._context(cond, x)
        h = self.norm(x.flatten(1))[0].unflatten(1, self.shape)
        for scale in self._walk():
            h = F.pixel_unshuffle(h, 2)
            for step in scale.walk():
                step.norm.initialise(h)
                h = step(h, context)[0]
            h = h[:, : scale.kept]

    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to codes (B, D), finest scale first, and log |det dz/dx| (B,), in nats."""
        context = self._context(cond, x)
        h, log_det = self.norm(x.flatten(1))
        h, codes = h.unflatten(1, self.shape), []
        for scale in self.scales:
            h, code, more = scale(h, context)
            codes.append(code.flatten(1))
            log_det = log_det + more
        return torch.cat((*codes, h.flatten(1)), 1), log_det

    def log_density(self, x: Tensor, cond: Value | None = None) -> Tensor:
        """Return log p(x | cond), (B,) nats."""
        z, log_det = self.forward_and_log_det(x, cond)
        return log_normal(z) + log_det

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(items(x, self.shape), cond), Bound.EXACT, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.forward_and_log_det(tensor(x), cond)[0]

    def decode(self, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return the images (B, C, H, W) of codes (B, D)."""
        context = self._context(cond, z)
        parts = z.split([math.prod(shape) for shape in self.codes], 1)
        *codes, h = (part.reshape(len(z), *shape) for part, shape in zip(parts, self.codes, strict=True))
        for scale, code in reversed(list(zip(self._walk(), codes, strict=True))):
            h = scale.inverse(h, code, context)
        return self.norm.inverse(h.flatten(1)).unflatten(1, self.shape)

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        return self.decode(noise.normal(self.dim).to(self.norm.shift), cond)


CARD = Card(
    name="flow.glow",
    title="Glow",
    summary="Couplings between learned mixtures of the channels turn images into normals.",
    events=(real_image,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Kingma & Dhariwal",
            2018,
            "Glow: Generative flow with invertible 1x1 convolutions",
            "arXiv:1807.03039",
        ),
    ),
    good_at=("Exact likelihoods and codes of images; drawing and encoding in one pass.",),
    bad_at=("Many steps, and so many weights, for its likelihood.", "Images with odd sides."),
    autocast=True,
)
