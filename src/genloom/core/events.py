"""Events: what a model sees. A small tree of typed leaves that says nothing about files or pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.errors import DataError


@dataclass(frozen=True)
class Real:
    """A real number; NaN marks a missing value."""


@dataclass(frozen=True)
class Bounded:
    """A number in [lo, hi]; with ``levels``, one of that many equally spaced points, ends included."""

    lo: float
    hi: float
    levels: int | None = None


@dataclass(frozen=True)
class Categorical:
    """A whole number in 0..k-1; ``ordered`` when neighbouring numbers are alike (grey levels)."""

    k: int
    ordered: bool = False


@dataclass(frozen=True)
class Binary:
    """0 or 1."""


@dataclass(frozen=True)
class Circular:
    """An angle in [0, 2 pi)."""


Kind = Real | Bounded | Categorical | Binary | Circular


@dataclass(frozen=True)
class Length:
    """An axis whose extent varies from item to item, up to ``max``."""

    max: int


@dataclass(frozen=True)
class Leaf:
    """A tensor of one kind: int64 for discrete kinds, else floating point. ``shape`` has no batch axis."""

    shape: tuple[int | Length, ...]
    kind: Kind

    @property
    def extents(self) -> tuple[int, ...]:
        """The padded shape."""
        return tuple(a.max if isinstance(a, Length) else a for a in self.shape)

    @property
    def dim(self) -> int:
        """The number of scalars in a padded item."""
        return math.prod(self.extents)

    @property
    def length_axis(self) -> int | None:
        """The index in ``shape`` of the varying axis, if there is one."""
        axes = [i for i, a in enumerate(self.shape) if isinstance(a, Length)]
        return axes[0] if axes else None


@dataclass(frozen=True)
class Product:
    """Several named events at once: the columns of a table, or a pair."""

    parts: tuple[tuple[str, "Event"], ...]


Event = Leaf | Product


@dataclass(frozen=True)
class Padded:
    """Values of a leaf with a ``Length`` axis: ``values`` (B, *extents), ``lengths`` (B,) int64."""

    values: Tensor
    lengths: Tensor


Value = Tensor | Padded | Mapping[str, "Value"]
Batch = Mapping[str, Value]
"""Named fields; ``x`` is the event, ``cond`` the condition where there is one."""


def is_discrete(kind: Kind) -> bool:
    """Tell whether values of this kind are whole numbers with probability mass."""
    return isinstance(kind, Categorical | Binary)


def categories(kind: Kind) -> int:
    """Return the number of values of a discrete kind (2 for ``Binary``)."""
    if isinstance(kind, Categorical):
        return kind.k
    if isinstance(kind, Binary):
        return 2
    raise DataError(f"{kind} has no categories")


def nearest_level(x: Tensor, kind: Kind) -> Tensor:
    """Return the nearest of the kind's equally spaced levels, or x itself where there are none."""
    if not isinstance(kind, Bounded) or kind.levels is None:
        return x
    gap = (kind.hi - kind.lo) / (kind.levels - 1)
    return (kind.lo + gap * ((x - kind.lo) / gap).round()).clamp(kind.lo, kind.hi)


def image_leaf(event: Event) -> Leaf:
    """Return the event as a leaf of shape (C, H, W), or raise ``DataError``."""
    if isinstance(event, Leaf) and len(event.shape) == 3 and event.length_axis is None:
        return event
    raise DataError(f"an image of shape (channels, height, width) is needed, not {describe(event)}")


def flat_leaf(event: Event) -> Leaf:
    """Return the event as a leaf of fixed shape, which a vector model may flatten, or raise ``DataError``."""
    if isinstance(event, Leaf) and event.length_axis is None:
        return event
    raise DataError(f"one tensor of fixed shape is needed, not {describe(event)}")


def rows(value: Value) -> int:
    """Return the number of items in a value."""
    if isinstance(value, Tensor):
        return value.shape[0]
    if isinstance(value, Padded):
        return value.lengths.shape[0]
    return rows(next(iter(value.values())))


def take(value: Value, index: Tensor | slice) -> Value:
    """Select items of a value along the batch axis."""
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, Padded):
        return Padded(value.values[index], value.lengths[index])
    return {name: take(part, index) for name, part in value.items()}


def stack(values: list[Value]) -> Value:
    """Concatenate values along the batch axis."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat([v for v in values if isinstance(v, Tensor)])
    if isinstance(first, Padded):
        padded = [v for v in values if isinstance(v, Padded)]
        return Padded(torch.cat([p.values for p in padded]), torch.cat([p.lengths for p in padded]))
    named = [v for v in values if isinstance(v, Mapping)]
    return {name: stack([v[name] for v in named]) for name in first}


def describe(event: Event) -> str:
    """Return a short text such as ``Categorical(k=17) (1, 8, 8)``."""
    if isinstance(event, Product):
        return "{" + ", ".join(f"{name}: {describe(part)}" for name, part in event.parts) + "}"
    shape = ", ".join(f"<={a.max}" if isinstance(a, Length) else str(a) for a in event.shape)
    return f"{event.kind} ({shape})"


def tensor(value: Value) -> Tensor:
    """Return a value that must be a plain tensor, or raise ``DataError``."""
    if isinstance(value, Tensor):
        return value
    raise DataError("a plain tensor is needed here, not a padded or composite value")


def items(value: Value, shape: tuple[int, ...]) -> Tensor:
    """Return a value that must be a tensor of items of this shape, (B, *shape), or raise ``DataError``."""
    x = tensor(value)
    if tuple(x.shape[1:]) == shape:
        return x
    raise DataError(f"items of shape {shape} are needed, not {tuple(x.shape[1:])}")
