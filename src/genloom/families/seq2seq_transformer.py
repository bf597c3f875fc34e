"""Transformer that turns a sequence into another, such as a sentence into its translation.

Vaswani et al. 2017, arXiv:1706.03762, with pre-norm blocks, rotary positions and gated units.

Shapes: B batch, S symbols of the source and its end, T symbols that are written, D width, H heads, E = D / H,
V what can come next.
"""

from dataclasses import replace

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.events import Event, Value
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.core.sequences import Alphabet
from genloom.nn.attention import (
    Attention,
    Gated,
    Look,
    Source,
    Step,
    angles,
    causal,
    empty_cache,
    everywhere,
    gated_width,
)
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.norms import rms_norm
from genloom.nn.sequences import (
    AlignedModel,
    AlignedNetwork,
    maximum_likelihood,
    source_of,
    translation_model,
)
from genloom.nn.transformer import Block, CachedReader, usual_sizes


class Config(card.Config):
    """Settings of an encoder and a decoder, and of their training."""

    width: int = Field(256, gt=0, description="values a place between blocks")
    encoder_layers: int = Field(3, gt=0, description="blocks that read the source")
    layers: int = Field(3, gt=0, description="blocks that write")
    heads: int = Field(4, gt=0, description="of attention")
    dropout: float = Field(0.2, ge=0, lt=1, description="of channels; sets of pairs are small")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the target that all symbols get")
    matrix_lr: float = Field(5e-3, gt=0, description="peak rate of Muon, which moves the blocks' matrices")
    lr: float = Field(3e-3, gt=0, description="peak rate of AdamW, which moves the embeddings")
    weight_decay: float = Field(0.01, ge=0, description="of both, times the rate")
    batch_size: int = Field(128, gt=0)

    @model_validator(mode="after")
    def _whole_heads(self) -> "Config":
        if self.width % (2 * self.heads):
            raise ValueError("width must be an even multiple of heads")
        return self

    def build(self, event: Event, cond: Event | None) -> AlignedModel:
        def network(alphabet: Alphabet, sources: int) -> Network:
            sizes = self.width, self.encoder_layers, self.layers, self.heads, self.dropout
            return Network(alphabet, sources, *sizes)

        return translation_model("seq2seq.transformer", event, cond, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, AlignedModel)
        network = model.network
        assert isinstance(network, Network)
        moved = Optimiser(self.lr, "adamw", (0.9, 0.98), self.weight_decay, schedule="linear", warmup=0.05)
        matrices = replace(moved, lr=self.matrix_lr, name="muon", betas=(0.95, 0.95))
        optimisers = {
            "encoder": (network.encoder, matrices),
            "decoder": (network.decoder, matrices),
            "reading": (network.reading, moved),
            "writing": (network.writing, moved),
        }
        objective = maximum_likelihood(model, optimisers, label_smoothing=self.label_smoothing)
        return [Stage("fit", objective, self.batch_size, alike=True)]


class WritingBlock(nn.Module):
    """Looks back at what is written, then at the source, then a gated unit, each added to what it reads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, heads, width // heads)
        self.look = Look(width, heads)
        self.gated = Gated(width, gated_width(width))

    def forward(self, x: Tensor, step: Step, layer: int, drop: Map) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + drop(self.attention(rms_norm(x), step, layer))
        x = x + drop(self.look(rms_norm(x), step, layer))
        return x + drop(self.gated(rms_norm(x)))


class Network(AlignedNetwork):
    """An encoder of the source, and a decoder that looks at it.

    The embedding of written symbols is the map to logits as well.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        sources: int,
        width: int,
        encoder_layers: int,
        layers: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.outputs, self.end, self.dropout = alphabet.outputs, sources, dropout
        self.heads, self.size = heads, width // heads
        self.reading, self.writing = nn.Embedding(sources + 1, width), nn.Embedding(alphabet.inputs, width)
        for embedding in (self.reading, self.writing):
            nn.init.normal_(embedding.weight, std=0.02)
        sizes = usual_sizes(width, encoder_layers, heads, heads)
        self.encoder = nn.ModuleList(Block(sizes) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(WritingBlock(width, heads) for _ in range(layers))

    def forward(self, symbols: Tensor, noise: Noise | None = None, cond: Value | None = None) -> Tensor:
        drop = channel_dropout(self.dropout, noise)
        turn = angles(symbols.shape[1], self.size)
        return self.read(symbols, Step(turn, causal, self.source(cond, len(symbols), drop)), drop)

    def source(self, cond: Value | None, rows: int, drop: Map) -> Source:
        """Read what is to be turned into something else."""
        symbols, present = source_of(cond, rows, self.end)
        seen = present[:, None, None]
        step = Step(angles(symbols.shape[1], self.size), everywhere(seen))
        x = drop(self.reading(symbols))
        for layer, block in enumerate(self.encoder):
            x = block(x, step, layer, drop)
        memory = rms_norm(x)
        looks = (block.look for block in self.decoder if isinstance(block, WritingBlock))
        keys, values = torch.stack([look.shown(memory) for look in looks], 1)
        return Source(keys, values, seen)

    def read(self, symbols: Tensor, step: Step, drop: Map) -> Tensor:
        """Return the logits of what follows each symbol, (B, T, V)."""
        x = drop(self.writing(symbols))
        for layer, block in enumerate(self.decoder):
            x = block(x, step, layer, drop)
        return F.linear(rms_norm(x), self.writing.weight[: self.outputs])

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> CachedReader:
        source = self.source(cond, rows, identity)
        cache = empty_cache(source.keys, len(self.decoder), rows, self.heads, self.size)
        return CachedReader(self, cache, angles(longest, self.size).to(source.keys.dtype), source)

    def align(self, symbols: Tensor, cond: Value) -> Tensor:
        """Return the shares of attention of the last layer, its heads' mean."""
        found: list[Tensor] = []
        source = self.source(cond, len(symbols), identity)
        self.read(symbols, Step(angles(symbols.shape[1], self.size), causal, source, found.append), identity)
        return found[-1].mean(1)


CARD = Card(
    name="seq2seq.transformer",
    title="Translating transformer",
    summary="Reads a sequence by attention, and writes another, symbol by symbol, looking at it.",
    events=(card.symbol_sequence,),
    likelihood=Bound.EXACT,
    conditions="sequence",
    autocast=True,
    references=(
        Reference("Vaswani et al.", 2017, "Attention is all you need", "arXiv:1706.03762"),
        Reference(
            "Xiong et al.", 2020, "On layer normalization in the transformer architecture", "arXiv:2002.04745"
        ),
    ),
    good_at=("Translation, and whatever turns a text into another of about its length.",),
    bad_at=("Sets of few thousand pairs, which it learns by heart.",),
)
