"""Figures of how near images are to others."""

import math

import pytest
import torch

from genloom.metrics.fidelity import psnr


def test_psnr_is_that_of_the_mean_error() -> None:
    black, grey = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    grey[0] = 51
    assert psnr(black[:1], grey[:1], 255) == pytest.approx(20 * math.log10(5))
    assert psnr(black, grey, 255) == pytest.approx(20 * math.log10(5) + 10 * math.log10(2))
    assert psnr(grey, grey, 255) == math.inf
