"""Precision, recall, density and coverage against brute force, and their laws."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.metrics import prdc
from genloom.metrics.coverage import Grouped, prdc_deleted
from genloom.metrics.figures import groups

NAMES = ("precision", "recall", "density", "coverage")


def samples(seed: int, n: int, m: int, d: int = 3) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    real = torch.randn(n, d, generator=source, dtype=torch.float64)
    return real, torch.randn(m, d, generator=source, dtype=torch.float64) * 0.8 + 0.5


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    def radii(x: np.ndarray) -> np.ndarray:
        return NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(x).kneighbors(x)[0][:, k]

    apart = np.sqrt(((real[:, None] - fake[None]) ** 2).sum(-1))
    in_real = apart <= radii(real)[:, None]
    in_fake = apart <= radii(fake)[None]
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum(0).mean() / k,
        "coverage": in_real.any(1).mean(),
    }


@pytest.mark.parametrize(("n", "m", "k"), [(80, 80, 5), (60, 90, 3), (30, 7, 1), (6, 6, 5)])
def test_matches_brute_force(n: int, m: int, k: int) -> None:
    real, fake = samples(n, n, m)
    assert prdc(real, fake, k=k) == pytest.approx(brute_force(real.numpy(), fake.numpy(), k), rel=1e-12)


def test_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = samples(0, 70, 50)
    whole = prdc(real, fake)
    monkeypatch.setattr("genloom.metrics._rows.CHUNK", 300)
    assert prdc(real, fake) == whole


def test_a_sample_against_itself_is_perfect() -> None:
    real, _ = samples(1, 50, 2)
    found = prdc(real, real.flip(0), k=4)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert found["density"] == pytest.approx(5 / 4)


def test_far_apart_is_zero_and_swapping_swaps_precision_and_recall() -> None:
    real, fake = samples(2, 50, 60)
    assert set(prdc(real, fake + 1000).values()) == {0.0}
    assert prdc(real, fake)["precision"] == prdc(fake, real)["recall"]


def test_a_dropped_mode_lowers_recall_and_coverage_but_not_precision() -> None:
    real, _ = samples(3, 400, 2, d=2)
    real[:200, 0] += 50
    fake, _ = samples(4, 200, 2, d=2)
    found = prdc(real, fake)
    assert found["precision"] > 0.9
    assert found["recall"] < 0.6
    assert found["coverage"] < 0.6


@pytest.mark.parametrize("name", NAMES)
def test_deletions_match_recomputation(name: str) -> None:
    real, fake = samples(5, 60, 45)
    left, right = (
        Grouped(x, groups(len(x), 10, seed=0, side=s), 10) for x, s in ((real, "real"), (fake, "fake"))
    )
    expected = [prdc(real[left.group != g], fake[right.group != g])[name] for g in range(10)]
    assert prdc_deleted(name, left, right).tolist() == pytest.approx(expected, rel=1e-12)


def test_too_few_rows() -> None:
    real, fake = samples(6, 10, 5)
    with pytest.raises(ConfigError, match="k=5"):
        prdc(real, fake)
