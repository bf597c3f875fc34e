"""N-grams with modified Kneser-Ney smoothing. Kneser & Ney 1995; Chen & Goodman 1999.

B batch, L positions, V symbols that can come next, N n-grams and M contexts of one order. An n-gram is kept
as one number, whose digits its symbols are.
"""

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Likelihood, NextSymbol, Sampler
from genloom.core.card import Card, Reference
from genloom.core.errors import DataError
from genloom.core.events import Categorical, Event, Leaf, Padded, Value, describe, items
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Stage
from genloom.core.randomness import Noise
from genloom.core.sequences import Alphabet, Reader
from genloom.nn.decoding import draw_items
from genloom.nn.fitted import fitted_buffers, require_fitted
from genloom.nn.readers import Tape

BITS = 62
"""Of the number that stands for an n-gram."""

ENTRIES = 2**24
"""Of the tables of an automaton at most; in 192 MiB."""

LEAST_DISCOUNT = 0.1
"""What is taken off every count at least, so that nothing becomes impossible."""


class Config(card.Config):
    """Settings of an n-gram model."""

    max_order: int = Field(
        8, ge=1, le=16, description="the best order up to it is chosen on validation items"
    )

    def build(self, event: Event, cond: Event | None) -> "Model":  # noqa: ARG002
        if not card.symbol_sequence(event):
            raise DataError(f"seq.ngram needs sequences of symbols, not {describe(event)}")
        assert isinstance(event, Leaf)
        return Model(event, self.max_order)

    def stages(self, model: nn.Module) -> list[Stage]:  # noqa: ARG002
        return [Stage("fit", None)]


@dataclass(frozen=True)
class Level:
    """All n-grams of one order in ascending order with their share, and what each context leaves to less.

    Args:
        keys: (N,) n-grams.
        shares: (N,) discounted counts over those of their contexts.
        contexts: (M,) n-grams of one order less.
        left: (M,) mass that is left to the next lower order.
    """

    keys: Tensor
    shares: Tensor
    contexts: Tensor
    left: Tensor

    def refine(self, lower: Tensor, context: Tensor, key: Tensor) -> Tensor:
        """Return p(w | c) of this order from that of the next lower one, all of one shape."""
        known, place = find(self.contexts, context)
        seen, at = find(self.keys, key)
        higher = torch.where(seen, self.shares[at], 0) + self.left[place] * lower
        return torch.where(known, higher, lower)


