"""Recurrent network that turns a sequence into another, with attention to what it reads.

Luong et al. 2015, arXiv:1508.04025; the additive score is that of Bahdanau et al. 2015, arXiv:1409.0473.

Shapes: B batch, S symbols of the source and its end, T symbols that are written, M values of a place of the
source, U units of a layer, V what can come next.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.events import Event, Value
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.sequences import Alphabet
from genloom.nn.dropout import Map, identity
from genloom.nn.recurrent import (
    BothWays,
    Cell,
    RecurrentNetwork,
    State,
    States,
    recurrent_layers,
    run_layers,
)
from genloom.nn.sequences import (
    AlignedModel,
    AlignedNetwork,
    maximum_likelihood,
    source_of,
    translation_model,
)

Score = Literal["general", "additive"]


class Config(card.Config):
    """Settings of a recurrent encoder and decoder, and of their training."""

    cell: Cell = Field("lstm", description="lstm remembers longest; gru is smaller; rnn is the plain one")
    score: Score = Field("general", description="of attention: general by Luong, additive by Bahdanau")
    units: int = Field(512, gt=0, description="of each layer, half of the encoder's in each direction")
    encoder_layers: int = Field(1, gt=0, description="that read the source in both directions")
    layers: int = Field(1, gt=0, description="that write")
    embedding: int = Field(256, gt=0, description="values that stand for a symbol")
    dropout: float = Field(0.3, ge=0, lt=1, description="of channels between layers, the same at all places")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the target that all symbols get")
    lr: float = Field(2e-3, gt=0, description="peak rate of AdamW, which decays as a cosine")
    weight_decay: float = Field(0.01, ge=0, description="times the rate")
    batch_size: int = Field(128, gt=0)

    @model_validator(mode="after")
    def _two_halves(self) -> Self:
        if self.units % 2:
            raise ValueError("units must be even, as each direction of the encoder gets half of them")
        return self

    def build(self, event: Event, cond: Event | None) -> AlignedModel:
        def network(alphabet: Alphabet, sources: int) -> Network:
            sizes = self.embedding, self.units, self.encoder_layers, self.layers, self.dropout
            return Network(alphabet, sources, self.cell, self.score, *sizes)

        return translation_model("seq2seq.rnn", event, cond, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, AlignedModel)
        moved = Optimiser(
            self.lr, "adamw", weight_decay=self.weight_decay, schedule="cosine", warmup=0.02, clip=1.0
        )
        optimisers = {"network": (model.network, moved)}
        objective = maximum_likelihood(model, optimisers, label_smoothing=self.label_smoothing)
        return [Stage("fit", objective, self.batch_size, alike=True)]


class General(nn.Module):
    """Scores places by a product. Luong et al., equation 8, "general"."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.map = nn.Linear(units, units, bias=False)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return the scores (B, T, S) of places (B, S, U) for states (B, T, U)."""
        return self.map(x) @ memory.transpose(1, 2)


class Additive(nn.Module):
    """Scores places by a network of one layer. Bahdanau et al., appendix A.1.2."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.of_state = nn.Linear(units, units // 2, bias=False)
        self.of_place = nn.Linear(units, units // 2)
        self.weigh = nn.Linear(units // 2, 1, bias=False)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return the scores (B, T, S) of places (B, S, U) for states (B, T, U)."""
        together = self.of_state(x)[:, :, None] + self.of_place(memory)[:, None]
        return self.weigh(together.tanh())[..., 0]


class Network(RecurrentNetwork, AlignedNetwork):
    """An encoder in both directions, and a decoder that looks at what it read before it writes.

    The first of its states is what is looked at: places (B, S, U), and which of them there are (B, S).
    """

    def __init__(
        self,
        alphabet: Alphabet,
        sources: int,
        cell: Cell,
        score: Score,
        embedding: int,
        units: int,
        encoder_layers: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.end, self.dropout, self.cell = sources, dropout, cell
        self.reading = nn.Embedding(sources + 1, embedding)
        self.writing = nn.Embedding(alphabet.inputs, embedding)
        self.encoder = BothWays(cell, embedding, units, encoder_layers)
        self.start = nn.Linear(units, units)
        self.layers = recurrent_layers(cell, embedding, units, layers)
        self.score = General(units) if score == "general" else Additive(units)
        self.join = nn.Linear(2 * units, embedding)
        self.head = nn.Linear(embedding, alphabet.outputs)

    def opening(self, rows: int, cond: Value | None, drop: Map) -> States:
        symbols, present = source_of(cond, rows, self.end)
        memory = self.encoder(drop(self.reading(symbols)), present, drop)
        mean = (memory * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        first = self.start(mean).tanh()[:, None]
        state: State = (first, torch.zeros_like(first)) if self.cell == "lstm" else (first,)
        return [(memory, present), *[state] * len(self.layers)]

    def read(self, symbols: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
        source, *states = states
        x, left = run_layers(self.layers, drop(self.writing(symbols)), states, drop)
        memory, _ = source
        found = self.shares(x, source) @ memory
        return self.head(drop(self.join(torch.cat((found, x), -1)).tanh())), [source, *left]

    def shares(self, x: Tensor, source: State) -> Tensor:
        """Return how much of each place of the source states (B, T, U) take, (B, T, S)."""
        memory, present = source
        return self.score(x, memory).masked_fill(~present[:, None], -torch.inf).softmax(-1).to(memory.dtype)

    def align(self, symbols: Tensor, cond: Value) -> Tensor:
        source, *states = self.opening(len(symbols), cond, identity)
        x, _ = run_layers(self.layers, self.writing(symbols), states, identity)
        return self.shares(x, source)


CARD = Card(
    name="seq2seq.rnn",
    title="Translating recurrent network",
    summary="Reads a sequence in both directions, and writes another with attention to it.",
    events=(card.symbol_sequence,),
    likelihood=Bound.EXACT,
    conditions="sequence",
    autocast=True,
    references=(
        Reference(
            "Bahdanau et al.",
            2015,
            "Neural machine translation by jointly learning to align and translate",
            "arXiv:1409.0473",
        ),
        Reference(
            "Luong et al.",
            2015,
            "Effective approaches to attention-based neural machine translation",
            "arXiv:1508.04025",
        ),
    ),
    good_at=("Short sentences and small sets; it shows which word it took from which.",),
    bad_at=("Long sentences, of which a state of fixed size must keep track.",),
)
