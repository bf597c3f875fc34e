"""Laws of the terms of diffusion's bound, by torch's distributions and enumeration."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from genloom.math import bounds as S

numbers = st.floats(-3, 3)


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
