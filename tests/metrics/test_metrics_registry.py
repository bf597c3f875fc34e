"""Every metric through the one door: values, fingerprints, and intervals that cover."""

import math

import pytest
import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.metrics import METRICS, Figure, compare, measure

NAMES = {
    "frechet",
    "kernel",
    "mmd",
    "precision",
    "recall",
    "density",
    "coverage",
    "c2st",
    "sliced_wasserstein",
}


def normal(seed: int, n: int, d: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def figure(name: str, real: Tensor, fake: Tensor, seed: int = 0, **kw: object) -> Figure:
    return measure(name, real, fake, features="raw", preprocessing="none", data="normal", seed=seed, **kw)


def figures(name: str, n: int, d: int, shift: float, **kw: object) -> list[Figure]:
    """Measure 60 independent pairs of samples."""
    return [
        figure(name, normal(seed, n, d), normal(1000 + seed, n, d) + shift, seed, **kw) for seed in range(60)
    ]


def covered(found: list[Figure], truth: float) -> int:
    return sum(f.lo <= truth <= f.hi for f in found)


def test_registry_is_complete() -> None:
    assert set(METRICS) == NAMES
    for function, version, better, how in METRICS.values():
        assert callable(function)
        assert version >= 1
        assert better in ("lower", "higher", "half")
        assert how


@pytest.mark.parametrize("name", sorted(NAMES))
def test_value_is_the_metric_and_seed_decides(name: str) -> None:
    real, fake = normal(0, 60, 3), normal(1, 50, 3) + 0.3
    found = figure(name, real, fake)
    assert found.value == pytest.approx(METRICS[name].function(real, fake), rel=1e-12)
    assert found.lo <= found.value <= found.hi
    assert found.lo < found.hi
    assert (found.n, found.name) == (50, name)
    assert figure(name, real, fake) == found


@pytest.mark.parametrize("name", sorted(NAMES))
def test_better_means_better(name: str) -> None:
    real, near, far = normal(0, 100, 2), normal(1, 100, 2), normal(2, 100, 2) + 4
    good, bad = figure(name, real, near), figure(name, real, far)
    assert compare(good, bad) == (1 if METRICS[name].better == "higher" else -1)


@pytest.mark.parametrize("name", ["frechet", "recall", "c2st", "sliced_wasserstein"])
def test_figures_that_depend_on_the_number_of_rows_refuse_another(name: str) -> None:
    real, fake = normal(0, 60, 2), normal(1, 60, 2)
    with pytest.raises(ConfigError, match="metric differs"):
        compare(figure(name, real, fake), figure(name, real, fake[:50]))


def test_unbiased_figures_compare_across_numbers_of_rows_but_not_settings() -> None:
    real, fake = normal(0, 60, 2), normal(1, 60, 2)
    for name in ("kernel", "mmd"):
        assert compare(figure(name, real, fake), figure(name, real, fake[:50])) == 0
    with pytest.raises(ConfigError, match="degree=2"):
        compare(figure("kernel", real, fake), figure("kernel", real, fake, degree=2))


def test_frechet_interval_covers_its_mean_and_without_bias_the_closed_form() -> None:
    d, shift = 3, 0.7
    found = figures("frechet", 100, d, shift)
    assert 51 <= covered(found, sum(f.value for f in found) / 60) <= 60
    truth = d * shift**2
    limits = [float(f.note.split()[1]) for f in found]
    assert sum(f.lo <= truth + f.value - limit <= f.hi for f, limit in zip(found, limits, strict=True)) >= 51


def test_kernel_interval_covers_the_closed_form() -> None:
    """In one dimension the kernel (xy + 1)^3 compares the first three moments."""
    shift = 0.5
    apart = (shift, shift**2, shift**3 + 3 * shift)
    truth = sum(weight * gap**2 for weight, gap in zip((3, 3, 1), apart, strict=True))
    assert 51 <= covered(figures("kernel", 150, 1, shift), truth) <= 60
    assert 51 <= covered(figures("kernel", 150, 1, 0.0), 0.0) <= 60


def test_mmd_interval_covers_the_closed_form() -> None:
    shift = 0.6
    truth = 2 * math.sqrt(1 / 3) * (1 - math.exp(-(shift**2) / 6))
    assert 51 <= covered(figures("mmd", 100, 1, shift, bandwidths=(1.0,)), truth) <= 60
    assert 51 <= covered(figures("mmd", 100, 1, 0.0, bandwidths=(1.0,)), 0.0) <= 60


@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage", "sliced_wasserstein"])
def test_interval_covers_the_mean_at_this_number_of_rows(name: str) -> None:
    found = figures(name, 60, 4, 0.5, **({"projections": 16} if name == "sliced_wasserstein" else {}))
    assert 51 <= covered(found, sum(f.value for f in found) / 60) <= 60


def test_c2st_interval_covers_chance() -> None:
    assert 51 <= covered(figures("c2st", 40, 2, 0.0), 0.5) <= 60


def test_perfect_shares_keep_an_honest_width() -> None:
    real = normal(0, 50, 2)
    found = figure("precision", real, real.clone())
    assert found.value == found.hi == 1.0
    assert 0.8 < found.lo < 0.97


def test_refusals() -> None:
    real = normal(0, 20, 2)
    with pytest.raises(ConfigError, match="did you mean frechet"):
        figure("frechett", real, real)
    with pytest.raises(ConfigError, match="no setting 'fold'; did you mean folds"):
        figure("c2st", real, real, fold=3)
    with pytest.raises(DataError, match="at least 10 rows"):
        figure("frechet", real, real[:9])
