"""Rates of likelihood and their figures."""

import math

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.likelihood import Bound, LogProb
from genloom.metrics import bits_per_dim, bootstrap, likelihood_figure, nats_per_item


def test_uniform_bytes_cost_eight_bits() -> None:
    log_prob = torch.full((5,), -784 * math.log(256), dtype=torch.float64)
    assert bits_per_dim(log_prob, 784) == pytest.approx(8)
    assert nats_per_item(log_prob) == pytest.approx(784 * math.log(256))


def test_rate_is_a_ratio_of_sums() -> None:
    log_prob, units = torch.tensor([-10.0, -1.0]), torch.tensor([1, 10])
    assert bits_per_dim(log_prob, units) == pytest.approx(1 / math.log(2))


def test_figure_carries_kind_given_and_the_textbook_interval() -> None:
    value = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 20
    log_prob = LogProb(value, Bound.LOWER, "class", stderr=torch.full((400,), 0.25))
    found = likelihood_figure(log_prob, data="digits", preprocessing="17 levels")
    assert (found.name, found.kind, found.given, found.n) == ("nats_per_item", "lower_bound", "class", 400)
    assert found.value == pytest.approx(-value.mean().item())
    assert (found.hi - found.lo) / 2 == pytest.approx(1.966 * value.std().item() / 20, rel=1e-3)
    assert "0.25" in found.note


def test_rate_interval_agrees_with_the_bootstrap() -> None:
    source = torch.Generator().manual_seed(1)
    units = torch.randint(1, 50, (500,), generator=source)
    value = -units * (1 + 0.3 * torch.randn(500, generator=source, dtype=torch.float64))
    found = likelihood_figure(LogProb(value, Bound.EXACT), data="text", units=units)
    lo, hi = bootstrap(lambda i: bits_per_dim(value[i], units[i]), 500, seed=0, resamples=600)
    assert found.name == "bits_per_dim"
    assert found.hi - found.lo == pytest.approx(hi - lo, rel=0.15)
    assert found.lo < found.value < found.hi


def test_interval_covers() -> None:
    covered = 0
    for seed in range(60):
        value = torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log()
        found = likelihood_figure(LogProb(value, Bound.EXACT), data="x")
        covered += found.lo <= 1 <= found.hi
    assert 51 <= covered <= 60


def test_an_impossible_item_costs_infinitely_many_nats() -> None:
    value = torch.tensor([-1.0, -math.inf, -2.0])
    found = likelihood_figure(LogProb(value, Bound.EXACT), data="x")
    assert found.value == found.hi == math.inf


def test_refusals() -> None:
    with pytest.raises(DataError, match="2 items"):
        likelihood_figure(LogProb(torch.zeros(1), Bound.EXACT), data="x")
    for units in ([0, 0], [3, -1]):
        with pytest.raises(DataError, match="must not be negative, and some item must have one"):
            bits_per_dim(torch.zeros(2), torch.tensor(units))
    with pytest.raises(DataError):
        likelihood_figure(LogProb(torch.tensor([math.nan, 0.0]), Bound.EXACT), data="x")


def test_a_bracketed_estimate_says_between_which_rates_the_truth_lies() -> None:
    log_prob = LogProb(torch.full((10,), -20.0), Bound.ESTIMATE, bracket=(2.0, 1.0))
    assert likelihood_figure(log_prob, data="d").note == "bracket 19 to 22"
    bits = likelihood_figure(log_prob, data="d", units=10)
    assert bits.note == f"bracket {19 / 10 / math.log(2):.4g} to {22 / 10 / math.log(2):.4g}"


def test_an_item_without_units_counts_by_its_nats_alone() -> None:
    """Words that no word ends in: their nats belong to the others."""
    value = torch.tensor([-2.0, -4.0, -6.0]) * math.log(2)
    figure = likelihood_figure(LogProb(value, Bound.EXACT), data="d", units=torch.tensor([2, 0, 4]))
    assert figure.value == pytest.approx(2.0)
    assert figure.lo < 2.0 < figure.hi
