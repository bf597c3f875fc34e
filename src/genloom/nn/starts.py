"""Runs of other models as a start: their settings and weights, read from their folders."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from genloom.core.errors import DataError

MOST_BYTES = 1 << 24
"""Of a ``run.json``."""


def settings_of(folder: Path, kind: str, names: Collection[str]) -> dict[str, Any]:
    """Return some settings of the finished run in a folder, and under ``start_sha256`` its weights' hash.

    Args:
        kind: what its family's name begins with.

    Raises:
        ValueError: it holds no finished run of this kind.
    """
    path = folder / "run.json"
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{folder} is not a run directory (no run.json)")
    try:
        facts = json.loads(path.read_text())
        family = str(facts["family"])
        if family.startswith(kind):
            return {
                **{name: facts["config"][name] for name in names},
                "start_sha256": facts["weights_sha256"],
            }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no finished run that this version of genloom can read") from error
    raise ValueError(f"{folder} is a run of {family}: start from one of {kind}*")


def start_from(model: nn.Module, folder: Path, sha256: str) -> None:
    """Fill a model with the weights of the run in a folder.

    Raises:
        DataError: they are gone, have changed, or are of other sizes.
    """
    path = folder / "model.safetensors"
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise DataError(f"{path} is not what this fit began with: restore it, or begin another fit")
    try:
        model.load_state_dict(load(weights))
    except (RuntimeError, SafetensorError) as error:
        raise DataError(f"{path} does not fit these data: {' '.join(str(error).split())[:160]}") from error
