"""Glow: invertible 1x1 convolutions between affine couplings. Kingma & Dhariwal 2018, arXiv:1807.03039.

B batch, C channels, H height, W width, F hidden channels, D = C H W values of an image.
"""

from typing import Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.card import Card, Reference, real_image
from genloom.core.errors import DataError
from genloom.core.events import Event, describe, image_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import LUMatrix, limited, maximum_likelihood
from genloom.nn.multiscale import Level, MultiscaleFlow, Scale, Shape, plan_levels, squeeze, unsqueeze


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

    def build(self, event: Event, cond: Event | None) -> MultiscaleFlow:
        if not real_image(event):
            raise DataError(f"flow.glow needs an image of real numbers, not {describe(event)}")
        channels, height, width = image_leaf(event).extents
        if height % 2 or width % 2:
            raise DataError(
                f"flow.glow needs images with even sides, not {width}x{height}: scale them with --data.size"
            )
        shape, condition = (channels, height, width), condition_for(cond)
        levels = plan_levels(shape, self.scales)
        scales = [Steps(level, condition, self.steps, self.channels) for level in levels]
        return MultiscaleFlow(shape, condition, levels, scales)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, MultiscaleFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=self.warmup, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
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


class Steps(Scale):
    """A squeeze and its steps; then half of the channels leave, standardised by what the others tell of them.

    Source: figure 2b; the learned normal of what leaves is that of Dinh et al. 2017, section 3.6, as its
        inverse: codes are standard normals.
    """

    def __init__(self, level: Level, condition: Condition | None, steps: int, channels: int) -> None:
        super().__init__()
        shape, self.kept, self.left = level.shape, level.kept, level.code[0]
        self.steps = nn.ModuleList(Step(shape, condition, channels) for _ in range(steps))
        self.prior = Network(self.kept, 2 * self.left, shape[1:], condition, channels) if self.left else None

    def _walk(self) -> list[Step]:
        return cast(list[Step], list(self.steps))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = squeeze(x)
        log_det = x.new_zeros(len(x))
        for step in self._walk():
            x, more = step(x, context)
            log_det = log_det + more
        kept, left = x.split((self.kept, self.left), 1)
        if self.prior is None:
            return kept, left, log_det
        mean, raw = self.prior(kept, context).chunk(2, 1)
        log_std = limited(raw)
        return kept, (left - mean) * (-log_std).exp(), log_det - log_std.flatten(1).sum(1)

    def inverse(self, kept: Tensor, code: Tensor, context: Tensor | None) -> Tensor:
        left = code
        if self.prior is not None:
            mean, raw = self.prior(kept, context).chunk(2, 1)
            left = mean + limited(raw).exp() * code
        x = torch.cat((kept, left), 1)
        for step in reversed(self._walk()):
            x = step.inverse(x, context)
        return unsqueeze(x)

    def initialise(self, x: Tensor, context: Tensor | None) -> None:
        h = squeeze(x)
        for step in self._walk():
            step.norm.initialise(h)
            h = step(h, context)[0]


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
