"""Training as data: an objective is phases over named parameter groups; a fit is a list of stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from genloom.core.events import Batch
from genloom.core.randomness import Noise


@dataclass(frozen=True)
class Optimiser:
    """How a parameter group moves. ``lr`` is the peak rate; ``warmup`` a fraction of the budget."""

    lr: float
    name: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: float = 0.0
    clip: float | None = None


@dataclass(frozen=True)
class Group:
    """Parameters that share one optimiser state."""

    module: nn.Module
    optimiser: Optimiser


@dataclass(frozen=True)
class Clock:
    """Where a fit stands: ``step`` of ``total``."""

    step: int
    total: int

    @property
    def progress(self) -> float:
        """The fraction of the budget used, in [0, 1]."""
        return self.step / max(self.total, 1)


@dataclass(frozen=True)
class Loss:
    """Named scalar terms whose sum is differentiated, each a mean over the batch, and figures to log."""

    terms: Mapping[str, Tensor]
    logs: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        first, *rest = self.terms.values()
        return sum(rest, first)


LossFunction = Callable[[Batch, Noise, Clock], Loss]
UpdateFunction = Callable[[Batch, Noise, Clock], None]
"""Changes buffers or the objective's state in place, without gradients. It sees the whole global batch on
every rank, so that all ranks make the same change."""


@dataclass(frozen=True)
class Phase:
    """One move of a training step, over the groups it trains.

    It has either a ``loss`` or an ``update``. It runs at steps divisible by ``every``, ``repeats`` times,
    each time on a fresh batch.
    """

    name: str
    trains: tuple[str, ...] = ()
    loss: LossFunction | None = None
    update: UpdateFunction | None = None
    every: int = 1
    repeats: int = 1

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.update is None):
            raise ValueError(f"phase {self.name} needs exactly one of loss and update")


@dataclass(frozen=True)
class Average:
    """An exponential moving average of a module's weights, kept for sampling and scoring.

    ``horizon`` is the averaging time as a fraction of the steps so far, so that short and long budgets
    suit alike: decay at step t is max(0, 1 - 1 / (horizon * t)), at most ``limit`` (power-law profile,
    Karras et al. 2024, arXiv:2312.02696, section 3.1).
    """

    horizon: float = 0.1
    limit: float = 0.9999


@dataclass(frozen=True)
class Objective:
    """Everything the loop needs to train a model.

    ``state`` holds tensors that live beyond a step (chains, buffers); phases change them in place, and
    checkpoints keep them. ``exempt`` names parameters that may receive no gradient. ``couples`` says that the
    rows of a batch depend on one another, so that it must not be split.
    """

    groups: Mapping[str, Group]
    phases: Sequence[Phase]
    average: Average | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    exempt: frozenset[str] = frozenset()
    couples: bool = False


@dataclass(frozen=True)
class Stage:
    """One training of a fit.

    Args:
        objective: None for a model that is fitted in closed form.
        alike: items of about the same length come together, so that batches need less filling up.
    """

    name: str
    objective: Objective | None
    batch_size: int = 128
    budget_share: float = 1.0
    alike: bool = False


def mapped(stage: Stage, part: str, share: float, change: Callable[[Batch, Noise], Batch]) -> Stage:
    """Return a stage of a part of a model as one of the whole, on batches that are changed before.

    Args:
        stage: trained by gradients.
        part: the name of the part as an attribute of the whole.
        share: of the budget.
        change: from the whole's batch to the part's, by the step's noise; what it computes gets no gradient.
    """
    assert stage.objective is not None

    def wrapped(phase: Phase) -> Phase:
        loss, update = phase.loss, phase.update
        if loss is not None:
            return replace(phase, loss=lambda batch, noise, clock: loss(change(batch, noise), noise, clock))
        assert update is not None
        return replace(phase, update=lambda batch, noise, clock: update(change(batch, noise), noise, clock))

    objective = replace(
        stage.objective,
        phases=[wrapped(phase) for phase in stage.objective.phases],
        exempt=frozenset(f"{part}.{name}" for name in stage.objective.exempt),
    )
    return Stage(f"{part}-{stage.name}", objective, stage.batch_size, share * stage.budget_share, stage.alike)
