"""Laws of mixtures of data and noise."""

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genloom.math.mixtures import Mixture, PredictionName, prediction, separate

NAMES = get_args(PredictionName)
places = st.builds(
    lambda angle, scale: Mixture(
        scale * torch.tensor(angle).double().cos(), scale * torch.tensor(angle).double().sin()
    ),
    st.floats(0.05, 1.5),
    st.floats(0.2, 5),
)
numbers = st.floats(-3, 3).map(lambda x: torch.tensor(x).double())


@settings(deadline=None)
@given(places, st.sampled_from(NAMES), st.sampled_from(NAMES), numbers, numbers)
def test_every_prediction_says_the_same(
    seen: Mixture, one: PredictionName, other: PredictionName, x0: torch.Tensor, eps: torch.Tensor
) -> None:
    first, second = prediction(one, seen), prediction(other, seen)
    found = separate(seen, seen.of(x0, eps), first, first.of(x0, eps))
    torch.testing.assert_close(found, (x0, eps), atol=1e-10, rtol=0)
    torch.testing.assert_close(second.of(*found), second.of(x0, eps), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("name", "expected"), [("epsilon", (0.0, 1.0)), ("x0", (1.0, 0.0)), ("v", (-0.8, 0.6))]
)
def test_predictions_are_those_of_the_papers(name: PredictionName, expected: tuple[float, float]) -> None:
    seen = Mixture(torch.tensor(0.6), torch.tensor(0.8))
    told = prediction(name, seen)
    assert (float(told.data), float(told.noise)) == pytest.approx(expected)
