"""Averages of weights that are kept on the way through a stage, to mix others from them afterwards."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genloom.core.errors import RunError
from genloom.math.averaging import shares
from genloom.train import ranks
from genloom.train.checkpoint import write_atomically
from genloom.train.state import State, Tensors

FOLDER = "snapshots"
HORIZONS = (0.05, 0.2)
"""Of the averages that are kept. Two of each step tell lengths between and around them."""


def keep(state: State, folder: Path) -> None:
    """Write the tracked averages after a step, on rank 0; nothing where none are tracked."""
    if state.tracked and ranks.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{state.step:08d}.safetensors", save(state.tracked_by_name()))


def mixed(folder: Path, horizon: float) -> tuple[Tensors, float]:
    """Return the parameters' average of a horizon over the whole stage, and what is missed of its profile.

    Raises:
        RunError: there are no snapshots, or one is damaged.
    """
    files = sorted(folder.glob("[0-9]*.safetensors")) if folder.is_dir() else []
    if not files:
        raise RunError(f"{folder} holds no snapshots: fit with --snapshots")
    steps = [int(file.stem) for file in files]
    kept = [(file, step, h) for file, step in zip(files, steps, strict=True) for h in HORIZONS]
    share, missed = shares(
        torch.tensor([step for _, step, _ in kept]), torch.tensor([h for *_, h in kept]), steps[-1], horizon
    )
    total: Tensors = {}
    for (file, _, h), part in zip(kept, share.tolist(), strict=True):
        for name, value in _read(file, f"{h}/"):
            total[name] = total[name] + part * value if name in total else part * value
    return {name: value.float() for name, value in total.items()}, missed


def _read(file: Path, prefix: str) -> list[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
            return [(name.removeprefix(prefix), opened.get_tensor(name).double()) for name in names]
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is damaged ({error}): delete it") from error
