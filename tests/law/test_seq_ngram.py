"""N-grams: a distribution over whole items, equal to published formulas written with dictionaries."""

import math
from collections import Counter

import pytest
import torch
from symbols import FIXED, VARYING, counted, everything, listed

from genloom.core.errors import DataError, Unsupported
from genloom.core.events import Binary, Leaf, Padded
from genloom.core.randomness import SampleNoise, generator
from genloom.families.seq_ngram import (
    LEAST_DISCOUNT,
    AutomatonReader,
    Config,
    Model,
    NgramReader,
    make_levels,
)

NOISE = SampleNoise(0, torch.arange(1))


def corpus(rows: int, name: str) -> Padded:
    """Return items in which a symbol tends to repeat the one before."""
    source = generator("corpus", name)
    values = torch.randint(3, (rows, 4), generator=source)
    again = torch.rand(rows, 4, generator=source) < 0.5
    for i in range(1, 4):
        values[:, i] = torch.where(again[:, i], values[:, i - 1], values[:, i])
    return Padded(values, torch.randint(5, (rows,), generator=source))


def fitted(event: Leaf, max_order: int = 4) -> Model:
    model = Config(max_order=max_order).build(event, None)
    train, valid = corpus(300, "train"), corpus(50, "valid")
    if event is FIXED:
        model.fit(train.values, valid.values, NOISE)
    else:
        model.fit(train, valid, NOISE)
    return model


@pytest.mark.parametrize("event", [VARYING, FIXED], ids=["varying", "fixed"])
def test_probabilities_of_all_items_sum_to_one(event: Leaf) -> None:
    p = fitted(event).log_prob(everything(event), noise=NOISE).value.exp()
    assert len(p) == (81 if event is FIXED else 121)
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert float(p.min()) > 0


@pytest.mark.parametrize("event", [VARYING, FIXED], ids=["varying", "fixed"])
def test_samples_follow_the_probabilities(event: Leaf) -> None:
    model, n, every = fitted(event), 20_000, everything(event)
    p = model.log_prob(every, noise=NOISE).value.exp()
    drawn = model.sample(SampleNoise(3, torch.arange(n)))
    found = counted(drawn)
    counts = torch.tensor([found[name] for name in listed(every)]).double()
    assert int(counts.sum()) == n
    assert float(((counts - n * p).square() / (n * p)).sum()) < len(p) - 1 + 5 * (2 * len(p)) ** 0.5


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_the_formulas(order: int) -> None:
    """Chen & Goodman 1999, equations 23 to 26, with counts in dictionaries; 3 is the end and 4 the start."""
    train, items = corpus(300, "train"), corpus(40, "items")
    model = Config().build(VARYING, None)
    rows, present = model._rows(train, order)
    found = model._log_prob(make_levels(rows, present, order, model.base, model.start), items)
    tables = {order: Counter[tuple[int, ...]]()}
    for row in sentences(train, order):
        tables[order].update(row[i : i + order] for i in range(len(row) - order + 1))
    for size in range(order - 1, 0, -1):
        above = tables[size + 1]
        follows = Counter(gram[1:] for gram in above)
        plain = Counter[tuple[int, ...]]()
        for row in sentences(train, order):
            plain.update(row[i - size : i] for i in range(order, len(row) + 1))
        tables[size] = Counter({g: plain[g] if g[0] == 4 else follows[g] for g in follows})

    def p(context: tuple[int, ...], symbol: int) -> float:
        size = len(context) + 1
        lower = p(context[1:], symbol) if context else 1 / 4
        table = tables[size]
        among = {g: c for g, c in table.items() if g[:-1] == context}
        if not among:
            return lower
        n = [sum(c == k for c in table.values()) for k in range(5)]
        y = n[1] / (n[1] + 2 * n[2]) if n[1] + n[2] else 0
        enough = min(n[1:]) > 0
        off = [0, 0.5, 1.0, 1.5]
        if enough:
            off = [0, *(max(k - (k + 1) * y * n[k + 1] / n[k], LEAST_DISCOUNT) for k in (1, 2, 3))]
        total = sum(among.values())
        left = sum(off[min(c, 3)] for c in among.values()) / total
        count = among.get((*context, symbol), 0)
        return max(count - off[min(count, 3)], 0) / total + left * lower

    for row, nats in zip(sentences(items, order), found.tolist(), strict=True):
        steps = range(order - 1, min(len(row), order - 1 + 4))
        expected = sum(math.log(p(row[i - order + 1 : i], row[i])) for i in steps)
        assert nats == pytest.approx(expected, abs=1e-9)


def sentences(items: Padded, order: int) -> list[tuple[int, ...]]:
    """Return items with their starts and their end."""
    rows = zip(items.values.tolist(), items.lengths.tolist(), strict=True)
    return [(*[4] * (order - 1), *row[:n], 3) for row, n in rows]


def test_longer_contexts_are_used_where_they_help() -> None:
    model = Config(max_order=4).build(FIXED, None)
    cycle = torch.tensor([[0, 1, 0, 2], [1, 0, 2, 0], [0, 2, 0, 1], [2, 0, 1, 0]]).repeat(50, 1)
    assert model.fit(cycle, cycle, NOISE)["order"] > 2
    uniform = torch.randint(3, (400, 4), generator=generator("uniform"))
    assert model.fit(uniform[:300], uniform[300:], NOISE)["order"] == 1


def test_the_automaton_reads_as_the_counts_do() -> None:
    """Symbols several at once, of uneven numbers, some forgotten again."""
    model = fitted(VARYING)
    tables = model.reader(3, 9)
    counts = NgramReader(model._levels(), model.symbols, 3)
    assert isinstance(tables, AutomatonReader)
    start = torch.full((3, 1), model.start)
    texts = torch.randint(3, (3, 8), generator=generator("texts"))
    for one in ((start, None), (texts[:, :3], None), (texts[:, 3:5], torch.tensor([2, 0, 1]))):
        a, b = tables.read(*one), counts.read(*one)
        counted = torch.full((3,), a.shape[1]) if one[1] is None else one[1]
        whole = torch.arange(a.shape[1]) < counted[:, None]
        assert torch.allclose(a[whole], b[whole], rtol=0, atol=1e-12)
    for reader in (tables, counts):
        reader.rewind(torch.tensor([3, 1, 0]))
        reader.select(torch.tensor([2, 0, 0]))
    a, b = tables.read(texts[:, 5:]), counts.read(texts[:, 5:])
    assert torch.allclose(a, b, rtol=0, atol=1e-12)


def test_what_it_does_not_take() -> None:
    with pytest.raises(DataError, match="sequences of symbols"):
        Config().build(Leaf((4,), Binary()), None)
    with pytest.raises(Unsupported, match="not been fitted"):
        Config().build(FIXED, None).sample(NOISE)
