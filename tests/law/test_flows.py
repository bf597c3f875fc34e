"""Laws of every normalizing flow, on random models: inverses, volumes and masses in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genloom.core.capabilities import Invertible, Likelihood
from genloom.core.card import Config
from genloom.core.events import Categorical, Circular, Event, Leaf, Real
from genloom.core.randomness import SampleNoise, generator
from genloom.families import (
    flow_circular,
    flow_cnf,
    flow_glow,
    flow_iaf,
    flow_maf,
    flow_nice,
    flow_nsf,
    flow_realnvp,
)

CLASSES, NUMBERS = 3, 2
CONDITIONS: dict[str, Event | None] = {
    "none": None,
    "label": Leaf((), Categorical(CLASSES)),
    "numbers": Leaf((NUMBERS,), Real()),
}
VECTORS = st.sampled_from([(1,), (2,), (5,), (2, 2)])
IMAGES = st.sampled_from([(1, 2, 2), (1, 4, 4), (2, 2, 4), (1, 6, 4)])
WIDTHS = st.sampled_from([(5,), (8, 6), (3, 3, 3)])
MIXINGS = st.sampled_from(["reverse", "random", "lu"])


def masked(family: Any, **more: st.SearchStrategy) -> st.SearchStrategy[Config]:
    return st.builds(family.Config, layers=st.integers(1, 3), hidden=WIDTHS, mixing=MIXINGS, **more)


FLOWS: dict[str, tuple[st.SearchStrategy[Config], st.SearchStrategy[tuple[int, ...]]]] = {
    "nice": (st.builds(flow_nice.Config, layers=st.integers(1, 4), hidden=WIDTHS), VECTORS),
    "circular": (
        st.builds(flow_circular.Config, layers=st.integers(1, 4), hidden=WIDTHS, bins=st.integers(2, 9)),
        VECTORS,
    ),
    "maf": (masked(flow_maf), VECTORS),
    "cnf": (
        st.builds(flow_cnf.Config, layers=st.integers(1, 2), hidden=st.just(6), tolerance=st.just(3e-6)),
        VECTORS,
    ),
    "iaf": (masked(flow_iaf), VECTORS),
    "nsf": (
        masked(
            flow_nsf,
            transform=st.sampled_from(["autoregressive", "coupling"]),
            bins=st.integers(2, 9),
            bound=st.floats(2, 6),
        ),
        VECTORS,
    ),
    "realnvp": (
        st.builds(
            flow_realnvp.Config, couplings=st.integers(1, 2), channels=st.just(4), blocks=st.integers(0, 1)
        ),
        st.sampled_from([(1, 1, 2), (1, 4, 4), (2, 3, 3), (1, 5, 3)]),
    ),
    "glow": (
        st.builds(flow_glow.Config, scales=st.integers(1, 3), steps=st.integers(1, 2), channels=st.just(4)),
        IMAGES,
    ),
}


def event(name: str, shape: tuple[int, ...]) -> Leaf:
    return Leaf(shape, Circular() if name == "circular" else Real())


def values(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return items (3, *shape): angles in one turn, or numbers of deviation two."""
    x = torch.randn(3, *shape, generator=generator("flows", seed), dtype=torch.float64)
    return x.remainder(2 * math.pi) if name == "circular" else 2 * x


def distance(name: str, a: Tensor, b: Tensor) -> Tensor:
    """Return the largest distance, the shorter way round of angles."""
    gap = (a - b).abs()
    return (torch.minimum(gap, 2 * math.pi - gap) if name == "circular" else gap).max()


def random_model(config: Config, event: Event, cond: Event | None, seed: int, spread: float) -> Any:
    """Return a float64 model whose weights are ``spread`` away from those of a fresh one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = config.build(event, cond).double()
        for parameter in model.parameters():
            parameter.data += spread * torch.randn_like(parameter)
    return model.eval()


def conditions(cond: Event | None, count: int) -> Tensor | None:
    """Return conditions, "no class" among the labels."""
    if cond is None:
        return None
    if cond is CONDITIONS["label"]:
        return torch.arange(count) % (CLASSES + 1)
    return torch.randn(count, NUMBERS, generator=generator("given"), dtype=torch.float64)


def jacobian(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return dz/dx of one item, (D, D)."""
    return torch.autograd.functional.jacobian(call, x).flatten(1)


@pytest.mark.parametrize("name", FLOWS)
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_inverse_and_volume_of_random_models(name: str, data: st.DataObject) -> None:
    configs, shapes = FLOWS[name]
    shape, kind = data.draw(shapes), data.draw(st.sampled_from(list(CONDITIONS)))
    seed, spread = data.draw(st.integers(0, 2**20)), data.draw(st.floats(0, 0.2))
    model = random_model(data.draw(configs), event(name, shape), CONDITIONS[kind], seed, spread)
    assert isinstance(model, Invertible)
    x = values(name, shape, seed)
    cond = conditions(CONDITIONS[kind], 3)
    with torch.no_grad():
        z, log_det = model.forward_and_log_det(x, cond)
        assert distance(name, model.decode(z, cond), x) < 1e-9
    one = None if cond is None else cond[:1]
    expected = jacobian(lambda v: model.forward_and_log_det(v[None], one)[0][0], x[0]).slogdet()
    assert abs(log_det[0] - expected.logabsdet) < 1e-8
    single, given_single = model.float(), cond if cond is None or cond.dim() == 1 else cond.float()
    with torch.no_grad():
        back = single.decode(single.encode(x.float(), given_single), given_single)
    assert distance(name, back, x) < 1e-4


@pytest.mark.parametrize("name", [name for name in FLOWS if FLOWS[name][1] is VECTORS])
@pytest.mark.parametrize("dim", [1, 2])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_mass_of_random_densities(name: str, dim: int, data: st.DataObject) -> None:
    config, seed = data.draw(FLOWS[name][0]), data.draw(st.integers(0, 2**20))
    model = random_model(config, event(name, (dim,)), None, seed, 0.15)
    assert isinstance(model, Likelihood)
    side, centre = (math.pi, math.pi) if name == "circular" else (12.0, 0.0)
    count = 32_000 if dim == 1 else 600
    if name in ("circular", "cnf"):
        count = 200
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * side / count) - side + centre
    grid = torch.cartesian_prod(*[axis] * dim).view(-1, dim)
    with torch.no_grad():
        score = model.log_prob(grid, noise=SampleNoise(0, torch.arange(len(grid)))).value
    assert abs(float(score.exp().sum()) * (2 * side / count) ** dim - 1) < 1e-3