def find(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which numbers are among ascending keys, and where."""
    place = torch.searchsorted(keys, wanted.contiguous()).clamp_max(len(keys) - 1)
    return keys[place] == wanted, place


def discounts(counts: Tensor) -> Tensor:
    """Return what is taken off counts of 0, 1, 2 and of 3 or more, (4,).

    Source: Chen & Goodman 1999, equation 26; where counts of counts are too few for it, 0.5, 1 and 1.5.
    """
    n1, n2, n3, n4 = (float((counts == c).sum()) for c in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return torch.tensor([0, 0.5, 1.0, 1.5], dtype=torch.float64)
    y = n1 / (n1 + 2 * n2)
    raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return torch.tensor([0, *(max(off, LEAST_DISCOUNT) for off in raw)], dtype=torch.float64)


def make_level(keys: Tensor, counts: Tensor, base: int) -> Level:
    """Discount the counts of n-grams (Chen & Goodman 1999, equations 23 and 24).

    Args:
        keys: (N,) ascending.
        counts: (N,) how often each occurs, or after how many symbols.
    """
    contexts, of = torch.unique_consecutive(keys // base, return_inverse=True)
    total = torch.zeros(len(contexts), dtype=torch.float64).index_add(0, of, counts.double())
    off = discounts(counts)[counts.clamp_max(3)]
    left = torch.zeros_like(total).index_add(0, of, off) / total
    return Level(keys, (counts.double() - off) / total[of], contexts, left)


def make_levels(rows: Tensor, present: Tensor, order: int, base: int, start: int) -> list[Level]:
    """Count n-grams of every order up to one, lower ones by the symbols that they follow.

    Args:
        rows: symbols (B, order - 1 + L) with as many starts before each item.
        present: (B, L) which positions are symbols of an item.
        start: the symbol of the start; nothing comes before it, so n-grams from it on count as often as seen.
    """
    found = ngrams(rows, order, rows.shape[1] - order + 1, base)[present]
    keys, counts = torch.unique(found, return_counts=True)
    levels = [make_level(keys, counts, base)]
    for size in range(order - 1, 0, -1):
        shorter = keys % base**size
        fresh, of = torch.unique(shorter, return_inverse=True)
        follows = torch.zeros(len(fresh), dtype=torch.int64).index_add(0, of, torch.ones_like(of))
        plain = torch.zeros(len(fresh), dtype=torch.int64).index_add(0, of, counts)
        first = fresh // base ** (size - 1) == start
        keys, counts = fresh, torch.where(first, plain, follows)
        levels.append(make_level(keys, counts, base))
    return levels[::-1]


@dataclass(frozen=True)
class Automaton:
    """All distributions of a model by its states, the known contexts: two look-ups read a symbol.

    Args:
        logits: (S, V) log p of what follows each state.
        moves: (S, V + 1) int32, the longest known context after each state and symbol, the start among them.
    """

    logits: Tensor
    moves: Tensor


def make_automaton(levels: list[Level], symbols: int) -> Automaton:
    """Tabulate what levels say after each context that was seen.

    A context that was seen has only such contexts as its ends.
    """
    base, states = symbols + 1, 0
    shares, moves = torch.full((1, symbols), 1 / symbols, dtype=torch.float64), torch.zeros(1, base).int()
    logits, tables = [], []
    for size, level in enumerate(levels):
        if size > 0:
            _, ends = find(levels[size - 1].contexts, level.contexts % base ** (size - 1))
            shares, moves = shares[ends], moves[ends]
        shares = level.left[:, None] * shares
        _, of = find(level.contexts, level.keys // base)
        shares[of, level.keys % base] += level.shares
        states += len(level.contexts)
        if size + 1 < len(levels):
            longer = level.contexts[:, None] * base + torch.arange(base)
            known, place = find(levels[size + 1].contexts, longer)
            moves = torch.where(known, states + place, moves).int()
        logits.append(shares.log())
        tables.append(moves)
    return Automaton(torch.cat(logits), torch.cat(tables))


def ngrams(rows: Tensor, size: int, positions: int, base: int) -> Tensor:
    """Return the n-grams that end at the last positions of rows, (B, positions)."""
    first = rows.shape[1] - positions - size + 1
    key = torch.zeros(len(rows), positions, dtype=torch.int64)
    for i in range(size):
        key = key * base + rows[:, first + i : first + i + positions]
    return key


class Model(nn.Module, ClosedForm, Likelihood, NextSymbol, Sampler):
    """A distribution of the next symbol, or of the end, given the symbols before it."""

    order: Tensor
    sizes: Tensor
    keys: Tensor
    shares: Tensor
    contexts: Tensor
    left: Tensor

    def __init__(self, event: Leaf, max_order: int) -> None:
        super().__init__()
        assert isinstance(event.kind, Categorical)
        self.varying, self.longest = event.length_axis is not None, event.extents[0]
        self.alphabet, self.context = Alphabet(event.kind.k, self.varying), None
        self.end, self.symbols = event.kind.k, self.alphabet.outputs
        self.start, self.base = self.symbols, self.symbols + 1
        self.max_order = max(1, min(max_order, int(BITS / math.log2(self.base))))
        fitted_buffers(self, "order", "sizes", "keys", "contexts", dtype=torch.int64)
        fitted_buffers(self, "shares", "left", dtype=torch.float64)
        self._tabulated: tuple[Tensor, Automaton] | None = None

    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        """Count, and keep the order that gives the validation items the highest likelihood."""
        best = math.inf
        for order in range(1, self.max_order + 1):
            rows, present = self._rows(train, order)
            levels = make_levels(rows, present, order, self.base, self.start)
            nats = -float(self._log_prob(levels, valid).mean())
            if nats < best:
                best, kept = nats, levels
        self._keep(kept)
        return {"order": float(len(kept)), "valid_nats": best}

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self._log_prob(self._levels(), x), Bound.EXACT)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:  # noqa: ARG002
        return draw_items(self, noise)

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> Reader:  # noqa: ARG002
        levels = self._levels()
        if sum(len(level.contexts) for level in levels) * self.base > ENTRIES:
            return NgramReader(levels, self.symbols, rows)
        if self._tabulated is None or self._tabulated[0] is not self.keys:
            self._tabulated = (self.keys, make_automaton(levels, self.symbols))
        return AutomatonReader(self._tabulated[1], rows, len(levels) - 1)

    def _rows(self, x: Value, order: int) -> tuple[Tensor, Tensor]:
        """Return rows with starts before and an end after each item, and which positions count."""
        values, lengths = (x.values, x.lengths) if isinstance(x, Padded) else (x, None)
        values = items(values, (self.longest,))
        starts = torch.full((len(values), order - 1), self.start)
        if lengths is None:
            return torch.cat((starts, values), 1), torch.ones_like(values, dtype=torch.bool)
        place = torch.arange(self.longest + 1)
        longer = torch.cat((values, torch.zeros_like(values[:, :1])), 1)
        whole = torch.where(place == lengths[:, None], self.end, longer)
        return torch.cat((starts, whole), 1), place <= lengths[:, None]

    def _log_prob(self, levels: list[Level], x: Value) -> Tensor:
        """Return log p of items (B,); the end of an item of greatest length is certain."""
        rows, present = self._rows(x, len(levels))
        positions = present.shape[1]
        p = torch.full(present.shape, 1 / self.symbols, dtype=torch.float64)
        for size, level in enumerate(levels, 1):
            keys = ngrams(rows, size, positions, self.base)
            p = level.refine(p, keys // self.base, keys)
        return p.log().masked_fill(~present, 0)[:, : self.longest].sum(1)

    def _keep(self, levels: list[Level]) -> None:
        self.sizes = torch.tensor([[len(v.keys), len(v.contexts)] for v in levels])
        self.order = torch.tensor([len(levels)])
        for name in ("keys", "shares", "contexts", "left"):
            setattr(self, name, torch.cat([getattr(level, name) for level in levels]))

    def _levels(self) -> list[Level]:
        require_fitted(self.order)
        grams, contexts = self.sizes.t().tolist()
        parts = (self.keys.split(grams), self.shares.split(grams))
        more = (self.contexts.split(contexts), self.left.split(contexts))
        return [Level(*level) for level in zip(*parts, *more, strict=True)]


class AutomatonReader(Reader):
    """Reads with the states of an automaton at hand."""

    def __init__(self, automaton: Automaton, rows: int, starts: int) -> None:
        self.automaton, self.tape = automaton, Tape(rows)
        state = torch.zeros(rows, dtype=torch.int64)
        for _ in range(starts):
            state = automaton.moves[state, -1].long()
        self.tape.write(state[:, None], None)

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        state, states = self.tape.last(), []
        for each in symbols.unbind(1):
            state = self.automaton.moves[state, each].long()
            states.append(state)
        reached = torch.stack(states, 1)
        self.tape.write(reached, counts)
        return self.automaton.logits[reached]

    def select(self, rows: Tensor) -> None:
        self.tape.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.tape.lengths = self.tape.lengths - counts


class NgramReader(Reader):
    """Reads with the last symbols at hand."""

    def __init__(self, levels: list[Level], symbols: int, rows: int) -> None:
        self.levels, self.symbols, self.tape = levels, symbols, Tape(rows)
        self.tape.write(torch.full((rows, len(levels) - 1), symbols), None)

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        first, before = self.tape.lengths - len(self.levels) + 1, self.tape.lengths
        width = len(self.levels) - 1 + symbols.shape[1]
        self.tape.write(symbols, None)
        text = self.tape.part(first, width)
        if counts is not None:
            self.tape.lengths = before + counts
        contexts = text.unfold(1, len(self.levels), 1)[..., 1:]
        return torch.stack([self._next(context) for context in contexts.unbind(1)], 1).log()

    def _next(self, context: Tensor) -> Tensor:
        """Return p(symbol | the last symbols), (B, V) for (B, order - 1)."""
        p = torch.full((len(context), self.symbols), 1 / self.symbols, dtype=torch.float64)
        for size, level in enumerate(self.levels):
            key = torch.zeros(len(context), 1, dtype=torch.int64)
            for i in range(size):
                key = key * (self.symbols + 1) + context[:, context.shape[1] - size + i, None]
            keys = key * (self.symbols + 1) + torch.arange(self.symbols)
            p = level.refine(p, key.expand_as(keys), keys)
        return p

    def select(self, rows: Tensor) -> None:
        self.tape.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.tape.lengths = self.tape.lengths - counts


CARD = Card(
    name="seq.ngram",
    title="N-grams",
    summary="Predicts the next symbol from the last few by counting, smoothed by Kneser and Ney's method.",
    events=(card.symbol_sequence,),
    likelihood=Bound.EXACT,
    references=(
        Reference("Kneser & Ney", 1995, "Improved backing-off for m-gram language modeling", "ICASSP"),
        Reference(
            "Chen & Goodman",
            1999,
            "An empirical study of smoothing techniques for language modeling",
            "Computer Speech & Language 13(4)",
        ),
    ),
    good_at=("Counts in seconds: the floor that every learned model of sequences must pass.",),
    bad_at=("Sees no further back than a few symbols.",),
)
