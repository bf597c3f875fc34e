"""Hamiltonian Monte Carlo. Neal 2011, arXiv:1206.1901.  C chains, Z dimensions."""

from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
"""(C, Z) -> (C,) nats up to a constant, differentiable."""


def value_and_gradient(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return log f(z) (C,) and its gradient (C, Z), detached."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def leapfrog(
    z: Tensor, momentum: Tensor, log_density: LogDensity, step: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Follow Hamiltonian dynamics for ``count`` steps.

    Args:
        z, momentum: (C, Z).
        step: (C,) sizes.

    Returns:
        Position and momentum (C, Z) at the end, and log f (C,) at the start and at the end.

    Source: Neal 2011, equations 2.28 to 2.30.
    """
    size = step[:, None]
    start, gradient = value_and_gradient(log_density, z)
    momentum, value = momentum + 0.5 * size * gradient, start
    for number in range(count):
        z = z + size * momentum
        value, gradient = value_and_gradient(log_density, z)
        momentum = momentum + (0.5 if number == count - 1 else 1.0) * size * gradient
    return z, momentum, start, value


def hmc_step(
    z: Tensor, log_density: LogDensity, step: Tensor, leapfrogs: int, momentum: Tensor, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Propose the end of a trajectory, and accept or stay.

    Args:
        z: states (C, Z).
        step: (C,) sizes.
        momentum: standard normals (C, Z).
        uniform: (C,).

    Returns:
        The next states (C, Z), and the probability (C,) with which each proposal was accepted.
    """
    end, last, before, after = leapfrog(z, momentum, log_density, step, leapfrogs)
    energy = 0.5 * (momentum.square() - last.square()).sum(1)
    accepted = (after - before + energy).nan_to_num(-torch.inf, -torch.inf, -torch.inf).clamp_max(0).exp()
    return torch.where((uniform < accepted)[:, None], end, z), accepted
