"""The toys' true densities: they have mass one, and are those of the points that are drawn."""

import math

import pytest
import torch

from genloom.core.randomness import SampleNoise
from genloom.modalities.toys import TOYS, log_density

KNOWN = ("two_moons", "rings", "checkerboard", "eight_gaussians")


def grid(side: float, count: int) -> tuple[torch.Tensor, float]:
    """Return the mid-points of a square's cells and the area of one."""
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * side / count) - side
    return torch.cartesian_prod(axis, axis), (2 * side / count) ** 2


@pytest.mark.parametrize("name", KNOWN)
def test_mass_and_draws(name: str) -> None:
    """In 100 squares the draws' shares are the density's masses, by a chi-square of 6 deviations."""
    points, area = grid(5.0, 200)
    density = log_density(name, points).exp()
    assert abs(float(density.sum()) * area - 1) < 1e-3
    drawn = TOYS[name](SampleNoise(5, torch.arange(20_000)))[0]
    assert bool(log_density(name, drawn).isfinite().all())

    def square(x: torch.Tensor) -> torch.Tensor:
        return ((x + 5).floor().clamp(0, 9) @ torch.tensor([10.0, 1.0]).double()).long()

    expected = torch.zeros(100).double().index_add_(0, square(points), density * area) * len(drawn)
    found = torch.bincount(square(drawn), minlength=100)
    many = expected > 20
    chi = ((found - expected)[many].square() / expected[many]).sum()
    freedom = int(many.sum())
    assert float(chi) < freedom + 6 * (2 * freedom) ** 0.5


def test_torus_mass_and_draws() -> None:
    """The density has mass one, and its mean over draws is the negative entropy: law of large numbers."""
    axis = (torch.arange(400, dtype=torch.float64) + 0.5) * (2 * math.pi / 400)
    score = log_density("torus", torch.cartesian_prod(axis, axis))
    assert score is not None
    area = (2 * math.pi / 400) ** 2
    assert abs(float(score.exp().sum()) * area - 1) < 1e-9
    drawn, _ = TOYS["torus"](SampleNoise(5, torch.arange(20_000)))
    assert bool(((drawn >= 0) & (drawn < 2 * math.pi)).all())
    found = log_density("torus", drawn)
    assert found is not None
    expected = float((score.exp() * score).sum()) * area
    assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / 20_000**0.5


def test_no_formula_is_no_density() -> None:
    assert log_density("pinwheel", torch.zeros(1, 2).double()) is None
