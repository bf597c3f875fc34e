"""Laws of the ways from noise to data, on Gaussian data whose score and whose flow are known."""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from genloom.core.randomness import generator
from genloom.math import solvers as S
from genloom.math.solvers import SOLVERS, Denoise, Grid

MEAN, VARIANCE = 0.7, 0.3
START = torch.tensor([[1.3], [-0.4]], dtype=torch.float64)
RANDOM = ("ddpm", "dpm_solver_2m_sde")
PATHS: Mapping[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "variance preserving": lambda r: (torch.sigmoid(-2 * r.log()).sqrt(), torch.sigmoid(2 * r.log()).sqrt()),
    "variance exploding": lambda r: (torch.ones_like(r), r),
    "straight": lambda r: (1 / (1 + r), r / (1 + r)),
}
"""alpha and sigma by their ratio."""

every_path = pytest.mark.parametrize("path", PATHS)


def walk(moves: int, path: str = "variance preserving", last: float = 2.5) -> Grid:
    """Return uneven places from much noise to little."""
    part = torch.linspace(0, 1, moves + 1, dtype=torch.float64)
    log_snr = -4 + (4 + last) * part + 0.3 * torch.sin(math.pi * part)
    return Grid(*PATHS[path]((-log_snr).exp()))


def gaussian(grid: Grid) -> Denoise:
    def denoise(x: Tensor, place: int) -> Tensor:
        alpha, sigma = grid.alpha[place], grid.sigma[place]
        gain = VARIANCE * alpha / (alpha**2 * VARIANCE + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoise


def flowed(x: Tensor, grid: Grid) -> Tensor:
    """Return where the flow takes x: the scaled distance from the mean shrinks with its deviation."""
    first, last = grid.ratio[0], grid.ratio[-1]
    shrunk = ((VARIANCE + last**2) / (VARIANCE + first**2)).sqrt()
    return grid.alpha[-1] * (MEAN + (x / grid.alpha[0] - MEAN) * shrunk)


def nothing() -> Tensor:
    raise AssertionError("a deterministic solver draws noise")


ORDERS = {
    "ddim": (S.ddim, 1),
    "heun": (S.heun, 2),
    "dpm_solver_2m": (S.dpm_solver_2m, 2),
    **{f"adams of order {k}": (partial(S.adams, order=k), k) for k in (1, 2, 3)},
    **{f"unipc of order {k}": (partial(S.unipc, order=k), k + 1) for k in (1, 2)},
}


@every_path
@pytest.mark.parametrize("name", ORDERS)
def test_errors_fall_by_the_order(name: str, path: str) -> None:
    solve, order = ORDERS[name]
    counts, errors = [80, 113, 160, 226, 320], []
    for moves in counts:
        grid = walk(moves, path)
        x = START * grid.sigma[0]
        errors.append(float((solve(gaussian(grid), x, grid, nothing) - flowed(x, grid)).abs().max()))
    logs = torch.tensor([counts, errors], dtype=torch.float64).log()
    covariance = torch.cov(logs)
    assert -float(covariance[0, 1] / covariance[0, 0]) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("solve", "orders", "less"), [(S.unipc, 3, 5), (S.adams, 4, 2)])
def test_higher_orders_are_more_exact(solve: Callable[..., Tensor], orders: int, less: float) -> None:
    grid = walk(40)
    exact = flowed(START, grid)
    found = (solve(gaussian(grid), START, grid, nothing, k) for k in range(1, orders + 1))
    errors = [float((x - exact).abs().max()) for x in found]
    assert all(later < before / less for before, later in itertools.pairwise(errors))


@every_path
@pytest.mark.parametrize("name", SOLVERS)
def test_all_reproduce_gaussian_data_in_two_hundred_moves(name: str, path: str) -> None:
    """Mean and deviation within 1% of the truth, from all noise to none; nearly so at first order."""
    rows, source = 100_000, generator("solvers", name)
    grid = walk(200, path, last=5)
    grid = Grid(torch.cat((grid.alpha, torch.ones(1))), torch.cat((grid.sigma, torch.zeros(1))))

    def draw() -> Tensor:
        return torch.randn(rows, 1, generator=source, dtype=torch.float64)

    x = draw() if name in RANDOM else torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    at_start = (grid.alpha[0] ** 2 * VARIANCE + grid.sigma[0] ** 2).sqrt()
    x = SOLVERS[name](gaussian(grid), grid.alpha[0] * MEAN + at_start * x, grid, draw)
    deviation, near = float(x.std(correction=0)), {"ddpm": 0.03, "ddim": 0.015}.get(name, 0.01)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.01 * math.sqrt(VARIANCE))
    assert deviation == pytest.approx(math.sqrt(VARIANCE), rel=near)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_start_without_data_and_an_end_without_noise(name: str) -> None:
    """alpha may be 0 at the start, and sigma at the end: nothing is divided by either."""
    part = torch.linspace(1, 0, 101, dtype=torch.float64)
    grid = Grid(1 - part, part)
    source = generator("ends")
    x = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    found = SOLVERS[name](
        gaussian(grid), x, grid, lambda: torch.randn(3, 1, generator=source, dtype=torch.float64)
    )
    assert found.isfinite().all()
    if name not in RANDOM:
        expected = MEAN + math.sqrt(VARIANCE) * x
        assert torch.allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("name", SOLVERS)
def test_calls_of_the_denoiser_are_as_many_as_moves(name: str) -> None:
    grid, calls = walk(10, last=9), list[int]()
    grid.sigma[-1] = 0

    def denoise(x: Tensor, place: int) -> Tensor:
        calls.append(place)
        return gaussian(grid)(x, place)

    SOLVERS[name](denoise, START, grid, lambda: torch.zeros(2, 1).double())
    assert len(calls) == (19 if name == "heun" else 10)


def test_ddim_with_all_its_noise_is_ancestral() -> None:
    grid = walk(20)

    def solve(solver: Callable[..., Tensor], **settings: float) -> Tensor:
        source = generator("same")
        draw = partial(torch.randn, 2, 1, generator=source, dtype=torch.float64)
        return solver(gaussian(grid), START, grid, draw, **settings)

    assert torch.allclose(solve(S.ddim, eta=1.0), solve(S.ancestral), atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_of_ddim_keeps_the_marginals(eta: float) -> None:
    """With the truth as the estimate, the mean is alpha x_0 and the variance sigma^2 again."""
    grid, x0, one, none = walk(2), torch.tensor(0.7), torch.tensor(1.0), torch.tensor(0.0)
    step = Grid(grid.alpha[:2], grid.sigma[:2])

    def moved(eps: Tensor, z: Tensor) -> Tensor:
        start = step.alpha[0] * x0 + step.sigma[0] * eps
        return S.ddim(lambda x, place: x0, start, step, lambda: z, eta)  # noqa: ARG005

    centre = moved(none, none)
    assert float(centre) == pytest.approx(float(step.alpha[1]) * 0.7)
    spread = (moved(one, none) - centre) ** 2 + (moved(none, one) - centre) ** 2
    assert float(spread) == pytest.approx(float(step.sigma[1] ** 2))


def test_forward_variance_is_that_of_the_noising() -> None:
    grid = walk(2)
    step = Grid(grid.alpha[:2], grid.sigma[:2])
    zero = torch.zeros(1, dtype=torch.float64)
    noise = S.ancestral(lambda x, place: zero, zero, step, lambda: zero + 1, "forward")  # noqa: ARG005
    abar, earlier = step.alpha**2
    assert float(noise**2) == pytest.approx(float(1 - abar / earlier))
