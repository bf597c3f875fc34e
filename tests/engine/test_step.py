"""One step: phases, groups, accumulation, averages, schedules and clipping."""

import math
from collections.abc import Callable

import pytest
import torch
from engine_toys import BATCH, DIM, ROWS, Pair, adversarial, toy_rhythm
from torch import Tensor, nn

from genloom.core.events import Batch, tensor
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.train.state import State, learning_rate, make_optimiser
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream

Watch = Callable[[str, Batch, Clock], None]


def test_accumulation_equals_one_batch() -> None:
    states = []
    for accumulate in (1, 4, 3):
        model = Pair()
        states.append(State.fresh(model, adversarial(model)))
        for _ in range(5):
            figures = train_step(states[-1], toy_rhythm(accumulate=accumulate))
        assert figures["critic/total"] == pytest.approx(figures["critic/gap"] + figures["critic/size"])
    for other in states[1:]:
        for name, value in states[0].model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def watched(model: nn.Module, watch: Watch, phases: list[tuple[str, int, int]]) -> Objective:
    """Return an objective whose phases (name, every, repeats) tell what they were given."""

    def loss_of(name: str) -> Callable[[Batch, Noise, Clock], Loss]:
        def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            watch(name, batch, clock)
            return Loss({"any": next(model.parameters()).sum()})

        return loss

    return Objective(
        {"all": Group(model, Optimiser(0.1))},
        [Phase(n, ("all",), loss_of(n), every=every, repeats=repeats) for n, every, repeats in phases],
    )


def test_every_and_repeats_count_and_draw_fresh_batches() -> None:
    seen: list[tuple[str, int, Tensor]] = []
    model = nn.Linear(1, 1, bias=False)
    objective = watched(
        model, lambda n, b, c: seen.append((n, c.step, tensor(b["x"])[:, 0])), [("a", 2, 3), ("b", 1, 1)]
    )
    numbers = torch.arange(1000.0)[:, None]
    rhythm = Rhythm(Stream(numbers, None, lambda x, _: x), Order(1000, 0), 0, "toy", 10, BATCH)
    state = State.fresh(model, objective)
    for _ in range(5):
        train_step(state, rhythm)
    assert [step for name, step, _ in seen if name == "a"] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    assert [step for name, step, _ in seen if name == "b"] == [0, 1, 2, 3, 4]
    drawn = torch.cat([rows for _, _, rows in seen])
    assert len(drawn.unique()) == len(drawn) == 14 * BATCH


