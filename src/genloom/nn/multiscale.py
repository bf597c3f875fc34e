"""Flows over the scales of an image: at each, half of the channels become code and the others go on.

B batch, C channels, H height, W width, D = C H W values of an image.

Source: Dinh et al. 2017, arXiv:1605.08803, section 3.6.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.events import Value
from genloom.nn.conditions import Condition
from genloom.nn.flows import ActNorm, Flow

Shape = tuple[int, int, int]


def squeeze(x: Tensor) -> Tensor:
    """Turn each 2x2 square into 4 channels: (..., C, H, W) -> (..., 4 C, H/2, W/2)."""
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
        """The shape that layers see."""
        c, h, w = self.entry
        return (4 * c, h // 2, w // 2) if self.squeezed else self.entry

    @property
    def code(self) -> Shape:
        """The shape of what leaves."""
        return (self.shape[0] - self.kept, *self.shape[1:])


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


class Scale(nn.Module, ABC):
    """The layers of one level, set by the features of a condition (B, F), or by none."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what goes on (B, kept, H, W), the code of what leaves, and the log-determinant (B,)."""

    @abstractmethod
    def inverse(self, kept: Tensor, code: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""

    @abstractmethod
    def initialise(self, x: Tensor, context: Tensor | None) -> None:
        """Set the normalisations in place from what enters (B, C, H, W)."""


class MultiscaleFlow(Flow):
    """Standardisation, then the scales; codes are ordered from the finest scale to the coarsest."""

    def __init__(
        self, shape: Shape, condition: Condition | None, levels: Sequence[Level], scales: Sequence[Scale]
    ) -> None:
        super().__init__(shape, condition)
        self.norm = ActNorm(self.dim)
        self.scales = nn.ModuleList(scales)
        self.codes = [*(level.code for level in levels), (levels[-1].kept, *levels[-1].shape[1:])]

    def _walk(self) -> list[Scale]:
        return cast(list[Scale], list(self.scales))

    @torch.no_grad()
    def initialise(self, x: Tensor, cond: Value | None) -> None:
        self.norm.initialise(x)
        context = self.features(cond, x)
        h = self.norm(x.flatten(1))[0].unflatten(1, self.shape)
        for scale in self._walk():
            scale.initialise(h, context)
            h = scale(h, context)[0]

    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to codes (B, D) and return log |det dz/dx| (B,), in nats."""
        context = self.features(cond, x)
        h, log_det = self.norm(x.flatten(1))
        h, codes = h.unflatten(1, self.shape), []
        for scale in self._walk():
            h, code, more = scale(h, context)
            codes.append(code.flatten(1))
            log_det = log_det + more
        return torch.cat((*codes, h.flatten(1)), 1), log_det

    def decode(self, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return the images (B, C, H, W) of codes (B, D)."""
        context = self.features(cond, z)
        parts = z.split([math.prod(shape) for shape in self.codes], 1)
        *codes, h = (part.reshape(len(z), *shape) for part, shape in zip(parts, self.codes, strict=True))
        for scale, code in reversed(list(zip(self._walk(), codes, strict=True))):
            h = scale.inverse(h, code, context)
        return self.norm.inverse(h.flatten(1)).unflatten(1, self.shape)
