"""The independent baseline is a normalised distribution on every kind of event, missing values included."""

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from genloom.core.capabilities import ClosedForm, Likelihood, Sampler, need
from genloom.core.errors import DataError
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
    stack,
)
from genloom.core.randomness import SampleNoise
from genloom.families.baseline_independent import Config
from genloom.testing import draw, require_legal


def noise(rows: int) -> SampleNoise:
    return SampleNoise(0, torch.arange(rows))


def fitted(event: Event, train: Value, **settings: float) -> nn.Module:
    """Return a model in float64, fitted."""
    model = Config(**settings).build(event, None).double()  # type: ignore[arg-type]
    need(model, ClosedForm, "fit").fit(train, train, noise(1))
    return model


def nats(model: nn.Module, x: Value) -> Tensor:
    return need(model, Likelihood, "log_prob").log_prob(x, noise=noise(1)).value


def all_integers(k: int, dim: int) -> Tensor:
    """Return every vector of 0..k-1, (k^dim, dim)."""
    return torch.tensor(list(itertools.product(range(k), repeat=dim)), dtype=torch.int64)


def of_length(n: int, longest: int, *before: int) -> Padded:
    """Return every 0/1 value of shape (*before, n), padded to ``longest`` along the last axis."""
    count = 2 ** (n * math.prod(before))
    values = all_integers(2, n * math.prod(before)).view(count, *before, n)
    return Padded(nn.functional.pad(values, (0, longest - n)), torch.full((count,), n))


DISCRETE: Mapping[str, tuple[Event, Value]] = {
    "categories": (Leaf((3,), Categorical(4)), all_integers(4, 3)),
    "levels": (Leaf((1, 1, 2), Categorical(5, ordered=True)), all_integers(5, 2).view(-1, 1, 1, 2)),
    "bits": (Leaf((4,), Binary()), all_integers(2, 4)),
    "grid": (Leaf((2,), Bounded(-1, 1, levels=5)), all_integers(5, 2).double() / 2 - 1),
    "text": (Leaf((Length(3),), Categorical(2)), stack([of_length(n, 3) for n in range(4)])),
    "steps of two": (Leaf((2, Length(2)), Binary()), stack([of_length(n, 2, 2) for n in range(3)])),
    "pair": (
        Product((("a", Leaf((), Categorical(3))), ("b", Product((("c", Leaf((2,), Binary())),))))),
        {
            "a": all_integers(3, 1)[:, 0].repeat_interleave(4),
            "b": {"c": all_integers(2, 2).repeat(3, 1)},
        },
    ),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one(name: str) -> None:
    event, everything = DISCRETE[name]
    model = fitted(event, draw(event, 30))
    assert float(nats(model, everything).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "lo", "hi"),
    [(Real(), -60.0, 60.0), (Bounded(-2, 3), -2.0, 3.0), (Circular(), 0.0, 2 * math.pi)],
    ids=["real", "box", "angle"],
)
def test_densities_integrate_to_one(kind: Real | Bounded | Circular, lo: float, hi: float) -> None:
    event = Leaf((1,), kind)
    model = fitted(event, draw(event, 50), bins=16)
    n = 160_000
    middles = lo + (hi - lo) * (torch.arange(n).double() + 0.5) / n
    integral = float(nats(model, middles[:, None]).exp().mean()) * (hi - lo)
    assert integral == pytest.approx(1, abs=1e-6)
    if isinstance(kind, Bounded):
        assert nats(model, torch.tensor([[lo - 0.1], [hi + 0.1]])).tolist() == [-math.inf, -math.inf]


def test_counts_are_smoothed_by_laplace() -> None:
    model = fitted(Leaf((1,), Categorical(4)), torch.tensor([[0], [0], [2]]), pseudo_count=1.0)
    expected = torch.tensor([3, 1, 2, 1]).double() / 7
    torch.testing.assert_close(nats(model, torch.arange(4)[:, None]).exp(), expected)


