"""Networks that carry a state of fixed size along a sequence.  B sequences, T symbols read at once."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor, nn

from genloom.core.events import Value
from genloom.core.randomness import Noise
from genloom.core.sequences import Reader
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.readers import Tape
from genloom.nn.sequences import SequenceNetwork

State = tuple[Tensor, ...]
"""What a layer remembers of sequences, each (B, ...)."""

States = Sequence[State]
"""Those of all layers; none before the first symbol."""

Cell = Literal["lstm", "gru", "rnn"]
CELLS: Mapping[Cell, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}

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

    def opening(self, rows: int, cond: Value | None, drop: Map) -> States:  # noqa: ARG002
        """Return the states before the first symbol, where what is given is part of them."""
        return ()

    def forward(self, symbols: Tensor, noise: Noise | None = None, cond: Value | None = None) -> Tensor:
        drop = channel_dropout(self.dropout, noise)
        return self.read(symbols, self.opening(len(symbols), cond, drop), drop)[0]

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> "StateReader":  # noqa: ARG002
        return StateReader(self, rows, self.opening(rows, cond, identity))


def recurrent_layers(cell: Cell, size: int, units: int, layers: int) -> nn.ModuleList:
    """Return layers one above the other, of which the first reads ``size`` values a place."""
    sizes = [size] + [units] * (layers - 1)
    found = nn.ModuleList(CELLS[cell](size, units, batch_first=True) for size in sizes)
    if cell == "lstm":
        for layer in found:
            remembering(layer)
    return found


def run_layers(layers: nn.ModuleList, x: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
    """Return what layers make of a sequence (B, T, D), each of its states or of none, and the new states.

    The state of a layer is its output (B, 1, U), and of an LSTM its memory cells as well.
    """
    left = list[State]()
    for layer, state in zip_longest(layers, states):
        x, found = layer(x, None if state is None else as_torch_has_it(state))
        left.append(tuple(p.transpose(0, 1) for p in (found if isinstance(found, tuple) else (found,))))
        x = drop(x)
    return x, left


def as_torch_has_it(state: State) -> Tensor | State:
    """Return a state (B, 1, U) as torch's layers take it: (1, B, U), and a pair only where there are two."""
    parts = tuple(part.transpose(0, 1).contiguous() for part in state)
    return parts if len(parts) > 1 else parts[0]


def remembering(layer: nn.Module) -> None:
    """Set the biases of an LSTM's forget gates to 1 together, so that memories last from the start."""
    with torch.no_grad():
        for name, bias in layer.named_parameters():
            if name.startswith("bias"):
                bias.chunk(4)[1].fill_(0.5)


def turned(x: Tensor, present: Tensor) -> Tensor:
    """Return sequences (B, S, ...) from their last place to their first; what is beyond stays."""
    place = torch.arange(x.shape[1])
    place = torch.where(present, present.sum(1, keepdim=True) - 1 - place, place)
    return x[torch.arange(len(x))[:, None], place]


class BothWays(nn.Module):
    """Recurrent layers, each of which reads from left to right and from right to left."""

    def __init__(self, cell: Cell, size: int, units: int, layers: int) -> None:
        super().__init__()
        sizes = [size] + [units] * (layers - 1)
        self.ahead, self.back = (
            nn.ModuleList(recurrent_layers(cell, size, units // 2, 1)[0] for size in sizes) for _ in range(2)
        )

    def forward(self, x: Tensor, present: Tensor, drop: Map) -> Tensor:
        """Map (B, S, D) to (B, S, U)."""
        for ahead, back in zip(self.ahead, self.back, strict=True):
            x = drop(torch.cat((ahead(x)[0], turned(back(turned(x, present))[0], present)), -1))
        return x


class StateReader(Reader):
    """Reads with the states of the layers at hand, and remembers a few earlier ones to go back to."""

    def __init__(self, network: RecurrentNetwork, rows: int, opening: States = ()) -> None:
        self.network, self.tape, self.opening = network, Tape(rows), opening
        self.states = opening
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
        self.states, self.opening = (chosen(states, rows) for states in (self.states, self.opening))
        self.past = []

    def rewind(self, counts: Tensor) -> None:
        wanted = self.tape.lengths - counts
        found = [past for past in self.past if bool((past[0] <= wanted).all())]
        self.tape.lengths, self.states = found[-1] if found else (torch.zeros_like(wanted), self.opening)
        left = wanted - self.tape.lengths
        self.past = found[:-1]
        if bool(left.any()):
            self.read(self.tape.part(self.tape.lengths, int(left.max())), left)


def chosen(states: States, rows: Tensor) -> States:
    """Return the states of these sequences."""
    return [tuple(part[rows] for part in state) for state in states]


def kept(old: States, new: States, moved: Tensor) -> States:
    """Return the new states of sequences that moved on (B,), and the old ones of the others."""

    def one(before: Tensor, after: Tensor) -> Tensor:
        return torch.where(moved.view(-1, *[1] * (after.dim() - 1)), after, before)

    old = old or [tuple(torch.zeros_like(part) for part in state) for state in new]
    return [tuple(map(one, a, b)) for a, b in zip(old, new, strict=True)]
