"""Hamiltonian Monte Carlo: reversible, volume-preserving, second order, and true to its density."""

import math

import torch
from latents import noise
from torch import Tensor

from genloom.core.randomness import generator
from genloom.math.hmc import hmc_step, leapfrog

PRECISION = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)


def bent(z: Tensor) -> Tensor:
    """A density that is not normal."""
    return -0.5 * ((z @ PRECISION) * z).sum(1) - 0.1 * z[:, 0] ** 4


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("hmc"), dtype=torch.float64)


def test_a_trajectory_runs_back_with_its_momentum_turned() -> None:
    z, momentum = normals(2, 6, 2)
    step = torch.linspace(0.05, 0.3, 6).double()
    end, last, start, value = leapfrog(z, momentum, bent, step, 7)
    back, turned, _, _ = leapfrog(end, -last, bent, step, 7)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(turned, -momentum)
    torch.testing.assert_close(start, bent(z))
    torch.testing.assert_close(value, bent(end))


def test_the_error_of_energy_is_of_second_order() -> None:
    z, momentum = normals(2, 1, 2)
    errors = []
    for count in (8, 16, 32, 64):
        _, last, start, end = leapfrog(z, momentum, bent, torch.full((1,), 1 / count).double(), count)
        energy = end - start + 0.5 * (momentum.square() - last.square()).sum(1)
        errors.append(abs(float(energy)))
    slope = (math.log(errors[0]) - math.log(errors[-1])) / math.log(8)
    assert 1.8 < slope < 2.2


def test_exact_samples_stay_exact_even_with_large_steps() -> None:
    rows, covariance = 40_000, torch.linalg.inv(PRECISION)
    z = normals(rows, 2) @ torch.linalg.cholesky(covariance).T

    def normal(z: Tensor) -> Tensor:
        return -0.5 * ((z @ PRECISION) * z).sum(1)

    source, rates = noise(rows), []
    for _ in range(4):
        step = torch.full((rows,), 1.1).double()
        z, accepted = hmc_step(z, normal, step, 2, source.normal(2).double(), source.uniform().double())
        rates.append(float(accepted.mean()))
    assert 0.3 < min(rates) < 0.95, "proposals are refused now and then"
    torch.testing.assert_close(z.T.cov(), covariance, atol=0.03, rtol=0)
    assert float(z.mean(0).abs().max()) < 0.03


def test_trajectories_that_leave_the_numbers_are_refused() -> None:
    z = normals(3, 2)
    end, accepted = hmc_step(z, bent, torch.full((3,), 1e6).double(), 5, normals(3, 2), torch.full((3,), 0.5))
    assert torch.equal(end, z)
    assert not accepted.any()
