"""Transformers that read from left to right: pre-norm blocks, root-mean-square norms without scales.

Shapes: B batch, L positions, T symbols read at once, D width, V what can come next.
"""

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.events import Value
from genloom.core.randomness import Noise
from genloom.core.sequences import Reader
from genloom.nn.attention import Attention, Cache, Gated, Source, Step, angles, causal, gated_width
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.norms import rms_norm
from genloom.nn.sequences import SequenceNetwork


class Block(nn.Module):
    """Attention, then a gated unit, each added to what it reads."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, groups)
        self.gated = Gated(width, hidden)

    def forward(self, x: Tensor, step: Step, layer: int, drop: Map) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + drop(self.attention(rms_norm(x), step, layer))
        return x + drop(self.gated(rms_norm(x)))


class CausalTransformer(SequenceNetwork):
    """Blocks between an embedding of symbols and the same embedding as the map to logits.

    Source of the shared embedding: Press & Wolf 2017, arXiv:1608.05859, section 2.
    """

    turn: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        longest: int,
        width: int,
        layers: int,
        heads: int,
        groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.outputs, self.groups, self.dropout, self.context = outputs, groups, dropout, longest
        self.size = width // heads
        self.embedding = nn.Embedding(inputs, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        hidden = gated_width(width)
        self.blocks = nn.ModuleList(Block(width, heads, groups, hidden) for _ in range(layers))
        self.register_buffer("turn", angles(longest, self.size), persistent=False)

    def forward(self, symbols: Tensor, noise: Noise | None = None, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        step = Step(self.turn[:, : symbols.shape[1]], causal)
        return self.read(symbols, step, channel_dropout(self.dropout, noise))

    def read(self, symbols: Tensor, step: Step, drop: Map) -> Tensor:
        """Return the logits of what follows each symbol, (B, T, V)."""
        x = drop(self.embedding(symbols))
        for layer, block in enumerate(self.blocks):
            x = block(x, step, layer, drop)
        return F.linear(rms_norm(x), self.embedding.weight[: self.outputs])

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> "CachedReader":  # noqa: ARG002
        shape = (2, len(self.blocks), rows, self.groups, longest, self.size)
        cache = Cache(*self.embedding.weight.new_zeros(shape))
        return CachedReader(self, cache, angles(longest, self.size))


class Decoder(Protocol):
    """What reads symbols with the keys and values of all before at hand."""

    def read(self, symbols: Tensor, step: Step, drop: Map) -> Tensor:
        """Return the logits of what follows each symbol, (B, T, V)."""


class CachedReader(Reader):
    """Reads with the keys and values of all before at hand, and perhaps a source to look at."""

    def __init__(self, network: Decoder, cache: Cache, turn: Tensor, source: Source | None = None) -> None:
        self.network, self.cache, self.turn, self.source = network, cache, turn, source

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        count = symbols.shape[1]
        turn = self.turn[:, self.cache.places(count)].unsqueeze(2)
        step = Step(turn, self.cache.finder(count), self.source)
        logits = self.network.read(symbols, step, identity)
        self.cache.advance(count if counts is None else counts)
        return logits

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)
        if self.source is not None:
            self.source = self.source.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.cache.advance(-counts)
