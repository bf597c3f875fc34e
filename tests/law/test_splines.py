"""Splines undo themselves, know their slope, and agree with an independent implementation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genloom.math.splines import (
    FLOOR,
    parameter_count,
    rational_quadratic,
    rational_quadratic_inverse,
)

COUNT = 200


def draw(seed: int, bins: int, spread: float, bound: float) -> tuple[Tensor, Tensor]:
    """Return values (N,), a third of them in the tails, and parameters (P, N)."""
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(COUNT, generator=source, dtype=torch.float64) * bound
    raw = torch.randn(parameter_count(bins), COUNT, generator=source, dtype=torch.float64) * spread
    return x, raw


cases = given(
    seed=st.integers(0, 2**31),
    bins=st.integers(2, 20),
    spread=st.floats(0, 2),
    bound=st.floats(0.5, 10),
)


@settings(max_examples=12, deadline=None)
@cases
def test_inverse_and_slope(seed: int, bins: int, spread: float, bound: float) -> None:
    x, raw = draw(seed, bins, spread, bound)
    x.requires_grad_()
    y, log_slope = rational_quadratic(x, raw, bound)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), atol=1e-8, rtol=0)
    back = rational_quadratic_inverse(y.detach(), raw, bound)
    error_in_y = (back - x.detach()).abs() * slope
    assert error_in_y.max() < 1e-10 * bound
    moderate = slope > 1e-4
    assert (back - x.detach())[moderate].abs().max() < 1e-9


@settings(max_examples=6, deadline=None)
@cases
def test_rises_everywhere(seed: int, bins: int, spread: float, bound: float) -> None:
    _, raw = draw(seed, bins, spread, bound)
    x = torch.linspace(-1.2 * bound, 1.2 * bound, 301, dtype=torch.float64)
    y, _ = rational_quadratic(x, raw[:, :1].expand(-1, 301), bound)
    assert (y.diff() > 0).all()


def test_zeros_are_the_identity_and_tails_are_linear() -> None:
    x = torch.linspace(-9, 9, 181, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, torch.zeros(23, 181, dtype=torch.float64), 4.0)
    torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
    assert log_slope.abs().max() < 1e-12
    y, log_slope = rational_quadratic(x, torch.randn(23, 181, dtype=torch.float64), 4.0)
    outside = x.abs() > 4
    torch.testing.assert_close(y[outside], x[outside], atol=1e-12, rtol=0)
    assert (log_slope[outside] == 0).all()


@pytest.mark.parametrize("direction", [rational_quadratic, rational_quadratic_inverse])
def test_extreme_parameters_stay_finite(direction) -> None:
    raw = (torch.randn(23, COUNT) * 200).requires_grad_()
    x = torch.cat((torch.tensor([-1e30, -4.0, 0.0, 4.0, 1e30]), 3 * torch.randn(COUNT - 5)))
    result = direction(x, raw, 4.0)
    result = torch.stack(result) if isinstance(result, tuple) else result
    assert result.isfinite().all()
    result.clamp(-100, 100).sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_float32_inverse() -> None:
    x, raw = draw(0, 8, 0.5, 4.0)
    y, _ = rational_quadratic(x.float(), raw.float(), 4.0)
    assert (rational_quadratic_inverse(y, raw.float(), 4.0) - x.float()).abs().max() < 1e-4


def test_any_shape_of_values() -> None:
    x, raw = draw(1, 5, 1.0, 3.0)
    y, _ = rational_quadratic(x, raw, 3.0)
    again, _ = rational_quadratic(x.view(2, -1, 4), raw.view(-1, 2, COUNT // 8, 4), 3.0)
    torch.testing.assert_close(again.flatten(), y)
    x0, raw0 = x[7], raw[:, 7]
    torch.testing.assert_close(rational_quadratic(x0, raw0, 3.0)[0], y[7])


@pytest.mark.parametrize("bins", [2, 8])
def test_agrees_with_nflows(bins: int) -> None:
    oracle = pytest.importorskip("nflows.transforms.splines.rational_quadratic")
    x, raw = draw(2, bins, 1.5, 3.0)
    widths, heights, slopes = raw.t().split((bins, bins, bins - 1), 1)
    slopes = slopes + math.log(math.expm1(1 - FLOOR))
    expected = oracle.unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes, tails="linear", tail_bound=3.0
    )
    y, log_slope = rational_quadratic(x, raw, 3.0)
    torch.testing.assert_close(y, expected[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(log_slope, expected[1], atol=1e-8, rtol=0)
