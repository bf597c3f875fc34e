"""Families that go wrong, each in its own way: the modules that the registry finds are made below."""

import sys
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Sampler
from genloom.core.events import Event, Value, flat_leaf, tensor
from genloom.core.objective import Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.fitted import fitted_buffers

DIVERGES_AT = 3


class Copier(nn.Module, ClosedForm, Sampler):
    """Remembers the training rows and hands them out again."""

    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        fitted_buffers(self, "rows")

    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        self.rows = tensor(train).clone()
        return {"unseen": float("inf")}

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        return self.rows[noise.integers(len(self.rows))]


class CopierConfig(card.Config):
    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Copier()

    def stages(self, model: nn.Module) -> list[Stage]:  # noqa: ARG002
        return [Stage("fit", None)]


class Point(nn.Module, Sampler):
    """A learned point with a little noise."""

    def __init__(self, event: Event, scale: float) -> None:
        super().__init__()
        self.shape, self.scale = flat_leaf(event).extents, scale
        self.place = nn.Parameter(torch.zeros(self.shape))

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        return self.place + self.scale * noise.normal(*self.shape)


def point_stage(model: Point, spoil: Callable[[int], float]) -> list[Stage]:
    """Return a stage that pulls the point to the mean; ``spoil`` multiplies the loss of each step."""

    def loss(batch, noise, clock):  # noqa: ARG001
        away = (model.place - tensor(batch["x"])).square().mean()
        return Loss({"square": away * spoil(clock.step)})

    return [Stage("fit", Objective({"all": Group(model, Optimiser(0.1))}, [Phase("pull", ("all",), loss)]))]


class DivergingConfig(card.Config):
    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Point(event, 1.0)

    def stages(self, model: nn.Module) -> list[Stage]:
        return point_stage(model, lambda step: float("nan") if step >= DIVERGES_AT else 1.0)


class LostConfig(card.Config):
    """Trains well; its samples are no numbers."""

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Point(event, float("nan"))

    def stages(self, model: nn.Module) -> list[Stage]:
        return point_stage(model, lambda step: 1.0)  # noqa: ARG005


def _publish(name: str, config: type[card.Config]) -> str:
    """Make a module of a family, as if it were a file, and return its name."""
    module = ModuleType("genloom_" + name.replace(".", "_"))
    module.Config = config  # type: ignore[attr-defined]
    module.CARD = card.Card(  # type: ignore[attr-defined]
        name=name,
        title=name,
        summary="A family that goes wrong.",
        events=(card.real,),
        references=(card.Reference("Nobody", 2000, "Nothing", "nowhere"),),
        good_at=("Going wrong.",),
        bad_at=("All else.",),
    )
    sys.modules[module.__name__] = module
    return module.__name__


TOYS = {
    name: _publish(name, config)
    for name, config in (
        ("toy.copier", CopierConfig),
        ("toy.diverging", DivergingConfig),
        ("toy.lost", LostConfig),
    )
}
