"""Rows of numbers. B batch, D columns. Items are float64 (B, D)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from genloom.core.errors import DataError, nearest
from genloom.core.events import Leaf, Real, Value, tensor
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise
from genloom.core.serial import to_csv
from genloom.modalities.base import Modality, Split, View, check_shape
from genloom.modalities.drawing import scatter


class StandardisedView(View):
    """Columns shifted and scaled to mean 0 and standard deviation 1 on the training split: exact.

    Args:
        mean, sd: of all columns.
        given: the places of the columns that are conditions.
    """

    name = "standardised"

    def __init__(self, mean: Tensor, sd: Tensor, given: Sequence[int]) -> None:
        self._given = torch.tensor(given, dtype=torch.int64)
        self._free = torch.tensor([i for i in range(len(mean)) if i not in given])
        self.event = Leaf((len(self._free),), Real())
        self.given = Leaf((len(given),), Real()) if given else None
        self._mean, self._sd = mean, sd

    def _standardised(self, items: Tensor, columns: Tensor) -> Tensor:
        return ((items.double() - self._mean) / self._sd)[:, columns]

    def encode(self, items: Tensor) -> Value:
        return self._standardised(items, self._free).float()

    def conditions(self, split: Split) -> Tensor | None:
        return self._standardised(split.items, self._given) if self.given else None

    def perturb(self, encoded: Value, noise: Noise) -> Value:  # noqa: ARG002
        return encoded

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        return replace(log_prob, value=log_prob.value.double() - self._sd[self._free].log().sum())

    def decode(self, x: Value) -> Tensor:
        return tensor(x).double() * self._sd[self._free] + self._mean[self._free]

    def join(self, items: Tensor, conditions: Value | None) -> Tensor:
        if conditions is None:
            return items
        given = tensor(conditions).to(items)
        whole = items.new_empty(len(items), len(self._mean))
        whole[:, self._free] = items
        whole[:, self._given] = given * self._sd[self._given] + self._mean[self._given]
        return whole


class Vectors(Modality):
    """Rows of real numbers with named columns.

    Args:
        columns: the D names.
        mean, sd: the D means and standard deviations of the training split, in the columns' own units.
        given: the columns that are conditions: a model is of the others given these.
    """

    name = "vectors"
    units = "values"

    def __init__(
        self,
        columns: Sequence[str],
        mean: Sequence[float],
        sd: Sequence[float],
        given: Sequence[str] = (),
    ) -> None:
        self.columns, self.given = tuple(columns), tuple(given)
        self.mean = torch.tensor(mean, dtype=torch.float64)
        self.sd = torch.tensor(sd, dtype=torch.float64)

    @classmethod
    def fit(cls, train: Tensor, columns: Sequence[str], given: Sequence[str] = ()) -> Self:
        """Measure the columns of the training rows.

        Raises:
            DataError: a column is constant, or what is given leaves no column or is none of them.
        """
        for name in given:
            if name not in columns:
                raise DataError(
                    f"no column {name!r}{nearest(name, columns)}  (there are {', '.join(columns)})"
                )
        if len(set(given)) >= len(columns):
            raise DataError("all columns are given: leave one to be modelled")
        mean, sd = train.double().mean(0), train.double().std(0, correction=0)
        for name, centre, spread in zip(columns, mean.tolist(), sd.tolist(), strict=True):
            if not math.isfinite(spread):
                raise DataError(f"column {name!r} holds numbers too large to work with: scale it down")
            if spread <= 1e-12 * max(abs(centre), 1e-300):
                raise DataError(f"column {name!r} is constant ({centre:g}) in the training rows: remove it")
        return cls(columns, mean.tolist(), sd.tolist(), tuple(dict.fromkeys(given)))

    def given_row(self, values: Mapping[str, float]) -> Tensor:
        """Return a row (1, D) that holds the values of the given columns, and means elsewhere.

        Raises:
            DataError: a value is missing, not finite, or of a column that is not given.
        """
        if set(values) != set(self.given):
            raise DataError(
                f"values are needed for {', '.join(self.given)}, not for {', '.join(values) or 'none'}"
            )
        row = self.mean.clone()
        for name, value in values.items():
            if not math.isfinite(value):
                raise DataError(f"the value of {name} must be a finite number, not {value}")
            row[self.columns.index(name)] = value
        return row[None]

    def views(self) -> tuple[View, ...]:
        places = [self.columns.index(name) for name in self.given]
        return (StandardisedView(self.mean, self.sd, places),)

    def count_units(self, items: Tensor) -> Tensor:
        return torch.full((len(items),), len(self.columns) - len(self.given))

    def check(self, items: Tensor) -> None:
        check_shape(items, (len(self.columns),))
        if not items.isfinite().all():
            raise DataError("a row has a missing or infinite value: fill it or leave the row out")

    def features(self, items: Tensor) -> Tensor:
        """Return the rows themselves, (B, D) float64."""
        return items.double()

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write ``items.csv``, digits enough to read the same numbers back; classes are the last column."""
        return [write_rows(items, classes, self.columns, folder)]

    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:  # noqa: ARG002
        """Return an SVG scatter in the plane that ``_plane`` chooses from the reference, or the items."""
        base = items if reference is None else reference
        project, names = self._plane(base.double())
        shown = None if reference is None else project(reference.double())
        return "image/svg+xml", scatter(project(items.double()), ("samples", "data"), names, shown)

    def _plane(self, base: Tensor) -> tuple[Callable[[Tensor], np.ndarray], tuple[str, str]]:
        """Return a projection on a plane and its axes' names: value and rank, the two columns, or the first
        two principal axes of the standardised base rows."""
        if len(self.columns) == 1:
            return _ranked, (self.columns[0], "share of rows below")
        if len(self.columns) == 2:
            return Tensor.numpy, (self.columns[0], self.columns[1])
        rows = (base - self.mean) / self.sd
        rows = rows[rows.isfinite().all(1)]
        axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:2].T
        return lambda x: ((x - self.mean) / self.sd @ axes).numpy(), ("first axis", "second axis")

    def describe(self) -> dict[str, Any]:
        return {
            "modality": self.name,
            "columns": list(self.columns),
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "given": list(self.given),
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        return cls(description["columns"], description["mean"], description["sd"], description["given"])


def write_rows(items: Tensor, classes: Sequence[str] | None, columns: Sequence[str], folder: Path) -> Path:
    """Write rows (n, D) under the names of their columns as ``items.csv``; classes are the last column."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "items.csv"
    path.write_bytes(to_csv(columns, items.tolist(), classes))
    return path


def _ranked(column: Tensor) -> np.ndarray:
    """Return sorted values (n, 1) beside the share of rows below each, (n, 2)."""
    values = column[:, 0].sort().values
    return torch.stack(
        [values, torch.arange(len(values), dtype=values.dtype) / max(len(values), 1)], 1
    ).numpy()
