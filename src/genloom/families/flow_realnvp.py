"""RealNVP: affine couplings over the scales of an image. Dinh et al. 2017, arXiv:1605.08803.

Shapes: B batch, C channels, H height, W width, F hidden channels, D = C H W values of an image.
"""

import math
from dataclasses import dataclass, replace
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
from genloom.nn.flows import ActNorm, exactly, log_normal, maximum_likelihood

Shape = tuple[int, int, int]


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

    def build(self, event: Event, cond: Event | None) -> "Model":
        if not real_image(event):
            raise DataError(f"flow.realnvp needs an image of real numbers, not {describe(event)}")
        channels, height, width = image_leaf(event).extents
        return Model(
            (channels, height, width),
            condition_for(cond),
            self.scales,
            self.couplings,
            self.channels,
            self.blocks,
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=self.warmup, clip=self.clip)
        score = exactly(model.log_density)
        objective = maximum_likelihood(
            model, model.norm.initialise, score, model.condition, self.label_dropout, optimiser
        )
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


def squeeze(x: Tensor) -> Tensor:
    """Turn each 2x2 square into 4 channels: (..., C, H, W) -> (..., 4 C, H/2, W/2). Source: section 3.6."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """Undo ``squeeze``."""
    return F.pixel_shuffle(x, 2)


@dataclass(frozen=True)
class Level:
    """One scale: the image enters as ``entry``, is squeezed or not, and ``kept`` channels go on."""

    entry: Shape
    squeezed: bool
    kept: int

    @property
    def shape(self) -> Shape:
        """The shape that couplings see."""
        c, h, w = self.entry
        return (4 * c, h // 2, w // 2) if self.squeezed else self.entry

    def masks(self) -> list[Tensor]:
        """Return the masks of a checkerboard and of half the channels, where they leave something over."""
        board = checkerboard(self.entry)
        candidates = [squeeze(board) if self.squeezed else board, channelwise(self.shape)]
        return [m for m in candidates if 0 < m.sum() < m.numel()] or [torch.zeros(self.shape)]


def is_even(shape: Shape) -> bool:
    """Tell whether both sides can be halved."""
    return shape[1] % 2 == 0 and shape[2] % 2 == 0


def plan_levels(shape: Shape, scales: int) -> list[Level]:
    """Lay out the scales: squeeze while both sides are even; between scales half the channels leave."""
    levels: list[Level] = []
    for index in range(scales):
        level = Level(shape, is_even(shape), 0)
        channels, height, width = level.shape
        last = index + 1 == scales or not is_even(level.shape)
        levels.append(replace(level, kept=channels if last else channels // 2))
        if last:
            break
        shape = (channels // 2, height, width)
    return levels


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


class Scale(nn.Module):
    """All couplings of one scale: checkerboards, then channels, the mask alternating with its complement.

    Deviation: checkerboard couplings run after the squeeze. They divide the same pixels, but their networks
    see a quarter of the positions, so they cost a quarter and look twice as far.
    """

    def __init__(
        self, level: Level, condition: Condition | None, couplings: int, channels: int, blocks: int
    ) -> None:
        super().__init__()
        self.squeezed, self.kept = level.squeezed, level.kept
        masks = [m if i % 2 == 0 else 1 - m for m in level.masks() for i in range(couplings)]
        self.couplings = nn.ModuleList(Coupling(m, condition, channels, blocks) for m in masks)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what goes on (B, kept, H, W), what leaves (B, other, H, W), and the log-determinant (B,)."""
        x = squeeze(x) if self.squeezed else x
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x, context)
            log_det = log_det + more
        kept, left = x.split((self.kept, x.shape[1] - self.kept), 1)
        return kept, left, log_det

    def inverse(self, kept: Tensor, left: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        x = torch.cat((kept, left), 1)
        for coupling in reversed(cast(list[Coupling], list(self.couplings))):
            x = coupling.inverse(x, context)
        return unsqueeze(x) if self.squeezed else x


class Model(nn.Module, Sampler, Likelihood, Invertible):
    """Standardisation, then scales of couplings; at each scale half of what is left becomes code."""

    def __init__(
        self,
        shape: Shape,
        condition: Condition | None,
        scales: int,
        couplings: int,
        channels: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.shape, self.dim, self.condition = shape, math.prod(shape), condition
        levels = plan_levels(shape, scales)
        self.norm = ActNorm(self.dim)
        self.scales = nn.ModuleList(Scale(level, condition, couplings, channels, blocks) for level in levels)
        self.left = [(level.shape[0] - level.kept, *level.shape[1:]) for level in levels]
        self.rest = (levels[-1].kept, *levels[-1].shape[1:])

    def _context(self, cond: Value | None, like: Tensor) -> Tensor | None:
        """Return the features (B, F) of conditions."""
        return None if self.condition is None else self.condition(cond, len(like), like.dtype)

    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to codes (B, D), finest scale first, and log |det dz/dx| (B,), in nats."""
        context = self._context(cond, x)
        h, log_det = self.norm(x.flatten(1))
        h = h.unflatten(1, self.shape)
        codes = []
        for scale in self.scales:
            h, left, more = scale(h, context)
            codes.append(left.flatten(1))
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
        shapes = [*self.left, self.rest]
        parts = z.split([math.prod(shape) for shape in shapes], 1)
        *codes, h = (part.reshape(len(z), *shape) for part, shape in zip(parts, shapes, strict=True))
        for scale, code in reversed(list(zip(cast(list[Scale], list(self.scales)), codes, strict=True))):
            h = scale.inverse(h, code, context)
        return self.norm.inverse(h.flatten(1)).unflatten(1, self.shape)

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        return self.decode(noise.normal(self.dim).to(self.norm.shift), cond)


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
