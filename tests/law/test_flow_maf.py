"""Masked autoregressive flows: exact densities and inverses, against autograd and torch.distributions."""

import math

import pytest
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Event, Leaf, Real
from genloom.core.randomness import SampleNoise
from genloom.families.flow_maf import Config
from genloom.nn.flows import LARGEST_LOG_SCALE, MaskedAffine, VectorFlow, limited

NOISE = SampleNoise(0, torch.arange(1))


def random_model(shape: tuple[int, ...], classes: int = 0, **settings) -> VectorFlow:
    """Return a float64 model away from the identity."""
    torch.manual_seed(0)
    cond: Event | None = Leaf((), Categorical(classes)) if classes else None
    model = Config(**{"hidden": (24, 18), "layers": 3, **settings}).build(Leaf(shape, Real()), cond).double()
    for parameter in model.parameters():
        parameter.data += 0.12 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("mixing", ["reverse", "random", "lu"])
@pytest.mark.parametrize("shape", [(1,), (2,), (2, 3)])
def test_inverse_and_log_det(shape: tuple[int, ...], mixing: str, classes: int) -> None:
    model = random_model(shape, classes, mixing=mixing)
    x = 2 * torch.randn(4, *shape, dtype=torch.float64)
    cond = torch.arange(4) % (classes + 1) if classes else None
    z, log_det = model.forward_and_log_det(x, cond)
    assert (model.decode(z, cond) - x).abs().max() < 1e-9

    def one(row: Tensor, label: Tensor | None) -> Tensor:
        return model.forward_and_log_det(row[None], label)[0][0]

    for i in range(4):
        label = None if cond is None else cond[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda row, label=label: one(row, label), x[i])
        assert abs(log_det[i] - jacobian.flatten(1).slogdet()[1]) < 1e-8


def test_float32_inverse() -> None:
    model = random_model((9,)).float()
    x = torch.randn(64, 9)
    assert (model.decode(model.encode(x)) - x).abs().max() < 1e-4


def test_the_density_integrates_to_one() -> None:
    model = random_model((2,))
    axis = torch.linspace(-15, 15, 1201, dtype=torch.float64)
    score = model.log_prob(torch.cartesian_prod(axis, axis), noise=NOISE).value.detach()
    assert float(score.exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-3)


def test_one_layer_is_a_chain_of_normals() -> None:
    """Papamakarios et al., equation 3: each conditional is a normal whose moments the network gives."""
    torch.manual_seed(1)
    layer = MaskedAffine(5, 0, (16,)).double()
    for parameter in layer.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(5, 7, dtype=torch.float64)
    shift, raw = layer.made(x)
    expected = torch.distributions.Normal(shift, limited(raw).exp()).log_prob(x).sum(0)
    z, log_det = layer(x, torch.zeros(7, dtype=torch.int64))
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
