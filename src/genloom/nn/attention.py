"""What transformers are made of: places that look at each other, and gated units.

Rotary positions, grouped queries, and linear maps without biases. Vaswani et al. 2017, arXiv:1706.03762;
Touvron et al. 2023, arXiv:2302.13971, section 2.2.

Shapes: B batch, L positions, T symbols read at once, S places that are looked at, D width, H heads of the
queries, G heads of keys and values, E = D / H.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BASE = 10_000.0
"""Of the wavelengths of rotary positions."""


def angles(longest: int, size: int, base: float = BASE) -> Tensor:
    """Return the rotations of places (2, longest, size) float32: cosines, and sines with their signs."""
    rates = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    turned = torch.arange(longest, dtype=torch.float64)[:, None] * rates
    cos, sin = turned.cos(), turned.sin()
    return torch.stack((torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1))).float()


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of values by the angle of their place. Su et al. 2021, arXiv:2104.09864, equation 34.

    Args:
        x: (B, heads, T, E).
        turn: as ``angles`` returns it, (2, T, E) or (2, B, 1, T, E).
    """
    cos, sin = turn.to(x.dtype)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


Find = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Returns what queries (B, H, T, E) of a layer find, with keys and values (B, G, T, E) of their places."""


GROWTH = 64
"""Places by which a cache grows."""

FEW = 16
"""Queries of a sequence that are looked up by plain products."""


class Cache:
    """What was read of each sequence, each with its own length, in memory that grows with the longest.

    Args:
        keys: of each layer, (B, G, E, S), the places last, as products of few rows on a CPU like them best.
        values: of each layer, (B, G, S, E).
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.keys, self.values = keys, values
        self.lengths = torch.zeros(len(keys[0]), dtype=torch.int64)
        self.longest, self.even = 0, True

    def places(self, count: int) -> Tensor:
        """Return where the next symbols go, (B, T)."""
        return self.lengths[:, None] + torch.arange(count)

    def lookup(self, count: int) -> "Lookup":
        """Return how so many symbols more find what they look for."""
        self.grow(self.longest + count)
        places = self.places(count)
        hidden = torch.arange(self.keys[0].shape[-1]) > places[:, None, :, None]
        return Lookup(self.keys, self.values, places[0] if self.even else places, hidden)

    def grow(self, places: int) -> None:
        """Make room for so many places."""
        if (missing := places - self.keys[0].shape[-1]) > 0:
            more = -(-missing // GROWTH) * GROWTH
            self.keys = [F.pad(keys, (0, more)) for keys in self.keys]
            self.values = [F.pad(values, (0, 0, 0, more)) for values in self.values]

    def advance(self, counts: Tensor | int) -> None:
        """Count so many symbols of each sequence as read."""
        self._measure(self.lengths + counts)

    def select(self, rows: Tensor) -> None:
        """Go on with these sequences."""
        self.keys, self.values = [keys[rows] for keys in self.keys], [values[rows] for values in self.values]
        self._measure(self.lengths[rows])

    def _measure(self, lengths: Tensor) -> None:
        self.lengths, self.longest = lengths, int(lengths.max())
        self.even = bool((lengths == self.longest).all())


@dataclass(frozen=True)
class Lookup:
    """How the next symbols of sequences find what they look for, in what was read and in each other.

    Args:
        keys, values: as a cache holds them.
        places: where the symbols go, (B, T), or (T,) where that is the same for all sequences.
        hidden: (B, 1, T, S), places that a symbol does not see.
    """

    keys: list[Tensor]
    values: list[Tensor]
    places: Tensor
    hidden: Tensor

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Store keys and values of a layer, and return what its queries find."""
        keys, values = self.keys[layer], self.values[layer]
        key, value = key.to(keys.dtype), value.to(values.dtype)
        if self.places.dim() == 1:
            keys.index_copy_(3, self.places, key.transpose(2, 3))
            values.index_copy_(2, self.places, value)
        else:
            rows = torch.arange(len(keys))[:, None]
            keys[rows, :, :, self.places] = key.transpose(1, 2)
            values[rows, :, self.places] = value.transpose(1, 2)
        return found_in(keys, values, query, self.hidden)


def found_in(keys: Tensor, values: Tensor, query: Tensor, hidden: Tensor) -> Tensor:
    """Return what queries (B, H, T, E) find in keys (B, G, E, S) and values (B, G, S, E).

    Plain products are fastest for few queries, and take memory for each query and place.

    Args:
        hidden: (B, 1, T, S), places that a query does not see.
    """
    if query.shape[2] > FEW:
        shared = query.shape[1] != keys.shape[1]
        return F.scaled_dot_product_attention(query, keys.transpose(2, 3), values, ~hidden, enable_gqa=shared)
    asked = query.unflatten(1, (keys.shape[1], -1)) * query.shape[-1] ** -0.5
    scores = (asked.flatten(2, 3) @ keys).unflatten(2, asked.shape[2:4])
    shares = scores.masked_fill(hidden[:, :, None], -torch.inf).softmax(-1)
    return (shares.flatten(2, 3) @ values).view_as(query)


def empty_cache(like: Tensor, layers: int, rows: int, groups: int, size: int) -> Cache:
    """Return a cache of nothing yet, in the precision of a tensor."""
    keys = [like.new_zeros(rows, groups, size, 0) for _ in range(layers)]
    return Cache(keys, [k.transpose(2, 3) for k in keys])


@dataclass(frozen=True)
class Source:
    """What is looked at from other places.

    Args:
        keys, values: of each layer, (layers, B, H, S, E).
        seen: (B, 1, 1, S), which places there are.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor

    def select(self, rows: Tensor) -> "Source":
        """Return those of these sequences."""
        return Source(self.keys[:, rows], self.values[:, rows], self.seen[rows])


def unwatched(shares: Tensor) -> None:
    """Let shares of attention pass."""


@dataclass(frozen=True)
class Step:
    """One reading of symbols by all layers.

    Args:
        turn: of their places, as ``rotate`` takes it.
        find: how places find what they look for among themselves.
        source: what else they look at, if anything.
        watch: gets the shares (B, H, T, S) of each layer's look at the source.
    """

    turn: Tensor
    find: Find
    source: Source | None = None
    watch: Callable[[Tensor], None] = unwatched


def causal(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG001
    """Find what is at each place and before it."""
    return attend(query, key, value)


def everywhere(seen: Tensor) -> Find:
    """Return how each place finds what is at all places that there are, (B, 1, 1, S)."""

    def find(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG001
        return shares(query, key, seen) @ value

    return find


def shares(query: Tensor, key: Tensor, seen: Tensor) -> Tensor:
    """Return how much of each place (B, H, S, E) queries (B, H, T, E) take, (B, H, T, S)."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.masked_fill(~seen, -torch.inf).softmax(-1).to(key.dtype)


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
    """Each place looks at others of the same sequence; groups of heads share keys and values.

    Source: Ainslie et al. 2023, arXiv:2305.13245, section 2.2 (grouped queries).
    """

    def __init__(self, width: int, heads: int, groups: int, size: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, size
        self.enter = nn.Linear(width, (heads + 2 * groups) * size, bias=False)
        self.leave = nn.Linear(heads * size, width, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        parts = self.enter(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        turning, value = parts.split((self.heads + self.groups, self.groups), 1)
        query, key = rotate(turning, step.turn).split((self.heads, self.groups), 1)
        found = step.find(layer, query, key, value)
        return self.leave(found.transpose(1, 2).flatten(2))


class Look(nn.Module):
    """Each place looks at the places of another sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.ask = nn.Linear(width, width, bias=False)
        self.show = nn.Linear(width, 2 * width, bias=False)
        self.leave = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.leave.weight)

    def shown(self, memory: Tensor) -> Tensor:
        """Return keys and values of the other sequence's places (B, S, D), (2, B, H, S, E)."""
        return self.show(memory).unflatten(-1, (2, -1, self.size)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, step: Step, layer: int) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        source = step.source
        assert source is not None
        query = self.ask(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
        taken = shares(query, source.keys[layer], source.seen)
        step.watch(taken)
        return self.leave((taken @ source.values[layer]).transpose(1, 2).flatten(2))


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


def gated_width(width: int) -> int:
    """Return the hidden units, in steps of 32, that make a gated unit as large as a plain one of 4 D."""
    return max(32, round(width * 8 / 3 / 32) * 32)
