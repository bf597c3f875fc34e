"""The importance-weighted objective: its value, and two estimators of one gradient."""

import pytest
import torch
from torch import Tensor

from genloom.core.events import Binary, Leaf
from genloom.core.objective import Clock
from genloom.core.randomness import TrainNoise, generator
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


def test_a_warm_start_trains_with_one_sample_first() -> None:
    """The stages share the budget; the first one's loss is a plain VAE's, the second's is tighter."""
    model = make()
    stages = CONFIG.model_copy(update={"warm": 0.4, "samples": 50}).stages(model)
    assert [(s.name, s.budget_share) for s in stages] == [("warm", 0.4), ("vae", 0.6)]
    batch = {"x": ITEMS.repeat(2000, 1)}
    losses = []
    for stage in stages:
        assert stage.objective is not None
        loss = stage.objective.phases[0].loss
        assert loss is not None
        noise = TrainNoise(generator("warm"), 6000, 0, 6000)
        losses.append(float(loss(batch, noise, Clock(0, 1)).total.detach()))
    plain = bound_loss(model, batch["x"], None, normals(6000, 1, 2), "iwae").total
    assert losses[0] == pytest.approx(float(plain.detach()), abs=0.02)
    assert losses[1] < losses[0] - 0.005
    assert [s.name for s in CONFIG.stages(model)] == ["vae"]
