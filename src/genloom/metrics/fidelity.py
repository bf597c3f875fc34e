"""How near images are to others."""

import torch
from torch import Tensor


def psnr(images: Tensor, others: Tensor, top: float) -> Tensor:
    """Return the peak signal-to-noise ratio of each image (B, ...), in dB; infinite where both are the same.

    Args:
        top: the greatest value of a pixel, of which 0 is the least.

    Returns:
        (B,) float64: 10 log10(top^2 / mean squared error).
    """
    error = (images.double() - others.double()).flatten(1).square().mean(1)
    return 10 * torch.log10(top**2 / error)
