"""Laws of the Gaussian mixture and the kernel density estimate, against scikit-learn and known densities."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor
from torch.distributions import MultivariateNormal

from genloom.core.errors import DataError, Unsupported
from genloom.core.events import Bounded, Leaf, Real
from genloom.core.randomness import Noise, SampleNoise
from genloom.families import baseline_gmm as gmm
from genloom.families import baseline_kde as kde
from genloom.math.gmm import (
    Dense,
    LowRank,
    Mixture,
    Prior,
    cluster,
    em,
    first_parts,
    maximise,
    spread_centres,
)

SHAPES = ["full", "tied", "diag", "factor"]


def noise(rows: int, seed: int = 0) -> Noise:
    return SampleNoise(seed, torch.arange(rows))


def blobs(rows: int, seed: int = 0) -> Tensor:
    """Return float64 rows (N, 3) from three Gaussians of different shapes."""
    source = torch.Generator().manual_seed(seed)
    which = torch.randint(3, (rows,), generator=source)
    z = torch.randn(rows, 3, generator=source, dtype=torch.float64)
    mix = torch.tensor([[[1, 0, 0], [0.8, 0.4, 0], [0, 0, 0.3]], [[0.3, 0, 0], [0, 1, 0], [0, 0.5, 0.5]]])
    mix = torch.cat([mix, 0.5 * torch.eye(3)[None]]).double()
    centres = torch.tensor([[0.0, 0, 0], [4, 4, 0], [-4, 3, 2]]).double()
    return centres[which] + (mix[which] @ z[..., None])[..., 0]


def loose(x: Tensor) -> Prior:
    return Prior(torch.ones(x.shape[1]).double(), 1e-9)


def start(x: Tensor, shape: str, k: int, prior: Prior, rank: int = 1) -> Mixture:
    share = cluster(x, spread_centres(x, k, noise(1)), 1)
    return maximise(x, share, first_parts(x, share, shape, rank, prior), prior)


@pytest.mark.parametrize("shape", ["full", "tied", "diag"])
def test_density_and_em_agree_with_scikit_learn(shape):
    x = blobs(400)
    ours = start(x, shape, 3, loose(x))
    theirs = GaussianMixture(3, covariance_type=shape, reg_covar=0, tol=0, max_iter=5)
    theirs.weights_ = ours.log_weight.exp().numpy()
    theirs.means_ = ours.parts.mean.numpy()
    theirs.precisions_cholesky_ = precision_factor(ours, shape)
    np.testing.assert_allclose(ours.log_density(x).numpy(), theirs.score_samples(x.numpy()), atol=1e-8)
    *_, (after, _) = em(x, ours, loose(x), 6, -math.inf)
    for _ in range(5):
        _, log_share = theirs._e_step(x.numpy())
        theirs._m_step(x.numpy(), log_share)
    np.testing.assert_allclose(after.log_density(x).numpy(), theirs.score_samples(x.numpy()), atol=1e-6)


def precision_factor(mixture: Mixture, shape: str) -> np.ndarray:
    """Return the covariances as scikit-learn stores them."""
    if isinstance(mixture.parts, LowRank):
        return mixture.parts.variance.rsqrt().numpy()
    inverse = torch.linalg.inv(mixture.parts.factor).mT
    return (inverse[0] if shape == "tied" else inverse).numpy()


def test_low_rank_density_is_the_normal_density():
    torch.manual_seed(0)
    mean, loading, variance = torch.randn(2, 4), torch.randn(2, 4, 2), torch.rand(2, 4) + 0.1
    parts = LowRank(mean.double(), loading.double(), variance.double())
    x = torch.randn(50, 4).double()
    for k in range(2):
        cover = parts.loading[k] @ parts.loading[k].T + torch.diag(parts.variance[k])
        torch.testing.assert_close(
            parts.log_density(x)[:, k], MultivariateNormal(parts.mean[k], cover).log_prob(x)
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_em_never_lowers_the_likelihood(shape):
    x = blobs(300)
    climb = [nats for _, nats in em(x, start(x, shape, 4, loose(x)), loose(x), 30, -math.inf)]
    assert all(b >= a - 1e-9 for a, b in pairwise(climb))
    assert climb[-1] > climb[0] + 1e-3


def test_low_rank_em_finds_the_covariance_of_one_component():
    """A rank that suffices reaches the likelihood of the full Gaussian."""
    source = torch.Generator().manual_seed(1)
    axis = torch.tensor([[1.0, -2, 0.5, 1]]).double()
    x = torch.randn(2000, 1, generator=source).double() @ axis + 0.3 * torch.randn(2000, 4, generator=source)
    *_, (_, low) = em(x, start(x, "factor", 1, loose(x)), loose(x), 300, 1e-10)
    *_, (_, full) = em(x, start(x, "full", 1, loose(x)), loose(x), 3, 1e-10)
    assert full - 0.003 < low < full


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_have_the_moments_of_their_component(shape):
    x = blobs(600)
    parts = start(x, shape, 3, loose(x)).parts
    rows = 40_000
    drawn = parts.draw(torch.full((rows,), 1), noise(rows))
    if isinstance(parts, Dense):
        factor = parts.factor[-1 if len(parts.factor) == 1 else 1]
        cover = factor @ factor.T
    else:
        cover = parts.loading[1] @ parts.loading[1].T + torch.diag(parts.variance[1])
    torch.testing.assert_close(drawn.mean(0), parts.mean[1], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), cover, atol=0.08, rtol=0)


def fitted_gmm(leaf: Leaf, x: Tensor, held: Tensor, **settings) -> gmm.Model:
    model = gmm.Config(**settings).build(leaf, None)
    assert isinstance(model, gmm.Model)
    model.fit(x, held, noise(1))
    return model


def test_validation_finds_three_full_gaussians():
    model = fitted_gmm(Leaf((3,), Real()), blobs(1500), blobs(800, 1), components=(1, 2, 3, 6), prior=1.0)
    assert model.mean.shape == (3, 3)
    assert model.factor.shape == (3, 3, 3)
    test = blobs(1000, 2)
    oracle = GaussianMixture(3, random_state=0, n_init=3).fit(blobs(1500).numpy()).score(test.numpy())
    assert float(model.log_prob(test, noise=noise(1000)).value.mean()) > oracle - 0.02


def test_mixture_integrates_to_one():
    model = fitted_gmm(Leaf((1,), Real()), blobs(300)[:, :1], blobs(100, 1)[:, :1], components=(3,))
    grid = torch.linspace(-15, 15, 20_001).double()[:, None]
    density = model.log_prob(grid, noise=noise(1)).value.exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-6)


def box_data(rows: int, seed: int) -> Tensor:
    return torch.rand(rows, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) ** 3


BOX = Leaf((1, 2, 2), Bounded(0.0, 1.0))


def fitted(family: str) -> torch.nn.Module:
    module = {"gmm": gmm, "kde": kde}[family]
    model = module.Config().build(BOX, None)
    model.fit(box_data(200, 0), box_data(80, 1), noise(1))
    return model


@pytest.mark.parametrize("family", ["gmm", "kde"])
def test_a_fresh_model_takes_its_sizes_from_the_state(family):
    model = fitted(family)
    other = {"gmm": gmm, "kde": kde}[family].Config().build(BOX, None)
    with pytest.raises(Unsupported, match="not been fitted"):
        other.sample(noise(2))
    other.load_state_dict(model.state_dict())
    x = box_data(20, 2)
    assert torch.equal(model.log_prob(x, noise=noise(20)).value, other.log_prob(x, noise=noise(20)).value)
    assert torch.equal(model.sample(noise(5)), other.sample(noise(5)))
    wrapped = torch.nn.Sequential({"gmm": gmm, "kde": kde}[family].Config().build(BOX, None))
    wrapped.load_state_dict(torch.nn.Sequential(model).state_dict())


@pytest.mark.parametrize("family", ["gmm", "kde"])
def test_samples_stay_in_the_box_and_ignore_their_neighbours(family):
    model = fitted(family)
    x = model.sample(noise(64))
    assert x.shape == (64, 1, 2, 2)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    torch.testing.assert_close(model.sample(noise(9)), x[:9])
    assert abs(float(x.mean()) - 0.25) < 0.08


@pytest.mark.parametrize("module", [gmm, kde])
def test_missing_values_are_refused(module):
    model = module.Config().build(Leaf((2,), Real()), None)
    x = torch.tensor([[1.0, 2.0], [math.nan, 0.0]])
    with pytest.raises(DataError, match="complete rows"):
        model.fit(x, x[:1], noise(1))


def fitted_kde(x: Tensor, held: Tensor) -> kde.Model:
    model = kde.Config().build(Leaf((3,), Real()), None).double()
    assert isinstance(model, kde.Model)
    model.fit(x, held, noise(1))
    return model


def test_kernel_density_agrees_with_scikit_learn():
    x, test = blobs(300), blobs(700, 1)
    model = fitted_kde(x, test[:100])
    oracle = KernelDensity(bandwidth=float(model.log_bandwidth.exp())).fit(x.numpy())
    ours = model.log_prob(test, noise=noise(700)).value.numpy()
    np.testing.assert_allclose(ours, oracle.score_samples(test.numpy()), atol=1e-9)


def test_the_bandwidth_is_the_best_on_validation_rows():
    x, held = blobs(300), blobs(200, 1)
    model = fitted_kde(x, held)
    squares = kde.squared_distances(held, x)
    best = model.log_bandwidth
    scores = [float(kde.log_density(squares, best + d, 3).mean()) for d in (-0.3, -0.02, 0, 0.02, 0.3)]
    assert max(scores) == scores[2]


def test_kernel_samples_have_the_spread_of_data_and_kernel():
    x = blobs(300)
    model = fitted_kde(x, blobs(100, 1))
    drawn = model.sample(noise(40_000))
    expected = x.T.cov(correction=0) + model.log_bandwidth.exp() ** 2 * torch.eye(3).double()
    torch.testing.assert_close(drawn.T.cov(), expected, atol=0.2, rtol=0)
