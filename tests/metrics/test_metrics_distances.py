"""Distances against independent oracles, closed forms and laws."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.metrics import (
    frechet_distance,
    inception_score,
    kernel_distance,
    mmd_rbf,
    sliced_wasserstein,
)

DISTANCES = (
    frechet_distance,
    kernel_distance,
    sliced_wasserstein,
    lambda x, y: mmd_rbf(x, y, bandwidths=[1.0]),
)


def samples(seed: int, n: int, m: int, d: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=source, dtype=torch.float64)
    real = torch.randn(n, d, generator=source, dtype=torch.float64)
    return real, torch.randn(m, d, generator=source, dtype=torch.float64) @ mix + 0.3


def unbiased(kernel: np.ndarray) -> float:
    n = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (n * (n - 1))


@pytest.mark.parametrize("d", [1, 5, 20])
def test_frechet_matches_sqrtm(d: int) -> None:
    real, fake = samples(d, 200, 150, d)
    a, b = (np.atleast_2d(np.cov(x.numpy().T)) for x in (real, fake))
    shift = (real.mean(0) - fake.mean(0)).square().sum().item()
    expected = shift + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_whitened_rows_is_the_closed_form() -> None:
    real, fake = samples(3, 100, 120, 4)
    deviations = torch.tensor([[1.0, 2.0, 0.5, 0.0], [3.0, 2.0, 1.5, 0.7]], dtype=torch.float64)
    white = [torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(len(x) - 1) for x in (real, fake)]
    expected = 4 * 0.25 + (deviations[0] - deviations[1]).square().sum().item()
    found = frechet_distance(white[0] * deviations[0], white[1] * deviations[1] + 0.5)
    assert found == pytest.approx(expected, rel=1e-10)


def test_frechet_handles_fewer_rows_than_features() -> None:
    real, _ = samples(0, 5, 5, 30)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(real, real + 2) == pytest.approx(4 * 30, rel=1e-10)


@pytest.mark.parametrize(("degree", "gamma", "coef0"), [(3, None, 1.0), (2, 0.3, 0.5)])
def test_kernel_distance_matches_sklearn(degree: int, gamma: float | None, coef0: float) -> None:
    real, fake = samples(1, 60, 90, 7)
    settings = {"degree": degree, "gamma": gamma, "coef0": coef0}
    x, y = real.numpy(), fake.numpy()
    cross = polynomial_kernel(x, y, **settings).mean()
    expected = (
        unbiased(polynomial_kernel(x, **settings)) + unbiased(polynomial_kernel(y, **settings)) - 2 * cross
    )
    assert kernel_distance(real, fake, degree=degree, gamma=gamma, coef0=coef0) == pytest.approx(
        expected, rel=1e-9
    )


def test_mmd_matches_sklearn_with_the_median_of_the_real_rows() -> None:
    real, fake = samples(2, 61, 40, 3)
    apart = np.sort(scipy.spatial.distance.pdist(real.numpy()))
    median = apart[(len(apart) - 1) // 2]
    x, y = real.numpy(), fake.numpy()
    expected = 0.0
    for width in (median / 2, median, 2 * median):
        gamma = 1 / (2 * width**2)
        within = unbiased(rbf_kernel(x, gamma=gamma)) + unbiased(rbf_kernel(y, gamma=gamma))
        expected += (within - 2 * rbf_kernel(x, y, gamma=gamma).mean()) / 3
    assert mmd_rbf(real, fake) == pytest.approx(expected, rel=1e-9)


def test_kernel_sums_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = samples(4, 50, 40, 3)
    whole = [kernel_distance(real, fake), mmd_rbf(real, fake)]
    monkeypatch.setattr("genloom.metrics._rows.CHUNK", 300)
    assert [kernel_distance(real, fake), mmd_rbf(real, fake)] == pytest.approx(whole, rel=1e-10)


def test_constant_rows_have_a_bandwidth() -> None:
    real = torch.zeros(10, 2, dtype=torch.float64)
    assert mmd_rbf(real, real) == pytest.approx(0)


def test_inception_score_extremes_and_formula() -> None:
    classes = 7
    assert inception_score(torch.eye(classes).repeat(3, 1)) == pytest.approx(classes)
    assert inception_score(torch.full((20, classes), 1 / classes)) == pytest.approx(1)
    probs = torch.rand(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(1)
    divergence = np.mean([scipy.stats.entropy(row, probs.mean(0).numpy()) for row in probs.numpy()])
    assert inception_score(probs) == pytest.approx(math.exp(divergence), rel=1e-10)
    with pytest.raises(DataError, match="softmax"):
        inception_score(torch.randn(5, 3))
    with pytest.raises(DataError, match="softmax"):
        inception_score(torch.tensor([[1.5, -0.5]]))


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 20), (7, 40)])
def test_sliced_wasserstein_in_one_dimension_is_the_transport_plan(n: int, m: int) -> None:
    real, fake = samples(5, n, m, 1)
    cost = scipy.spatial.distance.cdist(real.numpy().repeat(m, 0), fake.numpy().repeat(n, 0), "sqeuclidean")
    plan = scipy.optimize.linear_sum_assignment(cost)
    assert sliced_wasserstein(real, fake) == pytest.approx(math.sqrt(cost[plan].mean()), rel=1e-10)


def test_sliced_wasserstein_of_a_shift() -> None:
    """Along a uniform direction in d dimensions a shift keeps 1/d of its square on average."""
    real, _ = samples(6, 40, 2, 3)
    shift = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    assert sliced_wasserstein(real, real + shift, projections=20_000) == pytest.approx(
        math.sqrt(25 / 3), rel=0.02
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(2, 30), st.integers(1, 6))
def test_symmetry_and_shift_invariance(seed: int, n: int, m: int, d: int) -> None:
    real, fake = samples(seed, n, m, d)
    for distance in DISTANCES:
        assert distance(real, fake) == pytest.approx(distance(fake, real), rel=1e-9, abs=1e-9)
        assert distance(real, fake) == pytest.approx(distance(real.flip(0), fake.flip(0)), rel=1e-9, abs=1e-9)
    for distance in (frechet_distance, sliced_wasserstein, mmd_rbf):
        assert distance(real + 5, fake + 5) == pytest.approx(distance(real, fake), rel=1e-7, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 6))
def test_identity_and_rotation(seed: int, n: int, d: int) -> None:
    real, fake = samples(seed, n, n, d)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert sliced_wasserstein(real, real.flip(0)) == pytest.approx(0, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)).double()).Q
    for distance in (frechet_distance, kernel_distance, mmd_rbf):
        assert distance(real @ turn, fake @ turn) == pytest.approx(distance(real, fake), rel=1e-7, abs=1e-8)


def test_bad_rows_are_refused_in_one_line() -> None:
    good = torch.zeros(5, 2)
    for real, fake in (
        (good, torch.zeros(5, 3)),
        (good, torch.zeros(1, 2)),
        (torch.zeros(5), good),
        (good, good * math.nan),
    ):
        with pytest.raises(DataError) as caught:
            frechet_distance(real, fake)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="bandwidths"):
        mmd_rbf(good, good, bandwidths=[0.0])
