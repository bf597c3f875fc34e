"""Reading texts out of records: JSON lines, a column of a table, or a folder of text files."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from genloom.core.errors import DataError, MissingExtra, nearest
from genloom.core.randomness import generator
from genloom.modalities.base import Form, Reading, Split
from genloom.modalities.characters import to_items
from genloom.modalities.chats import written
from genloom.modalities.corpora import read_file
from genloom.modalities.layouts import number_classes

JSON_LINES = (".jsonl", ".ndjson")
USUAL = "text"
"""The name of the column of texts, unless told otherwise."""

CONVERSATION = "messages"
"""The name of the column of conversations."""


def read_records(path: Path, column: str | None, label: str | None) -> Reading:
    """Read a text, and perhaps a class, from each record of a file of JSON lines, CSV, TSV or Parquet.

    Args:
        column: of texts; ``text`` if absent, or conversations in ``messages``.
        label: of classes.

    Raises:
        DataError: a record cannot be read, or lacks a column, or all texts are empty.
        MissingExtra: pyarrow is not installed.
    """
    texts, classes = list[str](), list[str]()
    empty = 0
    for place, record in records(path):
        text = _text(record, column, place)
        if not text.strip():
            empty += 1
            continue
        texts.append(text.replace("\r\n", "\n").replace("\r", "\n"))
        classes.append("" if label is None else cell(record, label, place).strip())
    if not texts:
        raise DataError(f"{path} has no text in its column {column or USUAL!r}")
    labels, names = number_classes(None if label is None else classes, f"column {label!r} of {path.name}")
    notes = (f"left out {empty:,} empty texts",) if empty else ()
    split = Split(to_items(texts), labels)
    return Reading({"all": split}, path.name, names, label=label, text=form_of(texts), notes=notes)


def _text(record: Mapping[str, Any], column: str | None, place: str) -> str:
    if column is None and CONVERSATION in record and USUAL not in record:
        return written(record[CONVERSATION], place)
    return cell(record, column or USUAL, place)


def form_of(texts: Sequence[str]) -> Form:
    """Return what texts are: lines where none is broken, else documents."""
    return "documents" if any("\n" in text for text in texts) else "lines"


def records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each record with its place in the file."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    return _json_lines(path) if suffix in JSON_LINES else _table(path)


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(read_file(path).split("\n"), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number} is no JSON: {error.msg}") from error
            yield f"{path}:{number}", record if isinstance(record, Mapping) else {USUAL: record}


def _table(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = read_file(path).splitlines(keepends=True)
    delimiter = next((d for d in "\t;," if d in lines[0]), ",")
    reader = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for record in reader:
            if None in record:
                raise DataError(
                    f"{path}:{reader.line_num} has too many cells: put texts with commas in quotes"
                )
            yield f"{path}:{reader.line_num}", {k: v for k, v in record.items() if isinstance(k, str)}
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error})") from error


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "tables") from error
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for number, record in enumerate(batch.to_pylist()):
                yield f"{path}, row {number}", record
    except pa.ArrowException as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def cell(record: Mapping[str, Any], column: str, place: str) -> str:
    """Return the text in a column of a record.

    Raises:
        DataError: there is none; the text says where.
    """
    if column not in record:
        held = f"it has {', '.join(record) or 'nothing'}"
        raise DataError(
            f"{place} has no {column!r}{nearest(column, list(record))}  ({held}): "
            "name the columns of texts that there are"
        )
    value = record[column]
    if value is None or not isinstance(value, str | int | float):
        raise DataError(f"{place}: what stands under {column!r} is no text: fill it or leave the record out")
    return str(value)


def read_folder(folder: Path, block: int, valid: float, test: float, seed: int) -> Reading:
    """Read every file of a folder, and of the folders in it, that is UTF-8 text.

    A file's pieces of at most ``block`` characters are items; all of a file's go to the same split.

    Raises:
        DataError: fewer than three files are texts.
    """
    texts, others = list[str](), 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            text = read_file(path)
        except DataError:
            text = "\0"
        if "\0" in text:
            others += 1
        else:
            texts.append(text)
    if len(texts) < 3:
        raise DataError(f"{folder} has {len(texts)} files of text: three are needed, one for each split")
    order = torch.randperm(len(texts), generator=generator("files", seed)).tolist()
    first = max(1, round(test * len(texts)))
    second = first + max(1, round(valid * len(texts)))
    places = {"test": order[:first], "valid": order[first:second], "train": order[second:]}
    if not places["train"]:
        raise DataError(f"{folder} has {len(texts)} files of text: none is left for training")
    pieces = {
        name: [texts[i][a : a + block] for i in sorted(chosen) for a in range(0, len(texts[i]), block)]
        for name, chosen in places.items()
    }
    notes = (f"left out {others:,} files that are no UTF-8 text",) if others else ()
    parts = {name: Split(to_items(found)) for name, found in pieces.items()}
    return Reading(parts, f"{len(texts):,} files", text="documents", notes=notes)
