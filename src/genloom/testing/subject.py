"""What the checks look at: a family's models of tiny events, fresh and trained for a few steps."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from genloom.core import registry
from genloom.core.capabilities import ClosedForm, Latent, Sampler, need
from genloom.core.card import Config, Family
from genloom.core.events import Categorical, Event, Leaf, Length, Real, Value, take
from genloom.core.objective import Objective, Stage
from genloom.core.randomness import Noise, SampleNoise, generator
from genloom.tasks import sampling
from genloom.testing.values import draw, require
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream

STEPS = 20
"""Within these every trainable parameter must have received a gradient."""

ROWS, BATCH, CLASSES, NUMBERS = 48, 8, 3, 2

SOURCE = Leaf((Length(6),), Categorical(3))
"""What is turned into other sequences."""
SAMPLES, MICRO_BATCH = 20, 8

T = TypeVar("T")


@dataclass(frozen=True)
class Trained:
    """A model after its stages, and the parameters that no phase reached."""

    model: nn.Module
    without_gradient: tuple[str, ...]
    unmoved: tuple[str, ...]
    figures: dict[str, float]


@dataclass(frozen=True)
class Case:
    """A family on one event, given class labels, rows of numbers, other sequences, or nothing."""

    family: Family
    title: str
    event: Event
    settings: Mapping[str, Any]
    classes: int = 0
    numbers: int = 0
    source: Event | None = None

    def __str__(self) -> str:
        given = {" with labels": self.classes, " with numbers": self.numbers, " from others": self.source}
        return self.title + next((words for words, what in given.items() if what), "")

    @cached_property
    def config(self) -> Config:
        """The family's own settings for the event, with those of the caller on top."""
        preset = self.family.config.preset(self.event)
        return self.family.config(**{**preset.model_dump(), **self.settings})

    @property
    def cond(self) -> Event | None:
        """The condition event."""
        if self.source is not None:
            return self.source
        if self.numbers:
            return Leaf((self.numbers,), Real())
        return Leaf((), Categorical(self.classes)) if self.classes else None

    def given(self, rows: int) -> Value | None:
        """Return conditions: labels (rows,) that cycle through the classes, numbers, or sequences."""
        if self.source is not None:
            return take(draw(self.source, ROWS, seed=2), slice(0, rows))
        if self.numbers:
            return torch.randn(ROWS, self.numbers, generator=generator("testing", "given"))[:rows]
        return sampling.balanced_labels(rows, self.classes) if self.classes else None

    @cached_property
    def data(self) -> Value:
        """``ROWS`` training items."""
        return draw(self.event, ROWS)

    @cached_property
    def held_out(self) -> Value:
        """Half as many items for validation."""
        return draw(self.event, ROWS // 2, seed=1)

    def items(self, rows: int) -> Value:
        """Return the first training items."""
        return take(self.data, slice(0, rows))

    def build(self, seed: int = 0) -> nn.Module:
        """Return an untrained model whose initial weights depend on the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.config.build(self.event, self.cond)

    @cached_property
    def trained(self) -> Trained:
        """A model after a few steps of every stage. Do not change it: it is shared by the checks."""
        with torch.enable_grad():
            return train(self)

    @property
    def model(self) -> nn.Module:
        """The trained model, in evaluation mode."""
        return self.trained.model.eval()

    def double(self) -> nn.Module:
        """Return a copy of the trained model in float64."""
        return copy.deepcopy(self.model).double()

    @cached_property
    def samples(self) -> Value:
        """``SAMPLES`` samples of the trained model."""
        torch.manual_seed(1)
        return self.sample(SAMPLES)

    def shown(self, n: int, model: nn.Module | None = None) -> Value:
        """Return what a model gives: n samples, or n reconstructions where it draws none."""
        chosen = model or self.model
        return self.sample(n, chosen) if isinstance(chosen, Sampler) else self.shown_again(n, chosen)

    def shown_again(self, n: int, model: nn.Module | None = None) -> Value:
        """Return what is left of the first n items after encoding and decoding them."""
        chosen = model or self.model
        latent, x, cond = need(chosen, Latent, "reconstruct"), self.items(n), self.given(n)
        dtype = next(chosen.parameters()).dtype
        with torch.no_grad():
            return latent.decode(latent.encode(_in_precision(x, dtype), cond), cond)

    def sample(self, n: int, model: nn.Module | None = None) -> Value:
        """Draw n samples with the labels of ``labels``."""
        return sampling.sample(model or self.model, n, cond=self.given(n), micro_batch=MICRO_BATCH)


def _in_precision(x: Value, dtype: torch.dtype) -> Value:
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


class Subject:
    """A family, and the cases to try it on: every event it accepts, and the first also with labels."""

    def __init__(self, name: str, events: Mapping[str, Event], settings: Mapping[str, Any]) -> None:
        self.name, self.events, self.settings = name, events, settings
        self.family = registry.load(name)

    @cached_property
    def cases(self) -> list[Case]:
        """Every accepted event unconditionally, and the first given what else the card takes.

        A family that turns sequences into others is given some with every event.
        """
        accepted = [n for n, e in self.events.items() if any(a(e) for a in self.family.card.events)]
        require(bool(accepted), "the card accepts none of the events: pass events={name: event} of your own")
        found = [Case(self.family, n, self.events[n], self.settings) for n in accepted]
        if self.family.card.conditions == "sequence":
            return [replace(case, source=SOURCE) for case in found]
        if self.family.card.conditions != "none":
            found.insert(1, replace(found[0], classes=CLASSES))
        if self.family.card.conditions == "text":
            found.insert(1, replace(found[0], source=SOURCE))
        if self.family.card.conditions == "any":
            found.insert(1, replace(found[0], numbers=NUMBERS))
        return found

    @cached_property
    def stages(self) -> list[Stage]:
        """The stages of an untrained model of the first case."""
        return self.cases[0].config.stages(self.cases[0].build())

    def offers(self, capability: type) -> bool:
        """Tell whether the family's models inherit a capability."""
        return isinstance(self.cases[0].build(), capability)


def row_noise(rows: int) -> Noise:
    """Return the sampling noise of the first rows."""
    return SampleNoise(0, torch.arange(rows))


def as_capability(case: Case, capability: type[T]) -> T:
    """Return the trained model of a case as a capability."""
    return need(case.model, capability, capability.__name__)


def sampler(case: Case) -> Sampler:
    """Return the trained model of a case as a sampler."""
    return as_capability(case, Sampler)


def rhythm(case: Case, stage: Stage, accumulate: int = 1, double: bool = False, bf16: bool = False) -> Rhythm:
    """Return the steps of a stage on the case's data, in tiny batches."""
    data = case.data
    if double and isinstance(data, Tensor) and data.is_floating_point():
        data = data.double()
    return Rhythm(
        stream=Stream(data, case.given(ROWS), lambda x, _: x),
        order=Order(ROWS, "testing", stage.name),
        seed=0,
        stage=stage.name,
        total=STEPS,
        batch_size=BATCH,
        accumulate=accumulate,
        bf16=bf16,
    )


def objectives(case: Case, model: nn.Module) -> Iterator[tuple[Stage, Objective]]:
    """Iterate over the stages that train by gradients."""
    for stage in case.config.stages(model):
        if stage.objective is not None:
            yield stage, stage.objective


def train(case: Case) -> Trained:
    """Run ``STEPS`` steps of every stage, or its closed form."""
    model = case.build()
    reached: set[str] = set()
    figures: dict[str, float] = {}
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    exempt = {n for n, p in model.named_parameters() if not p.requires_grad}
    for stage in case.config.stages(model):
        if stage.objective is None:
            fitter = need(model, ClosedForm, "fit")
            figures |= fitter.fit(case.data, case.held_out, row_noise(1), case.given(ROWS))
            continue
        exempt |= stage.objective.exempt
        state, steps = State.fresh(model, stage.objective), rhythm(case, stage)
        for _ in range(STEPS):
            figures |= train_step(state, steps)
            reached |= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        figures |= {"finite": float(all(bool(p.isfinite().all()) for p in model.parameters()))}
    unmoved = {n for n, p in model.named_parameters() if torch.equal(p, start[n])}
    return Trained(
        model, tuple(sorted(set(start) - reached - exempt)), tuple(sorted(unmoved - exempt)), figures
    )
