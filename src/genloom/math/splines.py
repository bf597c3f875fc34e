"""Monotone rational-quadratic splines, tailed or closed on a circle. Durkan et al. 2019, arXiv:1906.04032.

K bins on [-bound, bound]. Parameters lead: ``raw`` is (3 K - 1, ...) for values (...), that is K widths, K
heights and K - 1 inner slopes before their constraints, so that every bin is one contiguous row; on a circle
there are K slopes, the first also that of the end. All zeros give the identity.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3
"""Least share of the interval that a bin's width or height takes, and least slope at a knot."""

_UNIT_SLOPE = math.log(math.expm1(1 - FLOOR))
"""The argument of softplus at which a knot's slope is one."""


Ends = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps raw slopes (K - 1 or K, ...) and which bin a value is in (K, ...) to those at the bin's two ends."""


def parameter_count(bins: int) -> int:
    """Return the number of parameters of a spline with tails, 3 K - 1; a circular one has another."""
    return 3 * bins - 1


def rational_quadratic(x: Tensor, raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Map values through the spline.

    Args:
        x: (...) any real numbers; outside [-bound, bound] the map is the identity.
        raw: (3 K - 1, ...) unconstrained parameters.

    Returns:
        y (...) and log dy/dx (...) in nats.

    Source: Durkan et al. 2019, equations 4 and 5. Deviation: the slopes' softplus is shifted so that zero
        parameters mean slope one.
    """
    inside = x.clamp(-bound, bound)
    y, log_slope = _rise(inside, raw, bound, _tailed)
    return y + (x - inside), log_slope.masked_fill(x != inside, 0)


def rational_quadratic_inverse(y: Tensor, raw: Tensor, bound: float) -> Tensor:
    """Solve ``rational_quadratic(x, raw, bound) = y`` for x.

    Args:
        y: (...) any real numbers.
        raw: (3 K - 1, ...) unconstrained parameters.

    Returns:
        x (...).

    Source: Durkan et al. 2019, equations 6 to 8, with the root that does not cancel.
    """
    inside = y.clamp(-bound, bound)
    return _fall(inside, raw, bound, _tailed) + (y - inside)


def circular(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Map angles in [0, 2 pi] through a spline whose slope is the same at both ends.

    Args:
        raw: (3 K, ...) unconstrained parameters.

    Returns:
        y (...) in [0, 2 pi] and log dy/dx (...) in nats.

    Source: Rezende et al. 2020, arXiv:2002.02428, on circular splines.
    """
    y, log_slope = _rise(x - math.pi, raw, math.pi, _closed)
    return y + math.pi, log_slope


def circular_inverse(y: Tensor, raw: Tensor) -> Tensor:
    """Solve ``circular(x, raw) = y`` for x."""
    return _fall(y - math.pi, raw, math.pi, _closed) + math.pi


def _rise(x: Tensor, raw: Tensor, bound: float, ends: Ends) -> tuple[Tensor, Tensor]:
    """Return y and log dy/dx of values within the bound."""
    x0, width, y0, height, d0, d1 = _bin(x, raw, bound, 0, ends)
    slope, xi = height / width, (x - x0) / width
    rest = 1 - xi
    mixed = xi * rest
    denominator = slope + (d0 + d1 - 2 * slope) * mixed
    y = y0 + height * (slope * xi.square() + d0 * mixed) / denominator
    numerator = slope.square() * (d1 * xi.square() + 2 * slope * mixed + d0 * rest.square())
    return y, numerator.log() - 2 * denominator.log()


def _fall(y: Tensor, raw: Tensor, bound: float, ends: Ends) -> Tensor:
    """Return the x of values y within the bound."""
    x0, width, y0, height, d0, d1 = _bin(y, raw, bound, 1, ends)
    slope, rise = height / width, y - y0
    bend = rise * (d0 + d1 - 2 * slope)
    a = height * (slope - d0) + bend
    b = height * d0 - bend
    c = -slope * rise
    root = (b.square() - 4 * a * c).clamp_min(0).sqrt()
    return x0 + width * (2 * c / (-b - root))


def _bin(v: Tensor, raw: Tensor, bound: float, axis: int, ends: Ends) -> tuple[Tensor, ...]:
    """Return x0, width, y0, height and both slopes of the bin of v, an abscissa (axis 0) or ordinate (1)."""
    bins = (raw.shape[0] + 1) // 3
    shares, slopes = torch.split(raw, [2 * bins, raw.shape[0] - 2 * bins])
    free = 2 * bound * (1 - bins * FLOOR)
    sizes = shares.reshape(2, bins, *v.shape).softmax(1) * free + 2 * bound * FLOOR
    with torch.no_grad():
        passed = (v + bound >= sizes[axis].cumsum(0)[:-1]).to(v.dtype)
        pads = (0, 0) * v.dim()
        left = F.pad(passed, (*pads, 0, 1))
        here = F.pad(passed, (*pads, 1, 0), value=1.0) - left
    x0, y0 = ((sizes * left).sum(1) - bound).unbind()
    width, height = (sizes * here).sum(1).unbind()
    d0, d1 = ends(slopes, here)
    return x0, width, y0, height, _slope(d0), _slope(d1)


def _tailed(slopes: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Return inner slopes, and zero, which means one, at the bound."""
    return (slopes * here[1:]).sum(0), (slopes * here[:-1]).sum(0)


def _closed(slopes: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """Return slopes of which the first is also that of the end."""
    return (slopes * here).sum(0), (slopes.roll(-1, 0) * here).sum(0)


def _slope(raw: Tensor) -> Tensor:
    return FLOOR + F.softplus(raw + _UNIT_SLOPE)
