"""Ordinary differential equations, each item with its own steps.  D values of an item, B batch."""

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]
"""Maps times (B,) and states (D, B) to dy/dt (D, B)."""

_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_FOURTH = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
_ERROR = tuple(b - c for b, c in zip((*_STAGES[-1], 0.0), _FOURTH, strict=True))


def dopri5(
    field: Field, y: Tensor, start: float, end: float, tolerance: float, max_steps: int = 1000
) -> Tensor:
    """Integrate dy/dt = field(t, y) from ``start`` to ``end``, forwards or backwards.

    Every item takes steps of its own, so that its result does not depend on its neighbours. Gradients pass
    through the steps taken; their sizes count as constants.

    Args:
        y: states at ``start`` (D, B).
        tolerance: of a step's error, relative to 1 + |y| and averaged over the values of an item.

    Returns:
        States at ``end`` (D, B); NaN for an item that needs more than ``max_steps`` steps, or
        steps too small to be taken.

    Source: Dormand & Prince 1980, J. Comput. Appl. Math. 6, table 2, of order 5, with the step control of
        Hairer, Norsett & Wanner 1993, section II.4.
    """
    t = y.new_full((y.shape[1],), start)
    step = torch.full_like(t, (end - start) / 8)
    slope = field(t, y)
    for _ in range(max_steps):
        left = end - t
        if not (left.bool() & step.isfinite() & (t + step != t)).any():
            break
        last = step.abs() >= left.abs()
        step = torch.where(last, left, step)
        slopes = _slopes(field, t, y, step, slope)
        moved = y + step * _weighted(slopes, _STAGES[-1])
        ratio = _error(step, slopes, y, moved, tolerance)
        good = ratio <= 1
        y, slope = torch.where(good, moved, y), torch.where(good, slopes[-1], slope)
        t = torch.where(good, torch.where(last, end, t + step), t)
        step = step * (0.9 * ratio**-0.2).clamp(0.2, 5.0)
    return y.masked_fill(t != end, torch.nan)


def _slopes(field: Field, t: Tensor, y: Tensor, step: Tensor, slope: Tensor) -> list[Tensor]:
    """Return the seven slopes of a step; the last is that at its end."""
    slopes = [slope]
    for node, weights in zip(_NODES[1:], _STAGES, strict=True):
        slopes.append(field(t + node * step, y + step * _weighted(slopes, weights)))
    return slopes


def _weighted(slopes: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    """Return the weighted sum of as many slopes as there are weights."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=False):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total


@torch.no_grad()
def _error(step: Tensor, slopes: list[Tensor], y: Tensor, moved: Tensor, tolerance: float) -> Tensor:
    """Return the error of each item's step in units of the tolerance, (B,)."""
    error = step * _weighted(slopes, _ERROR)
    scale = tolerance * (1 + torch.maximum(y.abs(), moved.abs()))
    return (error / scale).square().mean(0).sqrt()
