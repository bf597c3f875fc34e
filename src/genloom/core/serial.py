"""Strict JSON and CSV: what is written here any reader can read."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def to_json(value: Any, indent: int | None = 1) -> str:
    """Return strict JSON text: a number that is not finite becomes the text inf, -inf or nan."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(
    names: Sequence[str], rows: Sequence[Sequence[float]], tags: Sequence[str] | None, tag: str = "label"
) -> bytes:
    """Return rows under the names of their columns, every digit kept; tags, if any, are the last column."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names if tags is None else [*names, tag])
    writer.writerows(rows if tags is None else [[*row, one] for row, one in zip(rows, tags, strict=True)])
    return text.getvalue().encode()
