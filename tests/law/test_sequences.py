"""Laws of every network that reads from left to right: sums, causality, cached = whole, mixed lengths."""

import itertools
import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from symbols import FIXED, VARYING, counted, everything, listed
from torch import Tensor
from torch._inductor import freezing

from genloom.core import registry
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Binary, Categorical, Leaf, Length, Padded
from genloom.core.likelihood import Bound
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.nn import attention
from genloom.nn.attention import attend
from genloom.nn.sequences import SequenceModel
from genloom.nn.transformer import compile_reading

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "transformer": ("seq.gpt", {"width": 8, "layers": 2, "heads": 2, "groups": 2}),
    "grouped queries": ("seq.gpt", {"width": 16, "layers": 2, "heads": 4, "groups": 2}),
    "state space": ("seq.ssm", {"width": 4, "layers": 2, "head": 4, "keys": 3}),
    "lstm": ("seq.lstm", {"units": 5, "layers": 2, "embedding": 4}),
    "gru": ("seq.lstm", {"cell": "gru", "units": 5, "layers": 2, "embedding": 4}),
    "rnn": ("seq.lstm", {"cell": "rnn", "units": 5, "layers": 1, "embedding": 4}),
}
LABEL = Leaf((), Categorical(3))
LONG = Leaf((Length(12),), Categorical(5))
NOISE = SampleNoise(0, torch.arange(1))
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def caches_that_grow_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "GROWTH", 5)
    monkeypatch.setattr(attention, "FEW", 3)


def make(family: str, event: Leaf, cond: Leaf | None = None) -> SequenceModel:
    """Return a float64 model with random weights everywhere, so that every dependence shows."""
    torch.manual_seed(0)
    name, settings = FAMILIES[family]
    model = registry.load(name).config(**settings).build(event, cond).double()
    assert isinstance(model, SequenceModel)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return model


def make_untouched(family: str) -> SequenceModel:
    """Return a model as training starts with it."""
    name, settings = FAMILIES[family]
    return registry.load(name).config(**settings).build(LONG, None)


@torch.no_grad()
def probabilities(model: SequenceModel, items: Padded | Tensor, cond: Tensor | None = None) -> Tensor:
    found = model.log_prob(items, cond, noise=NOISE)
    assert found.kind is Bound.EXACT
    return found.value.exp()


@every_family
@pytest.mark.parametrize("event", [VARYING, FIXED], ids=["varying", "fixed"])
def test_probabilities_of_all_items_sum_to_one(family: str, event: Leaf) -> None:
    model, items = make(family, event, LABEL), everything(event)
    count = 81 if event is FIXED else 121
    for cond in (None, torch.full((count,), 1)):
        p = probabilities(model, items, cond)
        assert len(p) == count
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
        assert float(p.max() / p.min()) > 10


@every_family
@pytest.mark.parametrize("event", [VARYING, FIXED], ids=["varying", "fixed"])
def test_samples_follow_the_probabilities(family: str, event: Leaf) -> None:
    model, n, every = make(family, event), 20_000, everything(event)
    p = probabilities(model, every)
    drawn = counted(model.sample(SampleNoise(3, torch.arange(n))))
    counts = torch.tensor([drawn[name] for name in listed(every)]).double()
    assert int(counts.sum()) == n
    often = n * p > 5
    deviation = (counts - n * p)[often].square() / (n * p * (1 - p))[often]
    assert float(deviation.sum()) < len(deviation) + 5 * (2 * len(deviation)) ** 0.5


@every_family
def test_a_symbol_sees_those_before_it_and_no_other(family: str) -> None:
    """Changing a symbol changes the logits after it, from its own place on, and none before."""
    network = make(family, LONG).network
    symbols = torch.randint(5, (1, 12), generator=generator("causal"))
    with torch.no_grad():
        whole = network(symbols)
        for place in range(12):
            other = symbols.clone()
            other[:, place] = (other[:, place] + 1) % 5
            moved = (network(other) != whole).any(-1)[0]
            assert moved.tolist() == [i >= place for i in range(12)]


