"""Reading whatever a path holds."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from genloom.core.errors import DataError
from genloom.modalities.arrays import (
    IDX_NAME,
    has_cifar,
    read_cifar,
    read_idx_file,
    read_idx_folder,
    read_npy,
    read_npz,
)
from genloom.modalities.base import Reading
from genloom.modalities.layouts import number_classes, part, split_name, split_names
from genloom.modalities.pictures import SUFFIXES, Picture, decode
from genloom.modalities.records import cell, records
from genloom.modalities.tables import TEXT_SUFFIXES, read_parquet, read_text

READABLE = "a folder of images, an idx, npy, npz, csv or parquet file"
REFUSED = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".mat")


def read_path(path: Path, size: int | None, label: str | None, caption: str | None = None) -> Reading:
    """Read a file or a folder.

    Args:
        size: side to which encoded images are cut and scaled while they are read.
        label: the column of labels of a table.
        caption: the column of captions of images, in Parquet or in ``metadata.jsonl`` or ``metadata.csv``
            beside them, where ``file_name`` says whose they are.

    Raises:
        DataError: nothing readable is there, or what is there is damaged.
    """
    if path.is_dir():
        return _read_folder(_only_child(path), size, label, caption)
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return read_text([path], label)
    if suffix == ".parquet":
        return read_parquet([path], size, label, caption)
    if reader := _array_reader(path):
        return reader(path)
    if suffix in SUFFIXES:
        raise DataError(f"{path} is a single image: give the folder of many")
    if suffix in (".zip", ".tar", ".gz", ".tgz"):
        raise DataError(f"{path} is an archive: unpack it and give the folder")
    if suffix in REFUSED:
        raise DataError(f"{path} may run code when it is opened, so it is refused: save it as npy or csv")
    raise DataError(f"{path} is not {READABLE}")


def _array_reader(path: Path) -> Callable[[Path], Reading] | None:
    if IDX_NAME.fullmatch(path.name) or path.name.removesuffix(".gz").endswith(("-ubyte", ".idx")):
        return read_idx_file
    return {".npy": read_npy, ".npz": read_npz}.get(path.suffix.lower())


def _only_child(folder: Path) -> Path:
    """Descend while a folder holds one folder and nothing else."""
    while len(inside := [p for p in folder.iterdir() if not _hidden(p.name)]) == 1 and inside[0].is_dir():
        folder = inside[0]
    return folder


def _read_folder(folder: Path, size: int | None, label: str | None, caption: str | None) -> Reading:
    inside = sorted(p for p in folder.iterdir() if p.is_file() and not _hidden(p.name))
    if any(IDX_NAME.fullmatch(p.name) for p in inside):
        return read_idx_folder(folder)
    if has_cifar(folder):
        return read_cifar(folder)
    if parquet := [p for p in inside if p.suffix.lower() == ".parquet"]:
        return read_parquet(parquet, size, label, caption)
    if found := _image_files(folder):
        return _read_images(folder, found, size, caption)
    if tables := [p for p in inside if p.suffix.lower() in (".csv", ".tsv")]:
        if len(tables) > 1 and "all" in split_names([p.name for p in tables]).values():
            raise DataError(f"{folder} holds several tables: give the path of one")
        return read_text(tables, label)
    raise DataError(f"{folder} holds no images ({' '.join(sorted(SUFFIXES))}), idx, csv or parquet files")


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _image_files(folder: Path) -> list[Path]:
    """Find image files below a folder, in order of their paths; links to folders are not followed."""
    found = []
    for home, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        found += [Path(home, n) for n in files if Path(n).suffix.lower() in SUFFIXES and not _hidden(n)]
    return sorted(found)


def _read_images(folder: Path, files: list[Path], size: int | None, caption: str | None) -> Reading:
    """Decode image files; sub-folders are classes, below sub-folders for splits if there are such."""
    names = [path.relative_to(folder).parts[:-1] for path in files]
    tops = sorted({name[0] if name else "" for name in names})
    tag_of = split_names(tops)
    split = "all" not in tag_of.values()
    tags = [tag_of[name[0] if name else ""] for name in names]
    homes = [name[1:] if split else name for name in names]
    sources = [Picture(str(path.relative_to(folder)), path) for path in files]
    items, kept, notes = decode(sources, size)
    classed = all(homes) and len({home[0] for home in homes}) > 1
    labels, classes = number_classes([homes[i][0] for i in kept] if classed else None, str(folder))
    if split and not any(split_name(top) == "test" for top in tops):
        notes = (*notes, "the validation folder is taken as the test split")
    texts = None if caption is None else captions_of([files[i] for i in kept], folder, caption)
    parts = part(items, labels, [tags[i] for i in kept], texts)
    return Reading(parts, "image files", classes, notes=notes)


def captions_of(files: Sequence[Path], folder: Path, column: str) -> list[str]:
    """Return the captions of images by the ``metadata.jsonl`` or ``metadata.csv`` files below a folder.

    Raises:
        DataError: there is no such file, it has no such column, or an image has no caption.
    """
    found = dict[Path, str]()
    for path in sorted(folder.rglob("metadata.*")):
        if path.suffix.lower() in (".jsonl", ".csv"):
            for place, record in records(path):
                found[path.parent / cell(record, "file_name", place)] = cell(record, column, place)
    if not found:
        raise DataError(f"{folder} has no metadata.jsonl or metadata.csv with captions: add one")
    if missing := [path for path in files if path not in found]:
        raise DataError(f"{missing[0]} has no caption, nor {len(missing) - 1:,} more images: add {column!r}")
    return [found[path] for path in files]
