"""Conditions as features that a network reads: class labels, or rows of numbers.  B batch, F features."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.card import class_count
from genloom.core.errors import DataError
from genloom.core.events import Event, Leaf, Real, Value, tensor
from genloom.core.randomness import Noise
from genloom.nn.labels import hide_labels, labels_or_null


class Condition(nn.Module, ABC):
    """Turns conditions into ``features`` numbers each."""

    features: int

    @abstractmethod
    def forward(self, cond: Value | None, batch: int, dtype: torch.dtype) -> Tensor:
        """Return (B, F) features of conditions, or of none where the model can do without.

        Raises:
            DataError: the conditions are missing or of another shape.
        """

    @abstractmethod
    def hide(self, cond: Tensor, share: float, noise: Noise) -> Tensor:
        """Replace a share of conditions by "none", where the model can do without."""

    @abstractmethod
    def initialise(self, cond: Tensor) -> None:
        """Set the scale of the features in place from a batch of conditions."""


class Labels(Condition):
    """Labels 0..K-1 as one of K + 1 ones, the last for "no class"."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes, self.features = classes, classes + 1

    def forward(self, cond: Value | None, batch: int, dtype: torch.dtype) -> Tensor:
        return F.one_hot(labels_or_null(cond, self.classes, batch), self.features).to(dtype)

    def hide(self, cond: Tensor, share: float, noise: Noise) -> Tensor:
        return hide_labels(cond, self.classes, share, noise)

    def initialise(self, cond: Tensor) -> None:
        """Leave ones as they are."""


class Numbers(Condition):
    """Rows of G numbers, standardised, then through a small network; they must always be given."""

    mean: Tensor
    scale: Tensor

    def __init__(self, count: int, features: int = 64) -> None:
        super().__init__()
        self.count, self.features = count, features
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.network = nn.Sequential(
            nn.Linear(count, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU()
        )

    def forward(self, cond: Value | None, batch: int, dtype: torch.dtype) -> Tensor:
        if cond is None:
            raise DataError(f"this model is conditional on {self.count} numbers an item: give them as cond")
        given = tensor(cond)
        if given.shape != (batch, self.count):
            needed = (batch, self.count)
            raise DataError(f"conditions of shape {needed} are needed, not {tuple(given.shape)}")
        return self.network(((given - self.mean) / self.scale).to(dtype)).to(dtype)

    def hide(self, cond: Tensor, share: float, noise: Noise) -> Tensor:  # noqa: ARG002
        """Return all: these are always given."""
        return cond

    @torch.no_grad()
    def initialise(self, cond: Tensor) -> None:
        self.mean.copy_(cond.mean(0))
        if len(cond) > 1:
            self.scale.copy_(cond.std(0, correction=0).clamp_min(1e-3))


def condition_for(event: Event | None) -> Condition | None:
    """Return what reads conditions of an event, None for no condition.

    Raises:
        ConfigError: it is neither a class label nor a row of numbers.
    """
    if isinstance(event, Leaf) and isinstance(event.kind, Real) and len(event.shape) == 1:
        return Numbers(event.dim)
    return Labels(class_count(event)) if class_count(event) else None


def context_map(condition: Condition | None, width: int) -> nn.Linear | None:
    """Return a map of features to ``width`` numbers, all zeros at first; None without a condition."""
    if condition is None:
        return None
    layer = nn.Linear(condition.features, width, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def context_columns(layer: nn.Linear | None, context: Tensor | None) -> Tensor | None:
    """Apply such a map to features as columns: (F, B) -> (width, B)."""
    return None if layer is None or context is None else layer.weight @ context
