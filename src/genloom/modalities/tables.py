"""Readers of tables of numbers: separated text and Parquet, the latter with images too."""

import csv
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from genloom.core.errors import DataError, MissingExtra, nearest
from genloom.modalities import pictures
from genloom.modalities.base import Reading
from genloom.modalities.layouts import number_classes, part, split_names
from genloom.modalities.pictures import Picture

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data")
ADVICE = "fill it, remove the row, or make the column the label with --data.label"


def read_text(paths: Sequence[Path], label: str | None, header: Sequence[str] = ()) -> Reading:
    """Read a table of numbers separated by commas, semicolons, tabs or spaces, in one file or one a split.

    The first line names the columns if no cell of it is a number.

    Args:
        label: the column of class names, which may be text; its values number the classes.
        header: names of the columns of files whose first line does not name them.

    Raises:
        DataError: a cell is no finite number (with file, line and column), a line has another number of
            cells, files differ in their columns, or ``label`` is unknown.
    """
    tags = split_names([path.name for path in paths])
    tables = [_Table(path, label, header) for path in paths]
    if any(table.columns != tables[0].columns for table in tables):
        raise DataError(f"{paths[0].name} and {paths[-1].name} do not have the same columns")
    items = torch.from_numpy(np.concatenate([table.numbers() for table in tables]))
    values = None if label is None else [cell for table in tables for cell in table.labels]
    labels, classes = number_classes(values, f"column {label!r}")
    rows = [tags[path.name] for path, table in zip(paths, tables, strict=True) for _ in table.lines]
    return Reading(
        part(items, labels, rows),
        "text tables" if len(paths) > 1 else "a text table",
        classes,
        columns=tuple(tables[0].columns),
        label=label,
    )


class _Table:
    """The cells of one text file."""

    def __init__(self, path: Path, label: str | None, header: Sequence[str]) -> None:
        self.path, self.lines, self.labels, self._cells = path, array("q"), list[str](), array("d")
        pictures.check_memory((path.stat().st_size,))
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                self._read(_cells_of(file), label, header)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: save it again as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{path} cannot be read as a table ({error})") from error
        if not self.lines:
            raise DataError(f"{path} has no rows")

    def _read(self, rows: Iterator[tuple[int, list[str]]], label: str | None, header: Sequence[str]) -> None:
        line, first = next(rows, (0, []))
        named = not any(map(_is_number, first))
        names = [(named and cell.strip()) or f"column {i + 1}" for i, cell in enumerate(first)]
        if len(header) == len(first) and not named:
            names = list(header)
        place = _find(label, names, self.path)
        self.columns = [name for i, name in enumerate(names) if i != place]
        if not self.columns:
            raise DataError(f"{self.path} has no column of numbers")
        if not named:
            self._add(line, first, names, place)
        for line, row in rows:
            self._add(line, row, names, place)

    def _add(self, line: int, row: list[str], names: list[str], place: int | None) -> None:
        if len(row) != len(names):
            raise DataError(f"{self.path}:{line}: {len(row)} cells, but the first line has {len(names)}")
        if place is not None:
            self.labels.append(row.pop(place).strip())
        try:
            self._cells.extend(map(float, row))
        except ValueError:
            column, cell = next((c, x) for c, x in zip(self.columns, row, strict=True) if not _is_number(x))
            what = f"{cell.strip()!r} is not a number" if cell.strip() else "the cell is empty"
            raise DataError(f"{self.path}:{line}: column {column!r}: {what}: {ADVICE}") from None
        self.lines.append(line)

    def numbers(self) -> np.ndarray:
        """Return the numeric columns, (rows, columns) float64, all finite."""
        values = np.frombuffer(self._cells, np.float64).reshape(len(self.lines), len(self.columns))
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            where = f"{self.path}:{self.lines[row]}: column {self.columns[column]!r}"
            raise DataError(f"{where}: {values[row, column]} is not a finite number: {ADVICE}")
        return values


