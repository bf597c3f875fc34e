"""Inverse autoregressive flows: drawing and scoring are inverse, and are the paper's equation."""

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.events import Leaf, Real
from genloom.core.randomness import generator
from genloom.families.flow_iaf import MOST_VALUES, Affine, Config
from genloom.nn.flows import limited


def random_layer(dim: int) -> Affine:
    torch.manual_seed(0)
    layer = Affine(dim, None, (12, 9)).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return layer


def test_a_draw_is_shift_plus_scale_times_code() -> None:
    """Kingma et al., equation 10, where each shift and scale sees the codes before only."""
    layer = random_layer(5)
    z = torch.randn(5, 7, generator=generator("codes"), dtype=torch.float64)
    x = layer.inverse(z, None)
    for d in range(5):
        blind = torch.cat((z[:d], torch.full_like(z[d:], 9.0)))
        shift, raw = layer.made(blind)[:, d]
        torch.testing.assert_close(x[d], shift + limited(raw).exp() * z[d])


def test_gradients_of_scores_are_those_of_finite_differences() -> None:
    """Scores are found code by code; the gradient passes through all codes."""
    layer = random_layer(4)
    x = torch.randn(4, 3, generator=generator("items"), dtype=torch.float64)

    def score(*weights: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        codes, log_det = torch.func.functional_call(layer, named, (x, None))
        return (log_det - 0.5 * codes.square().sum(0)).sum()

    assert torch.autograd.gradcheck(score, tuple(layer.parameters()), fast_mode=True)


def test_too_many_values_are_refused() -> None:
    with pytest.raises(DataError, match=r"flow\.maf"):
        Config().build(Leaf((MOST_VALUES + 1,), Real()), None)
