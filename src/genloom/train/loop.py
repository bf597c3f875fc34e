"""The loop: one function trains every family, stops and resumes exactly, and keeps within a budget."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from genloom.core.errors import ConfigError, Diverged, Interrupted
from genloom.core.objective import Stage
from genloom.core.watching import Watcher
from genloom.train import checkpoint, ranks
from genloom.train.config import TrainConfig
from genloom.train.log import MetricLog
from genloom.train.progress import silent
from genloom.train.signals import Stop
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Alike, Order, Stream, lengths

VALIDATIONS = 12
"""Validations in a run, unless told otherwise."""

VALIDATION_SHARE = 0.05
"""Most of a wall-clock budget that validations may take; there are fewer of them if they are slow."""

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Returns figures; one called ``loss``, if present, chooses the best weights (lower is better)."""


def _nothing(state: State) -> None:
    """Keep nothing."""


@dataclass(frozen=True)
class Hooks:
    """What the caller wants done along the way. A preview without a step is only timed, and not kept.

    ``keep`` gets the state at every validation.
    """

    validate: Validate
    preview: Callable[[nn.Module, int | None], None]
    watch: Watcher = silent
    keep: Callable[[State], None] = _nothing


@dataclass(frozen=True)
class Plan:
    """How long a stage trains: fixed once, recorded, and used again when resuming."""

    steps: int
    validate_every: int
    checkpoint_every: int
    seconds_per_step: float | None = None
    flops_per_step: float | None = None


