"""Laws of MADE: it sums to one in every order, each order respects itself, and samples follow the mixture."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from genloom.core.events import Binary, Categorical, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.randomness import SampleNoise, generator
from genloom.families.ar_made import Config, Model

LABEL = Leaf((), Categorical(3))
DISCRETE = {
    "bits": Leaf((5,), Binary()),
    "a bit": Leaf((1,), Binary()),
    "levels": Leaf((1, 2, 2), Categorical(3, ordered=True)),
    "many levels": Leaf((2,), Categorical(40, ordered=True)),
}
NOISE = SampleNoise(0, torch.arange(1))


def make(event: Leaf, orders: int = 3, cond: Leaf | None = None, spread: float = 0.7) -> Model:
    """Return a float64 model with random weights everywhere, so that every dependence shows."""
    torch.manual_seed(0)
    model = Config(hidden=(7, 6), orders=orders).build(event, cond).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * spread)
    return model


def states(event: Leaf) -> Tensor:
    """Return every item of a discrete event."""
    k = 2 if isinstance(event.kind, Binary) else event.kind.k
    return torch.tensor(list(itertools.product(range(k), repeat=event.dim))).view(-1, *event.extents)


@pytest.mark.parametrize("orders", [1, 3])
@pytest.mark.parametrize("event", DISCRETE.values(), ids=DISCRETE)
def test_probabilities_sum_to_one(event: Leaf, orders: int) -> None:
    scored = make(event, orders).log_prob(states(event), noise=NOISE)
    assert scored.kind is Bound.EXACT
    assert float(scored.value.detach().exp().sum()) == pytest.approx(1, abs=1e-10)


def test_a_density_integrates_to_one() -> None:
    """Each conditional is a mixture of normals, so a grid on [-40, 40] leaves little out."""
    model = make(Leaf((2,), Real()), spread=0.3)
    axis = torch.linspace(-40, 40, 801, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    total = model.log_prob(points, noise=NOISE).value.detach().exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_last_value_in_an_order_changes_one_conditional_alone(order: int) -> None:
    """p(x) / p(x') of items that differ in the last place does not depend on how that value is predicted
    elsewhere: summed over its two states, the rest has a probability of its own that sums to one."""
    event = DISCRETE["bits"]
    model = make(event)
    last = int(model.permutations[order, -1])
    p = model.log_prob_in_order(states(event), None, order).detach().exp()
    head = [i for i in range(5) if i != last]
    code = (states(event)[:, head] * torch.tensor([8, 4, 2, 1])).sum(1)
    marginal = torch.zeros(16, dtype=torch.float64).index_add(0, code, p)
    zeros = torch.full((16, 5), 0)
    zeros[:, head] = torch.tensor(list(itertools.product(range(2), repeat=4)))
    ones = zeros.clone()
    ones[:, last] = 1
    parts = [model.log_prob_in_order(x, None, order).detach().exp() for x in (zeros, ones)]
    torch.testing.assert_close(parts[0] + parts[1], marginal)
    assert float(marginal.sum()) == pytest.approx(1, abs=1e-10)


def test_every_order_is_another_model_of_shared_weights() -> None:
    model = make(DISCRETE["bits"])
    scores = torch.stack([model.log_prob_in_order(states(DISCRETE["bits"]), None, o) for o in range(3)])
    assert float((scores[0] - scores[1]).abs().max().detach()) > 1e-2
    mixture = model.log_prob(states(DISCRETE["bits"]), noise=NOISE).value
    torch.testing.assert_close(mixture.exp(), scores.exp().mean(0))


@pytest.mark.parametrize("event", [DISCRETE["bits"], DISCRETE["levels"]], ids=["bits", "levels"])
def test_samples_follow_the_probabilities(event: Leaf) -> None:
    model, n = make(event), 20_000
    every = states(event)
    p = model.log_prob(every, noise=NOISE).value.detach().exp()
    k = round(len(every) ** (1 / event.dim))
    places = k ** torch.arange(event.dim).flip(0)
    drawn = model.sample(SampleNoise(1, torch.arange(n))).flatten(1)
    counts = torch.bincount((drawn * places).sum(1), minlength=len(p)).double()
    statistic = float(((counts - n * p).square() / (n * p)).sum())
    assert statistic < len(p) - 1 + 5 * (2 * len(p)) ** 0.5


@pytest.mark.parametrize("cond", [None, LABEL], ids=["alone", "labelled"])
def test_values_are_drawn_as_they_are_scored(cond: Leaf | None) -> None:
    """Each value is a mean and a deviation, as the full pass has them, times its own normal."""
    model = make(Leaf((6,), Real()), orders=1, cond=cond)
    label = None if cond is None else torch.tensor([0, 1, 2, 3])
    x, source = model.sample(SampleNoise(2, torch.arange(4)), label), SampleNoise(2, torch.arange(4))
    source.integers(1)
    with torch.no_grad():
        raw = model.made(x.t(), model._context(label, 4)).permute(2, 1, 0)
    logits, shift, log_std = raw.unflatten(-1, (3, 10)).unbind(-2)
    mean, rows = torch.linspace(-2, 2, 10) + shift, torch.arange(4)
    for d in range(6):
        chosen, z = source.categorical(logits[:, d]), source.normal()
        expected = mean[rows, d, chosen] + log_std[rows, d, chosen].clamp(-7, 5).exp() * z
        torch.testing.assert_close(expected, x[:, d])


def test_mixtures_of_normals_reach_a_density_that_one_normal_cannot() -> None:
    """x is -1 or 1, give or take 0.1: the best single normal is 1.6 nats off."""
    truth = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.01)
    found = {}
    for components in (1, 10):
        model = Config(hidden=(8,), components=components).build(Leaf((1,), Real()), None)
        optimiser = torch.optim.Adam(model.parameters(), 0.05)
        source = generator("two peaks")
        for _ in range(200):
            sign = 2.0 * torch.randint(2, (256, 1), generator=source) - 1
            x = sign + 0.1 * torch.randn(256, 1, generator=source)
            loss = -model.log_prob(x, noise=NOISE).value.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        found[components] = float(loss.detach())
    assert found[10] == pytest.approx(truth, abs=0.15)
    assert found[1] > truth + 1


@pytest.mark.parametrize("orders", [1, 3])
def test_infilling_draws_each_unknown_value_given_those_before_it_in_the_order(orders: int) -> None:
    """The frequency of a completion is the mean over orders of the product of its unknown conditionals."""
    event, n = DISCRETE["bits"], 20_000
    model, every = make(event, orders), states(event)
    known = torch.tensor([False, True, False, True, False])
    x = torch.tensor([0, 1, 0, 0, 0])
    filled = model.infill(x.expand(n, 5), known.expand(n, 5), SampleNoise(3, torch.arange(n)))
    assert torch.equal(filled[:, known], x[known].expand(n, 2))
    p = torch.zeros(len(every), dtype=torch.float64)
    with torch.no_grad():
        for order in model.permutations:
            inputs = (every.double() * 2 - 1)[:, order].t()
            raw = functional_call(model.made, model._permuted(order), (inputs, None))
            nats = model.output.log_prob(raw.permute(2, 1, 0), every[:, order])
            p += nats.masked_fill(known[order], 0).sum(1).exp() / orders
    legal = (every[:, known] == x[known]).all(1)
    assert float(p[legal].sum()) == pytest.approx(1, abs=1e-10)
    counts = torch.bincount((filled * torch.tensor([16, 8, 4, 2, 1])).sum(1), minlength=32).double()
    assert not counts[~legal].any()
    statistic = float(((counts - n * p).square() / (n * p))[legal].sum())
    assert statistic < 7 + 5 * 14**0.5