@every_family
def test_reading_step_by_step_equals_reading_at_once(family: str) -> None:
    network = make(family, LONG).network
    symbols = torch.randint(5, (3, 12), generator=generator("steps"))
    with torch.no_grad():
        whole = network(symbols)
        for sizes in ([1] * 12, [5, 1, 6], [12]):
            reader = network.reader(3, 12)
            parts = [reader.read(part) for part in symbols.split(sizes, 1)]
            assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10, rtol=0)


@every_family
def test_prompts_of_mixed_lengths_equal_one_by_one(family: str) -> None:
    network = make(family, LONG).network
    symbols = torch.randint(5, (4, 12), generator=generator("mixed"))
    first, more = torch.tensor([3, 6, 1, 5]), torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        whole = network(symbols)
        reader = network.reader(4, 12)
        read = reader.read(symbols[:, :6], first)
        for row, n in enumerate(first.tolist()):
            assert torch.allclose(read[row, :n], whole[row, :n], atol=1e-10, rtol=0)
        places = (first[:, None] + torch.arange(2)).clamp_max(11)
        again = reader.read(symbols.gather(1, places), more)
        last = reader.read(symbols.gather(1, (first + more)[:, None]))
    for row, (a, b) in enumerate(zip(first.tolist(), more.tolist(), strict=True)):
        assert torch.allclose(again[row, :b], whole[row, a : a + b], atol=1e-10, rtol=0)
        assert torch.allclose(last[row, 0], whole[row, a + b], atol=1e-10, rtol=0)


@every_family
def test_a_reader_goes_on_with_the_sequences_selected(family: str) -> None:
    network = make(family, LONG).network
    symbols = torch.randint(5, (3, 12), generator=generator("select"))
    rows = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        whole = network(symbols)[rows]
        reader = network.reader(3, 12)
        reader.read(symbols[:, :7])
        reader.select(rows)
        assert torch.allclose(reader.read(symbols[rows, 7:]), whole[:, 7:], atol=1e-10, rtol=0)


@every_family
def test_what_was_read_can_be_forgotten(family: str) -> None:
    network = make(family, LONG).network
    symbols = torch.randint(5, (3, 12), generator=generator("rewind"))
    back, rest = torch.tensor([0, 3, 6]), torch.arange(5)
    with torch.no_grad():
        whole = network(symbols)
        reader = network.reader(3, 13)
        for part in symbols[:, :7].split([2, 1, 3, 1], 1):
            reader.read(part)
        reader.rewind(back)
        places = (7 - back)[:, None] + rest
        again = reader.read(symbols.gather(1, places))
        assert torch.allclose(again, whole[torch.arange(3)[:, None], places], atol=1e-10, rtol=0)


@every_family
def test_more_can_be_forgotten_than_is_remembered(family: str) -> None:
    network = make(family, LONG).network
    symbols = torch.randint(5, (2, 40), generator=generator("long"))
    with torch.no_grad():
        reader = network.reader(2, 60)
        for symbol in symbols.split(1, 1):
            whole = reader.read(symbol)
        reader.rewind(torch.tensor([30, 25]))
        for place in range(30):
            again = reader.read(torch.stack((symbols[0, 10 + place], symbols[1, (15 + place) % 40]))[:, None])
    assert torch.allclose(again[0], whole[0], atol=1e-10, rtol=0)


def test_attention_in_bfloat16_is_attention() -> None:
    source = generator("attend")
    query, key, value = (torch.randn(2, h, 9, 8, generator=source) for h in (4, 2, 2))
    exact = attend(query, key, value)
    rough = attend(query.bfloat16(), key.bfloat16(), value.bfloat16())
    assert rough.dtype == torch.bfloat16
    assert float((rough.float() - exact).abs().max()) < 0.03


