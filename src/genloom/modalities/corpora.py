"""Reading texts: a file of lines, or one long text that is cut into blocks."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.randomness import SampleNoise, key
from genloom.modalities.base import Form, Reading, Split
from genloom.modalities.characters import to_items
from genloom.modalities.mapped import SMALL, code_points

LEAST_LINES = 20
"""A file with fewer lines is one long text."""

LOOKED_AT = 20
"""Lines that tell a table from a text."""

LIMIT = 2**30
"""Bytes of a file that is read into memory at most."""


@dataclass(frozen=True)
class Official:
    """How a named set is used by everyone: its file, its form, and its shares of validation and test.

    Args:
        shuffled: the seed of Python's shuffle of the lines before they are split, None for the given order.
    """

    file: str
    form: Form
    valid: float
    test: float
    shuffled: int | None = None


TEXTS: Mapping[str, Official] = {
    "names": Official("names.txt", "lines", 0.1, 0.1, shuffled=42),
    "shakespeare": Official("input.txt", "blocks", 0.045, 0.1),
}
"""Named sets that are texts. Names are shuffled as in the makemore lectures; the last tenth of Shakespeare is
for test, and the last twentieth of what is before for validation."""


def draw_sums(count: int, seed: int) -> Reading:
    """Write out additions such as ``12+7=19``; line i depends on the seed and i only."""
    noise = SampleNoise(key("toy", "sums", seed), torch.arange(count))
    pairs = zip(noise.integers(1000).tolist(), noise.integers(1000).tolist(), strict=True)
    return Reading(
        {"all": Split(to_items([f"{a}+{b}={a + b}" for a, b in pairs]))}, "a formula", text="lines"
    )


def read_official(folder: Path, official: Official, block: int) -> Reading:
    """Read a named set with its own split."""
    path = folder / official.file
    if official.form == "blocks":
        return _blocks(code_points(path), block, official.valid, official.test, official.file)
    lines = _lines(read_file(path))
    if official.shuffled is not None:
        random.Random(official.shuffled).shuffle(lines)
    first, second = (int((1 - s) * len(lines)) for s in (official.test + official.valid, official.test))
    parts = {"train": lines[:first], "valid": lines[first:second], "test": lines[second:]}
    return Reading({n: Split(to_items(part)) for n, part in parts.items()}, official.file, text="lines")


def is_prose(path: Path) -> bool:
    """Tell whether a file is text: fewer than half of its first lines are numbers alone."""
    with path.open("rb") as file:
        head = file.read(2**16).decode("utf-8", errors="replace").splitlines()
    lines = [line for line in head if line.strip()][:LOOKED_AT]
    return 2 * sum(map(_is_numbers, lines)) < len(lines) or not lines


def _is_numbers(line: str) -> bool:
    try:
        return bool([float(cell) for cell in re.split(r"[\s,;]+", line.strip())])
    except ValueError:
        return False


def read_corpus(path: Path, form: Form | Literal["auto"], block: int, valid: float, test: float) -> Reading:
    """Read a text file as lines or as blocks.

    Args:
        form: ``auto`` takes a file with blank lines, or of few lines, for one long text.
        block: characters of a block.
        valid, test: shares of a long text, at its end, for validation and test.

    Raises:
        DataError: the file is empty, no UTF-8, or too short for the splits.
    """
    if form == "documents":
        raise DataError(f"{path} is one text: documents are the files of a folder, or records of a file")
    if form == "blocks" or (form == "auto" and is_one(path)):
        return _blocks(code_points(path), block, valid, test, path.name)
    text = read_file(path)
    kept = _lines(text)
    dropped = text.rstrip("\n").count("\n") + 1 - len(kept)
    notes = (f"left out {dropped:,} blank lines",) if dropped else ()
    return Reading({"all": Split(to_items(kept))}, path.name, text="lines", notes=notes)


def is_one(path: Path) -> bool:
    """Tell whether a file is one long text: it has few lines, or blank ones among its first."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = file.read(SMALL).rstrip("\n").split("\n")
    return len(lines) <= LEAST_LINES or not all(line.strip() for line in lines)


def read_file(path: Path) -> str:
    """Return the text of a file, line ends as ``\\n``.

    Raises:
        DataError: it is too large, empty, or no UTF-8.
    """
    if path.stat().st_size > LIMIT:
        raise DataError(f"{path} is larger than {LIMIT / 2**30:g} GiB: split it, or add --data.text blocks")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = len(data) - (len(error.object) - error.start)
        raise DataError(f"{path} is no UTF-8 at byte {wrong:,}: save it as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _blocks(codes: Tensor, block: int, valid: float, test: float, name: str) -> Reading:
    """Cut the code points of a text (n,) into consecutive blocks: training, then validation, then test."""
    second = int((1 - test) * len(codes))
    first = second - int(valid * len(codes))
    parts = {"train": codes[:first], "valid": codes[first:second], "test": codes[second:]}
    if short := [n for n, part in parts.items() if len(part) < block]:
        raise DataError(
            f"{name} has {len(codes):,} characters, too few for a {short[0]} split of blocks of {block}: "
            "give a longer text or a smaller --data.block"
        )
    left = sum(len(part) % block for part in parts.values())
    notes = (f"left out {left:,} characters at the ends of splits that fill no block",) if left else ()
    cut = {n: Split(part[: len(part) // block * block].view(-1, block)) for n, part in parts.items()}
    return Reading(cut, name, text="blocks", notes=notes)
