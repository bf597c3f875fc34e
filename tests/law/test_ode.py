"""The solver of differential equations: its order, its independence of the batch, and its gradients."""

import math

import pytest
import torch
from torch import Tensor

from genloom.math.ode import _STAGES, _slopes, _weighted, dopri5


def pendulum(t: Tensor, y: Tensor) -> Tensor:
    """A driven pendulum, whose slope depends on time."""
    return torch.stack([y[1], -y[0].sin() + 0.3 * (2 * t).cos()])


def starts(count: int) -> Tensor:
    return torch.stack([torch.linspace(-2, 2, count), torch.linspace(1, -1, count)]).double()


def test_the_order_is_five() -> None:
    """Halving a fixed step divides the error of the whole by 32."""
    y0 = starts(5)
    truth = dopri5(pendulum, y0, 0.0, 1.0, 1e-13)
    errors, sizes = [], (8, 16, 32)
    for count in sizes:
        y, step = y0, torch.full((5,), 1 / count).double()
        for i in range(count):
            t = i * step
            y = y + step * _weighted(_slopes(pendulum, t, y, step, pendulum(t, y)), _STAGES[-1])
        errors.append(float((y - truth).abs().max()))
    slope = (math.log(errors[0]) - math.log(errors[-1])) / math.log(sizes[-1] / sizes[0])
    assert abs(slope - 5) < 0.2


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_errors_stay_near_the_tolerance_and_time_turns_back(tolerance: float) -> None:
    y0 = starts(9)
    end = dopri5(pendulum, y0, 0.0, 3.0, tolerance)
    assert (end - dopri5(pendulum, y0, 0.0, 3.0, 1e-13)).abs().max() < 30 * tolerance
    assert (dopri5(pendulum, end, 3.0, 0.0, tolerance) - y0).abs().max() < 60 * tolerance


def test_an_exponential() -> None:
    rates = torch.linspace(-3, 2, 6).double()
    end = dopri5(lambda _, y: rates * y, torch.ones(1, 6).double(), 0.0, 1.0, 1e-10)
    torch.testing.assert_close(end[0], rates.exp(), rtol=1e-8, atol=1e-9)


def test_items_do_not_see_each_other() -> None:
    y0 = starts(9)
    stiff = y0.clone()
    stiff[:, 1:] *= 20
    alone, beside = (dopri5(pendulum, y, 0.0, 1.0, 1e-6) for y in (y0, stiff))
    assert torch.equal(alone[:, 0], beside[:, 0])


def test_gradients_pass_through() -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    end = dopri5(lambda _, y: rate * y, torch.ones(1, 1).double(), 0.0, 1.0, 1e-10)
    (gradient,) = torch.autograd.grad(end.sum(), rate)
    assert abs(float(gradient) - math.exp(0.7)) < 1e-6


def test_an_item_that_blows_up_is_not_a_number() -> None:
    """y' = y^2 from 2 reaches infinity at time 1/2; from 1/2 it is 1 at time 1."""
    end = dopri5(lambda _, y: y**2, torch.tensor([[2.0, 0.5]]).double(), 0.0, 1.0, 1e-9, max_steps=100)
    assert bool(end[0, 0].isnan())
    assert abs(float(end[0, 1]) - 1) < 1e-8
