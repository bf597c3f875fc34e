"""The importance-weighted objective: its value, and two estimators of one gradient."""

import pytest
import torch
from torch import Tensor

from genloom.core.events import Binary, Leaf
from genloom.core.randomness import generator
from genloom.families.vae_iwae import Config, Estimator, bound_loss
from genloom.nn.gaussian_vae import normal_log_prob
from genloom.nn.vae import VAE, importance_weighted_bound

EVENT = Leaf((4,), Binary())
CONFIG = Config(latent_dim=2, hidden=5)


def make() -> VAE:
    torch.manual_seed(0)
    model = CONFIG.build(EVENT, None).double()
    assert isinstance(model, VAE)
    return model


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("iwae"), dtype=torch.float64)


def gradients(model: VAE, x: Tensor, noises: Tensor, estimator: Estimator) -> dict[str, Tensor]:
    """Return the gradient of the encoder and of the decoder, flat."""
    model.zero_grad()
    bound_loss(model, x, None, noises, estimator).total.backward()
    return {
        name: torch.cat([p.grad.flatten() for p in part.parameters() if p.grad is not None])
        for name, part in (("encoder", model.posterior), ("decoder", model.decoder))
    }


ITEMS = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 1]])


@pytest.mark.parametrize("estimator", ["dreg", "iwae"])
def test_the_loss_is_minus_the_bound(estimator: Estimator) -> None:
    model, noises = make(), normals(3, 6, 2)
    mean, log_std = model.posterior(model.inputs(ITEMS, None))
    log_weights = []
    for k in range(6):
        z = mean + log_std.exp() * noises[:, k]
        log_weights.append(model.log_joint(ITEMS, z, None) - normal_log_prob(z, mean, log_std))
    expected = -importance_weighted_bound(torch.stack(log_weights)).mean()
    torch.testing.assert_close(bound_loss(model, ITEMS, None, noises, estimator).total, expected)


def test_both_estimators_give_the_decoder_one_gradient() -> None:
    model, noises = make(), normals(3, 6, 2)
    found = [gradients(model, ITEMS, noises, estimator)["decoder"] for estimator in ("dreg", "iwae")]
    torch.testing.assert_close(*found)


def test_both_estimators_agree_on_average_about_the_encoder_and_one_varies_less() -> None:
    model, batches, rows = make(), 60, 600
    x, noises = ITEMS.repeat(rows // 3, 1), normals(batches, rows, 5, 2)
    dreg, iwae = (
        torch.stack([gradients(model, x, part, estimator)["encoder"] for part in noises])
        for estimator in ("dreg", "iwae")
    )
    error = (dreg - iwae).std(0) / batches**0.5
    away = ((dreg - iwae).mean(0) / error.clamp_min(1e-12))[error > 0]
    assert float(away.abs().max()) < 5
    assert float(dreg.var(0).sum()) < 0.7 * float(iwae.var(0).sum())
    assert float(dreg.mean(0).norm()) > 10 * float(error.norm()), "the gradient stands out of its noise"
