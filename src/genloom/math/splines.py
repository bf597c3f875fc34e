"""Monotone rational-quadratic splines with linear tails. Durkan et al. 2019, arXiv:1906.04032.

K bins on [-bound, bound]. Parameters lead: ``raw`` is (3 K - 1, ...) for values (...), that is K widths, K
heights and K - 1 inner slopes before their constraints, so that every bin is one contiguous row. All zeros
give the identity.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3
"""Least share of the interval that a bin's width or height takes, and least slope at a knot."""

_UNIT_SLOPE = math.log(math.expm1(1 - FLOOR))
"""The argument of softplus at which a knot's slope is one."""


def parameter_count(bins: int) -> int:
    """Return the number of parameters of a spline, 3 K - 1."""
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
    x0, width, y0, height, d0, d1 = _bin(inside, raw, bound, 0)
    slope, xi = height / width, (inside - x0) / width
    rest = 1 - xi
    mixed = xi * rest
    denominator = slope + (d0 + d1 - 2 * slope) * mixed
    y = y0 + height * (slope * xi.square() + d0 * mixed) / denominator
    numerator = slope.square() * (d1 * xi.square() + 2 * slope * mixed + d0 * rest.square())
    log_slope = numerator.log() - 2 * denominator.log()
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
    x0, width, y0, height, d0, d1 = _bin(inside, raw, bound, 1)
    slope, rise = height / width, inside - y0
    bend = rise * (d0 + d1 - 2 * slope)
    a = height * (slope - d0) + bend
    b = height * d0 - bend
    c = -slope * rise
    root = (b.square() - 4 * a * c).clamp_min(0).sqrt()
    return x0 + width * (2 * c / (-b - root)) + (y - inside)


def _bin(v: Tensor, raw: Tensor, bound: float, axis: int) -> tuple[Tensor, ...]:
    """Return x0, width, y0, height and both slopes of the bin of v, an abscissa (axis 0) or ordinate (1)."""
    bins = (raw.shape[0] + 1) // 3
    shares, inner = torch.split(raw, [2 * bins, bins - 1])
    free = 2 * bound * (1 - bins * FLOOR)
    sizes = shares.reshape(2, bins, *v.shape).softmax(1) * free + 2 * bound * FLOOR
    with torch.no_grad():
        passed = (v + bound >= sizes[axis].cumsum(0)[:-1]).to(v.dtype)
        ends = (0, 0) * v.dim()
        left = F.pad(passed, (*ends, 0, 1))
        here = F.pad(passed, (*ends, 1, 0), value=1.0) - left
    x0, y0 = ((sizes * left).sum(1) - bound).unbind()
    width, height = (sizes * here).sum(1).unbind()
    d0, d1 = (inner * here[1:]).sum(0), (inner * here[:-1]).sum(0)
    return x0, width, y0, height, _slope(d0), _slope(d1)


def _slope(raw: Tensor) -> Tensor:
    return FLOOR + F.softplus(raw + _UNIT_SLOPE)