def test_order_goes_through_every_row_once_an_epoch() -> None:
    order = Order(ROWS, 0, "toy")
    first = torch.cat([order(i, BATCH) for i in range(ROWS // BATCH)])
    second = torch.cat([order(i, BATCH) for i in range(ROWS // BATCH, 2 * ROWS // BATCH)])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(ROWS))
    assert not torch.equal(first, second)
    assert torch.equal(Order(ROWS, 0, "toy")(3, 7), torch.cat([first, second])[21:28])
    assert not torch.equal(Order(ROWS, 1, "toy")(0, BATCH), first[:BATCH])
    assert Order(3, 0)(1, 8).shape == (8,)


def test_groups_of_other_phases_stay() -> None:
    model = Pair()
    objective = adversarial(model)
    only = Objective(objective.groups, [p for p in objective.phases if p.name == "critic"])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_step(State.fresh(model, only), toy_rhythm())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("generator"), name
        assert (p.grad is None) == name.startswith("generator"), name
        assert p.requires_grad


def test_parameters_frozen_by_the_family_stay_frozen() -> None:
    model = Pair()
    model.generator.bias.requires_grad_(False)
    before = model.generator.bias.clone()
    state = State.fresh(model, adversarial(model))
    for _ in range(3):
        train_step(state, toy_rhythm())
    assert torch.equal(model.generator.bias, before)
    assert not model.generator.bias.requires_grad


def test_update_phase_changes_buffers_without_gradients() -> None:
    model = Pair()
    grad_mode = []

    def update(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        grad_mode.append(torch.is_grad_enabled())
        model.mean.copy_(tensor(batch["x"]).mean(0))

    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    train_step(State.fresh(model, Objective({}, [Phase("mean", update=update)])), toy_rhythm())
    assert grad_mode == [False]
    assert model.mean.abs().sum() > 0
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_phase_needs_exactly_one_of_loss_and_update() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Phase("neither")


def test_average_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    state = State.fresh(model, Objective({}, [], Average(horizon=0.25, limit=0.9)))
    expected = model.weight.item()
    for step in range(1, 60):
        model.weight.data.fill_(math.sin(step))
        state.step = step
        state.update_average()
        decay = min(max(0.0, 1 - 1 / (0.25 * step)), 0.9)
        expected = decay * expected + (1 - decay) * math.sin(step)
    assert state.scored.weight.item() == pytest.approx(expected, rel=1e-5)


def test_average_copies_buffers_and_is_what_is_scored() -> None:
    model = Pair()
    state = State.fresh(model, adversarial(model, Average(horizon=10.0)))
    for _ in range(3):
        train_step(state, toy_rhythm())
    assert isinstance(state.scored, Pair)
    assert state.scored is not model
    assert torch.equal(state.scored.mean, model.mean)
    assert not torch.equal(state.scored.critic.weight, model.critic.weight)
    assert not any(p.requires_grad for p in state.scored.parameters())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0, 1, 2, 2, 2]), ("linear", [0, 1, 2, 1, 0]), ("cosine", [0, 1, 2, 1, 0])],
)
def test_learning_rates(schedule: str, expected: list[float]) -> None:
    spec = Optimiser(2.0, schedule=schedule, warmup=0.2)  # type: ignore[arg-type]
    rates = [learning_rate(spec, progress) for progress in (0, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx(expected, abs=1e-6)
    assert learning_rate(spec, 0.4) == pytest.approx(
        {"linear": 1.5, "cosine": 1 + math.cos(math.pi / 4)}.get(schedule, 2)
    )


def steep(model: nn.Linear, optimiser: Optimiser) -> Objective:
    """Return a loss whose gradient has norm 10 sqrt(DIM)."""

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        return Loss({"height": 10 * model.weight.sum()})

    return Objective({"all": Group(model, optimiser)}, [Phase("fall", ("all",), loss)])


@pytest.mark.parametrize(
    ("clip", "length"), [(None, 10 * math.sqrt(DIM)), (0.5, 0.5), (100.0, 10 * math.sqrt(DIM))]
)
def test_clipping_limits_the_norm(clip: float | None, length: float) -> None:
    model = nn.Linear(DIM, 1, bias=False)
    before = model.weight.detach().clone()
    optimiser = Optimiser(1.0, name="sgd", betas=(0.0, 0.0), clip=clip)
    figures = train_step(State.fresh(model, steep(model, optimiser)), toy_rhythm())
    assert figures["fall/all_grad_norm"] == pytest.approx(10 * math.sqrt(DIM))
    assert (model.weight - before).norm().item() == pytest.approx(length, rel=1e-5)


def test_schedule_reaches_the_optimiser() -> None:
    model = nn.Linear(DIM, 1, bias=False)
    state = State.fresh(model, steep(model, Optimiser(1.0, "sgd", (0.0, 0.0), schedule="linear")))
    moves = []
    for _ in range(4):
        before = model.weight.detach().clone()
        train_step(state, toy_rhythm(total=4))
        moves.append((before - model.weight).mean().item() / 10)
    assert moves == pytest.approx([1, 0.75, 0.5, 0.25], rel=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weight_decay_pulls_to_zero(name: str) -> None:
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    make_optimiser([p], Optimiser(0.1, name=name, weight_decay=0.5)).step()  # type: ignore[arg-type]
    assert bool((p < 1).all())
