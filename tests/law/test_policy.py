"""Policy gradients: unbiased, and their optimum is the prior times exp(reward / beta)."""

import math

import pytest
import torch
from symbols import VARYING, everything, listed
from torch import Tensor, nn

from genloom.core.events import Padded, Value, take
from genloom.core.objective import Clock, Optimiser, Stage
from genloom.core.randomness import TrainNoise, generator
from genloom.families.seq_lstm import Config
from genloom.nn.policy import policy_gradient
from genloom.nn.sequences import SequenceModel
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream


def make(seed: int = 0) -> SequenceModel:
    torch.manual_seed(seed)
    model = Config(units=24, layers=1, embedding=8, dropout=0.0).build(VARYING, None)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    return model


def zeros_in(x: Value) -> Tensor:
    """Reward each symbol 0."""
    assert isinstance(x, Padded)
    present = torch.arange(x.values.shape[1]) < x.lengths[:, None]
    return ((x.values == 0) & present).sum(1).float()


def gain(model: SequenceModel, prior: SequenceModel, beta: float) -> Tensor:
    """Return E[reward] - beta KL by enumeration."""
    x = everything(VARYING)
    log_p = model.log_density(x)
    return (log_p.exp() * (zeros_in(x) - beta * (log_p - prior.log_density(x)))).sum()


def test_the_gradient_is_that_of_the_expected_gain() -> None:
    """The mean over many draws nears the gradient of the enumerated gain."""
    model, prior = make(0), make(1)
    objective = policy_gradient(model, prior, zeros_in, 0.5, Optimiser(1e-3))
    draw, loss = (phase.update or phase.loss for phase in objective.phases)
    assert draw is not None
    assert loss is not None
    count = 30_000
    noise = TrainNoise(generator("policy"), count, 0, count)
    with torch.no_grad():
        draw({"x": torch.zeros(count)}, noise, Clock(0, 1))
    found = loss({"x": torch.zeros(count)}, noise, Clock(0, 1))
    assert found is not None
    parameters = list(model.parameters())
    drawn = torch.cat([g.flatten() for g in torch.autograd.grad(found.total, parameters)])
    exact = torch.autograd.grad(-gain(model, prior, 0.5), parameters)
    truth = torch.cat([g.flatten() for g in exact])
    assert float((drawn - truth).norm()) < 0.1 * float(truth.norm())


def test_the_model_comes_to_the_best_there_is() -> None:
    model, prior, beta = make(1), make(1), 0.5
    moved = Optimiser(1e-2, "adamw", schedule="linear")
    stage = Stage("policy", policy_gradient(model, prior, zeros_in, beta, moved), 256)
    assert stage.objective is not None
    state = State.fresh(model, stage.objective)
    rhythm = Rhythm(Stream(torch.zeros(256), None, lambda v, _: v), Order(256, 0), 0, "policy", 250, 256)
    for _ in range(250):
        figures = train_step(state, rhythm)
    x = everything(VARYING)
    with torch.no_grad():
        log_p, log_prior = model.log_density(x), prior.log_density(x)
        best = log_prior + zeros_in(x) / beta
        value = beta * float(best.logsumexp(0))
        reached, before = float(gain(model, prior, beta)), float(gain(prior, prior, beta))
    assert before < 0.6 * value
    assert value - reached < 0.03 * value
    distance = 0.5 * float((log_p.exp() - best.softmax(0)).abs().sum())
    assert distance < 0.1
    assert math.isfinite(figures["policy/reward"])
    assert all(p.grad is None for p in prior.parameters())


def test_only_what_was_drawn_is_scored() -> None:
    """Each text's own advantage leaves its own gain out of the baseline."""
    model, prior = make(0), make(0)
    objective = policy_gradient(model, prior, zeros_in, 0.5, Optimiser(1e-3))
    noise = TrainNoise(generator("few"), 3, 0, 3)
    draw, loss = objective.phases[0].update, objective.phases[1].loss
    assert draw is not None
    assert loss is not None
    with torch.no_grad():
        draw({"x": torch.zeros(3)}, noise, Clock(0, 1))
    found = loss({"x": torch.zeros(3)}, noise, Clock(0, 1))
    assert float(found.logs["divergence"]) == pytest.approx(0.0, abs=1e-6)
    rewards = float(found.logs["reward"]) * 3
    assert rewards == round(rewards)
    assert len(listed(take(everything(VARYING), slice(0, 3)))) == 3  # type: ignore[arg-type]
