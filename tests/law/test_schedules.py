"""Laws of the diffusion schedules, by composition, brute-force Bayes and enumeration."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genloom.math import schedules as S

TABLES = {"linear": S.linear_alpha_bar(1000), "cosine": S.cosine_alpha_bar(1000)}
times = st.integers(1, 1000)
numbers = st.floats(-3, 3)


@pytest.mark.parametrize("name", TABLES)
def test_tables_fall_from_data_to_noise(name):
    table = TABLES[name]
    assert table[0] == 1
    assert table[-1] < 1e-4
    assert (table[1:] < table[:-1]).all()
    assert len(table) == 1001


def test_tables_follow_their_papers():
    beta = S.forward_variance(TABLES["linear"][1:], TABLES["linear"][:-1])
    torch.testing.assert_close(beta[[0, -1]], torch.tensor([1e-4, 0.02], dtype=torch.float64))
    torch.testing.assert_close(beta.diff(), beta.diff()[:1].expand(999), atol=1e-12, rtol=0)
    f = torch.cos((torch.tensor([0.0, 0.5], dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
    torch.testing.assert_close(TABLES["cosine"][500], f[1] / f[0])


@pytest.mark.parametrize("name", TABLES)
def test_marginals_equal_composed_single_steps(name):
    table = TABLES[name]
    mean, variance = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    for t in range(1, 1001):
        beta = S.forward_variance(table[t], table[t - 1])
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        if t % 100 == 0:
            torch.testing.assert_close(mean, table[t].sqrt())
            torch.testing.assert_close(variance, 1 - table[t])


@pytest.mark.parametrize(("s", "t"), [(1, 2), (300, 301), (200, 700), (999, 1000)])
def test_posterior_is_bayes_on_a_grid(s, t):
    abar, earlier = TABLES["cosine"][t], TABLES["cosine"][s]
    x, x0 = torch.tensor(0.6).double(), torch.tensor(-0.8).double()
    mean, variance = S.posterior_mean(x, x0, abar, earlier), S.posterior_variance(abar, earlier)
    grid = mean + torch.linspace(-12, 12, 20001, dtype=torch.float64) * variance.sqrt()
    alpha = abar / earlier
    log_p = S.gaussian_log_density(x, alpha.sqrt() * grid, 1 - alpha)
    log_p = log_p + S.gaussian_log_density(grid, earlier.sqrt() * x0, 1 - earlier)
    p = log_p.softmax(0)
    brute = (p * grid).sum()
    torch.testing.assert_close(brute, mean)
    torch.testing.assert_close((p * (grid - brute).square()).sum(), variance)


@given(numbers, numbers, st.floats(0.01, 4), st.floats(0.01, 4))
def test_kl_is_that_of_torch(a, b, v, w):
    a, b, v, w = (torch.tensor(n).double() for n in (a, b, v, w))
    p, q = torch.distributions.Normal(a, v.sqrt()), torch.distributions.Normal(b, w.sqrt())
    torch.testing.assert_close(S.gaussian_kl(a, v, b, w), torch.distributions.kl_divergence(p, q))
    torch.testing.assert_close(S.gaussian_log_density(b, a, v), p.log_prob(b))


@given(st.integers(2, 256), numbers, st.floats(1e-3, 2))
def test_discretised_gaussian_sums_to_one(levels, mean, std):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    log_p = S.discretised_gaussian(x, torch.full_like(x, mean), x.new_tensor(std**2), -1, 1, levels)
    assert not log_p.isnan().any()
    assert (log_p <= 0).all()
    torch.testing.assert_close(log_p.logsumexp(0), x.new_tensor(0.0), atol=1e-9, rtol=0)


def test_discretised_gaussian_is_a_difference_of_cdfs():
    x, mean, std = torch.tensor([0.0, 0.5, -1.0]).double(), torch.tensor(0.3).double(), 0.4
    normal = torch.distributions.Normal(mean, std)
    mass = normal.cdf(x + 0.25) - normal.cdf(x - 0.25)
    mass[2] = normal.cdf(x[2] + 0.25)
    variance = mean.new_tensor(std**2)
    torch.testing.assert_close(S.discretised_gaussian(x, mean.expand(3), variance, -1, 1, 5).exp(), mass)


@given(st.integers(2, 400), st.integers(1, 100))
def test_strata_partition_the_times(last, number):
    ranges = S.strata(2, last, number) if last > 2 else S.strata(1, last, number)
    first = 2 if last > 2 else 1
    covered = [
        a + i for a, n in zip(ranges.start.tolist(), ranges.count.tolist(), strict=True) for i in range(n)
    ]
    assert covered == list(range(first, last + 1))
    assert len(ranges.count) <= number


def test_a_stratum_draws_each_of_its_times_equally_often():
    ranges = S.strata(2, 50, 4)
    for j, (start, count) in enumerate(zip(ranges.start.tolist(), ranges.count.tolist(), strict=True)):
        u = ((torch.arange(3 * count) + 0.5) / (3 * count))[:, None].expand(-1, 4)
        drawn = S.draw_times(ranges, u)[:, j]
        assert drawn.bincount(minlength=start + count)[start:].tolist() == [3] * count


@given(st.integers(1, 1000), st.integers(1, 1200))
def test_spaced_times_run_from_noise_to_data(steps, number):
    walk = S.spaced_times(steps, number)
    assert walk[0] == steps
    assert walk[-1] == 0
    assert len(walk) == min(number, steps) + 1
    assert sorted(set(walk), reverse=True) == walk
