"""Flows of angles: whole turns change nothing, and what is not a number stays so."""

import math

import torch

from genloom.core.events import Circular, Leaf
from genloom.core.randomness import generator
from genloom.families.flow_circular import Config, wrapped


def test_whole_turns_of_codes_change_nothing() -> None:
    torch.manual_seed(0)
    for dim in (1, 3):
        model = Config(layers=3, hidden=(8,), bins=5).build(Leaf((dim,), Circular()), None).double()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        z = 2 * math.pi * torch.rand(20, dim, generator=generator("z"), dtype=torch.float64)
        x = model.decode(z)
        assert bool(((x >= 0) & (x < 2 * math.pi)).all())
        for turns in (-1, 1, 3):
            gap = (model.decode(z + 2 * math.pi * turns) - x).abs()
            assert torch.minimum(gap, 2 * math.pi - gap).max() < 1e-9


def test_no_number_is_no_angle() -> None:
    assert wrapped(torch.tensor([float("nan")])).isnan().all()
