"""Flows of angles: whole turns change nothing, and what is not a number stays so."""

import math

import torch

from genloom.core.events import Circular, Leaf
from genloom.core.randomness import generator
from genloom.families.flow_circular import Config, wrapped
from genloom.nn.flows import VectorFlow


def random_model(dim: int) -> VectorFlow:
    torch.manual_seed(0)
    model = Config(layers=3, hidden=(8,), bins=5).build(Leaf((dim,), Circular()), None).double()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_densities_have_no_seam() -> None:
    points = 2 * math.pi * torch.rand(20, 3, generator=generator("points"), dtype=torch.float64)
    for d in range(3):
        before, after = points.clone(), points.clone()
        before[:, d], after[:, d] = 2 * math.pi - 1e-9, 1e-9
        model = random_model(3)
        torch.testing.assert_close(model.log_density(before), model.log_density(after), atol=1e-6, rtol=0)


def test_whole_turns_of_codes_change_nothing() -> None:
    for dim in (1, 3):
        model = random_model(dim)
        z = 2 * math.pi * torch.rand(20, dim, generator=generator("z"), dtype=torch.float64)
        x = model.decode(z)
        assert bool(((x >= 0) & (x < 2 * math.pi)).all())
        for turns in (-1, 1, 3):
            gap = (model.decode(z + 2 * math.pi * turns) - x).abs()
            assert torch.minimum(gap, 2 * math.pi - gap).max() < 1e-9


def test_no_number_is_no_angle() -> None:
    assert wrapped(torch.tensor([float("nan")])).isnan().all()
