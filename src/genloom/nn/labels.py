"""Class labels as conditions: 0..K-1, and K for "no class".  B batch."""

import torch
from torch import Tensor

from genloom.core.events import Value, tensor
from genloom.core.randomness import Noise


def labels_or_null(cond: Value | None, classes: int, batch: int) -> Tensor:
    """Return the labels (B,), or ``classes``, which means no class, for every item."""
    if cond is None or not classes:
        return torch.full((batch,), classes)
    return tensor(cond)


def hide_labels(labels: Tensor, classes: int, share: float, noise: Noise) -> Tensor:
    """Replace a share of the labels (B,) by "no class", so that a model learns to do without."""
    return labels.masked_fill(noise.uniform() < share, classes)
