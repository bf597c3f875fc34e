"""Runs of other models as a start: their settings and weights, read from their folders."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from genloom.core.errors import DataError

BASE, CHANGE = re.compile(r"\.base\."), re.compile(r"\.(down|up)\.weight$")
"""In the names of weights of adapted maps: the map as it was, and what is added to it."""

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


def weights_of(folder: Path, sha256: str) -> dict[str, Tensor]:
    """Return the weights of the run in a folder.

    Raises:
        DataError: they are gone, or have changed.
    """
    path = folder / "model.safetensors"
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise DataError(f"{path} is not what this fit began with: restore it, or begin another fit")
    try:
        found = load(weights)
    except SafetensorError as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error
    return merged(found, _alpha(folder / "run.json"))


def _alpha(path: Path) -> float:
    """Return the weight of a run's changes of low rank, 0 where it has none."""
    try:
        return float(json.loads(path.read_text())["config"].get("lora_alpha", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: restore it") from error


def merged(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return weights with changes of low rank added to what they change."""
    found = {BASE.sub(".", name): value for name, value in weights.items() if not CHANGE.search(name)}
    for name, down in weights.items():
        if name.endswith(".down.weight"):
            stem = name.removesuffix(".down.weight")
            change = (weights[f"{stem}.up.weight"].flatten(1) @ down.flatten(1)).view_as(
                weights[f"{stem}.base.weight"]
            )
            found[f"{stem}.weight"] = found[f"{stem}.weight"] + change * (alpha / len(down))
    return found


def start_from(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fill a model with weights; changes of low rank, which these do not have, stay as they are.

    Raises:
        DataError: they are of other sizes.
    """
    own = {name: BASE.sub(".", name) for name in model.state_dict() if not CHANGE.search(name)}
    try:
        missing, _ = model.load_state_dict(
            {name: weights[source] for name, source in own.items() if source in weights}, strict=False
        )
    except RuntimeError as error:
        raise DataError(f"the start does not fit these data: {' '.join(str(error).split())[:160]}") from error
    if any(name in own for name in missing) or set(weights) - set(own.values()):
        raise DataError("the start does not fit these data: its network or its condition is another")


def of_codes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a latent model's prior, which models codes; those of other models as they are."""
    prior = {name.removeprefix("prior."): w for name, w in weights.items() if name.startswith("prior.")}
    return prior or dict(weights)


def with_more_inputs(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights for a model that sees twice as many inputs, the others of which count for nothing."""
    found = dict(weights)
    for name, own in model.state_dict().items():
        plain = BASE.sub(".", name)
        if own.dim() > 1 and plain in weights and own.shape[1] == 2 * weights[plain].shape[1]:
            found[plain] = torch.cat((weights[plain], torch.zeros_like(weights[plain])), 1)
    return found


def relabelled(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights for a model of another number of classes, which begin as no class, the table's last row.

    As many classes as before are taken to be the same.
    """
    found = dict(weights)
    for name, own in model.state_dict().items():
        if name.endswith("embedding.label.weight") and name in weights and len(own) != len(weights[name]):
            found[name] = weights[name][-1:].expand(len(own), -1)
    return found
