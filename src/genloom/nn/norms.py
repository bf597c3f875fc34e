"""Norms without parameters."""

from torch import Tensor
from torch.nn import functional as F


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """Return x (..., D) with a root mean square of 1. Zhang & Sennrich 2019, arXiv:1910.07467, equation 4."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)
