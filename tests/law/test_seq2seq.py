"""Models that turn sequences into others: cached reading, masks, enumeration, attention, and learning."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from genloom.core import registry
from genloom.core.errors import DataError
from genloom.core.events import Categorical, Leaf, Length, Padded
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.nn.decoding import Choice, collect, no_prompts, stream
from genloom.nn.dropout import identity
from genloom.nn.recurrent import run_layers, turned
from genloom.nn.searching import beam_search
from genloom.nn.sequences import AlignedModel
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import POOL, Alike, Order, Stream, lengths

TARGET, SOURCE = Leaf((Length(4),), Categorical(3)), Leaf((Length(6),), Categorical(5))
FAMILIES = {
    "transformer": ("seq2seq.transformer", {"width": 16, "heads": 2, "layers": 2, "encoder_layers": 2}),
    "luong": ("seq2seq.rnn", {"units": 12, "embedding": 8, "layers": 2, "encoder_layers": 2}),
    "bahdanau": ("seq2seq.rnn", {"units": 12, "embedding": 8, "score": "additive", "cell": "gru"}),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def make(name: str, target: Leaf = TARGET, source: Leaf = SOURCE) -> AlignedModel:
    """Return an untrained model in float64 whose every weight matters."""
    family, settings = FAMILIES[name]
    torch.manual_seed(0)
    model = registry.load(family).config(**settings).build(target, source)
    for weight in model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.3)
    assert isinstance(model, AlignedModel)
    return model.double().eval()


def sources(rows: int) -> Padded:
    """Return sources, the first of which are empty and of greatest length."""
    count = torch.randint(7, (rows,), generator=generator("lengths"))
    count[:2] = torch.tensor([0, 6])
    return Padded(torch.randint(5, (rows, 6), generator=generator("sources")), count)


def every_target() -> Padded:
    """Return every sequence of up to four of three symbols."""
    rows = [row for n in range(5) for row in itertools.product(range(3), repeat=n)]
    values = torch.tensor([[*row, *[0] * (4 - len(row))] for row in rows])
    return Padded(values, torch.tensor([len(row) for row in rows]))


@every_family
def test_probabilities_of_all_targets_add_up_to_one(name: str) -> None:
    model, given, x = make(name), sources(3), every_target()
    for row in range(3):
        cond = Padded(given.values[[row] * len(x.lengths)], given.lengths[[row] * len(x.lengths)])
        with torch.no_grad():
            total = model.log_density(x, cond).logsumexp(0)
        assert float(total) == pytest.approx(0.0, abs=1e-10)


@every_family
def test_reading_step_by_step_equals_reading_at_once(name: str) -> None:
    model, cond = make(name), sources(4)
    symbols = torch.randint(3, (4, 5), generator=generator("steps"))
    with torch.no_grad():
        whole = model.network(symbols, None, cond)
        reader = model.reader(4, 6, cond)
        parts = [reader.read(part) for part in symbols.split([1, 2, 1, 1], 1)]
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10, rtol=0)
        rows, back = torch.tensor([3, 1, 1]), torch.tensor([1, 5, 3])
        reader.select(rows)
        reader.rewind(back)
        places = 5 - back
        again = reader.read(symbols[rows, places.clamp_max(4)][:, None])
        expected = whole[rows, places]
    assert torch.allclose(again[:, 0], expected, atol=1e-10, rtol=0)


@every_family
def test_what_stands_beyond_the_end_of_a_source_has_no_effect(name: str) -> None:
    model, cond, x = make(name), sources(5), every_target()
    few = Padded(x.values[20:25], x.lengths[20:25])
    beyond = torch.arange(6) >= cond.lengths[:, None]
    other = Padded(torch.where(beyond, (cond.values + 1) % 5, cond.values), cond.lengths)
    longer = Padded(torch.nn.functional.pad(cond.values, (0, 30)), cond.lengths)
    scored = model.log_density(few, cond)
    for same in (other, longer):
        assert torch.allclose(model.log_density(few, same), scored, atol=1e-10, rtol=0)
    changed = cond.values.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 5
    moved = (model.log_density(few, Padded(changed, cond.lengths)) - scored).abs() > 1e-8
    assert moved.tolist() == (cond.lengths > 0).tolist()


@every_family
def test_a_search_that_keeps_everything_finds_the_likeliest(name: str) -> None:
    model, cond, x = make(name), sources(4), every_target()
    found = beam_search(model, no_prompts(4), 81, 5, cond=cond)
    for row in range(4):
        given = Padded(cond.values[[row] * len(x.lengths)], cond.lengths[[row] * len(x.lengths)])
        with torch.no_grad():
            scored = model.log_density(x, given)
        best = int(scored.argmax())
        n = int(found.lengths[row, 0])
        assert found.values[row, 0, :n].tolist() == x.values[best, : int(x.lengths[best])].tolist()
        assert float(found.log_probs[row, 0]) == pytest.approx(float(scored[best]), abs=1e-9)


def test_turning_keeps_what_is_beyond() -> None:
    present = torch.tensor([[True, True, True, False], [True, False, False, False], [True] * 4])
    x = torch.arange(12).view(3, 4)
    assert turned(x, present).tolist() == [[2, 1, 0, 3], [4, 5, 6, 7], [11, 10, 9, 8]]
    assert torch.equal(turned(turned(x, present), present), x)


@pytest.mark.parametrize("name", ["luong", "bahdanau"])
def test_a_recurrent_encoder_reads_from_both_ends(name: str) -> None:
    """The first place knows of the last symbol, and the last place of the first."""
    model = make(name)
    network = model.network
    cond = torch.randint(5, (1, 5), generator=generator("ends"))

    def memory(values: torch.Tensor) -> torch.Tensor:
        return network.opening(1, Padded(values, torch.tensor([5])), lambda x: x)[0][0][0]

    for place in (0, 4):
        other = cond.clone()
        other[0, place] = (other[0, place] + 1) % 5
        assert bool(((memory(other) - memory(cond)).abs().amax(-1) > 1e-9)[:5].all())


@every_family
def test_attention_follows_the_places_of_the_source(name: str) -> None:
    """Shares add up, nothing looks beyond the end, and a symbol looks by what is before it alone."""
    model, cond = make(name), sources(3)
    x = Padded(every_target().values[50:53], every_target().lengths[50:53])
    shares = model.align(x, cond)
    for row, n in enumerate((cond.lengths + 1).tolist()):
        assert torch.allclose(shares[row, :, :n].sum(-1), torch.ones(1).double(), atol=1e-10)
        assert bool((shares[row, :, n:] == 0).all())
    other = Padded((x.values + 1) % 3, x.lengths)
    moved = ((model.align(other, cond) - shares).abs() > 1e-9).any(-1)
    assert not bool(moved[:, 0].any())
    assert bool(moved[1:, 1:3].all())


@torch.no_grad()
@pytest.mark.parametrize("name", ["luong", "bahdanau"])
def test_what_is_looked_at_is_what_is_written_from(name: str) -> None:
    """The logits follow from the shares and the places of the source (Luong et al., equations 5 and 6)."""
    model, cond = make(name), sources(3)
    network, symbols = model.network, torch.tensor([[4, 1, 2], [4, 0, 0], [4, 2, 1]])
    (memory, _), *states = network.opening(3, cond, identity)
    x, _ = run_layers(network.layers, network.writing(symbols), states, identity)
    found = network.align(symbols, cond) @ memory
    logits = network.head(network.join(torch.cat((found, x), -1)).tanh())
    assert torch.allclose(logits, network(symbols, None, cond), atol=1e-10)


def test_label_smoothing_is_a_mixture_with_all_symbols_alike() -> None:
    model, cond = make("transformer"), sources(3)
    x = Padded(every_target().values[60:63], every_target().lengths[60:63])
    targets, present = model.targets(x)
    symbols = torch.cat((model.alphabet.starts(None, 3)[:, None], targets[:, :-1]), 1)
    log_p = model.network(symbols, None, cond).log_softmax(-1)
    right = log_p.gather(2, targets[..., None])[..., 0]
    expected = ((0.9 * right + 0.1 * log_p.mean(-1)) * present).sum(1)
    assert torch.allclose(model.log_density(x, cond, label_smoothing=0.1), expected, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_they_learn_to_turn_round(name: str) -> None:
    """After a few hundred steps most sequences come out from their last symbol to their first."""
    family, settings = FAMILIES[name]
    sizes = {"width": 64} if name == "transformer" else {"units": 64, "embedding": 32, "layers": 1}
    config = registry.load(family).config(**{**settings, **sizes, "dropout": 0.0, "batch_size": 64})
    torch.manual_seed(0)
    event = Leaf((Length(6),), Categorical(5))
    model = config.build(event, event)
    given = sources(2000)
    present = torch.arange(6) < given.lengths[:, None]
    data = Stream(Padded(turned(given.values, present), given.lengths), given, lambda x, _: x)
    (stage,) = config.stages(model)
    assert stage.objective is not None
    rhythm = Rhythm(data, Order(2000, 0), 0, "fit", STEPS[name], 64)
    state = State.fresh(model, stage.objective)
    for _ in range(STEPS[name]):
        train_step(state, rhythm)
    fresh = Padded(torch.randint(5, (200, 6), generator=generator("new")), torch.randint(7, (200,)))
    model.eval()
    drawn = stream(model, no_prompts(200), SampleNoise(0, torch.arange(200)), 6, Choice(temperature=0), fresh)
    found = collect(model.alphabet, drawn, 200).values
    expected = turned(fresh.values, torch.arange(6) < fresh.lengths[:, None])
    right = [
        a[:n] == b[:m]
        for a, n, b, m in zip(
            expected.tolist(),
            fresh.lengths.tolist(),
            found.values.tolist(),
            found.lengths.tolist(),
            strict=True,
        )
    ]
    assert sum(right) > 120


STEPS = {"transformer": 300, "luong": 400, "bahdanau": 400}


def test_batches_are_of_alike_lengths_and_every_row_comes_once_an_epoch() -> None:
    count = torch.randint(40, (POOL * 8,), generator=generator("alike"))
    data = Stream(Padded(torch.zeros(POOL * 8, 40), count), None, lambda x, _: x)
    order = Alike(Order(POOL * 8, 3), lengths(data), 3)
    batches = [order(draw, 8) for draw in range(POOL)]
    assert torch.cat(batches).sort().values.tolist() == list(range(POOL * 8))
    assert max(int(count[rows].max() - count[rows].min()) for rows in batches) <= 2
    firsts = torch.tensor([float(count[rows].float().mean()) for rows in batches])
    assert not torch.equal(firsts, firsts.sort().values)
    assert torch.equal(order(5, 8), batches[5])
    assert not torch.equal(order(POOL + 5, 8), batches[5])


@pytest.mark.parametrize("count", [20, 100, 450])
def test_few_rows_do_not_fill_a_batch_with_themselves(count: int) -> None:
    size = 16
    sizes = torch.randint(100, (count,), generator=generator("few"))
    order = Alike(Order(count, 1), sizes, 1)
    batches = [order(draw, size) for draw in range(200)]
    assert min(len(rows.unique()) for rows in batches) >= size // 2
    often = torch.bincount(torch.cat(batches), minlength=count)
    assert int(often.max() - often.min()) <= 2


def test_lengths_count_what_is_given() -> None:
    x, cond = (Padded(torch.zeros(2, 9), torch.tensor(n)) for n in ([1, 2], [3, 5]))
    assert lengths(Stream(x, cond, lambda v, _: v)).tolist() == [4, 7]
    assert lengths(Stream(x, torch.zeros(2), lambda v, _: v)).tolist() == [1, 2]
    assert lengths(Stream(torch.zeros(2, 3), None, lambda v, _: v)).tolist() == [0, 0]


@pytest.mark.parametrize("family", ["seq2seq.transformer", "seq2seq.rnn"])
@pytest.mark.parametrize("given", [None, Leaf((), Categorical(3)), Leaf((2,), Categorical(3, ordered=True))])
def test_a_model_without_sequences_to_turn_is_refused(family: str, given: Leaf | None) -> None:
    with pytest.raises(DataError, match="needs pairs of texts"):
        registry.load(family).config().build(TARGET, given)


def test_dropout_and_clock_are_all_that_training_adds() -> None:
    """The loss without dropout and smoothing is the negative log-likelihood a place."""
    config = registry.load("seq2seq.rnn").config(units=12, embedding=8, dropout=0.0, label_smoothing=0.0)
    model = config.build(TARGET, SOURCE)
    assert isinstance(model, AlignedModel)
    (stage,) = config.stages(model)
    assert stage.objective is not None
    loss: Callable[..., object] | None = stage.objective.phases[0].loss
    assert loss is not None
    x = Padded(every_target().values[:8], every_target().lengths[:8])
    noise = TrainNoise(generator("loss"), 8, 0, 8)
    found = stage.objective.phases[0].loss({"x": x, "cond": sources(8)}, noise, Clock(0, 1))  # type: ignore[misc]
    expected = -model.log_density(x, sources(8)).mean() / 4
    assert torch.allclose(found.total, expected)
