"""Points in the plane: their shapes, labels and keys."""

import math

import pytest
import torch
from torch import Tensor

from genloom.modalities.toys import TOYS, draw_toy


def toy(name: str, count: int = 4_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    whole = draw_toy(name, count, seed).parts["all"]
    return whole.items, torch.zeros(count).long() if whole.labels is None else whole.labels


@pytest.mark.parametrize("name", TOYS)
def test_points_are_keyed_by_name_seed_and_number(name: str) -> None:
    points, labels = toy(name)
    assert points.dtype == torch.float64
    assert points.shape == (4_000, 2)
    assert torch.equal(points[:10], toy(name, 10)[0])
    assert not torch.equal(points, toy(name, seed=1)[0])
    shares = labels.bincount() / 4_000
    assert (shares - 1 / len(shares)).abs().max() < 0.04
    assert draw_toy(name, 4_000, 0).classes == (
        () if name in ("checkerboard", "torus") else tuple(str(i) for i in range(len(shares)))
    )


def test_checkerboard_is_uniform_on_its_dark_squares() -> None:
    points, _ = toy("checkerboard")
    assert points.abs().max() < 4
    row, column = ((points[:, i] + 4).floor_divide(2).long() for i in (1, 0))
    assert ((row + column) % 2 == 0).all()
    counts = (4 * row + column).bincount(minlength=16)
    assert (counts > 0).sum() == 8
    assert (counts[counts > 0] - 500).abs().max() < 5 * 500**0.5
    inside = (points + 4) % 2 / 2
    assert (inside.mean(0) - 0.5).abs().max() < 0.03


def test_eight_gaussians_have_their_centres_and_spread() -> None:
    points, labels = toy("eight_gaussians")
    for k in range(8):
        mine = points[labels == k]
        centre = torch.tensor([math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)], dtype=torch.float64) * 2
        assert (mine.mean(0) - centre).abs().max() < 0.05
        assert (mine.std(0) - 0.2).abs().max() < 0.03


def test_rings_have_their_radii() -> None:
    points, labels = toy("rings")
    away = points.norm(dim=1) - (1.0 + labels)
    assert away.abs().max() < 0.5
    assert abs(float(away.std()) - 0.1) < 0.01


def test_moons_are_half_circles() -> None:
    points, labels = toy("two_moons")
    centre = torch.stack([labels.double(), 0.5 * labels], 1)
    away = points - centre
    assert (away.norm(dim=1) - 1).abs().max() < 0.5
    assert (away[labels == 0, 1] > -0.5).all()
    assert (away[labels == 1, 1] < 0.5).all()


def test_pinwheel_arms_are_rotations_of_one_another() -> None:
    points, labels = toy("pinwheel", 20_000)
    turned = torch.view_as_complex(points) * torch.polar(
        torch.ones(20_000).double(), -2 * math.pi / 5 * labels.double()
    )
    means = torch.stack([turned[labels == k].mean() for k in range(5)])
    assert (means - means[0]).abs().max() < 0.08
    assert means.abs().min() > 1
