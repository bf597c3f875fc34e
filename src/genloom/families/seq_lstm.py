"""Recurrent networks over sequences: plain, gated (GRU) and with memory cells (LSTM).

Elman 1990; Hochreiter & Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078.

Shapes: B batch, L positions, T symbols read at once, D width of the embedding, U units of a layer.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.events import Event, Leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.core.sequences import Alphabet, Reader
from genloom.nn.decoding import Tape
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.sequences import (
    SequenceModel,
    SequenceNetwork,
    maximum_likelihood,
    sequence_model,
)

Cell = Literal["lstm", "gru", "rnn"]
CELLS: Mapping[Cell, Callable[..., nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
SHORT = 64
"""Up to this many symbols a small network suffices."""


class Config(card.Config):
    """Settings of a recurrent network and of its training."""

    cell: Cell = Field("lstm", description="lstm remembers longest; gru is smaller; rnn is the plain one")
    units: int = Field(512, gt=0, description="of each layer")
    layers: int = Field(2, gt=0, description="one above the other")
    embedding: int = Field(64, gt=0, description="values that stand for a symbol")
    dropout: float = Field(0.2, ge=0, lt=1, description="of channels between layers, the same at all places")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(3e-3, gt=0, description="peak rate of AdamW, which decays as a cosine")
    weight_decay: float = Field(0.01, ge=0, description="times the rate")
    batch_size: int = Field(32, gt=0)

    @classmethod
    def preset(cls, event: Event) -> Self:
        small = isinstance(event, Leaf) and event.extents[0] <= SHORT
        return cls(units=256, layers=1, batch_size=128) if small else cls()

    def build(self, event: Event, cond: Event | None) -> SequenceModel:
        def network(alphabet: Alphabet, longest: int) -> Network:  # noqa: ARG001
            return Network(alphabet, self.cell, self.embedding, self.units, self.layers, self.dropout)

        return sequence_model("seq.lstm", event, cond, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, SequenceModel)
        moved = Optimiser(
            self.lr, "adamw", weight_decay=self.weight_decay, schedule="cosine", warmup=0.02, clip=1.0
        )
        objective = maximum_likelihood(model, {"network": (model.network, moved)}, self.label_dropout)
        return [Stage("fit", objective, self.batch_size)]


State = tuple[Tensor, ...]
"""What a layer remembers, each (1, B, U): its output, and of an LSTM its memory cells."""

States = list[State | None]
"""Those of all layers, None before the first symbol."""

REMEMBERED = 16
"""Readings that can be undone without reading all anew."""


class Network(SequenceNetwork):
    """An embedding, recurrent layers, and a linear map to logits."""

    def __init__(
        self, alphabet: Alphabet, cell: Cell, embedding: int, units: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.embedding = nn.Embedding(alphabet.inputs, embedding)
        sizes = [embedding] + [units] * (layers - 1)
        self.layers = nn.ModuleList(CELLS[cell](size, units, batch_first=True) for size in sizes)
        self.head = nn.Linear(units, alphabet.outputs)
        if cell == "lstm":
            for layer in self.layers:
                remembering(layer)

    def forward(self, symbols: Tensor, noise: Noise | None = None) -> Tensor:
        return self.read(symbols, [None] * len(self.layers), channel_dropout(self.dropout, noise))[0]

    def read(self, symbols: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
        """Return the logits of what follows each symbol, (B, T, V), and the new states of the layers."""
        x, left = drop(self.embedding(symbols)), States()
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, single(state))
            left.append(state if isinstance(state, tuple) else (state,))
            x = drop(x)
        return self.head(x), left

    def reader(self, rows: int, longest: int) -> "StateReader":  # noqa: ARG002
        return StateReader(self, rows)


def single(state: State | None) -> Tensor | State | None:
    """Return a state as the layers of torch take it."""
    return state[0] if state is not None and len(state) == 1 else state


def remembering(layer: nn.Module) -> None:
    """Set the biases of an LSTM's forget gates to 1 together, so that memories last from the start."""
    assert isinstance(layer, nn.LSTM)
    with torch.no_grad():
        for name, bias in layer.named_parameters():
            if name.startswith("bias"):
                bias.chunk(4)[1].fill_(0.5)


class StateReader(Reader):
    """Reads with the states of the layers at hand, and remembers a few earlier ones to go back to."""

    def __init__(self, network: Network, rows: int) -> None:
        self.network, self.tape = network, Tape(rows)
        self.states: States = [None] * len(network.layers)
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
            moved = place < counts
            self.states = [kept(a, b, moved) for a, b in zip(self.states, states, strict=True)]
            parts.append(logits)
        return torch.cat(parts, 1)

    def select(self, rows: Tensor) -> None:
        self.tape.select(rows)
        self.states = [s if s is None else tuple(part[:, rows] for part in s) for s in self.states]
        self.past = []

    def rewind(self, counts: Tensor) -> None:
        wanted = self.tape.lengths - counts
        blank: States = [None] * len(self.network.layers)
        found = [past for past in self.past if bool((past[0] <= wanted).all())]
        self.tape.lengths, self.states = found[-1] if found else (torch.zeros_like(wanted), blank)
        left = wanted - self.tape.lengths
        self.past = found[:-1]
        if bool(left.any()):
            self.read(self.tape.part(self.tape.lengths, int(left.max())), left)


def kept(old: State | None, new: State | None, moved: Tensor) -> State:
    """Return the new states (1, B, U) of sequences that moved on, and the old ones of the others."""
    assert new is not None
    before = old or tuple(torch.zeros_like(part) for part in new)
    return tuple(torch.where(moved[:, None], a, b) for a, b in zip(new, before, strict=True))


CARD = Card(
    name="seq.lstm",
    title="Recurrent network",
    summary="Predicts the next symbol from a state that it carries along, by LSTM, GRU or plain cells.",
    events=(card.symbol_sequence,),
    likelihood=Bound.EXACT,
    conditions="class",
    autocast=True,
    references=(
        Reference(
            "Hochreiter & Schmidhuber", 1997, "Long short-term memory", "doi:10.1162/neco.1997.9.8.1735"
        ),
        Reference(
            "Cho et al.",
            2014,
            "Learning phrase representations using RNN encoder-decoder for statistical machine translation",
            "arXiv:1406.1078",
        ),
        Reference("Elman", 1990, "Finding structure in time", "doi:10.1207/s15516709cog1402_1"),
        Reference(
            "Gal & Ghahramani",
            2016,
            "A theoretically grounded application of dropout in recurrent neural networks",
            "arXiv:1512.05287",
        ),
    ),
    good_at=("Short texts and small sets; each symbol drawn costs the same, however long the text.",),
    bad_at=("Training is one step after another along the text; what is far back fades.",),
)
