"""A budget becomes a number of steps once; trying steps out leaves no trace; resuming keeps the plan."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import BATCH, DIM, Pair, adversarial, digits_fit, stream, toy_rhythm, toy_stage
from torch import nn

from genloom.core.errors import Interrupted
from genloom.core.events import Batch, tensor
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.recipes.runs import open_run
from genloom.train import loop
from genloom.train.config import TrainConfig
from genloom.train.signals import Stop
from genloom.train.state import State
from genloom.train.step import train_step

HOOKS = loop.Hooks(validate=lambda model: {"loss": 0.0}, preview=lambda model, step: None)  # noqa: ARG005


def with_chains() -> State:
    """Return the adversarial toy with an average, and with chains as objective state."""
    model, chains = Pair(), torch.zeros(3)
    toy = adversarial(model, Average())

    def advance(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        chains.add_(1)

    phases = [*toy.phases, Phase("chains", update=advance)]
    return State.fresh(model, Objective(toy.groups, phases, toy.average, {"chains": chains}))


def test_calibration_leaves_no_trace() -> None:
    tried, fresh = with_chains(), with_chains()
    plan = loop.make_plan(tried, toy_rhythm(), TrainConfig(budget=0.2), 1.0, HOOKS, Stop())
    assert plan.steps >= 1
    assert plan.seconds_per_step is not None
    assert tried.step == 0
    require_equal(tried, fresh)
    for state in (tried, fresh):
        for _ in range(3):
            train_step(state, toy_rhythm())
    assert tried.objective.state["chains"].tolist() == [3, 3, 3]
    require_equal(tried, fresh)


def require_equal(a: State, b: State) -> None:
    """Compare every tensor of two states."""
    left, right = a.tensors(), b.tensors()
    assert left.keys() == right.keys()
    assert all(torch.equal(v, right[k]) for k, v in left.items())


def test_flops_budget_counts_matrix_products() -> None:
    model = nn.Linear(DIM, 5, bias=False)

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        return Loss({"size": model(tensor(batch["x"])).square().mean()})

    objective = Objective({"all": Group(model, Optimiser(0.1))}, [Phase("fit", ("all",), loss)])
    per_step = 2 * (2 * BATCH * DIM * 5)  # forwards, and backwards to the weights
    state = State.fresh(model, objective)
    before = state.tensors()
    plan = loop.make_plan(state, toy_rhythm(), TrainConfig(flops=per_step * 17.5), 1.0, HOOKS, Stop())
    assert plan.flops_per_step == per_step
    assert plan.steps == 17
    assert all(torch.equal(v, state.tensors()[k]) for k, v in before.items())


def test_steps_are_shared_between_stages() -> None:
    model = Pair()
    state = State.fresh(model, adversarial(model))
    plan = loop.make_plan(state, toy_rhythm(), TrainConfig(steps=100), 0.25, HOOKS, Stop())
    assert (plan.steps, plan.seconds_per_step, plan.flops_per_step) == (25, None, None)
    assert loop.make_plan(state, toy_rhythm(), TrainConfig(steps=1), 0.25, HOOKS, Stop()).steps == 1


def test_a_resumed_run_keeps_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.run

    def stopped(*arguments: Any) -> None:
        stop: Stop = arguments[-1]
        stop.requested = True
        real(*arguments)

    monkeypatch.setattr(loop, "run", stopped)
    settings: dict[str, Any] = {"steps": None, "budget": "1s", "checkpoint_every": 1000}
    with pytest.raises(Interrupted):
        digits_fit(tmp_path / "run", **settings)
    plan = open_run(tmp_path / "run").stage("vae")["plan"]
    assert plan["seconds_per_step"] > 0
    monkeypatch.setattr(loop, "run", real)

    def no_plan(*_: object) -> None:
        raise AssertionError("a resumed run must not time its steps again")

    monkeypatch.setattr(loop, "make_plan", no_plan)
    run = digits_fit(tmp_path / "run", **settings)
    assert run.stage("vae")["plan"] == plan
    assert run.facts["steps"] == plan["steps"]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("10m", 600), (3, 3)])
def test_times(text: str, seconds: float) -> None:
    assert TrainConfig(budget=text).budget == seconds  # type: ignore[arg-type]


def test_only_one_length() -> None:
    with pytest.raises(ValueError, match="only one of steps and budget"):
        TrainConfig(steps=1, budget=1)
    assert TrainConfig(steps=3).lasting(5).budget is None
    assert TrainConfig().lasting(5).budget == 5


def test_batch_size_is_the_users_then_the_familys_and_never_more_than_the_data() -> None:
    model = Pair()
    stage, data = toy_stage(adversarial(model)), stream(20)
    for asked, found in ((None, BATCH), (5, 5), (100, 20)):
        rhythm = loop.make_rhythm(stage, data, TrainConfig(batch_size=asked), 0, False, 10)
        assert rhythm.batch_size == found


def test_bf16_is_as_asked() -> None:
    assert loop.wants_bf16(TrainConfig(precision="bf16"), autocast=False)
    assert not loop.wants_bf16(TrainConfig(precision="fp32"), autocast=True)
    assert not loop.wants_bf16(TrainConfig(), autocast=False)
    assert loop.wants_bf16(TrainConfig(), autocast=True) == loop.bf16_pays()


def test_a_signal_ends_the_timing() -> None:
    stop, state = Stop(), with_chains()
    stop.requested = True
    with pytest.raises(Interrupted, match="before the first step"):
        loop.make_plan(state, toy_rhythm(), TrainConfig(budget=60), 1.0, HOOKS, stop)
