"""Figures: fingerprints, comparison, storage, and the coverage of the intervals."""

import json
from dataclasses import replace

import pytest
import scipy.stats
import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.metrics import (
    Figure,
    Fingerprint,
    bootstrap,
    compare,
    frechet_distance,
    jackknife,
    student,
    wilson,
)
from genloom.metrics.figures import groups

MARK = Fingerprint("frechet", 1, "pca", "none", "digits")


def figure(lo: float, hi: float, **changes: object) -> Figure:
    return replace(Figure("frechet", (lo + hi) / 2, lo, hi, 100, MARK), **changes)


def normal(n: int, d: int, source: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=source, dtype=torch.float64)


def test_compare_orders_by_intervals() -> None:
    low, middle, high = figure(0, 1), figure(0.9, 2), figure(1.5, 3)
    assert compare(low, high) == -1
    assert compare(high, low) == 1
    assert compare(low, middle) == compare(middle, low) == compare(middle, high) == 0


@pytest.mark.parametrize("field", ["metric", "version", "features", "preprocessing", "data"])
def test_compare_refuses_another_fingerprint_and_names_the_field(field: str) -> None:
    other = replace(MARK, **{field: 2 if field == "version" else "other"})
    assert other.digest != MARK.digest
    with pytest.raises(ConfigError, match=f"{field} differs") as caught:
        compare(figure(0, 1), figure(2, 3, fingerprint=other))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["kind", "given"])
def test_compare_refuses_another_kind_or_condition(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} differs"):
        compare(figure(0, 1), figure(2, 3, **{field: "lower_bound"}))


def test_digest_is_stable() -> None:
    assert MARK.digest == Fingerprint("frechet", 1, "pca", "none", "digits").digest
    assert len(MARK.digest) == 12
    assert int(MARK.digest, 16) >= 0


@pytest.mark.parametrize("lo", [-1.0, -float("inf")])
def test_json_round_trip_is_strict(lo: float) -> None:
    before = replace(figure(0, 1, note="é", given="class"), lo=lo, value=float("inf"), hi=float("inf"))
    assert Figure.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False))) == before


def test_broken_figures_are_refused() -> None:
    for broken in ({}, {**figure(0, 1).to_json(), "extra": 1}, {**figure(0, 1).to_json(), "lo": "x"}):
        with pytest.raises(DataError, match="measure it again"):
            Figure.from_json(broken)
    for lo, hi in ((2.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(DataError):
            Figure("frechet", 1.0, lo, hi, 1, MARK)


@pytest.mark.parametrize("dof", [1, 2, 9, 29, 500])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_student_matches_scipy(dof: int, level: float) -> None:
    assert student(level, dof) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, dof), rel=2e-3)


def test_wilson_matches_scipy() -> None:
    for hits, n in ((0, 10), (7, 10), (40, 40), (300, 300)):
        expected = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
        lo, hi = wilson(hits / n, n)
        assert (lo, hi) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert lo <= hits / n <= hi


def test_jackknife_of_a_mean_has_the_textbook_error() -> None:
    x = normal(300, 1, torch.Generator().manual_seed(0))[:, 0]
    deleted = (x.sum() - x) / 299
    found = jackknife(x.mean().item(), deleted)
    assert found.stderr == pytest.approx(x.std().item() / 300**0.5, rel=1e-9)
    assert found.bias == pytest.approx(0, abs=1e-9)


def test_jackknife_finds_the_bias_of_a_variance() -> None:
    x = normal(40, 1, torch.Generator().manual_seed(0))[:, 0]
    deleted = torch.stack([torch.cat([x[:i], x[i + 1 :]]).var(correction=0) for i in range(40)])
    biased = x.var(correction=0).item()
    assert biased - jackknife(biased, deleted).bias == pytest.approx(x.var().item(), rel=1e-9)


def test_groups_are_balanced_and_keyed() -> None:
    one = groups(103, 10, seed=1, side="real")
    assert set(one.bincount().tolist()) == {10, 11}
    assert torch.equal(one, groups(103, 10, seed=1, side="real"))
    assert not torch.equal(one, groups(103, 10, seed=1, side="fake"))


def test_bootstrap_of_a_mean_is_keyed_and_covers() -> None:
    covered = 0
    for seed in range(60):
        x = -torch.rand(80, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
        lo, hi = bootstrap(lambda i, x=x: x[i].mean().item(), 80, seed=seed)
        assert (lo, hi) == bootstrap(lambda i, x=x: x[i].mean().item(), 80, seed=seed)
        covered += lo <= 1 <= hi
    assert 51 <= covered <= 60


def test_bootstrap_misses_a_frechet_distance() -> None:
    """The reason why distances use the jackknife."""
    covered = 0
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        real, fake = normal(60, 8, source), normal(60, 8, source)
        lo, _ = bootstrap(lambda i, r=real, f=fake: frechet_distance(r[i], f[i]), 60, seed=seed, resamples=40)
        covered += lo <= frechet_distance(real, fake)
    assert covered <= 5
