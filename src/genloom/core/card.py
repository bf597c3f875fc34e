"""Cards and configurations: what a family is, and how one of its models is set up."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import nn

from genloom.core.errors import ConfigError
from genloom.core.events import Binary, Bounded, Categorical, Event, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.objective import Stage

Widths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""One or more sizes of layers, such as [64, 64]."""


T = TypeVar("T")


class Unlearnt:
    """Marks a setting that training does not learn by, though validation may choose weights by it."""


Free = Annotated[T, Unlearnt()]
"""A setting of how models draw and score, which may be set anew for a trained one."""


class Config(BaseModel):
    """Base of a family's configuration: frozen, typed, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def free(cls) -> list[str]:
        """Name the settings that may be set anew for a trained model."""
        fields = cls.model_fields.items()
        return [name for name, field in fields if any(isinstance(m, Unlearnt) for m in field.metadata)]

    @classmethod
    def preset(cls, event: Event) -> Self:  # noqa: ARG003
        """Return settings that train well on this event without tuning."""
        return cls()

    @abstractmethod
    def build(self, event: Event, cond: Event | None) -> nn.Module:
        """Return an untrained model of items of ``event`` given conditions of ``cond``."""

    @abstractmethod
    def stages(self, model: nn.Module) -> list[Stage]:
        """Return how to train the model that ``build`` returned."""


class ModelRef(BaseModel):
    """A model of another family as a part of one: a registry name, and settings on top of its preset.

    The name alone may stand for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    settings: Mapping[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        return {"family": given} if isinstance(given, str) else given

    def __str__(self) -> str:
        return f"{self.family} {dict(self.settings)}" if self.settings else self.family


@dataclass(frozen=True)
class Reference:
    """A paper: authors and year, title, and an address such as ``arXiv:1906.04032``."""

    authors: str
    year: int
    title: str
    where: str

    def __str__(self) -> str:
        return f"{self.authors} {self.year}, {self.title}, {self.where}"


Accepts = Callable[[Event], bool]


@dataclass(frozen=True)
class Card:
    """Facts about a family, from which lists, docs and checks are made.

    Args:
        name: registry name, such as ``flow.nsf``.
        title: what people call it.
        summary: one sentence.
        events: tests of an event, in order of preference: the first that any view of the data passes wins.
        conditions: what it can be conditional on: nothing, class labels, labels and texts alike, labels and
            rows of numbers alike, or a sequence of symbols, without which it cannot be.
        likelihood: the kind of its log-likelihood of the event, None if it has none.
        references: the papers it follows.
        good_at, bad_at: plain sentences.
        couples_samples: samples of one micro-batch influence one another (batch statistics, chains).
        autocast: its networks may run in bfloat16 where the machine is faster that way.
    """

    name: str
    title: str
    summary: str
    events: tuple[Accepts, ...]
    references: tuple[Reference, ...]
    good_at: tuple[str, ...]
    bad_at: tuple[str, ...]
    likelihood: Bound | None = None
    conditions: Literal["none", "class", "text", "any", "sequence"] = "none"
    couples_samples: bool = False
    autocast: bool = False


@dataclass(frozen=True)
class Family:
    """A family as the registry hands it out."""

    card: Card
    config: type[Config]


def leaf_of(*kinds: type, rank: int | None = None, where: Callable[[Any], bool] | None = None) -> Accepts:
    """Return a test that passes leaves of fixed shape with one of the kinds.

    Args:
        rank: the number of axes, any if None.
        where: a further test of the kind itself.
    """

    def accepts(event: Event) -> bool:
        return (
            isinstance(event, Leaf)
            and event.length_axis is None
            and isinstance(event.kind, kinds)
            and rank in (None, len(event.shape))
            and (where is None or where(event.kind))
        )

    return accepts


ordered_levels = leaf_of(Categorical, where=lambda kind: kind.ordered)
binary = leaf_of(Binary)
real = leaf_of(Real)
continuous_box = leaf_of(Bounded, where=lambda kind: kind.levels is None)
level_image = leaf_of(Categorical, rank=3, where=lambda kind: kind.ordered)
binary_image = leaf_of(Binary, rank=3)
real_image = leaf_of(Real, rank=3)
graded_image = leaf_of(Bounded, rank=3, where=lambda kind: kind.levels is not None)


def symbol_sequence(event: Event) -> bool:
    """Accept sequences of names, of fixed or of varying length."""
    return (
        isinstance(event, Leaf)
        and len(event.shape) == 1
        and isinstance(event.kind, Categorical)
        and not event.kind.ordered
    )


def takes(card: Card, given: Event) -> bool:
    """Tell whether models of a family can be given this part of an item."""
    if symbol_sequence(given):
        return card.conditions in ("text", "sequence")
    return card.conditions == "any" and real(given)


def anything(event: Event) -> bool:
    """Accept every event."""
    return isinstance(event, Event)


def class_count(cond: Event | None) -> int:
    """Return the number of classes of a label condition, 0 for no condition.

    Raises:
        ConfigError: the condition is not a single label.
    """
    if cond is None:
        return 0
    if isinstance(cond, Leaf) and cond.shape == () and isinstance(cond.kind, Categorical):
        return cond.kind.k
    raise ConfigError("only a class label can be a condition of this family")
