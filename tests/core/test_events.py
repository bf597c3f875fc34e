"""Events and their values: sizes, selection, joining, and errors that say what was expected."""

import pytest
import torch

from genloom.core import card
from genloom.core.errors import ConfigError, DataError
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
    categories,
    describe,
    flat_leaf,
    image_leaf,
    is_discrete,
    items,
    rows,
    stack,
    take,
    tensor,
)
from genloom.core.likelihood import Bound, weaken
from genloom.testing import EVENTS, draw, require_legal

TEXT = Leaf((Length(5),), Categorical(4))


def test_sizes() -> None:
    steps = Leaf((2, Length(7), 3), Real())
    assert (steps.extents, steps.dim, steps.length_axis) == ((2, 7, 3), 42, 1)
    scalar = Leaf((), Binary())
    assert (scalar.extents, scalar.dim, scalar.length_axis) == ((), 1, None)


def test_kinds() -> None:
    assert [
        is_discrete(k) for k in (Categorical(3), Binary(), Real(), Bounded(0, 1, levels=2), Circular())
    ] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert (categories(Categorical(7)), categories(Binary())) == (7, 2)
    with pytest.raises(DataError, match="no categories"):
        categories(Real())


@pytest.mark.parametrize("name", EVENTS)
def test_values_are_counted_taken_and_joined(name: str) -> None:
    event = EVENTS[name]
    value = draw(event, 6)
    assert rows(value) == 6
    parts = [take(value, slice(0, 2)), take(value, torch.tensor([2, 3, 4])), take(value, slice(5, 6))]
    assert [rows(p) for p in parts] == [2, 3, 1]
    require_legal(event, stack(parts), 6)
    again = stack([take(stack(parts), slice(0, 6))])
    assert str(again) == str(value)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Leaf((1, 8, 8), Categorical(17, ordered=True)), "Categorical(k=17, ordered=True) (1, 8, 8)"),
        (TEXT, "Categorical(k=4, ordered=False) (<=5)"),
        (Product((("a", Leaf((), Real())), ("b", Leaf((2,), Binary())))), "{a: Real() (), b: Binary() (2)}"),
    ],
)
def test_descriptions(event: Event, text: str) -> None:
    assert describe(event) == text


def test_wrong_events_are_named() -> None:
    assert image_leaf(EVENTS["level image"]) == EVENTS["level image"]
    assert flat_leaf(EVENTS["real vector"]) == EVENTS["real vector"]
    for event in (EVENTS["real vector"], EVENTS["table"], TEXT):
        with pytest.raises(DataError, match="an image of shape"):
            image_leaf(event)
    for event in (EVENTS["table"], TEXT):
        with pytest.raises(DataError, match="one tensor of fixed shape"):
            flat_leaf(event)


def test_wrong_values_are_named() -> None:
    x = torch.zeros(4, 2, 3)
    assert items(x, (2, 3)) is tensor(x) is x
    for shape in ((2,), (2, 1), (3, 2), ()):
        with pytest.raises(DataError, match=r"not \(2, 3\)"):
            items(x, shape)
    for value in (Padded(x, torch.zeros(4)), {"a": x}):
        with pytest.raises(DataError, match="plain tensor"):
            tensor(value)


def test_cards_tell_events_apart() -> None:
    accepted = {
        n: {k for k, e in EVENTS.items() if getattr(card, n)(e)}
        for n in ("ordered_levels", "binary", "real", "continuous_box", "level_image", "binary_image")
    }
    assert accepted == {
        "ordered_levels": {"level image", "levels"},
        "binary": {"binary image", "bits"},
        "real": {"real image", "real vector"},
        "continuous_box": {"box"},
        "level_image": {"level image"},
        "binary_image": {"binary image"},
    }
    assert {k for k, e in EVENTS.items() if card.graded_image(e)} == {"graded image"}
    assert {k for k, e in EVENTS.items() if card.real_image(e)} == {"real image"}
    assert all(card.anything(e) for e in EVENTS.values())


def test_class_counts() -> None:
    assert card.class_count(None) == 0
    assert card.class_count(Leaf((), Categorical(7))) == 7
    with pytest.raises(ConfigError, match="class label"):
        card.class_count(Leaf((2,), Categorical(7)))


@pytest.mark.parametrize(
    ("kind", "by", "expected"),
    [
        ("exact", "exact", "exact"),
        ("exact", "lower_bound", "lower_bound"),
        ("lower_bound", "exact", "lower_bound"),
        ("lower_bound", "lower_bound", "lower_bound"),
        ("lower_bound", "upper_bound", "estimate"),
        ("estimate", "lower_bound", "estimate"),
        ("unnormalised", "exact", "unnormalised"),
        ("exact", "unnormalised", "unnormalised"),
    ],
)
def test_kinds_of_likelihoods_weaken(kind: str, by: str, expected: str) -> None:
    assert weaken(Bound(kind), Bound(by)) is Bound(expected)
