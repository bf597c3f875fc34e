"""One training step: every phase in turn, with accumulation, reduction over ranks, and NaN checks."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.errors import Diverged
from genloom.core.events import Batch
from genloom.core.objective import Clock, Loss, Phase
from genloom.core.randomness import TrainNoise, generator, key
from genloom.train import ranks
from genloom.train.state import State, learning_rate
from genloom.train.stream import Alike, Order, Stream


@dataclass(frozen=True)
class Rhythm:
    """What stays fixed over the steps of a stage."""

    stream: Stream
    order: Order | Alike
    seed: int
    stage: str
    total: int
    batch_size: int
    accumulate: int = 1
    bf16: bool = False


def train_step(state: State, rhythm: Rhythm) -> dict[str, float]:
    """Run one step and return its logged figures.

    Raises:
        Diverged: a term or gradient is not finite; the weights are those before the failing phase.
    """
    torch.default_generator.manual_seed(key(rhythm.seed, rhythm.stage, "global", state.step))
    logs: dict[str, float] = {}
    draw = sum(p.repeats * -(-state.step // p.every) for p in state.objective.phases)
    for phase in state.objective.phases:
        if state.step % phase.every == 0:
            for repeat in range(phase.repeats):
                logs |= _run_phase(state, rhythm, phase, repeat, draw)
                draw += 1
    state.step += 1
    state.update_average()
    return logs


def _run_phase(state: State, rhythm: Rhythm, phase: Phase, repeat: int, draw: int) -> dict[str, float]:
    index = rhythm.order(draw, rhythm.batch_size)
    clock = Clock(state.step, rhythm.total)
    keys = (rhythm.seed, rhythm.stage, phase.name, state.step, repeat)
    if phase.update is not None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=rhythm.bf16):
            phase.update(*_draw(rhythm, index, keys, 0, rhythm.batch_size), clock)
        return {}
    with _frozen(state.outside(phase.trains)):
        for name in phase.trains:
            state.optimisers[name].zero_grad()
        logs = _gradients(rhythm, phase, index, keys, clock)
    for name in phase.trains:
        gradients = [p.grad for p in state.parameters(name) if p.grad is not None]
        ranks.sum_(gradients)
        norm = _clip(gradients, state.objective.groups[name].optimiser.clip)
        if not torch.isfinite(norm):
            raise Diverged(f"the gradient of {name}", phase.name, state.step)
        logs[f"{phase.name}/{name}_grad_norm"] = float(norm)
    for name in phase.trains:
        for parameters in state.optimisers[name].param_groups:
            parameters["lr"] = learning_rate(state.objective.groups[name].optimiser, clock.progress)
        state.optimisers[name].step()
    return logs


def _gradients(
    rhythm: Rhythm, phase: Phase, index: Tensor, keys: tuple[int | str, ...], clock: Clock
) -> dict[str, float]:
    """Accumulate the gradient of this rank's rows; return the terms, averaged over the global batch."""
    assert phase.loss is not None
    lo, hi = ranks.share(rhythm.batch_size)
    totals, bad = dict[str, Tensor](), ""
    for part in range(rhythm.accumulate):
        a = lo + (hi - lo) * part // rhythm.accumulate
        b = lo + (hi - lo) * (part + 1) // rhythm.accumulate
        if a == b:
            continue
        batch, noise = _draw(rhythm, index, keys, a, b)
        share = (b - a) / rhythm.batch_size
        with torch.autocast("cpu", torch.bfloat16, enabled=rhythm.bf16):
            loss = phase.loss(batch, noise, clock)
        bad = bad or _not_finite(loss)
        torch.autograd.backward(loss.total * share)
        for name, value in {"total": loss.total, **loss.terms, **loss.logs}.items():
            totals[name] = totals.get(name, torch.zeros(())) + value.detach().float() * share
    if ranks.any_rank(bool(bad)):
        raise Diverged(bad or "a loss term of another rank", phase.name, clock.step)
    ranks.sum_(list(totals.values()))
    return {f"{phase.name}/{name}": float(value) for name, value in totals.items()}


def _draw(
    rhythm: Rhythm, index: Tensor, keys: tuple[int | str, ...], lo: int, hi: int
) -> tuple[Batch, TrainNoise]:
    """Return rows ``lo:hi`` of the global batch and the noise that belongs to them."""
    perturbation = TrainNoise(generator("perturb", *keys), rhythm.batch_size, lo, hi)
    batch = rhythm.stream.batch(index[lo:hi], perturbation)
    return batch, TrainNoise(generator("noise", *keys), rhythm.batch_size, lo, hi)


def _not_finite(loss: Loss) -> str:
    """Name the first loss term that is not finite; nothing if all are."""
    bad = [name for name, value in loss.terms.items() if not torch.isfinite(value)]
    return f"the loss term {bad[0]}" if bad else "" if torch.isfinite(loss.total) else "the sum of loss terms"


def _clip(gradients: list[Tensor], limit: float | None) -> Tensor:
    """Scale gradients in place to a total norm of at most ``limit``; return the norm before."""
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, float(limit / norm))
    return norm


@contextlib.contextmanager
def _frozen(parameters: list[Tensor]) -> Iterator[None]:
    """Switch off the gradients of parameters for the time of the block."""
    on = [p for p in parameters if p.requires_grad]
    for p in on:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in on:
            p.requires_grad_(True)
