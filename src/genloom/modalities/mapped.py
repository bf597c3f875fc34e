"""The code points of a long text, in memory or in a file that is mapped into it.

A text of any length can be cut, looked up and trained on, as only what is touched is read.
"""

import codecs
import hashlib
import io
import shutil
import tempfile
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
    home = _home(path)
    if not home.exists():
        _write(path, size, home)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(home, np.int32, mode="r"))


def _home(path: Path) -> Path:
    """Return where a text's code points are kept, another place for every version of the file."""
    facts = path.stat()
    mark = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
    return homes.cache() / "texts" / f"{hashlib.blake2b(mark.encode(), digest_size=8).hexdigest()}.int32"


def _write(path: Path, size: int, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.parent).free
    if free < WIDTH * size:
        raise DataError(
            f"{path} takes up to {WIDTH * size / 2**30:.1f} GiB in {home.parent}, and {free / 2**30:.1f} GiB "
            "are free there: make room, or name another folder in XDG_CACHE_HOME"
        )
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        part, done = Path(folder, home.name), 0
        with part.open("wb") as file:
            for piece in decoded(path):
                file.write(piece.data)
                done += CHUNK
                homes.show_progress(path.name, min(done, size), size)
        part.replace(home)


def decoded(path: Path) -> Iterator[np.ndarray]:
    """Yield the code points of a text file piece by piece, int32.

    Raises:
        DataError: it is empty, no UTF-8, or holds the character 0.
    """
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    blank, place, last = True, 0, False
    with path.open("rb") as file:
        while not last:
            chunk = file.read(CHUNK)
            last = len(chunk) < CHUNK
            try:
                text = decoder.decode(chunk, last)
            except UnicodeDecodeError as error:
                raise DataError(f"{path} is no UTF-8 after byte {place:,}: save it as UTF-8") from error
            if "\0" in text:
                raise DataError(f"{path} holds the character 0, which marks the end here: remove it")
            blank, place = blank and not text.strip(), place + len(chunk)
            yield np.frombuffer(text.encode("utf-32-le"), np.int32)
    if blank:
        raise DataError(f"{path} is empty")
