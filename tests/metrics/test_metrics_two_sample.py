"""The classifier two-sample test: chance on equal, power on unequal distributions."""

import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.linear_model import RidgeCV
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.metrics import c2st
from genloom.metrics.two_sample import _PENALTIES, _ridge


def normal(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equal_distributions_are_near_chance_on_average() -> None:
    found = [c2st(normal(i, 80, 4), normal(100 + i, 80, 4), seed=i) for i in range(12)]
    assert abs(sum(found) / 12 - 0.5) < 0.05


def test_copies_of_the_rows_cannot_be_told_apart() -> None:
    """Rows repeated on both sides must not reach above chance."""
    real = normal(0, 200, 4)
    assert c2st(real, real.clone()) < 0.55


def test_a_wide_gap_is_always_found() -> None:
    assert c2st(normal(0, 60, 3), normal(1, 60, 3) + 20) == 1.0


@pytest.mark.parametrize("kind", ["shift", "scale", "correlation", "shape"])
def test_power(kind: str) -> None:
    """Bayes accuracies are 0.69, 0.72 (chi-squared, 4), 0.68 and about 0.8."""
    real, fake = normal(0, 500, 4), normal(1, 500, 4)
    if kind == "shift":
        fake = fake + 0.5
    elif kind == "scale":
        fake = fake * 1.6
    elif kind == "correlation":
        fake[:, 1] = 0.8 * fake[:, 0] + 0.6 * fake[:, 1]
    else:
        real = torch.tensor(make_moons(500, noise=0.1, random_state=0)[0])
        fake = normal(2, 500, 2) @ torch.linalg.cholesky(real.T.cov()).T + real.mean(0)
    assert c2st(real, fake) > {"shift": 0.65, "scale": 0.66, "correlation": 0.6, "shape": 0.72}[kind]


def test_deterministic_by_seed_and_balanced() -> None:
    real, fake = normal(0, 300, 2), normal(1, 60, 2)
    assert c2st(real, fake, seed=3) == c2st(real, fake, seed=3)
    assert c2st(real, fake) < 0.65, "the larger class must not be a winning guess"


def test_units_of_the_features_do_not_matter() -> None:
    real, fake = normal(0, 60, 3), normal(1, 60, 3) + 0.4
    scale, shift = torch.tensor([1e-3, 1.0, 1e4]).double(), torch.tensor([5.0, -2.0, 1e5]).double()
    assert c2st(real * scale + shift, fake * scale + shift) == pytest.approx(c2st(real, fake), abs=0.02)


def test_constant_columns_are_harmless() -> None:
    real, fake = normal(0, 40, 3), normal(1, 40, 3) + 9
    real[:, 1] = fake[:, 1] = 7.3
    assert c2st(real, fake) == 1.0


def test_ridge_is_leave_one_out_ridge() -> None:
    x, y = normal(0, 80, 12), normal(1, 80, 1)[:, 0]
    expected = RidgeCV(alphas=_PENALTIES.numpy(), fit_intercept=False).fit(x.numpy(), y.numpy()).coef_
    assert _ridge(x, y).tolist() == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-10)


def test_too_few_rows() -> None:
    with pytest.raises(ConfigError, match="at least 10 rows"):
        c2st(normal(0, 9, 2), normal(1, 50, 2))
