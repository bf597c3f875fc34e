"""Recurrent networks over sequences: plain, gated (GRU) and with memory cells (LSTM).

Elman 1990; Hochreiter & Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078.

Shapes: B batch, L positions, T symbols read at once, D width of the embedding, U units of a layer.
"""

from typing import Self

from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.events import Event, Leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.sequences import Alphabet
from genloom.nn.dropout import Map, identity
from genloom.nn.recurrent import Cell, RecurrentNetwork, States, recurrent_layers, run_layers
from genloom.nn.sequences import (
    SHORT,
    SequenceModel,
    maximum_likelihood,
    sequence_model,
)


class Config(card.Config):
    """Settings of a recurrent network and of its training."""

    cell: Cell = Field("lstm", description="lstm remembers longest; gru is smaller; rnn is the plain one")
    units: int = Field(512, gt=0, description="of each layer")
    layers: int = Field(2, gt=0, description="one above the other")
    embedding: int = Field(64, gt=0, description="values that stand for a symbol")
    dropout: float = Field(0.2, ge=0, lt=1, description="of channels between layers, the same at all places")
    symbol_dropout: float = Field(
        0,
        ge=0,
        le=1,
        description="share of symbols that it does not see in training; 1: none is seen, in use as well",
    )
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
            blind = self.symbol_dropout == 1
            return Network(alphabet, self.cell, self.embedding, self.units, self.layers, self.dropout, blind)

        return sequence_model("seq.lstm", event, cond, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, SequenceModel)
        moved = Optimiser(
            self.lr, "adamw", weight_decay=self.weight_decay, schedule="cosine", warmup=0.02, clip=1.0
        )
        optimisers = {"network": (model.network, moved)}
        objective = maximum_likelihood(
            model, optimisers, self.label_dropout, symbol_dropout=self.symbol_dropout
        )
        return [Stage("fit", objective, self.batch_size, alike=model.uneven)]


class Network(RecurrentNetwork):
    """An embedding, recurrent layers, and a linear map to logits.

    The state of a layer is its output (B, 1, U), and of an LSTM its memory cells as well.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        cell: Cell,
        embedding: int,
        units: int,
        layers: int,
        dropout: float,
        blind: bool,
    ) -> None:
        super().__init__()
        self.dropout, self.seen = dropout, alphabet.hide if blind else identity
        self.embedding = nn.Embedding(alphabet.inputs, embedding)
        self.layers = recurrent_layers(cell, embedding, units, layers)
        self.head = nn.Linear(units, alphabet.outputs)

    def read(self, symbols: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
        x, left = run_layers(self.layers, drop(self.embedding(self.seen(symbols))), states, drop)
        return self.head(x), left


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
