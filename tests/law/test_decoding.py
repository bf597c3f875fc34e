"""Laws of the decoding engine: cuts, prompts, classes, constraints, helpers, beams, against enumeration."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from pydantic import ValidationError
from symbols import VARYING, listed
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Categorical, Leaf, Length, Padded
from genloom.core.randomness import SampleNoise, generator
from genloom.core.sequences import Alphabet
from genloom.families import seq_gpt, seq_lstm, seq_ngram
from genloom.nn import decoding
from genloom.nn.decoding import Choice, Constraint, Drawn, Together, collect, no_prompts, stream
from genloom.nn.readers import Muted, open_reader
from genloom.nn.searching import beam_search, penalty
from genloom.nn.sequences import SequenceModel
from genloom.nn.speculating import speculate

ROOMY = Leaf((Length(8),), Categorical(3))
FIXED = Leaf((12,), Categorical(3))
LABEL = Leaf((), Categorical(2))
NOISE = SampleNoise(0, torch.arange(1))
PLAIN = Choice()


def scatter(model: SequenceModel, seed: int) -> SequenceModel:
    """Set random weights everywhere."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    return model.double()


def gpt(event: Leaf = ROOMY, cond: Leaf | None = None, seed: int = 0) -> SequenceModel:
    config = seq_gpt.Config(width=8, layers=2, heads=2, groups=1)
    return scatter(config.build(event, cond), seed)


def lstm(event: Leaf = ROOMY, cond: Leaf | None = None, seed: int = 1) -> SequenceModel:
    return scatter(seq_lstm.Config(units=5, layers=1, embedding=4).build(event, cond), seed)


MODELS: dict[str, Callable[..., SequenceModel]] = {"gpt": gpt, "lstm": lstm}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def ngram() -> seq_ngram.Model:
    model = seq_ngram.Config(max_order=3).build(ROOMY, None)
    source = generator("decoding")
    values = torch.randint(3, (200, 8), generator=source)
    items = Padded(values, torch.randint(9, (200,), generator=source))
    model.fit(items, items, NOISE)
    return model


def prompts(*texts: list[int]) -> Padded:
    width = max(map(len, texts))
    rows = [text + [0] * (width - len(text)) for text in texts]
    values = torch.tensor(rows, dtype=torch.int64)
    return Padded(values, torch.tensor([len(text) for text in texts]))


def rows(n: int) -> SampleNoise:
    return SampleNoise(5, torch.arange(n))


def tree(step: Callable[[tuple[int, ...]], Tensor], steps: int, end: int) -> dict[tuple[int, ...], float]:
    """Return the probability of every sequence of at most ``steps`` symbols, an end among them last."""
    found, open_ = {}, {(): 1.0}
    for _ in range(steps):
        grown = {(*t, s): p * q for t, p in open_.items() for s, q in enumerate(step(t).tolist()) if q > 0}
        found |= {t: p for t, p in grown.items() if t[-1] == end}
        open_ = {t: p for t, p in grown.items() if t[-1] != end}
    return found | open_


