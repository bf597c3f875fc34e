"""How near images are to others."""

import math

from torch import Tensor


def psnr(images: Tensor, others: Tensor, top: float) -> float:
    """Return the peak signal-to-noise ratio of images (n, ...) in dB, infinite where all are the same.

    Of the mean error of all, as the mean of the images' own ratios is infinite if one of them is.

    Args:
        top: the greatest value of a pixel, of which 0 is the least.

    Returns:
        10 log10(top^2 / mean squared error).
    """
    error = float((images.double() - others.double()).square().mean())
    return 10 * math.log10(top**2 / error) if error else math.inf
