"""Dropout by keyed noise. B batch, D channels.

Values are dropped by random bytes: their share is rounded to a multiple of 1/256, but never to all or none.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genloom.core.randomness import Noise

Map = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """Return x: there is no dropout outside training."""
    return x


def dropout(share: float, noise: Noise | None) -> Map:
    """Return what zeroes a share of values (B, ...) and scales up the others; ``identity`` without noise.

    Source: Srivastava et al. 2014, Journal of Machine Learning Research 15, section 4.
    """
    if noise is None or share == 0:
        return identity
    return lambda x: _dropped(x, noise.bytes(*x.shape[1:]), share)


def planned_dropout(share: float, noise: Noise | None, shapes: Sequence[tuple[int, ...]]) -> Map:
    """Return what drops values of tensors (B, *shape) of these shapes, which are to come in this order.

    All is drawn at once, so that what is compiled between them stays in one piece.
    """
    if noise is None or share == 0:
        return identity
    draws = _draw(noise, shapes)
    return lambda x: _dropped(x, draws.pop(), share)


@torch.compiler.disable
def _draw(noise: Noise, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Draw bytes of these shapes; the first are last in the list."""
    return [noise.bytes(*shape) for shape in shapes][::-1]


def _dropped(x: Tensor, drawn: Tensor, share: float) -> Tensor:
    limit = min(max(round(256 * share), 1), 255)
    return torch.where(drawn.to(x.device) < limit, 0, x * (256 / (256 - limit)))


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
