"""Parzen windows against scikit-learn, and the choice of a bandwidth."""

import pytest
import torch
from sklearn.neighbors import KernelDensity
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.metrics import parzen_bandwidth, parzen_log_likelihood


def normal(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bandwidth", [0.05, 0.5, 3.0])
def test_matches_sklearn(bandwidth: float) -> None:
    samples, test = normal(0, 70, 4), normal(1, 30, 4)
    expected = KernelDensity(bandwidth=bandwidth, rtol=1e-12).fit(samples.numpy()).score_samples(test.numpy())
    found = parzen_log_likelihood(samples, test, bandwidth=bandwidth)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


def test_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, test = normal(0, 70, 4), normal(1, 30, 4)
    whole = parzen_log_likelihood(samples, test, valid=test)
    monkeypatch.setattr("genloom.metrics._rows.CHUNK", 200)
    assert parzen_log_likelihood(samples, test, valid=test).tolist() == pytest.approx(
        whole.tolist(), rel=1e-10
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_bandwidth_is_the_best_on_validation_rows(scale: float) -> None:
    samples, valid = normal(0, 100, 2) * scale, normal(1, 80, 2) * scale

    def score(width: float) -> float:
        return parzen_log_likelihood(samples, valid, bandwidth=width).mean().item()

    best = parzen_bandwidth(samples, valid)
    grid = torch.logspace(-2, 1, 200, dtype=torch.float64) * scale
    assert score(best) >= max(score(w) for w in grid.tolist()) - 1e-3
    assert torch.equal(
        parzen_log_likelihood(samples, valid, valid=valid),
        parzen_log_likelihood(samples, valid, bandwidth=best),
    )


def test_integrates_to_one() -> None:
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    density = parzen_log_likelihood(normal(0, 20, 1), grid, bandwidth=0.3).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1, abs=1e-9)


def test_a_bandwidth_must_come_from_somewhere() -> None:
    with pytest.raises(ConfigError, match="validation"):
        parzen_log_likelihood(normal(0, 5, 1), normal(1, 5, 1))
    with pytest.raises(ConfigError, match="positive"):
        parzen_log_likelihood(normal(0, 5, 1), normal(1, 5, 1), bandwidth=0.0)
