"""Runs with weights averaged over another length of the same training."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Likelihood
from genloom.core.errors import ConfigError, RunError
from genloom.core.serial import digest
from genloom.recipes.evaluating import data_of, score
from genloom.recipes.fitting import check_free, make_folder
from genloom.recipes.runs import Run
from genloom.train.snapshots import FOLDER, mixed

GRID = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3)
"""Horizons that are tried where none is named."""

MISSED = 0.25
"""Of a profile, at most, when averages are mixed to it."""

ITEMS = 512
"""Validation items by which horizons are compared."""


@dataclass(frozen=True)
class Averaged:
    """A run of averaged weights, its horizon, and the validation nats of those that were tried."""

    run: Run
    horizon: float
    tried: dict[float, float]


def average_run(run: Run, horizon: float | None, out: Path) -> Averaged:
    """Write a run whose weights are averages of a horizon, the best on validation where none is named.

    Args:
        horizon: averaging time as a share of the steps, above 0 and below 1.

    Raises:
        ConfigError: there is no such horizon, or nothing to choose by.
        RunError: the run is not finished, has no snapshots, or ``out`` holds something else.
    """
    if horizon is not None and not 0 < horizon < 1:
        raise ConfigError(f"a horizon is a share of the steps, above 0 and below 1, not {horizon}")
    check_free(out)
    model, stage = run.load(), next(reversed(run.facts["stages"]), "")
    folder = run.folder / FOLDER / stage
    tried = {} if horizon is not None else _tried(run, model, folder)
    chosen = horizon if horizon is not None else min(tried, key=tried.__getitem__)
    weights, missed = mixed(folder, chosen)
    if missed > MISSED:
        raise ConfigError(
            f"what was kept cannot be mixed to a horizon of {chosen:g}: name one from 0.03 to 0.3"
        )
    make_folder(out)
    made = Run(out, {**run.facts, "averaged": {"of": str(run.folder), "horizon": chosen, "missed": missed}})
    made.keep({**model.state_dict(), **weights})
    made.update(weights_sha256=digest(out / "model.safetensors"))
    shutil.copy(run.folder / "CARD.md", out / "CARD.md")
    return Averaged(made, chosen, tried)


def _tried(run: Run, model: nn.Module, folder: Path, horizons: Sequence[float] = GRID) -> dict[float, float]:
    """Return the validation nats of an item by horizons.

    Raises:
        ConfigError: the model has no likelihood to choose by.
    """
    if not isinstance(model, Likelihood):
        raise ConfigError(f"{run.family} has no likelihood to choose by: name a --horizon")
    if run.facts["train"].get("refit"):
        raise ConfigError(f"{run.folder} was trained on its validation items as well: name a --horizon")
    split = data_of(run).valid.some(ITEMS)
    if not len(split):
        raise RunError(f"{run.folder} has no validation items to choose by: name a --horizon")

    def nats(weights: dict[str, Tensor]) -> float:
        model.load_state_dict({**model.state_dict(), **weights})
        with torch.no_grad():
            return -float(score(model, run, split).value.mean())

    found = ((horizon, *mixed(folder, horizon)) for horizon in horizons)
    return {horizon: nats(weights) for horizon, weights, missed in found if missed <= MISSED}