def require_fit(drawn: list[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> None:
    """Raise unless draws follow a law, by Pearson's statistic."""
    counts, n = Counter(drawn), len(drawn)
    assert set(counts) <= set(law)
    often = {t: p for t, p in law.items() if n * p > 5}
    assert len(often) > 2
    statistic = sum((counts[t] - n * p) ** 2 / (n * p * (1 - p)) for t, p in often.items())
    assert statistic < len(often) + 5 * (2 * len(often)) ** 0.5


def with_ends(drawn: Iterator[Drawn], n: int) -> list[tuple[int, ...]]:
    """Return what was drawn, ends included."""
    found: list[list[int]] = [[] for _ in range(n)]
    for one in drawn:
        for text, symbol, active in zip(found, one.symbols.tolist(), one.active.tolist(), strict=True):
            if active:
                text.append(symbol)
    return [tuple(text) for text in found]


@torch.no_grad()
def next_shares(model: SequenceModel, text: tuple[int, ...], choice: Choice = PLAIN) -> Tensor:
    """Return the distribution after a text from one whole pass, cut as in the papers, one after another."""
    start = torch.tensor([[model.alphabet.nameless, *text]])
    p = model.network(start)[0, -1].softmax(-1)
    if choice.temperature != 1:
        p = p ** (1 / choice.temperature)
        p = p / p.sum()
    order = p.argsort(descending=True).tolist()
    kept = set(order[: choice.top_k] if choice.top_k else order)
    q = torch.tensor([float(p[i]) if i in kept else 0.0 for i in range(len(p))]).double()
    q, mass, nucleus = q / q.sum(), 0.0, set()
    for i in order:
        if mass < choice.top_p:
            nucleus.add(i)
            mass += float(q[i])
    q = torch.tensor([float(q[i]) if i in nucleus else 0.0 for i in range(len(q))]).double()
    q = torch.where(q >= choice.min_p * q.max(), q, 0.0)
    return q / q.sum()


CHOICES = {
    "plain": PLAIN,
    "temperature": Choice(temperature=0.6),
    "top k": Choice(top_k=2),
    "top p": Choice(top_p=0.9),
    "min p": Choice(min_p=0.1),
    "all": Choice(temperature=1.5, top_k=3, top_p=0.95, min_p=0.05),
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_draws_follow_the_chosen_distribution(choice: Choice) -> None:
    model, n = gpt(), 20_000
    law = tree(lambda t: next_shares(model, t, choice), 4, model.alphabet.symbols)
    require_fit(with_ends(stream(model, no_prompts(n), rows(n), 4, choice), n), law)


def test_temperature_zero_takes_the_likeliest_each_time() -> None:
    model = gpt(FIXED)
    (found,) = with_ends(stream(model, prompts([2]), rows(1), 8, Choice(temperature=0)), 1)
    text: tuple[int, ...] = (2,)
    for symbol in found:
        assert symbol == int(next_shares(model, text).argmax())
        text = (*text, symbol)


def test_symbols_seen_before_are_penalised() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0]])
    seen = torch.tensor([[True, True, False]])
    assert decoding.penalise(logits, seen, 2.0).tolist() == [[1.0, -4.0, 1.0]]
    model, text = gpt(FIXED), [2]
    greedy = Choice(temperature=0, repetition_penalty=3)
    (found,) = with_ends(stream(model, prompts([2]), rows(1), 6, greedy), 1)
    for symbol in found:
        logits = next_shares(model, tuple(text)).log()
        raw = model.network(torch.tensor([[model.alphabet.nameless, *text]]))[0, -1]
        assert torch.allclose(raw.log_softmax(-1), logits)
        seen = torch.tensor([s in text for s in range(3)])
        assert symbol == int(decoding.penalise(raw, seen, 3.0).argmax())
        text.append(symbol)


@every_model
def test_prompts_of_mixed_lengths_go_on_as_one_by_one(make: Callable[..., SequenceModel]) -> None:
    model, given = make(FIXED), [[0, 1, 2], [], [2], [1, 1, 0, 0, 2]]
    together = collect(model.alphabet, stream(model, prompts(*given), rows(4), 6, PLAIN), 4)
    for i, text in enumerate(given):
        noise = SampleNoise(5, torch.tensor([i]))
        single = collect(model.alphabet, stream(model, prompts(text), noise, 6, PLAIN), 1)
        assert torch.equal(together.values.values[i], single.values.values[0])
        assert float(together.log_probs[i]) == pytest.approx(float(single.log_probs[0]), abs=1e-9)


@every_model
def test_a_sequence_that_is_full_does_not_disturb_the_others(make: Callable[..., SequenceModel]) -> None:
    model, given = make(VARYING), [[0] * (VARYING.extents[0] - 1), [], [1]]
    for seed in range(6):
        noise = SampleNoise(seed, torch.arange(3))
        together = collect(model.alphabet, stream(model, prompts(*given), noise, 9, PLAIN), 3)
        single = SampleNoise(seed, torch.tensor([1]))
        alone = collect(model.alphabet, stream(model, prompts([]), single, 9, PLAIN), 1)
        length = int(alone.values.lengths[0])
        assert int(together.values.lengths[1]) == length
        assert torch.equal(together.values.values[1, :length], alone.values.values[0])


