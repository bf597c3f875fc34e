"""A prior learned for each label, against a linear-Gaussian model whose evidence is known."""

import pytest
import torch
from torch import Tensor, nn

from genloom.core.events import Categorical, Leaf, Real, Value
from genloom.core.randomness import SampleNoise, generator
from genloom.families.vae_conditional import Config
from genloom.nn.gaussian_vae import LearnedNormal, NormalPosterior
from genloom.nn.likelihoods import output_for
from genloom.nn.vae import VAE

SLOPE, SHIFT, SPREAD = torch.tensor([0.8, -0.5]).double(), torch.tensor([0.3, 0.1]).double(), 0.6
MEANS, STDS = torch.tensor([2.0, -1.0, 0.0]).double(), torch.tensor([0.5, 1.5, 1.0]).double()
EVENT = Leaf((2,), Real())


class Exact(nn.Module):
    """The exact posterior of z in x = SLOPE z + SHIFT + SPREAD e, where z ~ N(MEANS[y], STDS[y]^2)."""

    def forward(self, inputs: Tensor) -> Tensor:
        x, label = inputs[:, :2], inputs[:, 2:].argmax(1)
        precision = STDS[label] ** -2 + SLOPE.square().sum() / SPREAD**2
        mean = (MEANS[label] / STDS[label] ** 2 + (x - SHIFT) @ SLOPE / SPREAD**2) / precision
        return torch.stack([mean, -0.5 * precision.log()], 1)


class Line(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        mean = z[:, :1] * SLOPE + SHIFT
        return torch.stack([mean, torch.full_like(mean, SPREAD).log()], -1).flatten(1)


def make() -> VAE:
    prior = LearnedNormal(1, classes=2, hidden=4)
    table = nn.Embedding.from_pretrained(torch.stack([MEANS, STDS.log()], 1))
    prior.network = nn.Sequential(table)
    return VAE(EVENT, NormalPosterior(Exact()), prior, Line(), output_for(EVENT), 2, 1, "draw").double()


def evidence(x: Tensor, label: int) -> Tensor:
    covariance = SPREAD**2 * torch.eye(2).double() + STDS[label] ** 2 * torch.outer(SLOPE, SLOPE)
    return torch.distributions.MultivariateNormal(SHIFT + MEANS[label] * SLOPE, covariance).log_prob(x)


@pytest.mark.parametrize("label", [0, 1, None])
def test_the_bound_is_the_evidence_given_the_label(label: int | None) -> None:
    x = torch.randn(50, 2, generator=generator("cvae")).double()
    cond: Value | None = None if label is None else torch.full((50,), label)
    scored = make().log_prob(x, cond, noise=SampleNoise(0, torch.arange(50)))
    torch.testing.assert_close(scored.value, evidence(x, 2 if label is None else label))
    assert scored.given == ("" if label is None else "class")


def test_samples_of_a_label_have_its_distribution() -> None:
    rows = 20_000
    x = make().sample(SampleNoise(1, torch.arange(rows)), torch.ones(rows, dtype=torch.int64))
    assert isinstance(x, Tensor)
    covariance = SPREAD**2 * torch.eye(2).double() + STDS[1] ** 2 * torch.outer(SLOPE, SLOPE)
    torch.testing.assert_close(x.mean(0), SHIFT + MEANS[1] * SLOPE, atol=0.05, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.05, rtol=0)


def test_every_part_depends_on_the_label_and_the_prior_starts_as_a_standard_normal() -> None:
    torch.manual_seed(0)
    config = Config(latent_dim=2, hidden=8, prior_hidden=4)  # type: ignore[call-arg]
    model = config.build(EVENT, Leaf((), Categorical(2)))
    assert isinstance(model, VAE)
    prior = model.prior
    assert isinstance(prior, LearnedNormal)
    z, zero, one = torch.randn(5, 2, generator=generator("z")), torch.zeros(5).long(), torch.ones(5).long()
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(prior.log_prob(z, zero), expected)
    nn.init.normal_(prior.network[-1].weight)
    for part in (prior.log_prob, model.encode, model.likelihood_parameters):
        assert not torch.equal(part(z, zero), part(z, one)), part
