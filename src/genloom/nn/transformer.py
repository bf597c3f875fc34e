"""Transformers that read from left to right.

Pre-norm blocks without biases: rotary positions, grouped queries, root-mean-square norms without scales, and
gated linear units. Vaswani et al. 2017, arXiv:1706.03762; Touvron et al. 2023, arXiv:2302.13971, section 2.2.

Shapes: B batch, L positions, T symbols read at once, S places of the cache, D width, H heads of the queries,
G heads of keys and values, E = D / H.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.randomness import Noise
from genloom.core.sequences import Reader
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.norms import rms_norm
from genloom.nn.sequences import SequenceNetwork

BASE = 10_000.0
"""Of the wavelengths of rotary positions."""


def angles(longest: int, size: int) -> Tensor:
    """Return the rotations of places as cosines and sines, (2, longest, size / 2) float32."""
    rates = BASE ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    turned = torch.arange(longest, dtype=torch.float64)[:, None] * rates
    return torch.stack((turned.cos(), turned.sin())).float()


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of values by the angle of their place. Su et al. 2021, arXiv:2104.09864, equation 34.

    Args:
        x: (B, heads, T, E).
        turn: cosines and sines, (2, T, E / 2) or (2, B, 1, T, E / 2).
    """
    cos, sin = turn.to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Cache:
    """Keys and values of what was read, each sequence with its own length.

    Args:
        keys, values: (layers, B, G, S, E), filled from the first place on.
        lengths: (B,) int64.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values
        self.lengths = torch.zeros(keys.shape[1], dtype=torch.int64)
        self.longest = 0

    def places(self, count: int) -> Tensor:
        """Return where the next symbols go, (B, T)."""
        return self.lengths[:, None] + torch.arange(count)

    def put(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, G, T, E) of the next symbols; return all up to the longest sequence's."""
        count = key.shape[2]
        stop = self.longest + count
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            if self.even:
                store[:, :, self.longest : stop] = new
            else:
                rows = torch.arange(len(store))[:, None]
                store[rows, :, self.places(count)] = new.transpose(1, 2).to(store.dtype)
        return self.keys[layer, :, :, :stop], self.values[layer, :, :, :stop]

    @property
    def even(self) -> bool:
        """Whether all sequences are equally long."""
        return bool((self.lengths == self.longest).all())

    def mask(self, count: int) -> Tensor | None:
        """Return which places each of the next symbols sees, (B or 1, 1, T, S), None for all."""
        if self.even and count == 1:
            return None
        seen = torch.arange(self.longest + count)
        return (seen <= self.places(count)[..., None])[:, None]

    def advance(self, counts: Tensor | int) -> None:
        """Count so many symbols of each sequence as read."""
        self.lengths = self.lengths + counts
        self.longest = int(self.lengths.max())

    def select(self, rows: Tensor) -> None:
        """Go on with these sequences."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths = self.lengths[rows]
        self.longest = int(self.lengths.max())


@dataclass(frozen=True)
class Step:
    """One reading of symbols by all layers: the turns of their places, and the cache if there is one."""

    turn: Tensor
    cache: Cache | None = None
    mask: Tensor | None = None


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return what each place (B, H, L, E) finds at itself and before, in keys and values (B, G, L, E).

    In bfloat16 on a CPU two products and a softmax take a third of the time of torch's fused kernel.
    """
    heads, longest, size = query.shape[1:]
    shared = heads // key.shape[1]
    if query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared > 1)
    hidden = torch.full((longest, longest), -torch.inf, dtype=query.dtype).triu(1).repeat(shared, 1)
    asked = query.reshape(-1, shared * longest, size)
    scores = torch.baddbmm(hidden, asked, key.flatten(0, 1).transpose(1, 2), alpha=size**-0.5)
    return (scores.softmax(-1) @ value.flatten(0, 1)).view_as(query)


class Attention(nn.Module):
    """Each place looks back at all before it; groups of heads share keys and values.

    Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.2 (grouped queries).
    """

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.enter = nn.Linear(width, (heads + 2 * groups) * self.size, bias=False)
        self.leave = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        parts = self.enter(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        query, key, value = parts.split((self.heads, self.groups, self.groups), 1)
        query, key = rotate(query, step.turn), rotate(key, step.turn)
        if step.cache is None:
            found = attend(query, key, value)
        else:
            key, value = step.cache.put(layer, key, value)
            shared = self.heads != self.groups
            found = F.scaled_dot_product_attention(query, key, value, step.mask, enable_gqa=shared)
        return self.leave(found.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """A gated linear unit of each place. Shazeer 2020, arXiv:2002.05202, equation 6 (SwiGLU)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 2 * hidden, bias=False)
        self.leave = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        gate, content = self.enter(x).chunk(2, -1)
        return self.leave(F.silu(gate) * content)


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


def gated_width(width: int) -> int:
    """Return the hidden units, in steps of 32, that make a gated unit as large as a plain one of 4 D."""
    return max(32, round(width * 8 / 3 / 32) * 32)


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
        self.embedding = nn.Embedding(inputs, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        hidden = gated_width(width)
        self.blocks = nn.ModuleList(Block(width, heads, groups, hidden) for _ in range(layers))
        self.register_buffer("turn", angles(longest, width // heads), persistent=False)

    def forward(self, symbols: Tensor, noise: Noise | None = None) -> Tensor:
        step = Step(self.turn[:, : symbols.shape[1]])
        return self.read(symbols, step, channel_dropout(self.dropout, noise))

    def read(self, symbols: Tensor, step: Step, drop: Map) -> Tensor:
        """Return the logits of what follows each symbol, (B, T, V)."""
        x = drop(self.embedding(symbols))
        for layer, block in enumerate(self.blocks):
            x = block(x, step, layer, drop)
        return F.linear(rms_norm(x), self.embedding.weight[: self.outputs])

    def reader(self, rows: int, longest: int) -> "CachedReader":
        size = self.turn.shape[-1] * 2
        shape = (2, len(self.blocks), rows, self.groups, longest, size)
        cache = Cache(*torch.zeros(shape, dtype=self.embedding.weight.dtype))
        return CachedReader(self, cache, angles(longest, size))


class CachedReader(Reader):
    """Reads with the keys and values of all before at hand."""

    def __init__(self, network: CausalTransformer, cache: Cache, turn: Tensor) -> None:
        self.network, self.cache, self.turn = network, cache, turn

    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        places = self.cache.places(symbols.shape[1])
        turn = self.turn[:, places].unsqueeze(2)
        step = Step(turn, self.cache, self.cache.mask(symbols.shape[1]))
        logits = self.network.read(symbols, step, identity)
        self.cache.advance(symbols.shape[1] if counts is None else counts)
        return logits

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)

    def rewind(self, counts: Tensor) -> None:
        self.cache.advance(-counts)
