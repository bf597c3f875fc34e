"""Readers made of other readers: guided by a class, of texts longer than a context, without some symbols.

Shapes: B sequences, T symbols read at once, V what can come next.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genloom.core.capabilities import NextSymbol
from genloom.core.events import Value, take
from genloom.core.sequences import Alphabet, Reader


def wide(logits: Tensor) -> Tensor:
    """Return logits in float32 at least."""
    return logits.float() if logits.dtype == torch.bfloat16 else logits


class Guided(Reader):
    """Reads sequences with their class and without, and overstates the difference.

    Source: Ho & Salimans 2022, arXiv:2207.12598, equation 6, of log-probabilities as in Sanchez et al. 2023,
    arXiv:2306.17806, equation 7.
    """

    def __init__(self, given: Reader, free: Reader, alphabet: Alphabet, scale: float) -> None:
        self.given, self.free, self.alphabet, self.scale = given, free, alphabet, scale

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        nameless = symbols.masked_fill(symbols >= self.alphabet.outputs, self.alphabet.nameless)
        given = wide(self.given.read(symbols, counts)).log_softmax(-1)
        free = wide(self.free.read(nameless, counts)).log_softmax(-1)
        gap = (given - free).masked_fill(free.isneginf(), 0)
        return free + self.scale * gap

    def select(self, rows: Tensor) -> None:
        self.given.select(rows)
        self.free.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.given.rewind(counts)
        self.free.rewind(counts)


class Tape:
    """Symbols of several sequences, each of its own length (B,)."""

    def __init__(self, rows: int) -> None:
        self.values = torch.zeros(rows, 0, dtype=torch.int64)
        self.lengths = torch.zeros(rows, dtype=torch.int64)

    def write(self, symbols: Tensor, counts: Tensor | None) -> None:
        """Add the first ``counts`` of symbols (B, T) to each sequence, all if None."""
        counts = torch.full_like(self.lengths, symbols.shape[1]) if counts is None else counts
        width = int(self.lengths.max()) + symbols.shape[1]
        if width > self.values.shape[1]:
            self.values = F.pad(self.values, (0, 2 * width - self.values.shape[1]))
        ahead = torch.arange(symbols.shape[1])
        places = self.lengths[:, None] + ahead
        before = self.values.gather(1, places)
        self.values.scatter_(1, places, torch.where(ahead < counts[:, None], symbols, before))
        self.lengths = self.lengths + counts

    def last(self) -> Tensor:
        """Return the last symbol of each sequence, (B,)."""
        return self.values.gather(1, self.lengths[:, None] - 1)[:, 0]

    def part(self, first: Tensor, width: int) -> Tensor:
        """Return so many symbols of each sequence from a place on, (B, width); past its end, anything."""
        places = first[:, None] + torch.arange(width)
        return self.values.gather(1, places.clamp(0, self.values.shape[1] - 1))

    def select(self, rows: Tensor) -> None:
        """Go on with these sequences."""
        self.values, self.lengths = self.values[rows], self.lengths[rows]


class Sliding(Reader):
    """Reads sequences of any length by a model of bounded context.

    When a sequence fills its context, it is read anew from the start and the last half of a context.
    """

    def __init__(self, model: NextSymbol, rows: int, context: int, cond: Value | None = None) -> None:
        self.model, self.context, self.cond, self.tape = model, context, cond, Tape(rows)
        self.reader = model.reader(rows, context, cond)
        self.held = torch.zeros(rows, dtype=torch.int64)

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        before = self.tape.lengths
        self.tape.write(symbols, counts)
        counts = self.tape.lengths - before
        full = self.held + counts > self.context
        last = self.tape.lengths.clamp_max(1 + self.context // 2)
        self.held = torch.where(full, last, self.held + counts)
        if not bool(full.any()):
            return self.reader.read(symbols, counts)
        self.reader = self.model.reader(len(symbols), self.context, self.cond)
        again = self.tape.part(self.tape.lengths - self.held, int(self.held.max()))
        again[:, 0] = self.tape.values[:, 0]
        logits = self.reader.read(again, self.held)
        asked = (self.held - counts)[:, None] + torch.arange(symbols.shape[1])
        asked = asked.clamp(0, logits.shape[1] - 1)
        return logits[torch.arange(len(symbols))[:, None], asked]

    def select(self, rows: Tensor) -> None:
        self.reader.select(rows)
        self.tape.select(rows)
        self.held = self.held[rows]
        self.cond = None if self.cond is None else take(self.cond, rows)

    def rewind(self, counts: Tensor) -> None:
        self.reader.rewind(counts)
        self.tape.lengths, self.held = self.tape.lengths - counts, self.held - counts


class Muted(NextSymbol):
    """A model without some of its symbols: what is left of each distribution, as if they could not come."""

    def __init__(self, model: NextSymbol, silent: Sequence[int]) -> None:
        self.model, self.silent = model, torch.tensor(silent, dtype=torch.int64)
        self.alphabet, self.longest, self.context = model.alphabet, model.longest, model.context

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> Reader:
        return MutedReader(self.model.reader(rows, longest, cond), self.silent)


class MutedReader(Reader):
    """The reader of a ``Muted`` model."""

    def __init__(self, reader: Reader, silent: Tensor) -> None:
        self.reader, self.silent = reader, silent

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        return self.reader.read(symbols, counts).index_fill(-1, self.silent, -torch.inf)

    def select(self, rows: Tensor) -> None:
        self.reader.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.reader.rewind(counts)


def open_reader(
    model: NextSymbol,
    rows: int,
    longest: int,
    cond: Value | None = None,
    scale: float = 1.0,
    spare: int = 0,
) -> Reader:
    """Return a reader of so many sequences, guided by their class where ``scale`` is not 1.

    Args:
        longest: symbols of a sequence, its start included; more than the model's context slide.
        cond: what the sequences are given.
        spare: symbols that may be read beyond and are forgotten.
    """

    def plain() -> Reader:
        if model.context is None or longest <= model.context:
            return model.reader(rows, longest + spare, cond)
        return Sliding(model, rows, model.context, cond)

    return plain() if scale == 1 else Guided(plain(), plain(), model.alphabet, scale)
