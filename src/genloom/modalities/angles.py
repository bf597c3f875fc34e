"""Rows of angles. B batch, D columns. Items are float64 (B, D), in degrees or radians, in one turn from 0."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Circular, Leaf, Value, tensor
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise
from genloom.modalities.base import Modality, View, check_shape
from genloom.modalities.drawing import scatter
from genloom.modalities.vectors import write_rows

Unit = Literal["degrees", "radians"]
TURNS: Mapping[str, float] = {"degrees": 360.0, "radians": 2 * math.pi}


def in_one_turn(items: Tensor, unit: Unit) -> Tensor:
    """Return angles in [0, one turn)."""
    turn = TURNS[unit]
    rest = items.double().remainder(turn)
    return rest.masked_fill(rest >= turn, 0.0)


class AngleView(View):
    """The angles in radians: exact."""

    name = "angles"

    def __init__(self, columns: int, unit: Unit) -> None:
        self.event = Leaf((columns,), Circular())
        self._turn, self._columns = TURNS[unit], columns

    def encode(self, items: Tensor) -> Value:
        return (items.double() * (2 * math.pi / self._turn)).float()

    def perturb(self, encoded: Value, noise: Noise) -> Value:  # noqa: ARG002
        return encoded

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        volume = self._columns * math.log(2 * math.pi / self._turn)
        return replace(log_prob, value=log_prob.value.double() + volume)

    def decode(self, x: Value) -> Tensor:
        return tensor(x).double() * (self._turn / (2 * math.pi))


class Angles(Modality):
    """Rows of angles with named columns."""

    name = "angles"
    units = "angles"

    def __init__(self, columns: Sequence[str], unit: Unit) -> None:
        self.columns, self.unit = tuple(columns), unit

    def views(self) -> tuple[View, ...]:
        return (AngleView(len(self.columns), self.unit),)

    def count_units(self, items: Tensor) -> Tensor:
        return torch.full((len(items),), len(self.columns))

    def check(self, items: Tensor) -> None:
        check_shape(items, (len(self.columns),))
        if not ((items >= 0) & (items < TURNS[self.unit])).all():
            raise DataError(f"angles from 0 to below {TURNS[self.unit]:.4g} {self.unit} are needed")

    def features(self, items: Tensor) -> Tensor:
        """Return cosines and sines, (B, 2 D) float64."""
        radians = items.double() * (2 * math.pi / TURNS[self.unit])
        return torch.cat([radians.cos(), radians.sin()], 1)

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write ``items.csv``; classes are the last column."""
        return [write_rows(items, classes, self.columns, folder)]

    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:  # noqa: ARG002
        """Return an SVG scatter of the first two angles, or of the only one against its rank."""
        shown = [None if part is None else _plane(part.double()) for part in (items, reference)]
        first = shown[0]
        assert first is not None
        names = (self.columns[0], self.columns[1] if len(self.columns) > 1 else "share of rows below")
        return "image/svg+xml", scatter(
            first.numpy(), ("samples", "data"), names, None if shown[1] is None else shown[1].numpy()
        )

    def describe(self) -> dict[str, Any]:
        return {"modality": self.name, "columns": list(self.columns), "unit": self.unit}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        return cls(description["columns"], description["unit"])


def _plane(items: Tensor) -> Tensor:
    """Return two columns to draw, (B, 2)."""
    if items.shape[1] > 1:
        return items[:, :2]
    values = items[:, 0].sort().values
    return torch.stack([values, torch.arange(len(values)).double() / max(len(values), 1)], 1)
