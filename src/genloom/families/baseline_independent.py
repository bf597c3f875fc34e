"""Independent coordinates: every scalar of an event has its own distribution, and none sees another.

The weakest honest model of any event, and so the floor of every leaderboard. B batch, D scalars, K values.
"""

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Likelihood, Sampler
from genloom.core.errors import DataError
from genloom.core.events import (
    Bounded,
    Circular,
    Event,
    Kind,
    Leaf,
    Padded,
    Product,
    Real,
    Value,
    categories,
    is_discrete,
    items,
)
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Stage
from genloom.core.randomness import Noise


class Config(card.Config):
    """Settings of the independent baseline."""

    pseudo_count: float = Field(1.0, gt=0, description="added to every count (1 is Laplace's rule)")
    bins: int = Field(64, ge=2, le=4096, description="histogram bins of a continuous bounded coordinate")

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Model(event, self.pseudo_count, self.bins)

    def stages(self, model: nn.Module) -> list[Stage]:  # noqa: ARG002
        return [Stage("fit", None)]


class Table(nn.Module):
    """A categorical distribution for each of D coordinates, from smoothed counts."""

    log_probs: Tensor

    def __init__(self, dim: int, k: int, pseudo_count: float) -> None:
        super().__init__()
        self.k, self.pseudo_count = k, pseudo_count
        self.register_buffer("log_probs", torch.full((dim, k), -math.log(k)))

    def fit(self, x: Tensor, seen: Tensor) -> None:
        """Count x (N, D) int64 where ``seen`` (N, D)."""
        for d, (column, mask) in enumerate(zip(x.T, seen.T, strict=True)):
            counts = torch.bincount(column[mask], minlength=self.k).double() + self.pseudo_count
            self.log_probs[d] = (counts / counts.sum()).log()

    def log_prob(self, x: Tensor) -> Tensor:
        """Return (B, D) log-probabilities of x (B, D) int64."""
        return self.log_probs.gather(1, x.clamp(0, self.k - 1).T).T

    def sample(self, noise: Noise, rows: int) -> Tensor:
        return noise.categorical(self.log_probs.expand(rows, -1, -1))


class Gauss(nn.Module):
    """A normal distribution for each of D coordinates."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, x: Tensor, seen: Tensor) -> None:
        """Take the moments of x (N, D) where ``seen``."""
        n = seen.sum(0).clamp_min(1)
        filled = torch.where(seen, x, 0).double()
        mean = filled.sum(0) / n
        variance = torch.where(seen, (filled - mean) ** 2, 0).sum(0) / n
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp_min(1e-6))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return (B, D) log-densities of x (B, D)."""
        z = (x - self.mean) / self.std
        return -0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)

    def sample(self, noise: Noise, rows: int) -> Tensor:  # noqa: ARG002
        return self.mean + self.std * noise.normal(*self.mean.shape).to(self.mean)


class Histogram(nn.Module):
    """A piecewise constant density on [lo, hi] for each of D coordinates."""

    def __init__(self, dim: int, lo: float, hi: float, bins: int, pseudo_count: float) -> None:
        super().__init__()
        self.lo, self.width = lo, (hi - lo) / bins
        self.table = Table(dim, bins, pseudo_count / bins)

    def _bin(self, x: Tensor) -> Tensor:
        return ((torch.nan_to_num(x) - self.lo) / self.width).long().clamp(0, self.table.k - 1)

    def fit(self, x: Tensor, seen: Tensor) -> None:
        self.table.fit(self._bin(x), seen)

    def log_prob(self, x: Tensor) -> Tensor:
        inside = (x >= self.lo) & (x <= self.lo + self.width * self.table.k)
        density = self.table.log_prob(self._bin(x)) - math.log(self.width)
        return density.masked_fill(~inside, -torch.inf)

    def sample(self, noise: Noise, rows: int) -> Tensor:
        where = self.table.sample(noise, rows) + noise.uniform(self.table.log_probs.shape[0]).to(
            self.table.log_probs
        )
        return self.lo + where * self.width


class Grid(nn.Module):
    """Equally spaced levels on [lo, hi], each with its probability."""

    def __init__(self, dim: int, lo: float, hi: float, levels: int, pseudo_count: float) -> None:
        super().__init__()
        self.lo, self.gap = lo, (hi - lo) / (levels - 1)
        self.table = Table(dim, levels, pseudo_count)

    def _level(self, x: Tensor) -> Tensor:
        return ((torch.nan_to_num(x) - self.lo) / self.gap).round().long().clamp(0, self.table.k - 1)

    def fit(self, x: Tensor, seen: Tensor) -> None:
        self.table.fit(self._level(x), seen)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.table.log_prob(self._level(x))

    def sample(self, noise: Noise, rows: int) -> Tensor:
        return self.lo + self.table.sample(noise, rows).to(self.table.log_probs) * self.gap


Scalars = Table | Gauss | Histogram | Grid


def scalars_for(kind: Kind, dim: int, config: tuple[float, int]) -> Scalars:
    """Return the distribution of D independent scalars of a kind."""
    pseudo_count, bins = config
    if is_discrete(kind):
        return Table(dim, categories(kind), pseudo_count)
    if isinstance(kind, Bounded) and kind.levels is not None:
        return Grid(dim, kind.lo, kind.hi, kind.levels, pseudo_count)
    if isinstance(kind, Bounded):
        return Histogram(dim, kind.lo, kind.hi, bins, pseudo_count)
    if isinstance(kind, Circular):
        return Histogram(dim, 0.0, 2 * math.pi, bins, pseudo_count)
    assert isinstance(kind, Real)
    return Gauss(dim)


