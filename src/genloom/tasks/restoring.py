"""Restore items of which parts are known, and draw items anew, each the same whatever their number."""

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Redrawer, Restorer, need
from genloom.core.errors import ConfigError
from genloom.core.events import Value
from genloom.core.measurements import Measurement
from genloom.core.randomness import Noise
from genloom.tasks.sampling import MICRO_BATCH, in_passes


@torch.no_grad()
def restore(
    model: nn.Module,
    measurement: Measurement,
    known: Tensor,
    *,
    seed: int = 0,
    cond: Value | None = None,
    micro_batch: int = MICRO_BATCH,
) -> Value:
    """Draw items of which ``measurement`` finds what is known, (n, *Y).

    Args:
        cond: (n,) conditions, None for unconditional.

    Raises:
        Unsupported: the model cannot restore.
    """
    restorer = need(model, Restorer, "restore")
    model.eval()

    def draw(rows: Tensor, noise: Noise, given: Value | None) -> Value:
        return restorer.restore(measurement, known[rows], noise, given)

    return in_passes(len(known), seed, micro_batch, cond, draw)


@torch.no_grad()
def redraw(
    model: nn.Module,
    x: Tensor,
    strength: float,
    *,
    seed: int = 0,
    cond: Value | None = None,
    micro_batch: int = MICRO_BATCH,
) -> Value:
    """Draw items (n, *S) anew from what noise leaves of them.

    Args:
        strength: above 0 and at most 1, where next to nothing is left.
        cond: (n,) conditions, None for unconditional.

    Raises:
        ConfigError: there is no such strength.
        Unsupported: the model cannot redraw.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"strength must be above 0 and at most 1, not {strength}")
    redrawer = need(model, Redrawer, "redraw")
    model.eval()

    def draw(rows: Tensor, noise: Noise, given: Value | None) -> Value:
        return redrawer.redraw(x[rows], strength, noise, given)

    return in_passes(len(x), seed, micro_batch, cond, draw)
