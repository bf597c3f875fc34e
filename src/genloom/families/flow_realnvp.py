"""RealNVP: affine couplings over the scales of an image. Dinh et al. 2017, arXiv:1605.08803.

Shapes: B batch, C channels, H height, W width, F hidden channels, D = C H W values of an image.
"""

from typing import Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference, real_image
from genloom.core.errors import DataError
from genloom.core.events import Event, describe, image_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import maximum_likelihood
from genloom.nn.multiscale import Level, MultiscaleFlow, Scale, Shape, plan_levels, squeeze, unsqueeze


class Config(card.Config):
    """Settings of a RealNVP."""

    scales: int = Field(2, gt=0, description="each halves the sides, while they are even")
    couplings: int = Field(3, gt=0, description="of each kind of mask at each scale, as in the paper")
    channels: int = Field(64, gt=0, description="hidden width of each coupling's network")
    blocks: int = Field(1, ge=0, description="residual blocks of each network; more couplings pay better")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, cosine to zero")
    warmup: float = Field(0.05, ge=0, lt=1, description="first steps are small while scales leave one")
    clip: float = Field(1.0, gt=0, description="exponentials of scales make rare large gradients")
    batch_size: int = Field(64, gt=0, description="many small steps fit a short budget best")

    @classmethod
    def preset(cls, event: Event) -> Self:  # noqa: ARG003
        return cls()

    def build(self, event: Event, cond: Event | None) -> MultiscaleFlow:
        if not real_image(event):
            raise DataError(f"flow.realnvp needs an image of real numbers, not {describe(event)}")
        channels, height, width = image_leaf(event).extents
        shape, condition = (channels, height, width), condition_for(cond)
        levels = plan_levels(shape, self.scales)
        scales = [Couplings(v, condition, self.couplings, self.channels, self.blocks) for v in levels]
        return MultiscaleFlow(shape, condition, levels, scales)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, MultiscaleFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=self.warmup, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
        return [Stage("fit", objective, self.batch_size)]


def checkerboard(shape: Shape) -> Tensor:
    """Return a mask (C, H, W) that is one where row plus column is even. Source: section 3.4."""
    channels, height, width = shape
    board = (torch.arange(height)[:, None] + torch.arange(width) + 1) % 2
    return board.float().expand(channels, height, width)


def channelwise(shape: Shape) -> Tensor:
    """Return a mask (C, H, W) that is one on the first half of the channels. Source: section 3.4."""
    mask = torch.zeros(shape)
    mask[: shape[0] // 2] = 1
    return mask


def masks(level: Level) -> list[Tensor]:
    """Return the masks of a checkerboard and of half the channels, where they leave something over."""
    board = checkerboard(level.entry)
    candidates = [squeeze(board) if level.squeezed else board, channelwise(level.shape)]
    return [m for m in candidates if 0 < m.sum() < m.numel()] or [torch.zeros(level.shape)]


def zero_conv(values: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that starts as zero, so that its coupling starts as the identity."""
    conv = nn.Conv2d(values, outputs, 3, padding=1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, F, H, W)."""
        return x + self.second(self.first(x.relu()).relu())


class Coupling(nn.Module):
    """Values under the mask stay, and set a scale and a shift of the others.

    Source: Dinh et al. 2017, equation 9; s is a learned multiple of tanh (section 4.1). Deviations: no batch
        normalisation, and a learned vector for each position and one for the condition enter the network.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, condition: Condition | None, channels: int, blocks: int) -> None:
        super().__init__()
        values, height, width = mask.shape
        self.register_buffer("mask", mask, persistent=False)
        self.entry = nn.Conv2d(values, channels, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(channels, height, width))
        self.context = None if condition is None else nn.Linear(condition.features, channels, bias=False)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.exit = zero_conv(channels, 2 * values)
        self.reach = nn.Parameter(torch.ones(values, 1, 1))

    def _scale_and_shift(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the log-scale s and the shift t, zero under the mask, both (B, C, H, W)."""
        start = self.position
        if self.context is not None:
            start = start + self.context(context)[:, :, None, None]
        h = self.entry(kept)
        h = self.exit(self.blocks(h + start.to(h.dtype)).relu()).to(kept.dtype)
        s, t = h.chunk(2, 1)
        free = 1 - self.mask
        return free * self.reach * s.tanh(), free * t

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the transformed values (B, C, H, W) and the log-determinant (B,)."""
        s, t = self._scale_and_shift(x * self.mask, context)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        s, t = self._scale_and_shift(y * self.mask, context)
        return (y - t) * (-s).exp()


class Couplings(Scale):
    """All couplings of one scale: checkerboards, then channels, the mask alternating with its complement.

    Deviation: checkerboard couplings run after the squeeze. They divide the same pixels, but their networks
    see a quarter of the positions, so they cost a quarter and look twice as far.
    """

    def __init__(
        self, level: Level, condition: Condition | None, couplings: int, channels: int, blocks: int
    ) -> None:
        super().__init__()
        self.squeezed, self.kept = level.squeezed, level.kept
        turns = [m if i % 2 == 0 else 1 - m for m in masks(level) for i in range(couplings)]
        self.couplings = nn.ModuleList(Coupling(m, condition, channels, blocks) for m in turns)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        x = squeeze(x) if self.squeezed else x
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x, context)
            log_det = log_det + more
        kept, left = x.split((self.kept, x.shape[1] - self.kept), 1)
        return kept, left, log_det

    def inverse(self, kept: Tensor, code: Tensor, context: Tensor | None) -> Tensor:
        x = torch.cat((kept, code), 1)
        for coupling in reversed(cast(list[Coupling], list(self.couplings))):
            x = coupling.inverse(x, context)
        return unsqueeze(x) if self.squeezed else x

    def initialise(self, x: Tensor, context: Tensor | None) -> None:
        """Change nothing: couplings start as the identity."""


CARD = Card(
    name="flow.realnvp",
    title="RealNVP",
    summary="Turns images into normals by scaling and shifting half of the pixels at a time.",
    events=(real_image,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference("Dinh et al.", 2017, "Density estimation using Real NVP", "arXiv:1605.08803"),
        Reference(
            "Kingma & Dhariwal",
            2018,
            "Glow: Generative flow with invertible 1x1 convolutions",
            "arXiv:1807.03039",
        ),
    ),
    good_at=("Exact likelihoods and codes of images, and drawing in one pass.", "Smooth interpolation."),
    bad_at=(
        "Global shape: samples are less coherent than a diffusion's.",
        "Many weights for its likelihood.",
    ),
    autocast=True,
)
