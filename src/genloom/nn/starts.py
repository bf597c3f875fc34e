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


def settings_of(folder: Path, names: Collection[str]) -> dict[str, Any]:
    """Return settings of the finished diffusion model in a folder, those of these names that it has.

    Returns:
        Also ``start_sha256``, the hash of its weights.

    Raises:
        ValueError: it holds no such run.
    """
    path = folder / "run.json"
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{folder} is not a run directory (no run.json)")
    try:
        facts = json.loads(path.read_text())
        family, config, weights = str(facts["family"]), dict(facts["config"]), facts.get("weights_sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: restore it or fit again") from error
    if not family.startswith("diffusion.") or not {"path", "likelihood"} <= set(config):
        raise ValueError(f"{folder} is a run of {family}: name one of diffusion.ddpm or its like")
    if not isinstance(weights, str):
        raise ValueError(f"{folder} is not finished: finish it with the command that began it")
    return {**{name: config[name] for name in names if name in config}, "start_sha256": weights}


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
