"""The copying check: its null, its power, and what it must not mistake for copying."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from genloom.core.errors import DataError
from genloom.metrics import copying
from genloom.metrics.copying import _tail


class Draws:
    """Normal rows, training indices and noise from one seed."""

    def __init__(self, seed: int) -> None:
        self.source = torch.Generator().manual_seed(seed)

    def normal(self, n: int, d: int) -> Tensor:
        return torch.randn(n, d, generator=self.source, dtype=torch.float64)

    def pick(self, rows: Tensor, n: int) -> Tensor:
        return rows[torch.randint(len(rows), (n,), generator=self.source)]


@pytest.mark.parametrize("d", [2, 8])
def test_fresh_rows_pass_at_the_nominal_rate(d: int) -> None:
    draws = Draws(d)
    found = [
        copying(draws.normal(120, d), draws.normal(300, d), draws.normal(150, d)).p_value for _ in range(200)
    ]
    for level in (0.01, 0.05, 0.2):
        hits = sum(p < level for p in found)
        assert hits <= scipy.stats.binom.ppf(0.999, 200, level)
    assert min(found) < 0.2, "a p-value that never falls is no test"


def test_row_p_values_are_uniform_under_the_null() -> None:
    draws = Draws(0)
    report = copying(draws.normal(1000, 5), draws.normal(1000, 5), draws.normal(4000, 5))
    assert scipy.stats.kstest(report.row_p.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("d", [2, 10])
@pytest.mark.parametrize("blur", [0.0, 0.02])
def test_half_copies_are_flagged(d: int, blur: float) -> None:
    draws = Draws(d)
    train = draws.normal(500, d)
    samples = torch.cat([draws.pick(train, 200), draws.normal(200, d)])
    samples += (
        blur * draws.normal(400, d) * (samples[:, None] - train).norm(dim=2).topk(2, largest=False)[0][:, 1:]
    )
    report = copying(samples, train, draws.normal(400, d))
    assert report.flagged
    assert report.p_value < 1e-3
    assert (0.44 if blur == 0 else 0.2) < report.fraction < 0.56
    assert report.closeness[:200].mean() < report.closeness[200:].mean() / 3


def test_one_percent_of_copies_is_found() -> None:
    found = 0
    for seed in range(10):
        draws = Draws(seed)
        train, samples = draws.normal(2000, 8), draws.normal(2000, 8)
        samples[:20] = draws.pick(train, 20) + 1e-3 * draws.normal(20, 8)
        found += copying(samples, train, draws.normal(2000, 8)).flagged
    assert found >= 9


@pytest.mark.parametrize("d", [2, 16, 64])
@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_low_temperature_is_not_copying(d: int, temperature: float) -> None:
    """Its samples are far nearer to the training rows than held-out rows are, and yet new."""
    draws = Draws(d)
    train, held_out, samples = (
        draws.normal(1000, d),
        draws.normal(1000, d),
        draws.normal(1000, d) * temperature,
    )
    raw = [torch.cdist(x, train).amin(1) for x in (samples, held_out)]
    assert scipy.stats.mannwhitneyu(*[x.numpy() for x in raw], alternative="less").pvalue < 1e-10
    assert copying(samples, train, held_out).p_value > 0.01


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_mixture_fitted_to_digits_is_no_copier(temperature: float) -> None:
    random = np.random.default_rng(0)
    rows = load_digits().data[random.permutation(1797)]
    train, held_out = rows[:1200], rows[1200:]
    pca = PCA(15, random_state=0).fit(train)
    mixture = GaussianMixture(10, random_state=0, reg_covar=0.1).fit(pca.transform(train))
    mixture.covariances_ *= temperature**2
    samples = np.clip(pca.inverse_transform(mixture.sample(600)[0]).round(), 0, 16)
    clean = copying(*(torch.tensor(x) for x in (samples, train, held_out)))
    assert clean.p_value > 0.01
    samples[:300] = train[random.integers(1200, size=300)]
    copied = copying(*(torch.tensor(x) for x in (samples, train, held_out)))
    assert copied.p_value < 1e-10
    assert copied.fraction == pytest.approx(0.5, abs=0.05)


def test_a_collapsed_generator_is_no_copier_unless_it_collapsed_onto_training_rows() -> None:
    for seed in range(10):
        draws = Draws(seed)
        train, held_out = draws.normal(400, 4), draws.normal(200, 4)
        new = draws.normal(5, 4).repeat(80, 1) + 1e-5 * draws.normal(400, 4)
        assert not copying(new, train, held_out).flagged
        assert copying(train[:5].repeat(80, 1), train, held_out).flagged


@pytest.mark.parametrize("bits", [6, 12, 18])
def test_natural_repeats_of_discrete_rows_are_no_copies(bits: int) -> None:
    """Even a sharpened generator, which repeats training rows far more often than held-out rows do."""
    draws = Draws(bits)
    logit = 1.5 * draws.normal(1, bits)

    def draw(n: int, sharp: float) -> Tensor:
        u = torch.rand(n, bits, generator=draws.source, dtype=torch.float64)
        return (u < torch.sigmoid(sharp * logit)).double()

    train, held_out = draw(800, 1), draw(600, 1)
    for sharp in (1, 2):
        assert copying(draw(600, sharp), train, held_out).p_value > 0.01
    if bits == 18:
        assert copying(torch.cat([draws.pick(train, 300), draw(300, 1)]), train, held_out).flagged


def test_scale_and_place_of_the_features_do_not_matter() -> None:
    draws = Draws(1)
    train, held_out = draws.normal(200, 3), draws.normal(150, 3)
    samples = torch.cat([train[:10], draws.normal(90, 3)])
    one, two = (copying(*(x * s + t for x in (samples, train, held_out))) for s, t in ((1, 0), (1024, 64)))
    assert one.p_value == two.p_value
    assert two.threshold == pytest.approx(one.threshold, rel=1e-6)
    assert torch.allclose(one.closeness, two.closeness, rtol=1e-6)


def test_report_names_the_nearest_training_row(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws(2)
    train, held_out, samples = draws.normal(200, 3), draws.normal(50, 3), draws.normal(70, 3)
    samples[3] = train[17]
    expected = (
        NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train.numpy()).kneighbors(samples.numpy())
    )
    whole = copying(samples, train, held_out)
    assert whole.nearest.tolist() == expected[1][:, 0].tolist()
    assert whole.closeness[3] == 0
    monkeypatch.setattr("genloom.metrics._rows.CHUNK", 500)
    assert copying(samples, train, held_out).p_value == whole.p_value


def test_closeness_is_a_power_of_the_ratio_of_distances() -> None:
    """In one dimension, uniform: closeness of a row at distance r among many equally spaced is r / d_5."""
    train = torch.arange(-500.0, 500.0, dtype=torch.float64)[:, None]
    held_out = torch.linspace(-300.25, 300.25, 50, dtype=torch.float64)[:, None]
    report = copying(torch.full((50, 1), 0.1, dtype=torch.float64), train, held_out)
    assert math.log(report.closeness[0]) / math.log(0.1 / 2.1) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(
    ("least", "drawn", "marked", "others"), [(3, 5, 20, 30), (0, 4, 3, 9), (9, 9, 50, 1), (5, 6, 4, 9)]
)
def test_tail_matches_scipy(least: int, drawn: int, marked: int, others: int) -> None:
    expected = scipy.stats.hypergeom(marked + others, marked, drawn).sf(least - 1)
    assert _tail(least, drawn, marked, others) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_refusals() -> None:
    rows = Draws(0).normal(30, 2)
    with pytest.raises(DataError, match="more than 20"):
        copying(rows, rows[:20], rows)
    with pytest.raises(DataError, match="columns"):
        copying(rows, rows[:, :1], rows)