def test_normal_has_the_moments_of_the_data() -> None:
    x = draw(Leaf((3,), Real()), 40)
    assert isinstance(x, Tensor)
    model = fitted(Leaf((3,), Real()), x)
    normal = torch.distributions.Normal(x.double().mean(0), x.double().std(0, correction=0))
    torch.testing.assert_close(
        nats(model, x.double()), normal.log_prob(x.double()).sum(1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", [Real(), Bounded(0, 1), Bounded(0, 1, levels=3)], ids=str)
def test_missing_numbers_do_not_count(kind: Real | Bounded) -> None:
    event = Leaf((2,), kind)
    x = draw(event, 40)
    assert isinstance(x, Tensor)
    holes = x.clone()
    holes[::2, 1] = torch.nan
    model, first = fitted(event, holes), fitted(Leaf((1,), kind), x[:, :1])
    second = fitted(Leaf((1,), kind), x[1::2, 1:])
    torch.testing.assert_close(nats(model, holes)[::2], nats(first, x[::2, :1]))
    expected = nats(first, x[1::2, :1]) + nats(second, x[1::2, 1:])
    torch.testing.assert_close(nats(model, holes)[1::2], expected)


@pytest.mark.parametrize("kind", [Categorical(3), Binary()], ids=str)
def test_missing_categories_do_not_count(kind: Categorical | Binary) -> None:
    event = Leaf((2,), kind)
    x = draw(event, 40)
    assert isinstance(x, Tensor)
    holes = x.clone()
    holes[::2, 1] = -1
    model, first = fitted(event, holes), fitted(Leaf((1,), kind), x[:, :1])
    torch.testing.assert_close(nats(model, holes)[::2], nats(first, x[::2, :1]))


def test_padding_does_not_count() -> None:
    event = Leaf((Length(4),), Categorical(3))
    x = draw(event, 30)
    assert isinstance(x, Padded)
    other = x.values.clone()
    other[torch.arange(4) >= x.lengths[:, None]] = 2
    a, b = fitted(event, x), fitted(event, Padded(other, x.lengths))
    assert torch.equal(nats(a, x), nats(b, x))
    assert torch.equal(nats(a, x), nats(a, Padded(other, x.lengths)))


@pytest.mark.parametrize("name", DISCRETE)
def test_samples_have_the_probabilities(name: str) -> None:
    event, everything = DISCRETE[name]
    model = fitted(event, draw(event, 30))
    drawn = need(model, Sampler, "sample").sample(noise(20_000))
    require_legal(event, drawn, 20_000)
    scores = nats(model, drawn)
    expected = nats(model, everything)
    entropy = -float((expected.exp() * expected).sum())
    spread = math.sqrt(float((expected.exp() * (expected + entropy) ** 2).sum()))
    assert abs(-float(scores.mean()) - entropy) < 5 * spread / math.sqrt(20_000) + 1e-9


@pytest.mark.parametrize("kind", [Real(), Bounded(-2, 3), Circular()], ids=str)
def test_continuous_samples_have_the_moments(kind: Real | Bounded | Circular) -> None:
    event = Leaf((2,), kind)
    x = draw(event, 500)
    assert isinstance(x, Tensor)
    drawn = need(fitted(event, x, pseudo_count=1e-6), Sampler, "sample").sample(noise(20_000))
    assert isinstance(drawn, Tensor)
    require_legal(event, drawn, 20_000)
    torch.testing.assert_close(drawn.mean(0), x.double().mean(0), rtol=0.02, atol=0.05)
    torch.testing.assert_close(drawn.std(0), x.double().std(0), rtol=0.05, atol=0.05)


def test_values_of_another_event_are_refused() -> None:
    model = fitted(Leaf((Length(4),), Categorical(3)), draw(Leaf((Length(4),), Categorical(3)), 9))
    with pytest.raises(DataError, match="lengths"):
        nats(model, torch.zeros(2, 4, dtype=torch.int64))
    model = fitted(Leaf((3,), Real()), draw(Leaf((3,), Real()), 9))
    with pytest.raises(DataError, match="plain tensor"):
        nats(model, {"a": torch.zeros(2, 3)})
    with pytest.raises(DataError, match=r"\(3,\)"):
        nats(model, torch.zeros(2, 1))
