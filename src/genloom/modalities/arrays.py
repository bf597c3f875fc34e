"""Readers of plain arrays: idx files, NumPy files and the binary CIFAR-10 batches. Nothing is unpickled."""

import gzip
import math
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.modalities import pictures
from genloom.modalities.base import Reading, Split
from genloom.modalities.layouts import MAX_CLASSES

IDX_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx([13])-ubyte(\.gz)?")

ITEM_KEYS = ("images", "x", "X", "data", "arr_0")
LABEL_KEYS = ("labels", "label", "y")
SPLIT_KEYS = (
    ({"train": "train_images", "valid": "val_images", "test": "test_images"}, "_images", "_labels"),
    ({"train": "x_train", "valid": "x_val", "test": "x_test"}, "x_", "y_"),
)
"""Names inside npz files: single arrays, MedMNIST's and Keras's."""

CIFAR_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def read_idx(path: Path) -> Tensor:
    """Read an idx file of bytes, gzipped or not.

    Returns:
        uint8 of the shape that its header states.

    Raises:
        DataError: it is damaged, holds something other than bytes, or is too large.

    Source: the format as described with MNIST (LeCun, Cortes & Burges): two zero bytes, type, number of
    axes, big-endian extents, values.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zero, kind, axes = struct.unpack(">HBB", file.read(4))
            if zero != 0 or kind != 8 or not 1 <= axes <= 4:
                raise DataError(f"{path} is not an idx file of bytes")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            pictures.check_memory(shape)
            size = math.prod(shape)
            content = file.read(size + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is damaged ({error}): fetch it again") from error
    if len(content) != size:
        raise DataError(f"{path} does not hold the {size:,} values that its header states: fetch it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


def read_idx_folder(folder: Path) -> Reading:
    """Read the four files of MNIST's layout, or the two of one split.

    Raises:
        DataError: a file is missing or damaged, or images and labels differ in number.
    """
    found = {(m[1], m[2]): p for p in sorted(folder.iterdir()) if (m := IDX_NAME.fullmatch(p.name))}
    parts = {}
    for stem, split in (("train", "train"), ("t10k", "test"), ("test", "test")):
        if (stem, "images") in found:
            parts[split] = _idx_split(found[stem, "images"], found.get((stem, "labels")))
    if not parts:
        raise DataError(f"{folder} has idx labels but no idx images")
    if len(parts) == 1:
        parts = {"all": next(iter(parts.values()))}
    return _reading_of(parts, "idx files")


def read_idx_file(path: Path) -> Reading:
    """Read one idx file of images, with the labels beside it if they are there."""
    match = IDX_NAME.fullmatch(path.name)
    sibling = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = sibling if match and sibling != path and sibling.exists() else None
    return _reading_of({"all": _idx_split(path, labels)}, "an idx file")


def _idx_split(images: Path, labels: Path | None) -> Split:
    items = read_idx(images)
    if items.dim() != 3:
        raise DataError(f"{images} holds {items.dim()} axes, not images (number, height, width)")
    numbers = None if labels is None else read_idx(labels).long()
    if numbers is not None and numbers.shape != items.shape[:1]:
        raise DataError(f"{images} holds {len(items):,} images and {labels} {len(numbers):,} labels")
    return Split(items[:, None], numbers)


def read_npy(path: Path) -> Reading:
    """Read one array: uint8 images or rows of numbers.

    Raises:
        DataError: it is no plain array of such a shape.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a plain NumPy array; arrays of objects are never read") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive, not one array: rename it to .npz")
    return _reading({"all": (array, None)}, path, "a NumPy file")


def read_npz(path: Path) -> Reading:
    """Read images or rows, and labels, from a NumPy archive of plain arrays.

    Raises:
        DataError: an array holds objects, is too large, or has an unknown name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pictures.check_memory((sum(info.file_size for info in archive.infolist()),))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not an archive of plain NumPy arrays; objects are never read") from error
    return _reading(_pick(arrays, path), path, "a NumPy archive")


def _pick(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Find items and labels among named arrays."""
    for names, items_mark, labels_mark in SPLIT_KEYS:
        if names["train"] in arrays and names["test"] in arrays:
            return {
                split: (arrays[name], arrays.get(name.replace(items_mark, labels_mark)))
                for split, name in names.items()
                if name in arrays
            }
    items = next((arrays[k] for k in ITEM_KEYS if k in arrays), None)
    if items is None:
        known = ", ".join(ITEM_KEYS)
        raise DataError(f"{path} has arrays {', '.join(arrays)}: name the one of items {known}")
    return {"all": (items, next((arrays[k] for k in LABEL_KEYS if k in arrays), None))}


