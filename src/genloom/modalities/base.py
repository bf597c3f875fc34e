"""What every modality offers: views that turn items into what a model sees, and files and pictures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from genloom.core.errors import DataError
from genloom.core.events import Event, Value
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise, generator

Form = Literal["lines", "documents", "blocks"]
"""Texts are lines, whole texts of several lines or pieces of them, or consecutive blocks of one long text."""


class View(ABC):
    """One way to offer items to a model. B batch, D values of an item.

    ``given`` is the condition event where part of an item is given to the model and not modelled.
    """

    name: str
    event: Event
    given: Event | None = None

    @abstractmethod
    def encode(self, items: Tensor) -> Value:
        """Return a deterministic and compact code of the items, of a whole split or of a batch."""

    def stretch(self, encoded: Value) -> Value:
        """Return what ``perturb`` gets in training instead of a whole split's code.

        It has as many rows, or one fewer where the items have neither labels nor conditions.
        """
        return encoded

    @abstractmethod
    def perturb(self, encoded: Value, noise: Noise) -> Value:
        """Return what the model sees, a value of ``event``: codes with this step's randomness added."""

    @abstractmethod
    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        """Turn the model's log-density of what it saw into the log-likelihood of the items.

        Args:
            log_prob: (B,) nats, density or mass of ``x`` under the model.
            x: the perturbed value that was scored.

        Returns:
            (B,) nats of the items: the volume correction added, the kind weakened where the view is a bound.
        """

    @abstractmethod
    def decode(self, x: Value) -> Tensor:
        """Return the items that values of ``event`` stand for, rounded and clamped to legal ones."""

    def conditions(self, split: "Split") -> Value | None:  # noqa: ARG002
        """Return the values of ``given`` that belong to items, None where nothing is given."""
        return None

    def join(self, items: Tensor, conditions: Value | None) -> Tensor:  # noqa: ARG002
        """Return whole items from decoded ones and what they were given."""
        return items


class Modality(ABC):
    """Everything that is particular to one sort of data.

    ``units`` names what rates are counted in.
    """

    name: str
    units: str

    @abstractmethod
    def views(self) -> tuple[View, ...]:
        """Return the views, the most faithful first."""

    @abstractmethod
    def count_units(self, items: Tensor) -> Tensor:
        """Return how many units each item has, (B,)."""

    def other_units(self, items: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return what else rates may be counted in, such as ``bytes`` or ``words``: (B,) each."""
        return {}

    @abstractmethod
    def check(self, items: Tensor) -> None:
        """Refuse what are no items of this data.

        Raises:
            DataError: wrong dtype, shape or range, or missing values.
        """

    @abstractmethod
    def features(self, items: Tensor) -> Tensor:
        """Return raw numbers in their natural scale, (B, D) floating point."""

    @abstractmethod
    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write items, each of a class if there are any, to files in ``folder``; return their paths."""

    @abstractmethod
    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:
        """Return a picture of items, with real ones beside them if given, as a media type and its bytes."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return JSON from which ``from_json`` rebuilds this modality and its fitted views."""

    @classmethod
    @abstractmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        """Rebuild a modality from what ``describe`` returned."""


def check_shape(items: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what is no batch, of one item at least, of this shape."""
    if tuple(items.shape[1:]) != shape or len(items.shape) <= len(shape) or len(items) == 0:
        raise DataError(f"items of shape {('n', *shape)} are needed, not {tuple(items.shape)}")


@dataclass(frozen=True)
class Split:
    """Items (n, ...), and their class labels (n,) int64 and captions, code points (n, L) int32, if any."""

    items: Tensor
    labels: Tensor | None = None
    captions: Tensor | None = None

    def __len__(self) -> int:
        return self.items.shape[0]

    def take(self, index: Tensor) -> "Split":
        """Select items by index or mask."""
        parts = (None if part is None else part[index] for part in (self.labels, self.captions))
        return Split(self.items[index], *parts)

    def joined(self, other: "Split") -> "Split":
        """Return the items of this split and then those of another of the same data."""
        labels = captions = None
        if self.labels is not None and other.labels is not None:
            labels = torch.cat((self.labels, other.labels))
        if self.captions is not None and other.captions is not None:
            longest = max(self.captions.shape[1], other.captions.shape[1])
            both = (self.captions, other.captions)
            captions = torch.cat([pad(part, (0, longest - part.shape[1])) for part in both])
        return Split(torch.cat((self.items, other.items)), labels, captions)

    def some(self, n: int, name: str = "some") -> "Split":
        """Return at most n of the items, spread over the whole split by its size and a name alone."""
        return self.take(torch.randperm(len(self), generator=generator(name, len(self)))[:n])

    def at_most(self, n: int) -> "Split":
        """Return the split as it is, or ``some`` of its items where it has more than n."""
        return self if len(self) <= n else self.some(n)


@dataclass(frozen=True)
class Dataset:
    """A data set ready for use. ``notes`` say what was done to it; ``description`` what was found."""

    name: str
    modality: Modality
    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Reading:
    """What a reader found, before it is split.

    Args:
        parts: ``all``, or ``train`` and ``test`` and perhaps ``valid`` where the source is split already.
            Items are uint8 (n, C, H, W) images or float64 (n, D) rows.
        origin: what was read, such as ``idx files``.
        levels: the number of values a pixel can take.
        columns: the names of the D columns of a table.
        label: the column that the labels came from.
        angles: the unit of a table whose columns are all angles.
        text: the form of texts; their items are int32 code points (n, characters).
        sides: what is given and what is modelled of pairs of texts, by name; their items are int32 code
            points (n, 2, characters).
        lower: such texts are written in small letters.
    """

    parts: Mapping[str, Split]
    origin: str
    classes: tuple[str, ...] = ()
    levels: int = 256
    columns: tuple[str, ...] = ()
    label: str | None = None
    angles: Literal["degrees", "radians"] | None = None
    text: Form | None = None
    sides: tuple[str, str] | None = None
    lower: bool = False
    notes: tuple[str, ...] = ()
