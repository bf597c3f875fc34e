"""Crash-safe checkpoints: temporary folder, fsync, hashed manifest, rename, fsync of the parent."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genloom.core.errors import RunError
from genloom.core.serial import digest, to_json

KEEP = 2
FILES = {"tensors.safetensors", "facts.json"}


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint below ``folder`` and drop all but the last two.

    Raises:
        RunError: it cannot be written, for example because the disk is full; earlier ones are kept.
    """
    final = folder / f"{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(dict(tensors), temporary / "tensors.safetensors")
        (temporary / "facts.json").write_text(to_json(facts))
        manifest = {p.name: digest(p) for p in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise write_error(folder, error) from error
    for old in existing(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def write_error(where: Path, error: Exception) -> RunError:
    """Return a one-line error for a failed write."""
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    if full:
        return RunError(f"the disk is full: free some space and resume; what {where} held before is kept")
    return RunError(f"cannot write to {where}: {error}")


def holds(folder: Path, step: int) -> bool:
    """Tell whether a checkpoint of this step exists."""
    return (folder / f"{step:08d}").is_dir()


def existing(folder: Path) -> list[Path]:
    """Return the finished checkpoints, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint and check it against its manifest.

    Raises:
        RunError: a file is missing or its hash differs.
    """
    try:
        manifest = dict(json.loads((path / "manifest.json").read_text()))
        if set(manifest) != FILES:
            raise RunError(f"checkpoint {path} is corrupted: its manifest does not name its files")
        for name, expected in manifest.items():
            if digest(path / name) != expected:
                raise RunError(f"checkpoint {path} is corrupted: {name} does not match its hash")
        return load_file(path / "tensors.safetensors"), json.loads((path / "facts.json").read_text())
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise RunError(f"checkpoint {path} is corrupted: {error}") from error


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """Return the newest good checkpoint and a warning for each corrupted one passed over, or None.

    Raises:
        RunError: there are checkpoints, but none of them is good.
    """
    warnings: list[str] = []
    for path in reversed(existing(folder)):
        try:
            return *load(path), warnings
        except RunError as error:
            warnings.append(f"{error}; falling back to the one before")
    if warnings:
        raise RunError(f"no good checkpoint is left in {folder}: delete the folder to start again")
    return None


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content so that a crash leaves either the old or the new.

    Raises:
        RunError: the disk is full, or the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise write_error(path, error) from error
