"""Keyed randomness: every draw is a function of named integers, never of what ran before."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

_MASK = (1 << 63) - 1
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64


def key(*parts: int | str) -> int:
    """Hash names and integers into a 63-bit seed, the same on every machine."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") & _MASK


def generator(*parts: int | str) -> torch.Generator:
    """Return a fresh CPU generator seeded by ``key(*parts)``."""
    return torch.Generator().manual_seed(key(*parts))


class Noise(ABC):
    """A source of independent rows: row i of every draw belongs to item i of the batch."""

    @abstractmethod
    def uniform(self, *shape: int) -> Tensor:
        """Draw (B, *shape) float32 uniforms in the open interval (0, 1)."""

    @abstractmethod
    def normal(self, *shape: int) -> Tensor:
        """Draw (B, *shape) float32 standard normals."""

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw (B, *shape) int64 uniform on 0..high-1."""
        return (self.uniform(*shape) * high).long().clamp_max(high - 1)

    def bytes(self, *shape: int) -> Tensor:
        """Draw (B, *shape) uint8 uniform on 0..255: cheap, for many coarse decisions.

        A draw that is shorter along its first axis is the beginning of a longer one, and draws after it are
        the same: parts of a batch may be cut to their own length.
        """
        return (self.uniform(*shape) * 256).to(torch.uint8)

    def bernoulli(self, probs: Tensor) -> Tensor:
        """Draw 0/1 values (the dtype of ``probs``) with the given probabilities (B, ...)."""
        return (self.uniform(*probs.shape[1:]).to(probs.device) < probs).to(probs.dtype)

    def categorical(self, logits: Tensor) -> Tensor:
        """Draw int64 categories (B, ...) from unnormalised log-probabilities (B, ..., K)."""
        u = self.uniform(*logits.shape[1:-1]).to(logits.device)
        return invert_cdf(logits.double(), u.double())


class TrainNoise(Noise):
    """Noise for rows ``lo:hi`` of a global batch, drawn whole so that ranks and micro-batches agree."""

    def __init__(self, source: torch.Generator, global_batch: int, lo: int, hi: int) -> None:
        self._source, self._global, self._lo, self._hi = source, global_batch, lo, hi

    def _rows(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        return draw((self._global, *shape), generator=self._source)[self._lo : self._hi]

    def uniform(self, *shape: int) -> Tensor:
        return self._rows(torch.rand, shape).clamp(2**-25, 1 - 2**-24)

    def normal(self, *shape: int) -> Tensor:
        return self._rows(torch.randn, shape)

    def bytes(self, *shape: int) -> Tensor:
        first, *others = shape
        count = self._global * math.prod(shape)
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=self._source)))
        words = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None, generator=own)
        drawn = words.view(torch.uint8)[:count].view(first, self._global, *others)
        return drawn[:, self._lo : self._hi].transpose(0, 1)


class SampleNoise(Noise):
    """Noise keyed by (seed, sample index, draw number, position): independent of the batch.

    Args:
        seed: the seed of the whole set of samples.
        index: (B,) int64, the number of each sample within the set.

    Two rounds of the SplitMix64 finaliser over a Weyl sequence serve as the counter hash
    (Steele, Lea & Flood 2014, OOPSLA, figure 15); normals by Box-Muller.
    """

    def __init__(self, seed: int, index: Tensor) -> None:
        base = torch.tensor(key("sample", seed), dtype=torch.int64)
        self._rows = _mix(index.to(torch.int64) * _GOLDEN + base)
        self._draw = 0

    def _bits(self, count: int) -> Tensor:
        """Return (B, count) hashed int64 and advance to the next draw."""
        site = _mix(self._rows + key("draw", self._draw))
        self._draw += 1
        position = torch.arange(1, count + 1, dtype=torch.int64) * _GOLDEN
        return _mix(_mix(site[:, None] + position))

    def uniform(self, *shape: int) -> Tensor:
        bits = self._bits(math.prod(shape))
        return _unit(_shift(bits, 41)).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        bits = self._bits(math.prod(shape))
        radius = (-2 * torch.log(_unit32(_shift(bits, 32)))).sqrt()
        angle = (2 * math.pi) * _unit32(bits & 0xFFFFFFFF)
        return (radius * torch.cos(angle)).float().view(-1, *shape)


def invert_cdf(logits: Tensor, u: Tensor) -> Tensor:
    """Return the categories (...) at which the cumulative softmax of (..., K) logits passes u (...)."""
    return invert_shares(logits.softmax(-1), u)


def invert_shares(shares: Tensor, u: Tensor) -> Tensor:
    """Return the categories (...) at which the cumulative sum of probabilities (..., K) passes u (...)."""
    return (u.unsqueeze(-1) > shares.cumsum(-1)).sum(-1).clamp_max(shares.shape[-1] - 1)


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift int64 right logically."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _unit(bits23: Tensor) -> Tensor:
    """Map 23-bit integers to float32 midpoints in (0, 1)."""
    return (bits23.float() + 0.5) * 2**-23


def _unit32(bits32: Tensor) -> Tensor:
    return (bits32.double() + 0.5) * 2**-32