@every_model
def test_log_probs_are_those_of_the_model(make: Callable[..., SequenceModel]) -> None:
    """The nats of what was drawn and of the prompt are together those of the item."""
    model = make(VARYING, LABEL)
    cond = torch.tensor([0, 1, 2, 0])
    given = prompts([1], [0], [2], [1])
    with torch.no_grad():
        found = collect(model.alphabet, stream(model, given, rows(4), 3, Choice(top_k=3), cond), 4)
        values = torch.cat((given.values, found.values.values), 1)
        lengths = found.values.lengths + 1
        whole = Padded(torch.nn.functional.pad(values, (0, 4 - values.shape[1])), lengths)
        first = torch.stack([p[int(s)] for p, s in zip(firsts(model, cond), given.values, strict=True)])
        expected = model.log_prob(whole, cond, noise=NOISE).value - first
    assert torch.allclose(found.log_probs, expected, atol=1e-9)
    assert found.ended.all(), "an item of greatest length ends for certain"


def firsts(model: SequenceModel, cond: Tensor) -> Tensor:
    """Return the log-probabilities of each first symbol."""
    return model.network(model.alphabet.starts(cond, len(cond))[:, None])[:, 0].log_softmax(-1)


def test_guidance_overstates_the_difference_that_the_class_makes() -> None:
    model, text = gpt(FIXED, LABEL), [0, 2, 1]
    reader = open_reader(model, 1, 12, scale=2.5)
    with torch.no_grad():
        found = reader.read(torch.tensor([[model.alphabet.outputs + 1, *text]]))[0, -1]
        given, free = (
            model.network(torch.tensor([[start, *text]]))[0, -1].log_softmax(-1)
            for start in (model.alphabet.outputs + 1, model.alphabet.nameless)
        )
    assert torch.allclose(found, free + 2.5 * (given - free), atol=1e-10)
    assert not torch.allclose(given, free)


def test_a_helper_guesses_under_guidance() -> None:
    choice, model = Choice(guidance_scale=2.0), gpt(cond=LABEL)
    n, label = 20_000, model.alphabet.outputs + 1

    def guided(text: tuple[int, ...]) -> Tensor:
        with torch.no_grad():
            given, free = (
                model.network(torch.tensor([[start, *text]]))[0, -1].log_softmax(-1)
                for start in (label, model.alphabet.nameless)
            )
        return (free + 2 * (given - free)).softmax(-1)

    helper, cond = lstm(cond=LABEL), torch.ones(n, dtype=torch.int64)
    drawn = speculate(model, helper, no_prompts(n), rows(n), 4, choice, cond, ahead=2)
    require_fit(with_ends(drawn, n), tree(guided, 4, model.alphabet.symbols))


def test_what_is_collected_of_a_helper_has_no_gaps() -> None:
    model, given = gpt(), [[0], [], [2, 1], [1]]
    helped = list(speculate(model, lstm(), prompts(*given), rows(4), 6, PLAIN, ahead=3))
    found = collect(model.alphabet, iter(helped), 4)
    expected = with_ends(iter(helped), 4)
    assert listed(found.values) == [tuple(s for s in text if s < 3) for text in expected]


def test_a_tiny_temperature_is_greedy() -> None:
    cold, greedy = Choice(temperature=1e-310), Choice(temperature=0)
    found = [with_ends(stream(gpt(FIXED), prompts([2]), rows(1), 8, c), 1) for c in (cold, greedy)]
    assert found[0] == found[1]


def test_guided_sequences_are_selected_and_rewound() -> None:
    model, symbols = gpt(FIXED, LABEL), torch.tensor([[0, 2, 1, 1], [1, 0, 0, 2]])
    start = torch.tensor([[model.alphabet.outputs], [model.alphabet.outputs + 1]])
    with torch.no_grad():
        whole = open_reader(model, 2, 12, scale=2.0).read(torch.cat((start, symbols), 1))
        reader = open_reader(model, 2, 12, scale=2.0)
        reader.read(torch.cat((start, symbols[:, :3]), 1))
        reader.rewind(torch.tensor([2, 1]))
        reader.select(torch.tensor([1, 0]))
        again = reader.read(torch.stack((symbols[1, 2:], symbols[0, 1:3])))
    assert torch.allclose(again[0], whole[1, 3:5], atol=1e-10)
    assert torch.allclose(again[1], whole[0, 2:4], atol=1e-10)


