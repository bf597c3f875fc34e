"""Laws of paths from data to noise."""

import math
from typing import get_args

import pytest
import torch

from genloom.math.paths import BETAS, LARGEST, PATHS, SIGMAS, PathName

TIMES = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
every_path = pytest.mark.parametrize("name", get_args(PathName))


@every_path
def test_times_are_those_of_the_ratios(name: PathName) -> None:
    seen = PATHS[name].at(TIMES)
    ratio = seen.noise / seen.data
    assert (ratio.diff() > 0).all()
    torch.testing.assert_close(PATHS[name].time(ratio), TIMES, atol=1e-12, rtol=0)


@every_path
def test_velocity_is_the_change_with_time(name: PathName) -> None:
    step = 1e-5
    before, after, found = (
        PATHS[name].at(TIMES - step),
        PATHS[name].at(TIMES + step),
        PATHS[name].velocity(TIMES),
    )
    torch.testing.assert_close(found.data, (after.data - before.data) / (2 * step), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.noise, (after.noise - before.noise) / (2 * step), rtol=1e-6, atol=1e-8)


@every_path
def test_a_path_leads_from_data_to_noise(name: PathName) -> None:
    path = PATHS[name]
    ends = path.at(torch.tensor([0.0, path.end], dtype=torch.float64))
    assert float(ends.data[0]) == 1
    assert float(ends.noise[0]) == (SIGMAS[0] if name == "ve" else 0)
    least = 14 if name == "scaled_linear" else 50
    assert least < float(ends.noise[1] / ends.data[1]) < LARGEST * 1.001


def test_paths_are_those_of_the_papers() -> None:
    """Variance-preserving: dx = -beta x / 2 dt + sqrt(beta) dw, so variance' = beta (1 - variance)."""
    seen, moved = PATHS["vp"].at(TIMES), PATHS["vp"].velocity(TIMES)
    beta = BETAS[0] + TIMES * (BETAS[1] - BETAS[0])
    torch.testing.assert_close(moved.data, -beta * seen.data / 2)
    torch.testing.assert_close(2 * seen.noise * moved.noise, beta * (1 - seen.noise.square()))
    torch.testing.assert_close(seen.data.square() + seen.noise.square(), torch.ones_like(TIMES))
    below = PATHS["subvp"].at(TIMES)
    torch.testing.assert_close(below.data, seen.data)
    torch.testing.assert_close(below.noise, seen.noise.square())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    left = PATHS["scaled_linear"].at(torch.arange(1, 1001, dtype=torch.float64) / 1000).data.square()
    torch.testing.assert_close(left.log(), (1 - betas).log().cumsum(0), rtol=0.008, atol=0)
    half = torch.tensor(0.5, dtype=torch.float64)
    assert float(PATHS["ve"].at(half).noise) == pytest.approx(math.sqrt(SIGMAS[0] * SIGMAS[1]))
    assert float(PATHS["straight"].at(half).data) == 0.5
