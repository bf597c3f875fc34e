"""genloom: every family of deep generative model on any data."""

import importlib
from typing import Any

_HOME = {
    "CompareConfig": "genloom.recipes.comparing",
    "DataOptions": "genloom.modalities.datasets",
    "FitConfig": "genloom.recipes.fitting",
    "GenloomError": "genloom.core.errors",
    "LogProb": "genloom.core.likelihood",
    "TrainConfig": "genloom.train.config",
    "Trained": "genloom.recipes.api",
    "compare": "genloom.recipes.api",
    "evaluate": "genloom.recipes.api",
    "fit": "genloom.recipes.api",
    "load": "genloom.recipes.api",
    "open_data": "genloom.modalities.datasets",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import genloom`` stays instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'genloom' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
