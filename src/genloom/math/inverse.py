"""Linear inverse problems: what is known of items in part, and estimates of items that agree with it.

B batch, S event shape, Y shape of what is known of an item, C channels, H height, W width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from genloom.core.measurements import Measurement
from genloom.math.mixtures import beside

LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue. ITU-R BT.601."""

SMALLEST = 1e-3
"""Singular values of blurs, of which the greatest is 1, below which nothing is taken back."""


def masked(known: Tensor) -> Measurement:
    """Return the measurement of the values of items (B, *S) at known places, booleans of that shape."""
    return Measurement(lambda x: x.where(known, 0), lambda y: y.where(known, 0))


def averaged(height: int, width: int, factor: int) -> Measurement:
    """Return the measurement of images (B, C, H, W) by averages of squares of a side that divides both."""
    return separable(*(torch.eye(n // factor).repeat_interleave(factor, 1) / factor for n in (height, width)))


def blurred(height: int, width: int, std: float) -> Measurement:
    """Return the measurement of images (B, C, H, W) by Gaussian averages; weights at borders add up to 1.

    Args:
        std: in pixels.
    """
    return separable(gaussian_weights(height, std), gaussian_weights(width, std))


def gaussian_weights(size: int, std: float) -> Tensor:
    """Return the weights (size, size) by which each place of a line averages over all."""
    place = torch.arange(size, dtype=torch.float64)
    return (-0.5 * ((place[:, None] - place) / std).square()).softmax(1)


def separable(rows: Tensor, columns: Tensor) -> Measurement:
    """Return the measurement of images (B, C, H, W) by weights of rows (Y, H) and of columns (X, W)."""
    over, across = (torch.linalg.pinv(part.double(), rtol=SMALLEST) for part in (rows, columns))

    def between(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        return left.to(x) @ x @ right.to(x).T

    return Measurement(lambda x: between(x, rows, columns), lambda y: between(y, over, across))


def luminance() -> Measurement:
    """Return the measurement of images (B, 3, H, W) by their luminance (B, 1, H, W)."""
    weights = torch.tensor(LUMINANCE, dtype=torch.float64).view(3, 1, 1)
    return Measurement(
        lambda x: (x * weights.to(x)).sum(1, keepdim=True),
        lambda y: y * (weights / weights.square().sum()).to(y),
    )


def posterior_means(
    denoise: Callable[[Tensor], Tensor],
    x: Tensor,
    scale: Tensor,
    measurement: Measurement,
    known: Tensor,
    iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of the data given noisy data, and given what is known as well, as if they were normal.

    Besides, the log density of what is known given noisy data, (B,), but for its normalisation; NaN where
    slopes are those of no such data.

    Their covariance given x is then sigma^2 / alpha times the Jacobian of ``denoise``. The equations are
    solved by conjugate gradients, whose result is exact for normal data after as many steps as are known
    values, and as a rule close after few.

    Args:
        denoise: returns E[x_0 | x] (B, *S).
        x: noisy data (B, *S).
        scale: sigma^2 / alpha.
        known: what is known (B, *Y).

    Source: Rozet et al. 2024, arXiv:2405.13712, algorithm 3; Hestenes & Stiefel 1952, section 3.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = denoise(x)
        told = measurement.measure(x0)
    gap = left = way = known - told.detach()
    shift, weights, broken = torch.zeros_like(x0), torch.zeros_like(gap), torch.zeros(len(x)).bool()
    for _ in range(iterations):
        (pulled,) = torch.autograd.grad(told, x, way, retain_graph=True)
        move = scale.to(x) * pulled
        seen = measurement.measure(move)
        curvature = _dot(way, seen)
        broken = broken | (curvature < 0)
        size = _share(_dot(left, left), curvature)
        weights = weights + beside(size, way) * way
        shift, rest = shift + beside(size, move) * move, left - beside(size, left) * seen
        turn = _share(_dot(rest, rest), _dot(left, left))
        way, left = rest + beside(turn, way) * way, rest
    return x0.detach(), x0.detach() + shift, (-_dot(gap, weights) / 2).masked_fill(broken, torch.nan)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each row, (B,)."""
    return (a * b).flatten(1).sum(1)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 where the whole is not positive, so that nothing moves any more."""
    return torch.where(whole > 0, part / whole, 0)
