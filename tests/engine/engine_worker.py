"""Runs the small fit of the tests, and kills itself at a chosen moment.

Usage: engine_worker.py OUT step|write|keep COUNT
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine_toys import digits_fit

from genloom.recipes.runs import Run
from genloom.train import checkpoint, loop

PLACES: dict[str, tuple[Any, str]] = {
    "step": (loop, "train_step"),
    "write": (checkpoint, "save_file"),
    "keep": (Run, "keep"),
}
"""Where to die: after a step, in the middle of a checkpoint, after the final weights are written."""


def deadly(call: Callable[..., Any], count: int) -> Callable[..., Any]:
    """Return a function that kills this process instead of returning for the ``count``-th time."""
    calls = []

    def run(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    owner, name = PLACES[sys.argv[2]]
    setattr(owner, name, deadly(getattr(owner, name), int(sys.argv[3])))
    digits_fit(Path(sys.argv[1]))