def _cells_of(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that is not blank."""
    sample = next((line for line in file if line.strip()), "")
    file.seek(0)
    delimiter = next((d for d in "\t;," if d in sample), None)
    if delimiter is None:
        yield from ((i, line.split()) for i, line in enumerate(file, 1) if line.strip())
        return
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _find(label: str | None, names: Sequence[str], path: Path) -> int | None:
    """Return the position of the label column."""
    if label is None:
        return None
    if label not in names:
        raise DataError(f"{path} has no column {label!r}{nearest(label, names)}  (it has {', '.join(names)})")
    return list(names).index(label)


def read_parquet(
    paths: Sequence[Path], size: int | None, label: str | None, caption: str | None = None
) -> Reading:
    """Read Parquet files, one or more a split: images in a column of encoded bytes, else rows of numbers.

    Args:
        size: side to which images are cut and scaled.
        label: the column of labels; for images the one declared as classes, or called ``label``, if None.
        caption: the column of captions of images.

    Raises:
        MissingExtra: pyarrow is not installed.
        DataError: a file is damaged, a cell is missing or no number, or ``label`` is unknown.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "tables") from error
    try:
        for path in paths:
            meta = pq.read_metadata(path)
            pictures.check_memory(
                (sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)),)
            )
        parts = [pq.read_table(path) for path in paths]
        table = pa.concat_tables(parts)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{paths[0]} cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    by_name = split_names([path.name for path in paths])
    tags = [by_name[path.name] for path, t in zip(paths, parts, strict=True) for _ in range(t.num_rows)]
    column = next((f.name for f in table.schema if _holds_bytes(f.type)), None)
    if column is None:
        return _numeric_table(table, paths[0], label, tags)
    return _image_table(table, column, paths[0], size, label, caption, tags)


def _holds_bytes(kind: Any) -> bool:
    """Tell whether an Arrow type is bytes, or a struct with a field of them (Hugging Face's Image)."""
    import pyarrow.types as at

    if at.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(at.is_binary(kind) or at.is_large_binary(kind))


def _numeric_table(table: Any, path: Path, label: str | None, tags: Sequence[str]) -> Reading:
    names = table.column_names
    place = _find(label, names, path)
    columns = tuple(name for i, name in enumerate(names) if i != place)
    items = torch.from_numpy(np.stack([_numbers(table[name], name, path) for name in columns], 1))
    values = None if label is None else _texts(table[label].to_pylist())
    labels, classes = number_classes(values, f"column {label!r}")
    return Reading(part(items, labels, tags), "Parquet", classes, columns=columns, label=label)


def _numbers(column: Any, name: str, path: Path) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.types as at

    if not (at.is_integer(column.type) or at.is_floating(column.type) or at.is_boolean(column.type)):
        raise DataError(f"{path}: column {name!r} holds {column.type}, not numbers: {ADVICE}")
    kind = pa.int8() if at.is_boolean(column.type) else column.type
    values = column.cast(kind).to_numpy().astype(np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise DataError(f"{path}: row {row + 1}, column {name!r} is not a finite number: {ADVICE}")
    return values


def _image_table(
    table: Any,
    column: str,
    path: Path,
    size: int | None,
    label: str | None,
    caption: str | None,
    tags: Sequence[str],
) -> Reading:
    cells = table[column].to_pylist()
    content = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
    sources = [Picture(f"row {i + 1} of {column}", data or b"") for i, data in enumerate(content)]
    items, kept, notes = pictures.decode(sources, size)
    declared = _declared_classes(table.schema.metadata)
    label = label or next(iter(declared), None) or ("label" if "label" in table.column_names else None)
    _find(label, table.column_names, path)
    values = None if label is None else table[label].take(kept).to_pylist()
    labels, classes = _image_labels(values, declared.get(label or ""), f"{path}: column {label!r}")
    _find(caption, table.column_names, path)
    captions = None if caption is None else _captions(table[caption].take(kept).to_pylist(), caption)
    parts = part(items, labels, [tags[i] for i in kept], captions)
    return Reading(parts, "Parquet", classes, label=label, notes=notes)


def _image_labels(
    values: list[Any] | None, names: Sequence[str] | None, source: str
) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Number labels by the names declared for them, or by their own values."""
    if values is None or names is None:
        return number_classes(None if values is None else _texts(values), source)
    if any(not isinstance(value, int) or not 0 <= value < len(names) for value in values):
        raise DataError(f"{source} must hold whole numbers 0 to {len(names) - 1}")
    return torch.tensor(values, dtype=torch.int64), tuple(names)


def _captions(values: Sequence[Any], column: str) -> list[str]:
    """Return captions, nothing for a missing one.

    Raises:
        DataError: some are no texts, or all are missing.
    """
    if not all(value is None or isinstance(value, str) for value in values) or not any(values):
        raise DataError(f"column {column!r} must hold a text for each image: write one caption a row")
    return _texts(values)


def _texts(values: Sequence[Any]) -> list[str]:
    """Return values as text, nothing for a missing one."""
    return ["" if value is None else str(value) for value in values]


def _declared_classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names of each ClassLabel column in Hugging Face's schema metadata."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {
        name: [str(n) for n in feature["names"]]
        for name, feature in features.items()
        if isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }
