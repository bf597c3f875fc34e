"""Laws of mixtures of data and noise."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genloom.math.mixtures import Mixture, PredictionName, determinant, prediction, separate

NAMES = get_args(PredictionName)


def mixture(angle: float, scale: float) -> Mixture:
    place = torch.tensor(angle).double()
    return Mixture(scale * place.cos(), scale * place.sin())


places = st.builds(mixture, st.floats(0.05, 1.5), st.floats(0.2, 5))
numbers = st.floats(-3, 3).map(lambda x: torch.tensor(x).double())
deviations = st.floats(0.2, 5)


def onward() -> Mixture:
    return Mixture(torch.tensor(-1.0).double(), torch.tensor(1.0).double())


@settings(deadline=None)
@given(places, st.sampled_from(NAMES), st.sampled_from(NAMES), numbers, numbers, deviations)
def test_every_prediction_says_the_same(
    seen: Mixture, one: PredictionName, other: PredictionName, x0: torch.Tensor, eps: torch.Tensor, std: float
) -> None:
    first, second = (prediction(name, seen, onward, std) for name in (one, other))
    found = separate(seen, seen.of(x0, eps), first, first.of(x0, eps))
    torch.testing.assert_close(found, (x0, eps), atol=1e-9, rtol=0)
    torch.testing.assert_close(second.of(*found), second.of(x0, eps), atol=1e-8, rtol=0)
    assert float(first.deviation(std)) == pytest.approx(1)


@settings(deadline=None)
@given(places, st.sampled_from(NAMES), st.sampled_from(NAMES), numbers, numbers, deviations)
def test_errors_of_predictions_are_as_their_determinants(
    seen: Mixture,
    one: PredictionName,
    other: PredictionName,
    x: torch.Tensor,
    error: torch.Tensor,
    d: float,
) -> None:
    first, second = (prediction(name, seen, onward, d) for name in (one, other))
    right, wrong = (second.of(*separate(seen, x, first, y)) for y in (torch.zeros_like(x), error))
    expected = determinant(seen, second) / determinant(seen, first) * error
    torch.testing.assert_close(wrong - right, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("epsilon", (0.0, 1.0)), ("x0", (1.0, 0.0)), ("v", (-0.8, 0.6)), ("velocity", (-(0.5**0.5), 0.5**0.5))],
)
def test_predictions_are_those_of_the_papers(name: PredictionName, expected: tuple[float, float]) -> None:
    told = prediction(name, Mixture(torch.tensor(0.6), torch.tensor(0.8)), onward, 1.0)
    assert (float(told.data), float(told.noise)) == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(2e-3, 80), numbers, numbers, deviations)
def test_v_is_the_preconditioning_of_karras(
    sigma: float, x0: torch.Tensor, eps: torch.Tensor, std: float
) -> None:
    """Karras et al. 2022, table 1 and equation 8: F = (x_0 - c_skip x) / c_out, here with another sign."""
    seen = Mixture(torch.tensor(1.0).double(), torch.tensor(sigma).double())
    skip, out = std**2 / (sigma**2 + std**2), sigma * std / (sigma**2 + std**2) ** 0.5
    expected = -(x0 - skip * seen.of(x0, eps)) / out
    torch.testing.assert_close(prediction("v", seen, onward, std).of(x0, eps), expected, atol=1e-6, rtol=1e-6)
    assert float(1 / seen.deviation(std)) == pytest.approx((sigma**2 + std**2) ** -0.5)
    assert float(seen.angle(std).tan()) == pytest.approx(sigma / std)
