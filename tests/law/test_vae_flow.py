"""Flows around a VAE: their densities by change of variables, and the bound against quadrature."""

import pytest
import torch
from latents import bits, grid, lively, noise
from torch import Tensor

from genloom.core.events import Binary, Leaf
from genloom.families.vae_flow import Config, FlowPosterior, Gate, PriorName, VampPrior
from genloom.nn.vae import VAE

EVENT = Leaf((3,), Binary())


def make(latent_dim: int, prior: PriorName, importance_samples: int = 1) -> VAE:
    torch.manual_seed(0)
    config = Config(
        latent_dim=latent_dim, hidden=6, flow_hidden=8, pseudo_inputs=3, prior=prior,
        importance_samples=importance_samples,
    )  # type: ignore[call-arg]  # fmt: skip
    model = lively(config.build(EVENT, None))
    assert isinstance(model, VAE)
    return model


def test_a_step_keeps_the_order_and_knows_its_volume() -> None:
    step = lively(Gate(4, 8))
    z, context = torch.randn(4, 1, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(lambda v: step(v, context)[0], z)
    assert isinstance(found, Tensor)
    jacobian = found.view(4, 4)
    assert float(jacobian.triu(1).abs().max()) == 0
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, step(z, context)[1][0])


def test_the_posterior_scores_its_own_draws() -> None:
    posterior = make(3, "standard").posterior
    assert isinstance(posterior, FlowPosterior)
    inputs = torch.randn(5, 3, dtype=torch.float64)
    z, log_q = next(posterior.draws(inputs, noise(5), 1))
    mean, log_std, context = posterior._encoded(inputs)
    start = mean + log_std.exp() * noise(5).normal(3).double()
    torch.testing.assert_close(posterior.flow(start, context)[0], z)
    before = torch.distributions.Normal(mean, log_std.exp()).log_prob(start).sum(1)
    for i in range(5):
        found = torch.autograd.functional.jacobian(
            lambda v, i=i: posterior.flow(v, context[i : i + 1])[0], start[i : i + 1]
        )
        volume = torch.linalg.slogdet(found.view(3, 3)).logabsdet
        torch.testing.assert_close(log_q[i], before[i] - volume)


@pytest.mark.parametrize("prior", ["standard", "vamp", "flow"])
def test_priors_are_normalised_and_drawn_from(prior: PriorName) -> None:
    part = make(2, prior).prior
    points, log_cell = grid(2, 400, reach=25.0)
    mass = (part.log_prob(points, None) + log_cell).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    rows = 20_000
    drawn = part.draw(noise(rows), None).double()
    expected = (mass[:, None] * points).sum(0)
    error = drawn.std(0) / rows**0.5
    assert float(((drawn.mean(0) - expected) / error).abs().max()) < 5


def test_a_vampprior_is_the_mixture_of_the_posteriors_of_its_pseudo_inputs() -> None:
    model = make(2, "vamp")
    prior, posterior = model.prior, model.posterior
    assert isinstance(prior, VampPrior)
    assert isinstance(posterior, FlowPosterior)
    mean, log_std = posterior.normal(prior.pseudo)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3).double()),
        torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1),
    )
    z = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(prior.log_prob(z, None), mixture.log_prob(z))
    assert [name for name in model.state_dict() if name.startswith("prior.")] == ["prior.pseudo"]


@pytest.mark.parametrize("prior", ["standard", "vamp", "flow"])
def test_the_bound_reaches_the_evidence_by_quadrature(prior: PriorName) -> None:
    model, x = make(1, prior), bits(3)
    posterior = model.posterior
    assert isinstance(posterior, FlowPosterior)
    posterior.encoder[-1].bias[1] = 1.5  # type: ignore[index, union-attr]
    points, log_cell = grid(1, 2000, reach=40.0)
    joint = [model.log_joint(row.expand(len(points), 3), points, None) for row in x]
    evidence = torch.stack([j.logsumexp(0) + log_cell for j in joint])
    assert float(evidence.exp().sum()) == pytest.approx(1, abs=1e-3)
    single = torch.stack([model.log_prob(x, noise=noise(8, seed)).value for seed in range(100)])
    model.importance_samples = 1000
    many = model.log_prob(x, noise=noise(8)).value
    assert bool((single.mean(0) < evidence + 5 * single.std(0) / 10).all())
    assert float((many - evidence).abs().max()) < 0.15
