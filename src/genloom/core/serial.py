"""Strict JSON and CSV: what is written here any reader can read; and reading JSON that others wrote."""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
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


def json_object(path: Path, most_bytes: int) -> dict[str, Any]:
    """Read a JSON object from a file of limited size.

    Raises:
        ValueError: there is none; the text says why.
    """
    try:
        if path.stat().st_size > most_bytes:
            raise ValueError(f"{path} is larger than the {most_bytes:,} bytes allowed")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object: restore it")
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(folder: Path, paths: Iterable[Path]) -> str:
    """Return a hash of the names of files in a folder and of what they hold.

    Raises:
        ValueError: one cannot be read.
    """
    state = hashlib.sha256()
    for path in sorted(paths):
        try:
            held = digest(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        state.update(f"{path.relative_to(folder)} {held}\n".encode())
    return state.hexdigest()
