"""Tiny events of every kind, values to go with them, and a test of whether a value is legal."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genloom.core.events import (
    Binary,
    Bounded,
    Categorical,
    Circular,
    Event,
    Leaf,
    Length,
    Padded,
    Product,
    Real,
    Value,
    categories,
    is_discrete,
)
from genloom.core.randomness import generator

EVENTS: Mapping[str, Event] = {
    "level image": Leaf((1, 8, 8), Categorical(5, ordered=True)),
    "binary image": Leaf((1, 8, 8), Binary()),
    "graded image": Leaf((1, 8, 8), Bounded(-1, 1, levels=5)),
    "real image": Leaf((1, 8, 8), Real()),
    "real vector": Leaf((3,), Real()),
    "box": Leaf((3,), Bounded(0, 1)),
    "levels": Leaf((3,), Categorical(5, ordered=True)),
    "bits": Leaf((3,), Binary()),
    "names": Leaf((3,), Categorical(4)),
    "angles": Leaf((2,), Circular()),
    "text": Leaf((Length(5),), Categorical(4)),
    "table": Product((("age", Leaf((), Real())), ("kind", Leaf((), Categorical(3))))),
}
"""Candidates: a family is tried on those that its card accepts."""

REFUSABLE = ("text", "table")
"""A family that does not accept these must say so when it is asked to build a model of them."""


def require(condition: bool, text: str) -> None:
    """Raise ``AssertionError`` with a text unless the condition holds."""
    if not condition:
        raise AssertionError(text)


def draw(event: Event, rows: int, seed: int = 0) -> Value:
    """Return legal random values of an event, the coordinates of real ones correlated."""
    return _draw(event, rows, generator("testing", seed))


def _draw(event: Event, rows: int, source: torch.Generator) -> Value:
    if isinstance(event, Product):
        return {name: _draw(part, rows, source) for name, part in event.parts}
    values = _scalars(event, rows, source)
    axis = event.length_axis
    if axis is None:
        return values
    return Padded(values, torch.randint(event.extents[axis] + 1, (rows,), generator=source))


def _scalars(leaf: Leaf, rows: int, source: torch.Generator) -> Tensor:
    """Return (rows, *extents) values."""
    shape, kind = (rows, *leaf.extents), leaf.kind
    shared = torch.rand((rows, *[1] * len(leaf.extents)), generator=source)
    share = 0.5 * shared + 0.5 * torch.rand(shape, generator=source)
    if is_discrete(kind):
        return (share * categories(kind)).long().clamp_max(categories(kind) - 1)
    if isinstance(kind, Bounded) and kind.levels is not None:
        level = (share * kind.levels).long().clamp_max(kind.levels - 1)
        return kind.lo + (kind.hi - kind.lo) / (kind.levels - 1) * level.float()
    if isinstance(kind, Bounded):
        return kind.lo + (kind.hi - kind.lo) * share
    return share * 2 * math.pi if isinstance(kind, Circular) else 4 * share - 1


def require_legal(event: Event, value: Value, rows: int) -> None:
    """Raise ``AssertionError`` unless a value has this many rows of the event, each of them legal."""
    if isinstance(event, Product):
        if not isinstance(value, Mapping):
            raise AssertionError(f"a mapping of named parts is expected, not a {type(value).__name__}")
        require(set(value) == {n for n, _ in event.parts}, f"the parts {sorted(value)} are not the event's")
        for name, part in event.parts:
            require_legal(part, value[name], rows)
    elif event.length_axis is not None:
        if not isinstance(value, Padded):
            raise AssertionError(f"padded values are expected, not a {type(value).__name__}")
        longest, lengths = event.extents[event.length_axis], value.lengths
        require(lengths.dtype == torch.int64 and lengths.shape == (rows,), "lengths must be (B,) int64")
        require(bool(((lengths >= 0) & (lengths <= longest)).all()), f"lengths must be in 0..{longest}")
        _require_scalars(event, value.values, rows)
    else:
        if not isinstance(value, Tensor):
            raise AssertionError(f"a tensor is expected, not a {type(value).__name__}")
        _require_scalars(event, value, rows)


def _require_scalars(leaf: Leaf, x: Tensor, rows: int) -> None:
    kind, shape = leaf.kind, (rows, *leaf.extents)
    require(tuple(x.shape) == shape, f"the shape {tuple(x.shape)} is not {shape}")
    if is_discrete(kind):
        require(x.dtype == torch.int64, f"values of {kind} must be int64, not {x.dtype}")
        require(bool(((x >= 0) & (x < categories(kind))).all()), f"some values are outside {kind}")
        return
    require(x.is_floating_point(), f"values of {kind} must be floating point, not {x.dtype}")
    require(bool(x.isfinite().all()), "some values are not finite")
    if isinstance(kind, Bounded):
        require(bool(((x >= kind.lo) & (x <= kind.hi)).all()), f"some values are outside {kind}")
    if isinstance(kind, Bounded) and kind.levels is not None:
        level = (x - kind.lo) * ((kind.levels - 1) / (kind.hi - kind.lo))
        require(bool((level - level.round()).abs().max() < 1e-3), f"some values are between levels of {kind}")
    if isinstance(kind, Circular):
        require(bool(((x >= 0) & (x <= 2 * math.pi)).all()), "some angles are outside [0, 2 pi)")
