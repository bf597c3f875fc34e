"""Rows of zeros and ones. B batch, D columns. Items are float64 (B, D)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Binary, Leaf, Value, tensor
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise
from genloom.modalities.base import Modality, View, check_shape
from genloom.modalities.drawing import grid, png_bytes
from genloom.modalities.vectors import write_rows

CELL = 4
"""Pixels of a cell's side in a picture."""


class BitView(View):
    """The zeros and ones as they are: probability mass, exact."""

    name = "bits"

    def __init__(self, columns: int) -> None:
        self.event = Leaf((columns,), Binary())

    def encode(self, items: Tensor) -> Value:
        return items.to(torch.uint8)

    def perturb(self, encoded: Value, noise: Noise) -> Value:  # noqa: ARG002
        return tensor(encoded).long()

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        return log_prob

    def decode(self, x: Value) -> Tensor:
        return tensor(x).double()


class Binaries(Modality):
    """Rows of zeros and ones with named columns."""

    name = "binaries"
    units = "bits"

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)

    def views(self) -> tuple[View, ...]:
        return (BitView(len(self.columns)),)

    def count_units(self, items: Tensor) -> Tensor:
        return torch.full((len(items),), len(self.columns))

    def check(self, items: Tensor) -> None:
        check_shape(items, (len(self.columns),))
        if not ((items == 0) | (items == 1)).all():
            raise DataError("rows of zeros and ones are needed")

    def features(self, items: Tensor) -> Tensor:
        """Return the rows themselves, (B, D) float64."""
        return items.double()

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write ``items.csv``; classes are the last column."""
        return [write_rows(items.long(), classes, self.columns, folder)]

    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:  # noqa: ARG002
        """Return a PNG with a line for each row, ones black, beside the reference's."""
        parts = [part for part in (items, reference) if part is not None]
        rows = min(map(len, parts))
        sheets = [1 - part[:rows, None].numpy() for part in parts]
        large = np.stack(sheets).repeat(CELL, 2).repeat(CELL, 3).swapaxes(1, 2)
        pixels = large.reshape(len(parts), 1, rows * CELL, -1) * 255
        return "image/png", png_bytes(grid(pixels.astype(np.uint8), len(parts)))

    def describe(self) -> dict[str, Any]:
        return {"modality": self.name, "columns": list(self.columns)}

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        return cls(description["columns"])
