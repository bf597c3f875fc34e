"""Dropout by keyed noise. B batch, D channels."""

from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from genloom.core.randomness import Noise

Map = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return x: there is no dropout outside training."""
    return x


def dropout(share: float, noise: Noise | None) -> Map:
    """Return what zeroes a share of values (B, ...) and scales up the others; ``identity`` without noise."""
    if noise is None or share == 0:
        return identity

    def drop(x: Tensor) -> Tensor:
        kept = noise.uniform(*x.shape[1:]).to(x.device) >= share
        return x * kept.to(x.dtype) / (1 - share)

    return drop


def channel_dropout(share: float, noise: Noise | None) -> Map:
    """Return what zeroes a share of the channels of (B, ..., D), the same ones at all places of an item.

    Source: Gal & Ghahramani 2016, arXiv:1512.05287, section 4, where places are steps of a recurrence.
    """
    if noise is None or share == 0:
        return identity

    def drop(x: Tensor) -> Tensor:
        kept = noise.uniform(*[1] * (x.dim() - 2), x.shape[-1]).to(x.device) >= share
        return x * (kept / (1 - share)).to(x.dtype)

    return drop


Dropped = Literal["channels", "values"]
"""What dropout takes away: channels at all places of an item alike, or values one by one."""

DROPPING: Mapping[Dropped, Callable[[float, Noise | None], Map]] = {
    "channels": channel_dropout,
    "values": dropout,
}