def bf16_pays() -> bool:
    """Tell whether this machine multiplies in bfloat16 faster than in float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def wants_bf16(config: TrainConfig, autocast: bool) -> bool:
    """Tell whether to train in bfloat16, as asked or as suits the machine and the family (``autocast``)."""
    return config.precision == "bf16" or (config.precision == "auto" and autocast and bf16_pays())


def make_rhythm(
    stage: Stage, stream: Stream, config: TrainConfig, seed: int, bf16: bool, total: int
) -> Rhythm:
    """Return the fixed part of a stage's steps.

    Raises:
        ConfigError: the batch has fewer rows than there are ranks.
    """
    rows = min(config.batch_size or stage.batch_size, len(stream))
    if rows < ranks.world():
        raise ConfigError(f"{ranks.world()} processes cannot share batches of {rows}: start fewer")
    order = Order(len(stream), seed, stage.name)
    return Rhythm(
        stream=stream,
        order=Alike(order, lengths(stream), seed, stage.name) if stage.alike else order,
        seed=seed,
        stage=stage.name,
        total=total,
        batch_size=rows,
        accumulate=config.accumulate,
        bf16=bf16,
    )


def make_plan(
    state: State, rhythm: Rhythm, config: TrainConfig, share: float, hooks: Hooks, stop: Stop
) -> Plan:
    """Turn a budget into a number of steps by timing a few, and put the state back as it was.

    A wall-clock budget counts these trial steps, compilation and validation.

    Raises:
        Interrupted: a signal came; there is nothing to save.
    """
    if config.steps is not None:
        return _plan(max(1, round(config.steps * share)), config, VALIDATIONS)
    began = time.perf_counter()
    before = state.tensors()
    if config.flops is not None:
        with FlopCounterMode(display=False) as counter:
            train_step(state, replace(rhythm, total=1000))
        flops = float(counter.get_total_flops())
        _restore(state, before)
        steps = max(1, int(config.flops * share / flops))
        return replace(_plan(steps, config, VALIDATIONS), flops_per_step=flops)
    assert config.budget is not None
    budget = config.budget * share
    per_step, per_validation = _time(state, rhythm, hooks, budget, stop)
    _restore(state, before)
    count = max(1, min(VALIDATIONS, int(VALIDATION_SHARE * budget / per_validation)))
    left = budget - (time.perf_counter() - began) - count * per_validation
    steps = int(ranks.agree(max(1, int(left / per_step))))
    return replace(_plan(steps, config, int(ranks.agree(count))), seconds_per_step=per_step)


def _plan(steps: int, config: TrainConfig, validations: int) -> Plan:
    validate_every = config.validate_every or max(1, -(-steps // validations))
    return Plan(steps, validate_every, config.checkpoint_every or max(validate_every, -(-steps // 4)))


def _time(state: State, rhythm: Rhythm, hooks: Hooks, budget: float, stop: Stop) -> tuple[float, float]:
    """Return seconds per step and per validation; the first step, which compiles, is left out."""
    rhythm = replace(rhythm, total=1000)
    train_step(state, rhythm)
    start = time.perf_counter()
    steps = 0
    while ranks.any_rank(steps < 3 or (time.perf_counter() - start < 0.04 * budget and steps < 50)):
        train_step(state, rhythm)
        steps += 1
        if ranks.any_rank(stop.requested):
            raise Interrupted("stopped before the first step; the same command begins again")
    per_step = (time.perf_counter() - start) / steps
    start = time.perf_counter()
    with torch.no_grad():
        hooks.validate(state.scored)
        hooks.preview(state.scored, None)
    return per_step, time.perf_counter() - start


def _restore(state: State, tensors: dict[str, torch.Tensor]) -> None:
    """Undo trial steps: weights, optimisers, averages and objective state."""
    for optimiser in state.optimisers.values():
        optimiser.state.clear()
    state.load(tensors)
    state.step = 0


def run(
    state: State, rhythm: Rhythm, plan: Plan, folder: Path, log: MetricLog, hooks: Hooks, stop: Stop
) -> None:
    """Train from the state's step to the plan's end, with checkpoints in ``folder``.

    Raises:
        Interrupted: a signal came; the state was saved.
        Diverged: a term or gradient was not finite; the state before that phase was saved.
    """
    state.model.train()
    clock = time.perf_counter() - state.seconds
    while state.step < plan.steps:
        try:
            figures = train_step(state, rhythm)
        except Diverged:
            state.seconds = time.perf_counter() - clock
            if not checkpoint.holds(folder, state.step):
                save(state, rhythm.stage, folder)
            raise
        state.seconds = time.perf_counter() - clock
        hooks.watch(state.step, plan.steps, figures)
        interrupted = ranks.any_rank(stop.requested)
        last = state.step == plan.steps
        if state.step % plan.validate_every == 0 or last:
            measured = _validate(state, figures, log, hooks)
            hooks.keep(state)
            state.seconds = time.perf_counter() - clock
            if last and not (state.usable() and (state.best.step >= 0 or "loss" not in measured)):
                raise Diverged("what the fit ends with", rhythm.stage, state.step)
        if interrupted or last or state.step % plan.checkpoint_every == 0:
            save(state, rhythm.stage, folder)
        if interrupted and not last:
            raise Interrupted(
                f"stopped at step {state.step:,} of {plan.steps:,}; the same command goes on from there"
            )


def _validate(
    state: State, figures: Mapping[str, float], log: MetricLog, hooks: Hooks
) -> Mapping[str, float]:
    """Measure the scored weights, remember them if they are the best, draw them, and log it all."""
    state.scored.eval()
    with torch.no_grad():
        measured = dict(hooks.validate(state.scored))
        hooks.preview(state.scored, state.step)
    state.model.train()
    if "loss" in measured and measured["loss"] < state.best.value:
        state.best.value, state.best.step = measured["loss"], state.step
        state.best.weights = {k: v.detach().clone() for k, v in state.scored.state_dict().items()}
    if ranks.rank() == 0:
        valid = {f"valid/{k}": v for k, v in measured.items()}
        log.write(state.step, state.seconds, {**figures, **valid})
    return measured


def save(state: State, stage: str, folder: Path) -> None:
    """Write a checkpoint of the state, on rank 0."""
    facts: dict[str, Any] = {
        "stage": stage,
        "step": state.step,
        "seconds": state.seconds,
        "best": {"value": state.best.value, "step": state.best.step},
    }
    if ranks.rank() == 0:
        checkpoint.save(folder, state.step, state.tensors(), facts)


def resume(state: State, folder: Path) -> list[str] | None:
    """Load the newest good checkpoint into the state; return any warnings, or None if there is none."""
    found = checkpoint.newest(folder)
    if found is None:
        return None
    tensors, facts, warnings = found
    state.load(tensors)
    state.step, state.seconds = facts["step"], facts["seconds"]
    state.best.value, state.best.step = float(facts["best"]["value"]), facts["best"]["step"]
    return warnings
