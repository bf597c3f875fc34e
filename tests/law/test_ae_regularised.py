"""The penalties are those of the Jacobians, and the second stage finds the codes' distribution."""

import pytest
import torch
from torch import Tensor, nn

from genloom.core.errors import Unsupported
from genloom.core.events import Leaf, Real, tensor
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.ae_regularised import Config, Model, decoder_gradient, encoder_gradient

LEAF = Leaf((5,), Real())


def make(**settings: int) -> Model:
    torch.manual_seed(0)
    model = Config(hidden=6, latent_dim=2, **settings).build(LEAF, None).double()  # type: ignore[arg-type]
    assert isinstance(model, Model)
    return model


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("rae"), dtype=torch.float64)


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_the_penalty_is_the_squared_jacobian_and_so_is_its_gradient(part: str) -> None:
    network = make().network
    module = network.decoder if part == "decoder" else network.encoder
    penalty = decoder_gradient if part == "decoder" else encoder_gradient
    at = normals(1, 2 if part == "decoder" else 5)
    weight = next(module.parameters())
    jacobian = torch.autograd.functional.jacobian(module, at[0], create_graph=True)
    exact = jacobian.square().sum()
    (slope,) = torch.autograd.grad(exact, weight)
    n = 20_000
    many = at.expand(n, -1)
    estimate = penalty(network, many, many, TrainNoise(generator("v"), n, 0, n))
    (found,) = torch.autograd.grad(estimate, weight)
    torch.testing.assert_close(estimate, exact, rtol=0.03, atol=0)
    assert float((found - slope).norm() / slope.norm()) < 0.05


def test_samples_follow_the_codes() -> None:
    """With an invertible linear decoder, samples have the mean and covariance of two clusters of items."""
    model = make(components=2)
    spread = torch.tensor([[1.0, 0.5], [0.0, 0.7]], dtype=torch.float64)
    z = normals(4000, 2) @ spread + torch.where(torch.arange(4000) % 4 == 0, 6.0, -2.0)[:, None]
    lift, _ = torch.linalg.qr(normals(5, 5))
    decoder, encoder = (nn.Linear(*size, bias=False).double() for size in ((2, 5), (5, 2)))
    decoder.weight.data.copy_(lift[:, :2])
    encoder.weight.data.copy_(lift[:, :2].T)
    model.network.decoder, model.network.encoder = decoder, encoder
    x = z @ lift[:, :2].T
    model.fit(x, x[:100], SampleNoise(0, torch.zeros(1, dtype=torch.int64)))
    torch.testing.assert_close(model.log_weight.exp().sort().values, torch.tensor([0.25, 0.75]).double())
    with torch.no_grad():
        drawn = tensor(model.sample(SampleNoise(1, torch.arange(20_000)))) @ lift[:, :2]
    torch.testing.assert_close(drawn.mean(0), z.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(drawn.T.cov(), z.T.cov(), rtol=0.05, atol=0.1)


def test_without_its_second_stage_it_draws_nothing() -> None:
    with pytest.raises(Unsupported, match="not been fitted"):
        make().sample(SampleNoise(0, torch.arange(2)))
