"""Reading pairs of texts: two columns of records, or two files line by line."""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.randomness import generator
from genloom.modalities.base import Reading, Split
from genloom.modalities.characters import tidy, to_items
from genloom.modalities.corpora import LIMIT
from genloom.modalities.records import cell, records


@dataclass(frozen=True)
class Corpus:
    """A named set of pairs: its files without the language's ending, by split, and its two languages."""

    files: Mapping[str, str]
    sides: tuple[str, str]
    lower: bool


PARALLEL: Mapping[str, Corpus] = {
    "multi30k": Corpus(
        {"train": "train", "valid": "val", "test": "test_2016_flickr"}, ("de", "en"), lower=True
    ),
}
"""Named sets that are pairs of texts, of which the first language is given unless told otherwise."""


def read_parallel(folder: Path, corpus: Corpus, given: Sequence[str]) -> Reading:
    """Read a named set of pairs in small or in all letters.

    Args:
        given: the name of the language that is given, or none for the usual one.
    """
    sides = sides_of(corpus.sides, given, folder.name)
    parts = {
        split: Split(to_pairs(*([*lines_of(folder / f"{stem}.{side}.gz", corpus.lower)] for side in sides)))
        for split, stem in corpus.files.items()
    }
    return Reading(parts, f"{folder.name} {sides[0]}-{sides[1]}", sides=sides, lower=corpus.lower)


NUMERALS: Sequence[tuple[int, str]] = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl")),
    *((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)
"""What Roman numbers are written with, the largest first."""


def draw_numerals(count: int, seed: int, given: Sequence[str]) -> Reading:
    """Write numbers below 4,000 and the Roman way, at most ``count`` of them, in keyed order."""
    sides = sides_of(("number", "numeral"), given, "numerals")
    order = torch.randperm(3_999, generator=generator("toy", "numerals", seed))[:count] + 1
    written = {"number": [*map(str, order.tolist())], "numeral": [*map(roman, order.tolist())]}
    return Reading({"all": Split(to_pairs(*(written[side] for side in sides)))}, "a rule", sides=sides)


def roman(number: int) -> str:
    """Return a number as the Romans wrote it, in small letters."""
    found = ""
    for value, letters in NUMERALS:
        times, number = divmod(number, value)
        found += letters * times
    return found


def sides_of(sides: tuple[str, str], given: Sequence[str], name: str) -> tuple[str, str]:
    """Return what is given and what is modelled.

    Raises:
        DataError: something else is to be given.
    """
    if not given:
        return sides
    if len(given) > 1 or given[0] not in sides:
        raise DataError(f"{name} has the sides {' and '.join(sides)}: one of them can be --data.given")
    return (given[0], sides[1 - sides.index(given[0])])


def lines_of(path: Path, lower: bool) -> list[str]:
    """Return the lines of a compressed text, in small letters if so told."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise DataError(f"{path} is larger than {LIMIT / 2**30:g} GiB: split it")
    lines = text.removesuffix("\n").split("\n")
    return [line.lower() for line in lines] if lower else lines


def read_pairs(path: Path, given: str, column: str) -> Reading:
    """Read the texts of two columns of JSON lines, CSV, TSV or Parquet, the first of which is given.

    Raises:
        DataError: a record cannot be read, or lacks a column, or all texts are empty.
        MissingExtra: pyarrow is not installed.
    """
    if given == column:
        raise DataError(f"the column {column!r} cannot be given and modelled at once: name two")
    first, second, empty = list[str](), list[str](), 0
    for place, record in records(path):
        pair = cell(record, given, place), cell(record, column, place)
        if all(text.strip() for text in pair):
            first.append(pair[0])
            second.append(pair[1])
        else:
            empty += 1
    if not first:
        raise DataError(f"{path} has no pair of texts in its columns {given!r} and {column!r}")
    notes = (f"left out {empty:,} pairs of which a text is empty",) if empty else ()
    return Reading({"all": Split(to_pairs(first, second))}, path.name, sides=(given, column), notes=notes)


def to_pairs(first: Sequence[str], second: Sequence[str]) -> Tensor:
    """Return the code points of pairs of texts, (n, 2, L) int32, all white space as single blanks.

    Raises:
        DataError: the two are not of the same number, or a text cannot be used.
    """
    if len(first) != len(second):
        raise DataError(f"there are {len(first):,} texts on one side and {len(second):,} on the other")
    items = to_items([tidy(text) for text in (*first, *second)])
    return items.view(2, len(first), -1).transpose(0, 1).contiguous()