class LeafModel(nn.Module):
    """All scalars of one leaf, and its length where that varies. NaN or -1 marks a missing value."""

    def __init__(self, leaf: Leaf, pseudo_count: float, bins: int) -> None:
        super().__init__()
        self.leaf = leaf
        self.scalars = scalars_for(leaf.kind, leaf.dim, (pseudo_count, bins))
        axis = leaf.length_axis
        self.lengths = None if axis is None else Table(1, leaf.extents[axis] + 1, pseudo_count)

    def _split(self, value: Value) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values (B, D), which of them are present, and the lengths (B, 1) if they vary."""
        axis = self.leaf.length_axis
        if axis is not None:
            if not isinstance(value, Padded):
                raise DataError("values with their lengths are needed here, not a plain tensor")
            position = torch.arange(self.leaf.extents[axis]).view(
                -1, *[1] * (len(self.leaf.shape) - axis - 1)
            )
            reached = position < value.lengths.view(-1, *[1] * len(self.leaf.shape))
            x = items(value.values, self.leaf.extents)
            present, lengths = reached.expand_as(x), value.lengths[:, None]
        else:
            x, lengths = items(value, self.leaf.extents), None
            present = torch.ones_like(x, dtype=torch.bool)
        missing = x < 0 if is_discrete(self.leaf.kind) else x.isnan()
        flat = (len(x), self.leaf.dim)
        return x.reshape(flat), (present & ~missing).reshape(flat), lengths

    def fit(self, value: Value) -> None:
        x, present, lengths = self._split(value)
        self.scalars.fit(x, present)
        if self.lengths is not None and lengths is not None:
            self.lengths.fit(lengths, torch.ones_like(lengths, dtype=torch.bool))

    def log_prob(self, value: Value) -> Tensor:
        x, present, lengths = self._split(value)
        total = torch.where(present, self.scalars.log_prob(x), 0).double().sum(1)
        if self.lengths is not None and lengths is not None:
            total = total + self.lengths.log_prob(lengths).double().sum(1)
        return total

    def sample(self, noise: Noise) -> Value:
        rows = noise.uniform().shape[0]
        x = self.scalars.sample(noise, rows).view(rows, *self.leaf.extents)
        if self.lengths is None:
            return x
        return Padded(x, self.lengths.sample(noise, rows)[:, 0])


class Model(nn.Module, ClosedForm, Likelihood, Sampler):
    """The product of the distributions of all scalars of an event."""

    def __init__(self, event: Event, pseudo_count: float, bins: int) -> None:
        super().__init__()
        self.event = event
        self.paths = list(leaves_of(event))
        self.leaves = nn.ModuleList(LeafModel(leaf, pseudo_count, bins) for leaf in leaves_of(event).values())

    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        for path, leaf in self._leaf_models():
            leaf.fit(part_of(train, path))
        return {"train_nats": -float(self._total(train).mean())}

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self._total(x), Bound.EXACT)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:  # noqa: ARG002
        return assemble(self.event, {path: leaf.sample(noise) for path, leaf in self._leaf_models()})

    def _leaf_models(self) -> list[tuple[str, LeafModel]]:
        return [
            (p, leaf) for p, leaf in zip(self.paths, self.leaves, strict=True) if isinstance(leaf, LeafModel)
        ]

    def _total(self, x: Value) -> Tensor:
        return torch.stack([leaf.log_prob(part_of(x, path)) for path, leaf in self._leaf_models()]).sum(0)


def leaves_of(event: Event, path: str = "x") -> dict[str, Leaf]:
    """Return the leaves of an event by path; parts of a product are joined by ``/``."""
    if isinstance(event, Leaf):
        return {path: event}
    return {k: leaf for name, part in event.parts for k, leaf in leaves_of(part, f"{path}/{name}").items()}


def part_of(value: Value, path: str) -> Value:
    """Return the part of a value at a path of ``leaves_of``."""
    for name in path.split("/")[1:]:
        if not isinstance(value, Mapping):
            raise DataError(f"the value has no part {name!r}")
        value = value[name]
    return value


def assemble(event: Event, leaves: Mapping[str, Value], path: str = "x") -> Value:
    """Return the value whose leaves are given by path."""
    if isinstance(event, Product):
        return {name: assemble(part, leaves, f"{path}/{name}") for name, part in event.parts}
    return leaves[path]


CARD = card.Card(
    name="baseline.independent",
    title="Independent coordinates",
    summary="Each scalar has its own histogram or normal distribution; nothing depends on anything else.",
    events=(card.ordered_levels, card.binary, card.real, card.anything),
    references=(
        card.Reference(
            "Larochelle & Murray", 2011, "The neural autoregressive distribution estimator", "AISTATS"
        ),
    ),
    good_at=("Accepts every event.", "Fits at once: the floor that every learned model must pass."),
    bad_at=("Knows no dependence: its images are noise.",),
    likelihood=Bound.EXACT,
)