def test_a_context_that_is_full_begins_anew_with_its_last_half() -> None:
    """After the 12th symbol the model sees the start and the last six; the first eleven it sees whole."""
    model = gpt(FIXED)
    (text,) = with_ends(stream(model, no_prompts(1), rows(1), 40, PLAIN), 1)
    reader = open_reader(model, 1, 41)
    with torch.no_grad():
        found = [reader.read(torch.tensor([[s]]))[0, -1] for s in (model.alphabet.nameless, *text)]
        for place, first in ((11, 0), (12, 6), (17, 6), (18, 12), (40, 30)):
            seen = torch.tensor([[model.alphabet.nameless, *text[first:place]]])
            assert torch.allclose(found[place], model.network(seen)[0, -1], atol=1e-10)
    assert lstm(FIXED).context is None


def test_sequences_slide_each_on_its_own() -> None:
    model, given = gpt(FIXED), [[0, 1, 2], [], [i % 3 for i in range(20)]]
    together = collect(model.alphabet, stream(model, prompts(*given), rows(3), 30, PLAIN), 3)
    for i, text in enumerate(given):
        noise = SampleNoise(5, torch.tensor([i]))
        single = collect(model.alphabet, stream(model, prompts(text), noise, 30, PLAIN), 1)
        assert torch.equal(together.values.values[i], single.values.values[0])
        assert float(together.log_probs[i]) == pytest.approx(float(single.log_probs[0]), abs=1e-9)


def test_a_muted_symbol_never_comes_and_the_others_share_its_mass() -> None:
    model, n = gpt(), 20_000

    def left(text: tuple[int, ...]) -> Tensor:
        p = next_shares(model, text) * torch.tensor([True, False, True, True])
        return p / p.sum()

    drawn = with_ends(stream(Muted(model, [1]), no_prompts(n), rows(n), 4, PLAIN), n)
    require_fit(drawn, tree(left, 4, 3))


def test_a_sliding_reader_forgets_and_selects() -> None:
    """After both it reads on, through the next full contexts, as one that has read nothing else."""
    model, text = gpt(FIXED), torch.tensor([[i % 3 for i in range(40)], [i % 2 for i in range(40)]])
    text[:, 0] = model.alphabet.nameless
    wrong = torch.full((2, 1), 2)
    with torch.no_grad():
        plain, reader = open_reader(model, 2, 50), open_reader(model, 2, 50)
        for symbol in text[:, :14].split(1, 1):
            plain.read(symbol)
            reader.read(symbol)
        for _ in range(2):
            reader.read(wrong)
        reader.rewind(torch.tensor([2, 2]))
        reader.select(torch.tensor([1, 0]))
        for place in range(14, 40):
            expected, again = plain.read(text[:, place, None]), reader.read(text[[1, 0], place, None])
            assert torch.allclose(again, expected[[1, 0]], atol=1e-10), place


class Only(Constraint):
    """Some symbols of three, until one of them comes."""

    def __init__(self, may: list[bool], last: int) -> None:
        self.may, self.last = torch.tensor([may]), last

    def allowed(self, active: Tensor) -> Tensor:
        return self.may.expand(len(active), -1)

    def take(self, symbols: Tensor, active: Tensor) -> Tensor:
        return active & (symbols == self.last)


def test_constraints_together_allow_what_all_do_and_end_where_one_does() -> None:
    both = Together([Only([True, True, False], 0), Only([False, True, True], 1)])
    active = torch.tensor([True, True, True])
    assert both.allowed(active).tolist() == [[False, True, False]] * 3
    assert both.take(torch.tensor([0, 1, 2]), active).tolist() == [True, True, False]


def test_a_prompt_longer_than_the_context_counts_by_its_end() -> None:
    model, text = gpt(FIXED), [i % 3 for i in range(30)]
    reader = open_reader(model, 2, 40)
    both = prompts(text, [1, 2])
    start = torch.cat((torch.full((2, 1), model.alphabet.nameless), both.values), 1)
    with torch.no_grad():
        found = reader.read(start, both.lengths + 1)
        for row, n, seen in ((0, 30, text[-6:]), (1, 2, [1, 2])):
            whole = model.network(torch.tensor([[model.alphabet.nameless, *seen]]))[0, -1]
            assert torch.allclose(found[row, n], whole, atol=1e-10)


