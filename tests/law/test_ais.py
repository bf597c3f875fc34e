"""Laws of annealed importance sampling, on a Gaussian path where everything is known."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from genloom.math.ais import anneal, anneal_back, bracket, ladder, log_mean_exp

MEAN, SD = 2.0, 0.3
TRUE = math.log(SD)
"""log Z_1 - log Z_0 from exp(-x^2/2) to exp(-(x - MEAN)^2 / (2 SD^2))."""


def log_f(x: Tensor, beta: float) -> Tensor:
    return -(1 - beta) * x.square() / 2 - beta * (x - MEAN).square() / (2 * SD**2)


def log_ratio(x: Tensor, a: float, b: float) -> Tensor:
    return log_f(x, b) - log_f(x, a)


class Walk:
    """A reversible autoregressive move for the Gaussian at beta."""

    def __init__(self, seed: int) -> None:
        self.source = torch.Generator().manual_seed(seed)

    def __call__(self, x: Tensor, beta: float) -> Tensor:
        precision = (1 - beta) + beta / SD**2
        mean = beta * MEAN / SD**2 / precision
        z = torch.randn(x.shape, generator=self.source, dtype=x.dtype)
        return mean + 0.6 * (x - mean) + 0.8 * z / math.sqrt(precision)


def both_ways(chains: int, steps: int) -> tuple[Tensor, Tensor]:
    walk = Walk(0)
    z = torch.randn(chains, generator=walk.source, dtype=torch.float64)
    _, forward = anneal(z, ladder(steps), log_ratio, walk)
    target = MEAN + SD * torch.randn(chains, generator=walk.source, dtype=torch.float64)
    _, backward = anneal_back(target, ladder(steps), log_ratio, walk)
    return forward, backward


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_ladder_climbs_from_0_to_1(count):
    betas = ladder(count)
    assert betas[0] == 0
    assert betas[-1] == 1
    assert len(betas) == count + 1
    assert all(a < b for a, b in pairwise(betas))


def test_bracket_holds_the_truth():
    forward, backward = both_ways(500, 200)
    found = bracket(0.0, forward, backward)
    assert found.lower < TRUE < found.upper
    assert abs(found.estimate - TRUE) < 0.05
    assert found.upper - found.lower < 0.3


def test_weights_are_unbiased_with_a_coarse_ladder():
    """E[w] = Z_1 / Z_0 for any number of temperatures, and E[log w] lies below it."""
    forward, backward = both_ways(100_000, 12)
    value, error = log_mean_exp(forward)
    assert abs(value - TRUE) < 4 * error < 0.2
    assert float(forward.mean()) < TRUE - 0.1
    assert float(-backward.mean()) > TRUE + 0.1


def test_the_end_of_the_path_follows_the_target():
    walk = Walk(1)
    z = torch.randn(4000, generator=walk.source, dtype=torch.float64)
    x, _ = anneal(z, ladder(300), log_ratio, walk)
    assert abs(float(x.mean()) - MEAN) < 0.03
    assert abs(float(x.std()) - SD) < 0.02


def test_bracket_arithmetic():
    one = torch.zeros(10)
    found = bracket(3.0, one + 1.0, one - 2.0)
    assert found.lower == pytest.approx(4.0)
    assert found.upper == pytest.approx(5.0)
    assert found.estimate == pytest.approx(4.5)
    assert found.stderr == pytest.approx(0.5)