@torch.no_grad()
def test_probabilities_in_bfloat16_are_right_to_a_hundredth() -> None:
    model = make("grouped queries", LONG)
    symbols = torch.randint(5, (8, LONG.extents[0]), generator=generator("rough"))
    for p in model.parameters():
        p.mul_(0.4)
    exact = model.network(symbols).softmax(-1)
    reader = model.bfloat16().reader(8, LONG.extents[0])
    rough = torch.cat([reader.read(part) for part in symbols.split(1, 1)], 1).double().softmax(-1)
    off = (rough / exact - 1).abs()
    assert exact.std() > 0.05
    assert off.mean() < 0.01
    assert off.max() < 0.1


def test_memories_last_from_the_start() -> None:
    network = make_untouched("lstm").network
    biases = [p for name, p in network.named_parameters() if name.startswith("layers") and "bias" in name]
    assert len(biases) == 4
    assert all((bias.chunk(4)[1] == 0.5).all() and (bias.chunk(4)[2] != 0.5).all() for bias in biases)


@every_family
def test_classes_matter_and_none_is_one_of_its_own(family: str) -> None:
    model = make(family, VARYING, LABEL)
    items = everything(VARYING)
    found = [probabilities(model, items, torch.full((121,), c)) for c in range(4)]
    assert all(not torch.allclose(a, b) for a, b in itertools.combinations(found, 2))
    assert torch.equal(found[3], probabilities(model, items))


@every_family
def test_training_drops_channels_and_hides_labels(family: str) -> None:
    """Without dropout the loss is the mean of log_prob; with it, another; hidden labels count as none."""
    name, settings = FAMILIES[family]
    losses = {}
    items = everything(VARYING)
    for dropout, hidden in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.9)):
        config = registry.load(name).config(**settings, dropout=dropout, label_dropout=hidden)
        torch.manual_seed(0)
        model = config.build(VARYING, LABEL)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p) * 0.5)
        batch = {"x": items, "cond": torch.full((121,), 1)}
        objective = config.stages(model)[0].objective
        assert objective is not None
        loss = objective.phases[0].loss
        assert loss is not None
        noise = TrainNoise(generator("law"), 121, 0, 121)
        losses[dropout, hidden] = float(loss(batch, noise, Clock(1, 2)).total.detach())
        scored = [-probabilities(model, items, c).log() / 4 for c in (batch["cond"], None)]
    assert losses[0.0, 0.0] == pytest.approx(float(scored[0].mean()), rel=1e-6)
    assert abs(losses[0.5, 0.0] - losses[0.0, 0.0]) > 1e-3
    kept = TrainNoise(generator("law"), 121, 0, 121).uniform() >= 0.9
    assert losses[0.0, 0.9] == pytest.approx(float(torch.where(kept, *scored).mean()), rel=1e-6)


def test_what_they_do_not_take() -> None:
    for name in ("seq.gpt", "seq.lstm", "seq.ssm"):
        with pytest.raises(DataError, match="sequences of symbols"):
            registry.load(name).config().build(Leaf((4,), Binary()), None)
    with pytest.raises(DataError, match="with their lengths"):
        probabilities(make("rnn", VARYING), torch.zeros(2, 4, dtype=torch.int64))


@torch.no_grad()
def test_a_blind_network_sees_the_class_and_the_place_alone() -> None:
    models = [
        registry.load("seq.lstm").config(symbol_dropout=share).build(VARYING, LABEL).eval()
        for share in (0.5, 1.0)
    ]
    for model in models:
        assert isinstance(model, SequenceModel)
        starts = model.alphabet.starts(torch.arange(3), 3)[:, None]
        first, other = (torch.cat((starts, torch.full((3, 4), symbol)), 1) for symbol in (0, 2))
        found = model.network(first)
        assert torch.equal(found, model.network(other)) == (model is models[1])
        assert not torch.equal(found[0], found[1])