class Sums(Constraint):
    """The symbols drawn so far add up to 3 at most, and to 3 at the end."""

    def __init__(self, n: int) -> None:
        self.sums = torch.zeros(n, dtype=torch.int64)

    def allowed(self, active: Tensor) -> Tensor:  # noqa: ARG002
        return torch.cat((self.sums[:, None] + torch.arange(3) <= 3, self.sums[:, None] == 3), 1)

    def take(self, symbols: Tensor, active: Tensor) -> Tensor:
        self.sums = self.sums + symbols * (active & (symbols < 3))
        return torch.zeros_like(active)


def test_constrained_draws_follow_the_masked_distribution() -> None:
    model, n = gpt(), 20_000

    def masked(text: tuple[int, ...]) -> Tensor:
        total = sum(text)
        allowed = torch.tensor([total + s <= 3 for s in range(3)] + [total == 3])
        p = next_shares(model, text) * allowed
        return p / p.sum()

    drawn = with_ends(stream(model, no_prompts(n), rows(n), 4, PLAIN, constraint=Sums(n)), n)
    require_fit(drawn, tree(masked, 4, 3))


HELPERS = {"lstm": lstm, "another transformer": lambda: gpt(seed=4), "itself": gpt}


@pytest.mark.parametrize("helper", HELPERS.values(), ids=HELPERS)
@pytest.mark.parametrize("choice", [PLAIN, Choice(temperature=0.7, top_k=3)], ids=["plain", "cut"])
def test_a_helper_does_not_change_the_distribution(
    helper: Callable[[], SequenceModel], choice: Choice
) -> None:
    model, n = gpt(), 20_000
    law = tree(lambda t: next_shares(model, t, choice), 4, model.alphabet.symbols)
    drawn = with_ends(speculate(model, helper(), no_prompts(n), rows(n), 4, choice, ahead=2), n)
    require_fit(drawn, law)


def test_a_helper_that_is_the_model_is_always_confirmed() -> None:
    model, n = gpt(FIXED), 5
    rounds = [one.active for one in speculate(model, model, no_prompts(n), rows(n), 9, PLAIN, ahead=2)]
    assert len(rounds) == 9
    assert all(bool(active.all()) for active in rounds)


def test_a_helper_of_counts_serves_a_network_with_prompts() -> None:
    model, helper, given = lstm(), ngram(), [[0], [], [2, 1], [1]]
    reference = prompts(*given)
    n, n_each = len(given) * 4000, 4000
    many = Padded(reference.values.repeat(n_each, 1), reference.lengths.repeat(n_each))
    drawn = with_ends(speculate(model, helper, many, rows(n), 2, PLAIN, ahead=3), n)
    for i, text in enumerate(given):
        law = tree(lambda t, text=text: next_shares(model, (*text, *t)), 2, 3)  # type: ignore[misc]
        require_fit(drawn[i :: len(given)], law)


def test_a_helper_must_have_the_same_symbols() -> None:
    with pytest.raises(DataError, match="same symbols"):
        next(speculate(gpt(), gpt(FIXED), no_prompts(1), rows(1), 2, PLAIN))
    with pytest.raises(DataError, match="fit into 12 symbols, not 13"):
        next(speculate(gpt(FIXED), gpt(FIXED), no_prompts(1), rows(1), 13, PLAIN))
    with pytest.raises(DataError, match="repetition penalty"):
        next(speculate(gpt(), gpt(), no_prompts(1), rows(1), 2, Choice(repetition_penalty=2)))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@every_model
def test_a_wide_beam_finds_the_best_of_all(make: Callable[..., SequenceModel], alpha: float) -> None:
    model, width, given = make(), 81, [[], [1], [0]]
    found = beam_search(model, prompts(*given), width, 4, alpha)
    for row, prompt in enumerate(given):
        law = tree(lambda t, prompt=prompt: next_shares(model, (*prompt, *t)), 4, 3)  # type: ignore[misc]
        scored = {
            t: torch.tensor(p).double().log() / penalty(torch.tensor(len(t)), alpha) for t, p in law.items()
        }
        best = sorted(scored, key=lambda t: -float(scored[t]))[:10]
        for place, text in enumerate(best):
            n = int(found.lengths[row, place])
            assert tuple(found.values[row, place, :n].tolist()) == tuple(s for s in text if s < 3)
            assert float(found.scores[row, place]) == pytest.approx(float(scored[text]), abs=1e-6)


