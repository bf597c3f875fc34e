"""The code points of a long text, in memory or in a file that is mapped into it.

A text of any length can be cut, looked up and trained on in steps, as no more of it is held than is in use.
"""

import codecs
import hashlib
import io
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.modalities import homes

SMALL = 2**26
"""Bytes of a text that is read into memory as a whole."""

CHUNK = 2**22
"""Bytes that are decoded at a time."""

STALE = 86_400
"""Seconds after which what an unfinished writing left is removed."""

WIDTH = 4
"""Bytes of a code point."""


def code_points(path: Path) -> Tensor:
    """Return the code points of a text file, (n,) int32, line ends as ``\\n``.

    Those of a long one lie in the user's cache, and are written there the first time.

    Raises:
        DataError: the file is empty, no UTF-8, or holds the character 0; or the cache has no room.
    """
    size = path.stat().st_size
    if size <= SMALL:
        return torch.from_numpy(np.concatenate([np.empty(0, np.int32), *decoded(path)]))
    folder, name = homes.cache() / "texts", _name(path)
    if not (whole := _whole(folder, name)):
        whole = _write(path, size, folder, name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(whole, np.int32, mode="r"))


def _name(path: Path) -> str:
    """Return what a text's code points are called: its path, then the version of the file."""
    facts = path.stat()
    marks = str(path.resolve()), f"{facts.st_size} {facts.st_mtime_ns}"
    return "-".join(hashlib.blake2b(mark.encode(), digest_size=8).hexdigest() for mark in marks)


def _whole(folder: Path, name: str) -> Path | None:
    """Return the file of this name that has as many code points as it says, if there is one."""
    found = [
        p for p in folder.glob(f"{name}-*.int32") if p.stat().st_size == WIDTH * int(p.stem.split("-")[2])
    ]
    return found[0] if found else None


def _write(path: Path, size: int, folder: Path, name: str) -> Path:
    """Write a text's code points in place of those of the file's earlier versions."""
    folder.mkdir(parents=True, exist_ok=True)
    key = name.split("-")[0]
    for old in folder.glob(f"{key}-*.int32"):
        old.unlink(missing_ok=True)
    for left in folder.glob(f"{key}-*.part"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    _check_room(folder, WIDTH * size)
    with tempfile.TemporaryDirectory(".part", f"{key}-", folder) as scratch:
        part, done, count = Path(scratch, name), 0, 0
        with part.open("wb") as file:
            for piece in decoded(path):
                file.write(piece.data)
                done, count = done + CHUNK, count + len(piece)
                homes.show_progress(path.name, min(done, size), size)
            file.flush()
            os.fsync(file.fileno())
        return part.replace(folder / f"{name}-{count}.int32")


def _check_room(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DataError(
            f"{folder} has {free / 2**30:.1f} GiB free, and a text takes {wanted / 2**30:.1f} GiB there: "
            "make room, or name another folder in XDG_CACHE_HOME"
        )


def decoded(path: Path) -> Iterator[np.ndarray]:
    """Yield the code points of a text file piece by piece, int32.

    Raises:
        DataError: it is empty, no UTF-8, or holds the character 0.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    blank, place, last = True, 0, False
    with path.open("rb") as file:
        while not last:
            chunk = file.read(CHUNK)
            last = len(chunk) < CHUNK
            try:
                text = newlines.decode(decoder.decode(chunk, last), last)
            except UnicodeDecodeError as error:
                wrong = place + len(chunk) - (len(error.object) - error.start)
                raise DataError(f"{path} is no UTF-8 at byte {wrong:,}: save it as UTF-8") from error
            if "\0" in text:
                raise DataError(f"{path} holds the character 0, which marks the end here: remove it")
            blank, place = blank and not text.strip(), place + len(chunk)
            yield np.frombuffer(text.encode("utf-32-le"), np.int32)
    if blank:
        raise DataError(f"{path} is empty")
