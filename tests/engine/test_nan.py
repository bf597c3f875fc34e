"""A loss or gradient that is not finite stops the fit, says where, and leaves a good state behind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import DIM, Pair, adversarial, digits_fit, run_toy, toy_rhythm
from torch import Tensor, nn

import genloom
from genloom.core.errors import DataError, Diverged, GenloomError
from genloom.core.events import Batch
from genloom.core.objective import Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.recipes.runs import open_run
from genloom.train import loop
from genloom.train.checkpoint import existing, load
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step

BAD_STEP = 6


class Poison(torch.autograd.Function):
    """One forwards, NaN backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.sum() * 0 + 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG004
        return gradient * torch.full((DIM, 2), torch.nan)


def poisoned(model: Pair, where: str) -> Objective:
    """Return the adversarial objective, whose generator phase goes wrong at ``BAD_STEP``."""
    objective = adversarial(model)
    *others, last = objective.phases
    assert last.loss is not None
    inner = last.loss

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:
        good = inner(batch, noise, clock).terms
        if clock.step != BAD_STEP:
            return Loss(good)
        bad = {"ratio": good["score"] * torch.inf * 0} if where == "term" else {}
        hidden = {"poison": Poison.apply(model.generator.weight)} if where == "gradient" else {}
        return Loss({**good, **bad, **hidden})

    return Objective(objective.groups, [*others, Phase(last.name, last.trains, loss)])


@pytest.mark.parametrize(
    ("where", "term"), [("term", "the loss term ratio"), ("gradient", "the gradient of generator")]
)
def test_divergence_names_its_place_and_saves_the_last_good_state(
    tmp_path: Path, where: str, term: str
) -> None:
    model = Pair()
    state = State.fresh(model, poisoned(model, where))
    with pytest.raises(
        Diverged, match=f"{term} of phase generator is not finite at step {BAD_STEP}"
    ) as caught:
        run_toy(state, tmp_path)
    assert (caught.value.term, caught.value.phase, caught.value.step) == (term, "generator", BAD_STEP)
    assert [p.name for p in existing(tmp_path / "checkpoints")] == ["00000004", "00000006"]
    kept, facts = load(tmp_path / "checkpoints" / "00000006")
    assert facts["step"] == BAD_STEP
    assert all(bool(t.isfinite().all()) for t in kept.values())
    assert torch.equal(kept["model/generator.weight"], model.generator.weight)


def test_no_group_moves_when_another_of_its_phase_is_not_finite() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        return Loss({"sum": model["a"].weight.sum() + (model["b"].weight * 0).sqrt().sum()})

    groups: Mapping[str, Group] = {n: Group(m, Optimiser(0.1)) for n, m in model.items()}
    before = model["a"].weight.detach().clone()
    with pytest.raises(Diverged, match="the gradient of b"):
        train_step(State.fresh(model, Objective(groups, [Phase("both", ("a", "b"), loss)])), toy_rhythm())
    assert torch.equal(model["a"].weight, before)


@pytest.mark.parametrize("failure", [Diverged("the loss term kl", "elbo", 7), DataError("it is gone")])
def test_a_fit_that_fails_says_so_in_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: GenloomError
) -> None:
    real = loop.train_step

    def step(state: State, rhythm: Rhythm) -> dict[str, float]:
        if state.step == 7:
            raise failure
        return real(state, rhythm)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(type(failure)):
        digits_fit(tmp_path / "run")
    facts = open_run(tmp_path / "run").facts
    assert (facts["state"], facts["why"]) == ("failed", str(failure))
    monkeypatch.setattr(loop, "train_step", real)
    facts = digits_fit(tmp_path / "run").facts
    assert (facts["state"], facts["why"]) == ("finished", "")


@pytest.mark.parametrize("rate", [1e30, 1e300])
def test_a_fit_that_ends_in_nonsense_is_no_finished_run(tmp_path: Path, rate: float) -> None:
    settings = {"model": {"lr": rate, "hidden": [4], "warmup": 0.0}, "train": {"steps": 1}}
    with pytest.raises(Diverged, match="what the fit ends with of phase fit is not finite at step 1"):
        genloom.fit("flow.nsf", "two_moons", out=tmp_path / "run", **settings)
    assert open_run(tmp_path / "run").facts["state"] == "failed"