def test_hidden_symbols_change_the_loss() -> None:
    batch = {"x": everything(VARYING)}

    def loss(share: float) -> float:
        config = registry.load("seq.lstm").config(symbol_dropout=share, dropout=0.0)
        torch.manual_seed(0)
        (stage,) = config.stages(config.build(VARYING, None))
        assert stage.objective is not None
        found = stage.objective.phases[0].loss
        assert found is not None
        return found(batch, TrainNoise(generator("hidden"), 121, 0, 121), Clock(1, 2)).total.item()

    assert loss(0.0) != loss(0.5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("muon", 1e-2, 1.0)),
        ({"matrix_lr": 3e-3, "matrix_decay": 0.7}, ("muon", 3e-3, 0.7)),
        ({"optimiser": "adamw"}, ("adamw", 1e-3, 0.1)),
        ({"optimiser": "adamw", "matrix_decay": 0.0}, ("adamw", 1e-3, 0.0)),
    ],
)
def test_matrices_are_moved_as_told(settings: Mapping[str, Any], expected: tuple[str, float, float]) -> None:
    config = registry.load("seq.gpt").config(**settings)
    (stage,) = config.stages(config.build(VARYING, None))
    assert stage.objective is not None
    moved = stage.objective.groups["blocks"].optimiser
    assert (moved.name, moved.lr, moved.weight_decay) == expected
    assert stage.objective.groups["embedding"].optimiser.name == "adamw"


def test_dropout_of_a_transformer_is_that_of_its_rows() -> None:
    """Rows drop the same in any part of a batch, of any length, and nothing without noise."""
    network = make("grouped queries", LONG).network
    symbols = torch.randint(5, (4, 12), generator=generator("told"))
    whole = network(symbols)
    network.dropout = 0.5
    both, again = (network(symbols, TrainNoise(generator("told"), 4, 0, 4)) for _ in range(2))
    last = network(symbols[2:, :7], TrainNoise(generator("told"), 4, 2, 4))
    assert torch.equal(both, again)
    assert torch.allclose(both[2:, :7], last, atol=1e-10)
    assert not torch.allclose(both, whole)
    assert torch.equal(network(symbols), whole)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling takes g++")
def test_compiled_dropout_is_dropout() -> None:
    """In training, a compiled network drops what it drops uncompiled, and is compiled in one piece."""
    torch._dynamo.reset()
    network = make("grouped queries", LONG).network
    network.dropout = 0.3
    symbols = torch.randint(5, (3, 12), generator=generator("compiled"))
    compiled = torch.compile(network)
    for _ in range(2):
        noises = (TrainNoise(generator("drop"), 3, 0, 3) for _ in range(2))
        found, expected = (
            one(symbols, noise) for one, noise in zip((compiled, network), noises, strict=True)
        )
        assert torch.allclose(found, expected, atol=1e-5)
    explained = torch._dynamo.explain(network)(symbols, TrainNoise(generator("drop"), 3, 0, 3))
    assert explained.graph_count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling takes g++")
def test_compiled_reading_is_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few symbols at a time over several sizes of the cache, in step and out of step, by frozen weights."""
    frozen, freeze = list[object](), freezing.freeze

    def note(*given: object, **more: object) -> object:
        frozen.append(given)
        return freeze(*given, **more)

    monkeypatch.setattr(freezing, "freeze", note)
    network = make("grouped queries", LONG).network.requires_grad_(False)
    symbols = torch.randint(5, (3, 12), generator=generator("compiled"))
    counts = torch.tensor([1, 3, 2])

    def read() -> Tensor:
        reader, uneven = network.reader(3, 12), network.reader(3, 12)
        uneven.read(symbols[:, :3], counts)
        parts = [r.read(part) for r in (reader, uneven) for part in symbols[:, 3:].split(3, 1)]
        return torch.cat(parts, 1)

    with torch.no_grad():
        plain = read()
        compile_reading(network, 3)
        assert torch.allclose(read(), plain, atol=1e-10, rtol=0)
    assert frozen


def test_what_cannot_be_compiled_says_so() -> None:
    with pytest.raises(ConfigError, match="leave --compile out"):
        compile_reading(make("lstm", LONG))
