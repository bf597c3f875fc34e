"""ELBO, importance-weighted bound and annealed estimate against a linear-Gaussian model's evidence."""

import math

import pytest
import torch
from latents import bits, grid, lively, noise
from torch import Tensor, nn

from genloom.core.errors import Unsupported
from genloom.core.events import Binary, Categorical, Leaf, Real
from genloom.core.likelihood import Bound
from genloom.core.randomness import generator
from genloom.families import vae_flow, vae_gaussian, vae_hierarchical
from genloom.families.baseline_independent import Config as Independent
from genloom.nn.gaussian_vae import NormalPosterior, StandardNormal, elbo_terms
from genloom.nn.likelihoods import output_for
from genloom.nn.vae import VAE
from genloom.tasks.evidence import annealed_log_prob
from genloom.tasks.latents import rates

D, Z, SPREAD = 6, 3, 0.4
EVENT = Leaf((D,), Real())
SOURCE = generator("evidence")
SLOPE = torch.randn(Z, D, generator=SOURCE, dtype=torch.float64)
SHIFT = torch.randn(D, generator=SOURCE, dtype=torch.float64)
POSTERIOR = torch.linalg.inv(torch.eye(Z).double() + SLOPE @ SLOPE.T / SPREAD**2)
OFF = 1.3
"""The encoder's standard deviations are this much too large, and it ignores correlations."""


class Encoder(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = (x - SHIFT) @ SLOPE.T / SPREAD**2 @ POSTERIOR + 0.1
        return torch.cat([mean, (0.5 * POSTERIOR.diagonal().log() + math.log(OFF)).expand_as(mean)], 1)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(SHIFT)

    def forward(self, z: Tensor) -> Tensor:
        mean = z @ SLOPE + self.shift
        return torch.stack([mean, torch.full_like(mean, math.log(SPREAD))], -1).flatten(1)


def make(importance_samples: int) -> VAE:
    parts = NormalPosterior(Encoder()), StandardNormal(Z), Decoder(), output_for(EVENT)
    return VAE(EVENT, *parts, 0, importance_samples, "draw")


def items(rows: int) -> Tensor:
    x = torch.randn(rows, Z + D, generator=generator("items"), dtype=torch.float64)
    return x[:, :Z] @ SLOPE + SHIFT + SPREAD * x[:, Z:]


def evidence(x: Tensor) -> Tensor:
    covariance = SLOPE.T @ SLOPE + SPREAD**2 * torch.eye(D).double()
    return torch.distributions.MultivariateNormal(SHIFT, covariance).log_prob(x)


def test_the_gap_of_the_elbo_is_the_divergence_from_the_true_posterior() -> None:
    x, model = items(4), make(1)
    mean = (x - SHIFT) @ SLOPE.T / SPREAD**2 @ POSTERIOR
    true = torch.distributions.MultivariateNormal(mean, POSTERIOR)
    q = torch.distributions.MultivariateNormal(mean + 0.1, torch.diag(OFF**2 * POSTERIOR.diagonal()))
    expected = evidence(x) - torch.distributions.kl_divergence(q, true)
    many = 20_000
    with torch.no_grad():
        terms = elbo_terms(model, x.repeat_interleave(many, 0), None, noise(4 * many))
    draws = (-terms.reconstruction - terms.kl.sum(1)).view(4, many)
    error = draws.std(1) / many**0.5
    assert bool(((draws.mean(1) - expected).abs() < 5 * error).all())


def test_bounds_come_in_order_and_annealing_reaches_the_evidence() -> None:
    x, exact = items(12), evidence(items(12))
    with torch.no_grad():
        elbo, bound = (make(k).log_prob(x, noise=noise(12)).value.mean() for k in (1, 20))
    found = annealed_log_prob(make(1), x, chains=20, temperatures=120, leapfrogs=8)
    assert found.kind is Bound.ESTIMATE
    assert found.stderr is not None
    assert found.value.shape == found.stderr.shape == (12,)
    error = float(found.stderr.square().mean().sqrt()) / 12**0.5
    assert float(elbo) < float(bound) < float(found.value.mean()) + 4 * error
    assert float((found.value - exact).mean().abs()) < 4 * error
    assert float(((found.value - exact) / found.stderr).abs().max()) < 6
    assert error < 0.15


def test_an_estimate_depends_on_its_item_alone() -> None:
    x = items(5)
    together = annealed_log_prob(make(1), x, chains=3, temperatures=8, batch=5).value
    apart = annealed_log_prob(make(1), x, chains=3, temperatures=8, batch=2).value
    torch.testing.assert_close(together, apart)


def test_a_ladder_of_codes_is_annealed_too() -> None:
    config = vae_hierarchical.Config(layers=(2,), widths=(6,), codes=(1,))  # type: ignore[call-arg]
    torch.manual_seed(0)
    model = lively(config.build(Leaf((3,), Binary()), Leaf((), Categorical(2))), 0.4)
    assert isinstance(model, vae_hierarchical.Model)
    x, label = bits(3), torch.ones(8, dtype=torch.int64)
    points, log_cell = grid(2, 120, reach=6.0)
    exact = []
    for row in x:
        ones = torch.ones(len(points), dtype=torch.int64)
        joint = model.log_prior(points) + model.log_likelihood(row.expand(len(points), 3), points, ones)
        exact.append(joint.logsumexp(0) + log_cell)
    found = annealed_log_prob(model, x, label, chains=40, temperatures=20)
    assert found.given == "class"
    assert found.stderr is not None
    assert float(((found.value - torch.stack(exact)) / found.stderr).abs().max()) < 5
    assert float(found.stderr.max()) < 0.1


def test_models_without_a_code_are_refused() -> None:
    model = Independent().build(EVENT, None)
    with pytest.raises(Unsupported, match="LatentVariable"):
        annealed_log_prob(model, items(2))


def test_the_rate_is_the_divergence_of_the_posterior_from_the_prior() -> None:
    x, model, many = items(4), make(1), 20_000
    mean, variance = (x - SHIFT) @ SLOPE.T / SPREAD**2 @ POSTERIOR + 0.1, OFF**2 * POSTERIOR.diagonal()
    expected = 0.5 * (mean.square() + variance - 1 - variance.log()).sum(1)
    nats = rates(model, x.repeat_interleave(many, 0)).view(4, many)
    error = nats.std(1) / many**0.5
    assert bool(((nats.mean(1) - expected).abs() < 5 * error).all())


@pytest.mark.parametrize("name", ["gaussian", "ladder", "flow"])
def test_what_is_inferred_makes_up_the_bound(name: str) -> None:
    event, torch_seed = Leaf((4,), Binary()), 0
    torch.manual_seed(torch_seed)
    config = {
        "gaussian": vae_gaussian.Config(importance_samples=1),  # type: ignore[call-arg]
        "ladder": vae_hierarchical.Config(
            layers=(2,),
            widths=(6,),
            codes=(1,),
            importance_samples=1,  # type: ignore[call-arg]
        ),
        "flow": vae_flow.Config(importance_samples=1),  # type: ignore[call-arg]
    }[name]
    model = lively(config.build(event, None), 0.3)
    x = bits(4)
    z, log_q = model.infer(x, noise(16))  # type: ignore[operator]
    bound = model.log_likelihood(x, z) + model.log_prior(z) - log_q  # type: ignore[operator]
    torch.testing.assert_close(bound, model.log_prob(x, noise=noise(16)).value)  # type: ignore[operator]
