"""Buffers whose sizes are known only once a model has been fitted."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genloom.core.errors import Unsupported


def fitted_buffers(module: nn.Module, *names: str, dtype: torch.dtype = torch.float32) -> None:
    """Register empty buffers of a type that take their sizes from the state they are loaded with."""
    for name in names:
        module.register_buffer(name, torch.empty(0, dtype=dtype))

    def resize(owner: nn.Module, state: Mapping[str, Any], prefix: str, *_: object) -> None:
        for name in names:
            stored = state.get(prefix + name)
            if isinstance(stored, Tensor):
                setattr(owner, name, getattr(owner, name).new_empty(stored.shape))

    module.register_load_state_dict_pre_hook(resize)


def require_fitted(buffer: Tensor) -> None:
    """Raise ``Unsupported`` if a fitted buffer is still empty."""
    if buffer.numel() == 0:
        raise Unsupported("this model has not been fitted yet: call fit, or load a fitted state")


def evenly(rows: Tensor, count: int) -> Tensor:
    """Return at most ``count`` rows, evenly spaced, so that rows in order of class are all represented."""
    return rows[:: -(-len(rows) // count)]