Scored = list[tuple[float, tuple[int, ...]]]


def by_hand(model: SequenceModel, width: int, steps: int, alpha: float) -> Scored:
    """Return what a beam search finds that never stops early, with scores."""
    alive, done = [(0.0, ())], []
    for _ in range(steps):
        grown = [
            (score + float(p.log()), (*text, symbol))
            for score, text in alive
            for symbol, p in enumerate(next_shares(model, text))
        ]
        done += [g for g in grown if g[1][-1] == 3]
        alive = sorted((g for g in grown if g[1][-1] != 3), reverse=True)[:width]
    scored = [(v / float(penalty(torch.tensor(len(t)), alpha)), t) for v, t in done + alive]
    return sorted(scored, reverse=True)[:width]


@pytest.mark.parametrize(
    ("alpha", "seed"), [*itertools.product([0.0, 0.7, 2.0], range(4)), (4.0, 12), (4.0, 29)]
)
def test_a_narrow_beam_stops_early_without_loss(alpha: float, seed: int) -> None:
    """In the last two cases what is best is longer than what is found first."""
    model = gpt(seed=seed)
    found, expected = beam_search(model, no_prompts(1), 3, 8, alpha), by_hand(model, 3, 8, alpha)
    for place, (score, text) in enumerate(expected):
        n = int(found.lengths[0, place])
        assert tuple(found.values[0, place, :n].tolist()) == tuple(s for s in text if s < 3)
        assert float(found.scores[0, place]) == pytest.approx(score, abs=1e-6)


def test_a_beam_goes_beyond_the_context() -> None:
    """What it finds has the likelihood that a sliding reader gives it."""
    model, steps = gpt(FIXED), 25
    found = beam_search(model, prompts([2]), 3, steps)
    for row in range(3):
        reader, total = open_reader(model, 1, 40), 0.0
        with torch.no_grad():
            logits = reader.read(torch.tensor([[model.alphabet.nameless, 2]]))[0, -1]
            for symbol in found.values[0, row].tolist():
                total += float(logits.log_softmax(-1)[symbol])
                logits = reader.read(torch.tensor([[symbol]]))[0, -1]
        assert float(found.log_probs[0, row]) == pytest.approx(total, abs=1e-8)


def test_a_beam_of_one_is_greedy_where_nothing_ends() -> None:
    model = gpt(FIXED)
    greedy = with_ends(stream(model, prompts([0], [1, 2]), rows(2), 6, Choice(temperature=0)), 2)
    found = beam_search(model, prompts([0], [1, 2]), 1, 6)
    assert [tuple(row) for row in found.values[:, 0].tolist()] == greedy
    assert found.lengths.tolist() == [[6], [6]]


def test_counts_read_as_they_score() -> None:
    model = ngram()
    for text in itertools.product(range(3), repeat=3):
        reader = model.reader(1, 4)
        logits = reader.read(torch.tensor([[model.alphabet.nameless, *text]]))[0].log_softmax(-1)
        nats = sum(float(logits[i, s]) for i, s in enumerate((*text, 3)))
        item = Padded(torch.tensor([[*text, *[0] * 5]]), torch.tensor([3]))
        assert nats == pytest.approx(float(model.log_prob(item, noise=NOISE).value), abs=1e-9)
    reader.rewind(torch.tensor([2]))
    again = reader.read(torch.tensor([[0, 1]]))
    reader.select(torch.tensor([0, 0]))
    assert again.shape == (1, 2, 4)
    assert reader.read(torch.tensor([[2], [0]])).shape == (2, 1, 4)


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"min_p": 2}, {"top_q": 1}):
        with pytest.raises(ValidationError):
            Choice(**wrong)


def test_an_alphabet_numbers_symbols_ends_and_starts() -> None:
    alphabet = Alphabet(3, ends=True, classes=2)
    assert (alphabet.outputs, alphabet.inputs, alphabet.nameless) == (4, 7, 6)
    assert alphabet.starts(torch.tensor([0, 1, 2]), 3).tolist() == [4, 5, 6]
    assert alphabet.starts(None, 2).tolist() == [6, 6]
