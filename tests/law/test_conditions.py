"""Densities given numbers: against a law whose conditional entropy is known."""

import math

import pytest
import torch

from genloom.core.card import Config
from genloom.core.errors import DataError
from genloom.core.events import Leaf, Real
from genloom.core.objective import Clock
from genloom.core.randomness import TrainNoise, generator
from genloom.families import flow_maf, flow_nice, flow_nsf
from genloom.nn.conditions import Labels, Numbers, condition_for
from genloom.nn.flows import VectorFlow


@pytest.mark.parametrize(
    "config", [flow_maf.Config(hidden=(16,), layers=2), flow_nsf.Config(hidden=(16,), layers=2)]
)
def test_a_conditional_density_reaches_its_entropy(config: Config) -> None:
    """x given c is normal with mean (sin 2c, c) and deviation 0.1 + 0.2 |c| in both places."""
    source = generator("conditional")
    c = 2 * torch.randn(4096, 1, generator=source)
    spread = 0.1 + 0.2 * c.abs()
    x = torch.cat([(2 * c).sin(), c], 1) + spread * torch.randn(4096, 2, generator=source)
    torch.manual_seed(0)
    model = config.build(Leaf((2,), Real()), Leaf((1,), Real()))
    assert isinstance(model, VectorFlow)
    standardise, likelihood = config.stages(model)[0].objective.phases
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)
    for step in range(400):
        index = (torch.arange(256) + 256 * step) % 4096
        batch, noise = {"x": x[index], "cond": c[index]}, TrainNoise(torch.Generator(), 256, 0, 256)
        if step == 0:
            standardise.update(batch, noise, Clock(step, 400))
        optimiser.zero_grad()
        likelihood.loss(batch, noise, Clock(step, 400)).total.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        nats, shuffled = (-model.log_density(x, given).mean() for given in (c, c.roll(1, 0)))
    entropy = math.log(2 * math.pi * math.e) + 2 * spread.log().mean()
    assert abs(float(nats - entropy)) < 0.1
    assert float(shuffled) > float(entropy) + 1, "the condition decides where the density lies"


def test_numbers_must_be_given_and_fit() -> None:
    model = flow_nice.Config(hidden=(8,)).build(Leaf((3,), Real()), Leaf((2,), Real()))
    x = torch.zeros(4, 3)
    for cond, text in (
        (None, "2 numbers"),
        (torch.zeros(4, 1), r"\(4, 2\)"),
        (torch.zeros(3, 2), r"\(4, 2\)"),
    ):
        with pytest.raises(DataError, match=text):
            model.log_density(x, cond)


def test_what_reads_a_condition() -> None:
    assert condition_for(None) is None
    numbers, labels = condition_for(Leaf((2,), Real())), Labels(3)
    assert isinstance(numbers, Numbers)
    c = torch.randn(50, 2, generator=generator("numbers")) * 30 + 7
    numbers.initialise(c)
    scaled = (c - numbers.mean) / numbers.scale
    torch.testing.assert_close(scaled.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(labels(None, 2, torch.float64), torch.eye(4).double()[[3, 3]])


def test_the_first_batch_scales_conditions() -> None:
    config = flow_nsf.Config(layers=1, hidden=(4,), bins=3)
    model = config.build(Leaf((2,), Real()), Leaf((2,), Real()))
    (stage,) = config.stages(model)
    assert stage.objective is not None
    update = stage.objective.phases[0].update
    assert update is not None
    c = torch.randn(50, 2, generator=generator("numbers")) * 30 + 7
    update({"x": torch.randn(50, 2), "cond": c}, TrainNoise(generator("step"), 50, 0, 50), Clock(0, 1))
    assert isinstance(model.condition, Numbers)
    torch.testing.assert_close(model.condition.mean, c.mean(0))
