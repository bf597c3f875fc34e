"""Points in the plane with a known shape, for models whose densities can be looked at."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from genloom.core.randomness import Noise, SampleNoise, key
from genloom.modalities.base import Reading, Split

Toy = Callable[[Noise], tuple[Tensor, Tensor | None]]


def two_moons(noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw two interleaved half circles of radius 1, each with Gaussian noise of sd 0.1.

    Returns:
        Points (B, 2) float64 and the moon of each, 0 (upper, around (0, 0)) or 1 (lower, around (1, 0.5)).
    """
    moon = noise.integers(2)
    angle = math.pi * (noise.uniform().double() + moon)
    centre = torch.stack([moon.double(), 0.5 * moon], 1)
    return _polar(1.0, angle) + centre + 0.1 * noise.normal(2).double(), moon


def rings(noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw four concentric circles of radii 1 to 4, equally likely, each with Gaussian noise of sd 0.1.

    Returns:
        Points (B, 2) float64 and the ring of each, innermost 0.
    """
    ring = noise.integers(4)
    angle = 2 * math.pi * noise.uniform().double()
    return _polar(1.0 + ring, angle) + 0.1 * noise.normal(2).double(), ring


def checkerboard(noise: Noise) -> tuple[Tensor, None]:
    """Draw uniformly from the 8 dark squares, of side 2, of a 4 by 4 board on [-4, 4] squared.

    Returns:
        Points (B, 2) float64; their entropy is log 32 nats.
    """
    square = noise.integers(8)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = 2.0 * torch.stack([column, row], 1) - 4
    return corner + 2 * noise.uniform(2).double(), None


def pinwheel(noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw five Gaussian arms that bend with their radius.

    Returns:
        Points (B, 2) float64 and the arm of each.

    Source: the construction of Johnson et al. 2016, arXiv:1603.06277, figure 1: radius 1 + 0.3 e, tangent
    0.05 e', turned by exp(radius) / 4 more than the arm's own angle.
    """
    arm = noise.integers(5)
    radial, tangential = (noise.normal(2).double() * torch.tensor([0.3, 0.05], dtype=torch.float64)).unbind(1)
    radius = 1 + radial
    angle = 2 * math.pi / 5 * arm + 0.25 * radius.exp()
    across = torch.stack([-angle.sin(), angle.cos()], 1) * tangential[:, None]
    return 2 * (_polar(radius, angle) + across), arm


def eight_gaussians(noise: Noise) -> tuple[Tensor, Tensor]:
    """Draw eight Gaussians of sd 0.2 on a circle of radius 2.

    Returns:
        Points (B, 2) float64 and the Gaussian of each, counter-clockwise from (2, 0).
    """
    which = noise.integers(8)
    return _polar(2.0, math.pi / 4 * which) + 0.2 * noise.normal(2).double(), which


def torus(noise: Noise) -> tuple[Tensor, None]:
    """Draw two angles, the first uniform, the second about twice the first: von Mises of concentration 8.

    Returns:
        Angles (B, 2) float64 in [0, 2 pi); their entropy is log 2 pi plus that of the von Mises law.
    """
    u, v = noise.uniform(2).double().t().contiguous()
    grid = torch.linspace(-math.pi, math.pi, 4097, dtype=torch.float64)
    density = torch.exp(CONCENTRATION * (grid.cos() - 1))
    mass = torch.cumulative_trapezoid(density, grid)
    mass = torch.cat([mass.new_zeros(1), mass / mass[-1]])
    right = torch.searchsorted(mass, v).clamp(1, len(grid) - 1)
    share = (v - mass[right - 1]) / (mass[right] - mass[right - 1])
    error = grid[right - 1] + share * (grid[right] - grid[right - 1])
    first = 2 * math.pi * u
    return torch.stack([first, (2 * first + error).remainder(2 * math.pi)], 1), None


CONCENTRATION = 8.0
"""Of the torus's second angle about its mean."""

TOYS: Mapping[str, Toy] = {
    "two_moons": two_moons,
    "rings": rings,
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "eight_gaussians": eight_gaussians,
    "torus": torus,
}


def log_density(name: str, x: Tensor) -> Tensor | None:
    """Return the true log-density of a toy at points (B, 2), in nats, (B,); None where no formula is at hand.

    Args:
        x: float64.
    """
    return _LOG_DENSITIES[name](x) if name in _LOG_DENSITIES else None


def _log_gaussians(x: Tensor, means: Tensor, sd: float) -> Tensor:
    """Return the log-density of equally likely Gaussians with means (K, 2)."""
    square = (x[:, None] - means).square().sum(-1) / (2 * sd**2)
    return (-square).logsumexp(1) - math.log(len(means) * 2 * math.pi * sd**2)


def _log_two_moons(x: Tensor) -> Tensor:
    """Put the mid-points of 200 short arcs of each moon in place of its line: exact to 1e-4."""
    angle = math.pi * (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    upper = _polar(1.0, angle)
    lower = _polar(1.0, angle + math.pi) + torch.tensor([1.0, 0.5], dtype=torch.float64)
    return _log_gaussians(x, torch.cat([upper, lower]), 0.1)


def _log_rings(x: Tensor) -> Tensor:
    """Return the circles' densities, each blurred by a Gaussian: a Bessel function of the radius."""
    radius, ring, variance = x.norm(dim=1)[:, None], torch.arange(1, 5, dtype=torch.float64), 0.1**2
    bent = torch.special.i0e(radius * ring / variance).log() - (radius - ring).square() / (2 * variance)
    return bent.logsumexp(1) - math.log(4 * 2 * math.pi * variance)


def _log_checkerboard(x: Tensor) -> Tensor:
    column, row = ((x + 4) / 2).floor().unbind(1)
    dark = ((column + row) % 2 == 0) & (x.abs() < 4).all(1)
    return torch.where(dark, -math.log(32), -math.inf).double()


def _log_eight_gaussians(x: Tensor) -> Tensor:
    return _log_gaussians(x, _polar(2.0, math.pi / 4 * torch.arange(8, dtype=torch.float64)), 0.2)


def _log_torus(x: Tensor) -> Tensor:
    bessel = float(torch.special.i0e(torch.tensor(CONCENTRATION, dtype=torch.float64)))
    error = CONCENTRATION * ((x[:, 1] - 2 * x[:, 0]).cos() - 1)
    return error - math.log(bessel) - 2 * math.log(2 * math.pi)


_LOG_DENSITIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "two_moons": _log_two_moons,
    "rings": _log_rings,
    "checkerboard": _log_checkerboard,
    "eight_gaussians": _log_eight_gaussians,
    "torus": _log_torus,
}


def draw_toy(name: str, count: int, seed: int) -> Reading:
    """Draw ``count`` points of a toy; point i depends on the name, the seed and i only."""
    points, labels = TOYS[name](SampleNoise(key("toy", name, seed), torch.arange(count)))
    classes = () if labels is None else tuple(str(i) for i in range(int(labels.max()) + 1))
    parts = {"all": Split(points, labels)}
    if name == "torus":
        return Reading(parts, "a formula", columns=("phi", "psi"), angles="radians")
    return Reading(parts, "a formula", classes, columns=("x", "y"))


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    unit = torch.stack([angle.cos(), angle.sin()], 1).double()
    return radius[:, None] * unit if isinstance(radius, Tensor) else radius * unit