def _reading(found: Mapping[str, tuple[np.ndarray, np.ndarray | None]], path: Path, origin: str) -> Reading:
    first = next(iter(found.values()))[0]
    if first.dtype == np.uint8 and first.ndim in (3, 4):
        parts = {s: Split(_channels_first(x, path), _labels(y, len(x), path)) for s, (x, y) in found.items()}
        return _reading_of(parts, origin)
    if first.dtype.kind in "fiu" and first.ndim == 2:
        parts = {s: Split(_rows(x, path), _labels(y, len(x), path)) for s, (x, y) in found.items()}
        return _reading_of(parts, origin, _numbered(first.shape[1]))
    raise DataError(
        f"{path} holds {first.dtype} of shape {first.shape}: images are uint8 (n, height, width), "
        "rows are numbers (n, columns)"
    )


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"column {i + 1}" for i in range(count))


def _channels_first(array: np.ndarray, path: Path) -> Tensor:
    pictures.check_memory(array.shape)
    items = torch.from_numpy(np.array(array))
    if items.dim() == 3:
        return items[:, None]
    if items.shape[1] in (1, 3):
        return items
    if items.shape[3] in (1, 3):
        return items.movedim(3, 1).contiguous()
    raise DataError(f"{path} has shape {tuple(items.shape)}: one axis must be 1 (grey) or 3 (colour)")


def _rows(array: np.ndarray, path: Path) -> Tensor:
    pictures.check_memory((8, *array.shape))
    rows = np.array(array, np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise DataError(
            f"{path}: row {row + 1}, column {column + 1} is not a finite number: remove or fill it"
        )
    return torch.from_numpy(rows)


def _labels(array: np.ndarray | None, count: int, path: Path) -> Tensor | None:
    if array is None:
        return None
    if (
        array.dtype.kind not in "biuf"
        or array.size != count
        or (array != np.floor(array)).any()
        or array.min() < 0
        or array.max() > 2**53
    ):
        raise DataError(f"{path}: labels must be {count:,} whole numbers from 0")
    return torch.from_numpy(array.reshape(count).astype(np.int64))


def _reading_of(parts: Mapping[str, Split], origin: str, columns: tuple[str, ...] = ()) -> Reading:
    """Return a reading whose classes are named by their numbers, if every split has labels."""
    labels = [split.labels for split in parts.values() if split.labels is not None and len(split)]
    if len(labels) < len(parts):
        return Reading({n: Split(split.items) for n, split in parts.items()}, origin, columns=columns)
    values = torch.cat(labels).unique().tolist()
    if len(values) > MAX_CLASSES:
        raise DataError(f"there are {len(values):,} different labels, at most {MAX_CLASSES:,} are classes")
    known = torch.tensor(values)
    numbered = {
        name: Split(part.items, None if part.labels is None else torch.searchsorted(known, part.labels))
        for name, part in parts.items()
    }
    return Reading(numbered, origin, tuple(map(str, values)), columns=columns)


def has_cifar(folder: Path) -> bool:
    """Tell whether a folder holds the binary CIFAR-10, unpacked or not."""
    return (folder / "test_batch.bin").exists() or (folder / "cifar-10-binary.tar.gz").exists()


def read_cifar(folder: Path) -> Reading:
    """Read the binary version of CIFAR-10 from its archive or its unpacked batches.

    Raises:
        DataError: a batch is missing or damaged.

    Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html: records of one label byte and
    3 x 32 x 32 pixel bytes, channels first.
    """
    archive = folder / "cifar-10-binary.tar.gz"
    if (folder / "test_batch.bin").exists():
        batches = {n: _batch(folder / n) for n in (*CIFAR_BATCHES, "test_batch.bin")}
    else:
        batches = _batches_of(archive)
    train = [batches[name] for name in CIFAR_BATCHES]
    records = {"train": torch.cat(train), "test": batches["test_batch.bin"]}
    parts = {
        name: Split(r[:, 1:].reshape(-1, 3, 32, 32).contiguous(), r[:, 0].long())
        for name, r in records.items()
    }
    return Reading(parts, "binary CIFAR-10 batches", CIFAR_CLASSES)


def _batch(path: Path) -> Tensor:
    if not path.exists():
        raise DataError(f"{path} is missing: unpack cifar-10-binary.tar.gz again")
    return _records(path.read_bytes(), str(path))


def _batches_of(archive: Path) -> dict[str, Tensor]:
    try:
        with tarfile.open(archive, "r:gz") as tar:
            return {
                name: _records(_member(tar, f"cifar-10-batches-bin/{name}"), name)
                for name in (*CIFAR_BATCHES, "test_batch.bin")
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError) as error:
        raise DataError(f"{archive} is damaged ({error}): fetch it again") from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file: BinaryIO | None = tar.extractfile(name)  # type: ignore[assignment]
    if file is None:
        raise KeyError(name)
    with file:
        return file.read(10_000 * 3073 + 1)


def _records(content: bytes, name: str) -> Tensor:
    if not content or len(content) % 3073 or len(content) > 10_000 * 3073:
        raise DataError(f"{name} is not a batch of CIFAR-10 records: fetch it again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 3073)
