"""Continuous flows: the trace in closed form is that of autograd's Jacobian."""

from pathlib import Path

import pytest
import torch

import genloom
from genloom.core.events import Leaf, Real
from genloom.core.randomness import generator
from genloom.families.flow_cnf import Config, Continuous
from genloom.nn.conditions import Numbers


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("dim", [1, 3, 10])
def test_the_trace_is_exact(dim: int, given: bool) -> None:
    torch.manual_seed(0)
    layer = Continuous(dim, Numbers(2, 4) if given else None, 7, 1e-5).double()
    for parameter in layer.parameters():
        parameter.data = torch.randn_like(parameter)
    x = torch.randn(dim, 1, dtype=torch.float64)
    t = torch.tensor([0.3], dtype=torch.float64)
    context = torch.randn(4, 1, dtype=torch.float64) if given else None
    _, d1, d2 = layer.velocity_and_slopes(t, x, context)
    cycles = layer.second.weight * (layer.first.weight @ layer.last.weight).t()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: layer.velocity_and_slopes(t, v[:, None], context)[0][:, 0], x[:, 0]
    )
    torch.testing.assert_close((d2 * (cycles @ d1)).sum(), jacobian.trace())


def test_estimates_by_all_signs_average_to_the_exact_volume() -> None:
    torch.manual_seed(0)
    layer = Continuous(3, None, 7, 1e-6).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(3, 5, dtype=torch.float64)
    y, exact = layer(x, None)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    found = [layer.estimate(x, None, s[:, None].expand(3, 5)) for s in signs]
    torch.testing.assert_close(torch.stack([v for _, v in found]).mean(0), exact, atol=1e-9, rtol=0)
    assert torch.stack([v for _, v in found]).std(0).min() > 1e-3
    torch.testing.assert_close(found[3][0], y, atol=1e-9, rtol=0)


def test_training_by_estimates_learns_as_well(tmp_path: Path) -> None:
    scores = []
    for trace in ("exact", "hutchinson"):
        trained = genloom.fit(
            "flow.cnf",
            "two_moons",
            out=tmp_path / trace,
            model={"hidden": 24, "trace": trace},
            train={"steps": 60},
            data={"points": 2_000},
            conditional="no",
        )
        scores.append(float(trained.log_prob(genloom.open_data("two_moons").test.items).value.mean()))
    untrained = -2.0
    assert min(scores) > untrained + 0.1
    assert abs(scores[0] - scores[1]) < 0.03


def test_items_are_scored_alone() -> None:
    """Each takes steps of its own: a neighbour that is hard to move changes nothing, bit for bit."""
    torch.manual_seed(0)
    model = Config(hidden=8).build(Leaf((2,), Real()), None)
    for parameter in model.parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    x = torch.randn(6, 2, generator=generator("items"))
    far = torch.cat((x[:3], 30 * x[3:]))
    with torch.no_grad():
        assert torch.equal(model.log_density(x)[:3], model.log_density(far)[:3])
