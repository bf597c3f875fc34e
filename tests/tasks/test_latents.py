"""Paths between codes, and along one coordinate."""

import math

import pytest
import torch
from torch import Tensor

from genloom.core.randomness import generator
from genloom.tasks.latents import Path, direction, interpolate, traverse


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("latents"), dtype=torch.float64)


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_paths_begin_and_end_where_they_should(path: Path) -> None:
    a, b = normals(2, 4, 2, 3)
    ways = interpolate(a, b, 5, path)
    assert ways.shape == (4, 5, 2, 3)
    torch.testing.assert_close(ways[:, 0], a)
    torch.testing.assert_close(ways[:, -1], b)


def test_a_line_has_equal_steps() -> None:
    ways = interpolate(normals(4, 6), normals(4, 6) + 1, 5, "linear")
    torch.testing.assert_close(ways.diff(dim=1), ways.diff(dim=1)[:, :1].expand(-1, 4, -1))


def test_a_turn_keeps_the_length_and_has_equal_angles() -> None:
    a, b = torch.nn.functional.normalize(normals(2, 4, 6), dim=2) * 3
    ways = interpolate(a, b, 7, "spherical")
    torch.testing.assert_close(ways.norm(dim=2), torch.full((4, 7), 3.0).double())
    angles = ((ways[:, 1:] * ways[:, :-1]).sum(2) / 9).acos()
    torch.testing.assert_close(angles, angles[:, :1].expand(-1, 6))
    torch.testing.assert_close(angles.sum(1), ((a * b).sum(1) / 9).acos())


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_a_turn_without_a_plane_is_a_line(factor: float) -> None:
    a = normals(1, 5)
    ways = interpolate(a, factor * a, 4, "spherical")
    expected = interpolate(a, factor * a, 4, "linear")
    if factor:
        torch.testing.assert_close(ways, expected)
    assert bool(ways.isfinite().all())


def test_only_the_coordinate_varies() -> None:
    code, values = normals(2, 3), torch.linspace(-math.pi, 1, 4).double()
    way = traverse(code, 4, values)
    torch.testing.assert_close(way[:, 1, 1], values)
    same = torch.ones(2, 3, dtype=torch.bool)
    same[1, 1] = False
    assert torch.equal(way[:, same], code[same].expand(4, -1))


def test_a_direction_moves_one_class_onto_the_mean_of_another() -> None:
    codes = torch.randn(30, 2, 3, generator=generator("codes"), dtype=torch.float64)
    labels = torch.arange(30) % 3
    moved = codes[labels == 0] + direction(codes, labels, 0, 2)
    torch.testing.assert_close(moved.mean(0), codes[labels == 2].mean(0))
