"""Masked autoregressive flows: exact densities and inverses, against autograd and torch.distributions."""

import math

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.events import Binary, Leaf, Real
from genloom.core.randomness import SampleNoise, generator
from genloom.families.flow_maf import Config
from genloom.nn.flows import LARGEST_LOG_SCALE, MaskedAffine, limited

NOISE = SampleNoise(0, torch.arange(1))


def test_one_layer_is_a_chain_of_normals() -> None:
    """Papamakarios et al., equation 3: each conditional is a normal whose moments the network gives."""
    torch.manual_seed(1)
    layer = MaskedAffine(5, None, (16,)).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(5, 7, dtype=torch.float64)
    shift, raw = layer.made(x)
    expected = torch.distributions.Normal(shift, limited(raw).exp()).log_prob(x).sum(0)
    z, log_det = layer(x, None)
    found = -0.5 * (z.square() + math.log(2 * math.pi)).sum(0) + log_det
    torch.testing.assert_close(found, expected)


def test_scales_are_limited_smoothly() -> None:
    x = torch.linspace(-1e6, 1e6, 10_001, dtype=torch.float64)
    assert float(limited(x).abs().max()) < LARGEST_LOG_SCALE
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(limited(zero), zero)
    assert float(slope) == 1


def test_only_real_numbers() -> None:
    with pytest.raises(DataError, match=r"flow\.maf needs real numbers"):
        Config().build(Leaf((3,), Binary()), None)


def test_outliers_do_not_run_away() -> None:
    """A value 100 deviations out costs thousands of nats, not as many more as five layers could make it."""
    torch.manual_seed(0)
    model = Config(layers=5, hidden=(32, 32)).build(Leaf((4,), Real()), None).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(200, 4, generator=generator("rows"), dtype=torch.float64)
    x[:, 0] = 100.0
    assert float(-model.log_density(x).min().detach()) < 3e4
