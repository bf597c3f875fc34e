"""Transformers that read from left to right: pre-norm blocks, root-mean-square norms without scales.

Shapes: B batch, L positions, T symbols read at once, D width, V what can come next.
"""

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.errors import ConfigError
from genloom.core.events import Value
from genloom.core.randomness import Noise
from genloom.core.sequences import Reader
from genloom.nn.attention import (
    BASE,
    Attention,
    Cache,
    Gated,
    Source,
    Step,
    angles,
    causal,
    empty_cache,
    gated_width,
)
from genloom.nn.compiling import need_compiler
from genloom.nn.dropout import Map, identity, planned_dropout
from genloom.nn.norms import rms_norm
from genloom.nn.sequences import SequenceNetwork

Read = Callable[[Tensor, Step, Map], Tensor]
"""Returns the logits (B, T, V) of what follows symbols (B, T)."""


VARIANTS = 64
"""Of compiled reading, by models in one process, and numbers of sequences and places."""


class Sizes(BaseModel):
    """What a transformer is made of.

    Args:
        width: values a place between blocks, D.
        layers: blocks.
        heads, groups: of queries, and of keys and values.
        size: values of a head.
        hidden: units of the gated unit.
        base: of the wavelengths of rotary positions.
        eps: what is added to mean squares before their root is taken.
        tied: the embedding is the map to logits as well.
        positions: places that it can tell apart, more than an item has; those of an item if None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    groups: PositiveInt
    size: PositiveInt
    hidden: PositiveInt
    base: PositiveFloat = BASE
    eps: PositiveFloat = 1e-6
    tied: bool = True
    positions: Annotated[int, Field(ge=1, le=2**20)] | None = None


def usual_sizes(width: int, layers: int, heads: int, groups: int) -> Sizes:
    """Return sizes of which the others follow from these."""
    hidden, size = gated_width(width), width // heads
    return Sizes(width=width, layers=layers, heads=heads, groups=groups, size=size, hidden=hidden)


class Block(nn.Module):
    """Attention, then a gated unit, each added to what it reads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = Attention(sizes.width, sizes.heads, sizes.groups, sizes.size)
        self.gated = Gated(sizes.width, sizes.hidden)
        self.eps = sizes.eps

    def forward(self, x: Tensor, step: Step, layer: int, drop: Map) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        x = x + drop(self.attention(rms_norm(x, self.eps), step, layer))
        return x + drop(self.gated(rms_norm(x, self.eps)))


class CausalTransformer(SequenceNetwork):
    """Blocks between an embedding of symbols and a map to logits, the same embedding where they are tied.

    Source of the shared embedding: Press & Wolf 2017, arXiv:1608.05859, section 2.
    """

    turn: Tensor
    compiled: tuple[int, Read] | None = None

    def __init__(self, inputs: int, outputs: int, longest: int, sizes: Sizes, dropout: float = 0.0) -> None:
        super().__init__()
        self.outputs, self.sizes, self.dropout = outputs, sizes, dropout
        self.context = max(longest, sizes.positions or 0)
        self.embedding = nn.Embedding(inputs, sizes.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.head = None if sizes.tied else nn.Linear(sizes.width, outputs, bias=False)
        self.register_buffer("turn", angles(self.context, sizes.size, sizes.base), persistent=False)

    def forward(self, symbols: Tensor, noise: Noise | None = None, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        longest, sizes = symbols.shape[1], self.sizes
        drop = planned_dropout(self.dropout, noise, [(longest, sizes.width)] * (1 + 2 * sizes.layers))
        return self.read(symbols, Step(self.turn[:, :longest], causal), drop)

    def read(self, symbols: Tensor, step: Step, drop: Map) -> Tensor:
        """Return the logits of what follows each symbol, (B, T, V)."""
        x = drop(self.embedding(symbols))
        for layer, block in enumerate(self.blocks):
            x = block(x, step, layer, drop)
        x = rms_norm(x, self.sizes.eps)
        return self.head(x) if self.head is not None else F.linear(x, self.embedding.weight[: self.outputs])

    def reader(self, rows: int, longest: int, cond: Value | None = None) -> "CachedReader":  # noqa: ARG002
        sizes, weight = self.sizes, self.embedding.weight
        cache = empty_cache(weight, sizes.layers, rows, sizes.groups, sizes.size)
        turn = angles(longest, sizes.size, sizes.base).to(weight.dtype)
        return CachedReader(self, cache, turn, compiled=self.compiled)


def compile_reading(model: nn.Module, count: int = 1) -> None:
    """Make a model's transformer read faster from now on; its weights are to stay as they are.

    Args:
        count: symbols of each sequence that are read at once, few.

    Raises:
        ConfigError: it has none, or the machine has no compiler.
    """
    networks = [part for part in model.modules() if isinstance(part, CausalTransformer)]
    if not networks:
        raise ConfigError("there is no transformer to compile for drawing: leave --compile out")
    need_compiler()
    for network in networks:
        network.compiled = count, _compiled(network.read)


def _compiled(read: Read) -> Read:
    """Return what reads as ``read`` does, compiled for the weights as they are.

    Queries are kept from being turned anew for each place that they look at: few operations are done twice.
    """
    from torch._dynamo import config as tracing
    from torch._inductor import config as compiling

    options: dict[str, Any] = {
        "max_autotune": True,
        "autotune_num_choices_displayed": 0,
        "max_autotune_report_choices_stats": False,
        "realize_opcount_threshold": 4,
    }
    made: Read = torch.compile(read, options=options)

    def frozen(symbols: Tensor, step: Step, drop: Map) -> Tensor:
        with compiling.patch(freezing=True), tracing.patch(recompile_limit=VARIANTS):
            return made(symbols, step, drop)

    return frozen


class Decoder(Protocol):
    """What reads symbols with the keys and values of all before at hand."""

    def read(self, symbols: Tensor, step: Step, drop: Map) -> Tensor:
        """Return the logits of what follows each symbol, (B, T, V)."""


class CachedReader(Reader):
    """Reads with the keys and values of all before at hand.

    Args:
        turn: rotations of all places that may come.
        source: what else is looked at, if anything.
        compiled: reads so many symbols of each sequence as the network does, if that was compiled.
    """

    def __init__(
        self,
        network: Decoder,
        cache: Cache,
        turn: Tensor,
        source: Source | None = None,
        compiled: tuple[int, Read] | None = None,
    ) -> None:
        self.network, self.cache, self.turn, self.source = network, cache, turn, source
        self.few, self.read_few = compiled or (0, network.read)

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        count = symbols.shape[1]
        places = self.cache.places(count).clamp_max(self.turn.shape[1] - 1)
        step = Step(self.turn[:, places].unsqueeze(2), self.cache.lookup(count), self.source)
        logits = (self.read_few if count == self.few else self.network.read)(symbols, step, identity)
        self.cache.advance(count if counts is None else counts)
        return logits

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)
        if self.source is not None:
            self.source = self.source.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.cache.advance(-counts)
