"""Decoding image files of any kind into one array, without trusting them."""

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from genloom.core.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)

MAX_BYTES = 4 * 2**30
"""The most memory that the items of a data set may take."""

MAX_BAD = 0.05
"""The largest share of unreadable files that is skipped rather than refused."""

CLEAR = ("LA", "RGBA", "PA")
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True)
class Picture:
    """An image file, or the bytes of one, and what to call it in messages."""

    name: str
    data: Path | bytes

    def open(self) -> Image.Image:
        """Open the file; its pixels are not decoded yet."""
        return Image.open(
            io.BytesIO(self.data) if isinstance(self.data, bytes) else self.data, formats=FORMATS
        )


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]
    grey: bool
    deep: bool
    clear: bool


def decode(pictures: Sequence[Picture], size: int | None) -> tuple[Tensor, list[int], tuple[str, ...]]:
    """Decode images that have one size, or cut their middle square and scale it to ``size``.

    Grey if every image is. Turned upright by EXIF; transparent parts become white; 16-bit greys keep their
    upper 8 bits; the first frame of an animation counts.

    Returns:
        Items (n, C, H, W) uint8; the positions of the n readable pictures; notes.

    Raises:
        DataError: sizes differ, a picture is too large, all together are, or over 5% are unreadable.
    """
    headers = {i: header for i, p in enumerate(pictures) if (header := _header(p))}
    _check_bad(pictures, headers)
    width, height = (size, size) if size else _common_size([h.size for h in headers.values()])
    grey = all(header.grey for header in headers.values())
    shape = (len(headers), 1 if grey else 3, height, width)
    check_memory(shape)
    items, kept = np.empty(shape, np.uint8), list[int]()
    for i in headers:
        pixels = _pixels(pictures[i], grey, size)
        if pixels is not None:
            items[len(kept)] = pixels
            kept.append(i)
    _check_bad(pictures, kept)
    items = items[: len(kept)]
    if not grey and (items[:, :1] == items[:, 1:]).all():
        items = items[:, :1].copy()
    return torch.from_numpy(items), kept, _notes(pictures, headers, kept)


def fit(items: Tensor, size: int | None, levels: int) -> Tensor:
    """Cut the middle square of each item and scale it to ``size``; None leaves items alone."""
    if size is None or items.shape[2:] == (size, size):
        return items
    flat = items.reshape(-1, *items.shape[2:]).numpy()
    planes = [np.asarray(ImageOps.fit(Image.fromarray(p), (size, size))) for p in flat]
    return torch.from_numpy(np.stack(planes)).clamp_max(levels - 1).reshape(*items.shape[:2], size, size)


def check_memory(shape: Sequence[int]) -> None:
    """Refuse uint8 items of a shape that needs too much memory.

    Raises:
        DataError: over 4 GiB.
    """
    need = int(np.prod([int(n) for n in shape], dtype=object))
    if need > MAX_BYTES:
        raise DataError(
            f"these items need {need / 2**30:.3g} GiB, more than the {MAX_BYTES / 2**30:.3g} GiB allowed: "
            "make images smaller with --data.size 64, or take fewer"
        )


def _header(picture: Picture) -> _Header | None:
    """Read the size and the kind of pixels, None if the file is unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with picture.open() as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                clear = image.mode in CLEAR or "transparency" in image.info
                return _Header(
                    (height, width) if turned else (width, height),
                    image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
                    image.mode.startswith("I"),
                    clear,
                )
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS or 0
        raise DataError(f"{picture.name} has more than the {limit:,} pixels allowed: remove it") from error
    except UNREADABLE:
        return None


def _pixels(picture: Picture, grey: bool, size: int | None) -> np.ndarray | None:
    """Decode one picture to (C, H, W) uint8, None if it is damaged."""
    try:
        with picture.open() as opened:
            image = ImageOps.exif_transpose(opened)
            image = _plain(image, "L" if grey else "RGB")
        if size:
            image = ImageOps.fit(image, (size, size))
        array = np.asarray(image)
    except UNREADABLE:
        return None
    return array[None] if grey else np.moveaxis(array, 2, 0)


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8 bits without transparency."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in CLEAR or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image.convert(mode)


def _common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    counts = Counter(sizes).most_common()
    if len(counts) > 1:
        shown = ", ".join(f"{w}x{h} ({n:,})" for (w, h), n in counts[:5])
        more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
        raise DataError(
            f"images have {len(counts)} sizes, {shown}{more}: make them equal with --data.size 64"
        )
    return counts[0][0]


def _unread(pictures: Sequence[Picture], good: Sequence[int] | dict[int, _Header]) -> list[str]:
    known = set(good)
    return [picture.name for i, picture in enumerate(pictures) if i not in known]


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _check_bad(pictures: Sequence[Picture], good: Sequence[int] | dict[int, _Header]) -> None:
    bad = _unread(pictures, good)
    if len(bad) > MAX_BAD * len(pictures):
        raise DataError(
            f"{len(bad):,} of {len(pictures):,} images cannot be read, {_named(bad)}: repair or remove them"
        )


def _notes(pictures: Sequence[Picture], headers: dict[int, _Header], kept: list[int]) -> tuple[str, ...]:
    bad = _unread(pictures, kept)
    deep = sum(header.deep for header in headers.values())
    clear = sum(header.clear for header in headers.values())
    return tuple(
        note
        for count, note in (
            (
                len(bad),
                f"skipped {len(bad):,} of {len(pictures):,} images that cannot be read: {_named(bad)}",
            ),
            (deep, f"{deep:,} images of 16 bits were reduced to 8"),
            (clear, f"transparent parts of {clear:,} images were made white"),
        )
        if count
    )
