"""Networks that carry a state of fixed size along a sequence.  B sequences, T symbols read at once."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from genloom.core.randomness import Noise
from genloom.core.sequences import Reader
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.readers import Tape
from genloom.nn.sequences import SequenceNetwork

State = tuple[Tensor, ...]
"""What a layer remembers of sequences, each (B, ...)."""

States = Sequence[State]
"""Those of all layers; none before the first symbol."""

REMEMBERED = 16
"""Readings that can be undone without reading all anew."""


class RecurrentNetwork(SequenceNetwork):
    """Predicts each symbol from a state of those before it.

    ``dropout`` is the share of channels that are dropped in training, the same ones at all places.
    """

    dropout: float

    @abstractmethod
    def read(self, symbols: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
        """Return the logits of what follows each symbol (B, T, V), and the new states of the layers."""

    def forward(self, symbols: Tensor, noise: Noise | None = None) -> Tensor:
        return self.read(symbols, (), channel_dropout(self.dropout, noise))[0]

    def reader(self, rows: int, longest: int) -> "StateReader":  # noqa: ARG002
        return StateReader(self, rows)


class StateReader(Reader):
    """Reads with the states of the layers at hand, and remembers a few earlier ones to go back to."""

    def __init__(self, network: RecurrentNetwork, rows: int) -> None:
        self.network, self.tape = network, Tape(rows)
        self.states: States = ()
        self.past: list[tuple[Tensor, States]] = []

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        self.past = [*self.past[1 - REMEMBERED :], (self.tape.lengths, self.states)]
        self.tape.write(symbols, counts)
        if counts is None or bool((counts == symbols.shape[1]).all()):
            logits, self.states = self.network.read(symbols, self.states, identity)
            return logits
        parts = []
        for place, symbol in enumerate(symbols.split(1, 1)):
            logits, states = self.network.read(symbol, self.states, identity)
            self.states = kept(self.states, states, place < counts)
            parts.append(logits)
        return torch.cat(parts, 1)

    def select(self, rows: Tensor) -> None:
        self.tape.select(rows)
        self.states = [tuple(part[rows] for part in state) for state in self.states]
        self.past = []

    def rewind(self, counts: Tensor) -> None:
        wanted = self.tape.lengths - counts
        found = [past for past in self.past if bool((past[0] <= wanted).all())]
        self.tape.lengths, self.states = found[-1] if found else (torch.zeros_like(wanted), ())
        left = wanted - self.tape.lengths
        self.past = found[:-1]
        if bool(left.any()):
            self.read(self.tape.part(self.tape.lengths, int(left.max())), left)


def kept(old: States, new: States, moved: Tensor) -> States:
    """Return the new states of sequences that moved on (B,), and the old ones of the others."""

    def one(before: Tensor, after: Tensor) -> Tensor:
        return torch.where(moved.view(-1, *[1] * (after.dim() - 1)), after, before)

    old = old or [tuple(torch.zeros_like(part) for part in state) for state in new]
    return [tuple(map(one, a, b)) for a, b in zip(old, new, strict=True)]
