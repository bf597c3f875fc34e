"""Complete items so that the completion of item i under seed s is the same whatever the number of items."""

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Infill, need
from genloom.core.errors import DataError
from genloom.core.events import Value, tensor
from genloom.core.randomness import Noise
from genloom.tasks.sampling import MICRO_BATCH, in_passes


@torch.no_grad()
def infill(
    model: nn.Module,
    x: Tensor,
    known: Tensor,
    *,
    seed: int = 0,
    cond: Value | None = None,
    micro_batch: int = MICRO_BATCH,
) -> Value:
    """Keep the known values of items and draw the others, as the model's ``infill`` says.

    Args:
        x: (n, *S) items of the model's event; what stands at unknown places has no effect.
        known: booleans, (n, *S), or of a shape that broadcasts to it, such as (*S,) for all items alike.
        cond: (n,) conditions, None for unconditional.
        micro_batch: rows a pass; the last pass is filled up and its surplus dropped.

    Raises:
        DataError: ``known`` is not of booleans, or of another shape than the items.
        Unsupported: the model cannot infill.
    """
    completer = need(model, Infill, "infill")
    model.eval()
    mask = _fitted(known, x)

    def draw(rows: Tensor, noise: Noise, given: Value | None) -> Value:
        return completer.infill(x[rows], mask[rows], noise, given)

    return in_passes(len(x), seed, micro_batch, cond, draw)


def _fitted(known: Tensor, x: Tensor) -> Tensor:
    """Return the mask in the shape of the items."""
    if tensor(known).dtype is not torch.bool:
        raise DataError(f"what is known must be booleans, not {known.dtype}")
    try:
        return known.expand_as(x)
    except RuntimeError:
        shapes = f"{tuple(known.shape)} does not fit items of shape {tuple(x.shape)}"
        raise DataError(f"what is known, of shape {shapes}") from None
