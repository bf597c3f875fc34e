"""Every two-sample metric by name, and one door to all: a figure with its interval."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError, nearest
from genloom.metrics import coverage, distances
from genloom.metrics._rows import pair
from genloom.metrics.figures import Figure, Fingerprint, groups, jackknife, wilson
from genloom.metrics.two_sample import c2st

_GROUPS = 30


class Metric(NamedTuple):
    """A row of ``METRICS``; ``better`` is lower, higher or half (nearest to 1/2)."""

    function: Callable[..., float]
    version: int
    better: str
    how: str


def _prdc(name: str) -> Callable[..., float]:
    def figure(real: Tensor, fake: Tensor, *, k: int = 5) -> float:
        return coverage.prdc(real, fake, k=k)[name]

    return figure


METRICS: dict[str, Metric] = {
    "frechet": Metric(
        distances.frechet_distance, 1, "lower", "squared 2-Wasserstein distance between fitted Gaussians"
    ),
    "kernel": Metric(
        distances.kernel_distance, 1, "lower", "unbiased squared MMD with a cubic polynomial kernel"
    ),
    "mmd": Metric(distances.mmd_rbf, 1, "lower", "unbiased squared MMD with three Gaussian kernels"),
    "precision": Metric(
        _prdc("precision"), 1, "higher", "share of samples within the real rows' neighbourhoods"
    ),
    "recall": Metric(_prdc("recall"), 1, "higher", "share of real rows within the samples' neighbourhoods"),
    "density": Metric(_prdc("density"), 1, "higher", "real neighbourhoods around a sample, over k"),
    "coverage": Metric(_prdc("coverage"), 1, "higher", "share of real neighbourhoods that hold a sample"),
    "c2st": Metric(c2st, 1, "half", "cross-validated accuracy of a classifier between real and fake"),
    "sliced_wasserstein": Metric(
        distances.sliced_wasserstein,
        1,
        "lower",
        "root mean squared 1-D transport distance over 128 directions",
    ),
}


def measure(
    name: str,
    real: Tensor,
    fake: Tensor,
    *,
    features: str,
    preprocessing: str,
    data: str,
    seed: int = 0,
    **kw: Any,
) -> Figure:
    """Measure one metric with its 95% interval.

    The interval covers the figure's expectation at these numbers of rows, over new real and new fake rows:
    by the jackknife over 30 random groups for distances and density; by Wilson's interval with the effective
    number of rows that the jackknife's variance implies for precision, recall and coverage, so that a share
    of 0 or 1 keeps an honest width; by Wilson's interval with cross-validation's correction for c2st. All
    but the unbiased kernel and mmd depend on the numbers of rows, which therefore enter the fingerprint. A
    Fréchet figure's note gives the jackknife's estimate for infinitely many rows.

    Args:
        name: a key of ``METRICS``.
        real: (n, d) features of real rows.
        fake: (m, d) features of samples.
        features, preprocessing, data: for the fingerprint.
        seed: keys the groups of the jackknife, and the folds of c2st.
        kw: settings of the metric (``k``, ``degree``, ``folds`` ...), which enter the fingerprint.

    Raises:
        ConfigError: the metric or a setting is unknown.
        DataError: rows are too few, not finite, or of unequal width.
    """
    _check_settings(name, kw)
    real, fake = pair(real, fake)
    if min(len(real), len(fake)) < 10:
        raise DataError(
            f"{name} with an interval needs at least 10 rows on either side, not {min(len(real), len(fake))}"
        )
    task = _Task(name, real, fake, seed, kw)
    value, lo, hi, note = _INTERVALS[name](task)
    mark = Fingerprint(_signature(task), METRICS[name].version, features, preprocessing, data)
    return Figure(name, value, lo, hi, len(fake), mark, note=note)


def _check_settings(name: str, settings: dict[str, Any]) -> None:
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}{nearest(name, METRICS)}; known: {', '.join(METRICS)}")
    allowed = set(signature(METRICS[name].function).parameters) - {"real", "fake", "seed"}
    for key in settings:
        if key not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise ConfigError(f"{name} has no setting {key!r}{nearest(key, allowed)}; it takes {known}")


@dataclass(frozen=True)
class _Task:
    name: str
    real: Tensor
    fake: Tensor
    seed: int
    settings: dict[str, Any]

    @property
    def value(self) -> float:
        seed = {"seed": self.seed} if self.name == "c2st" else {}
        return METRICS[self.name].function(self.real, self.fake, **seed, **self.settings)

    @property
    def count(self) -> int:
        """Number of groups: 30, or fewer where each would hold no row."""
        return min(_GROUPS, len(self.real), len(self.fake))

    def sides(self) -> tuple[coverage.Grouped, coverage.Grouped]:
        """Both samples in random groups."""
        real, fake = (
            coverage.Grouped(rows, groups(len(rows), self.count, seed=self.seed, side=side), self.count)
            for rows, side in ((self.real, "real"), (self.fake, "fake"))
        )
        return real, fake


_Interval = tuple[float, float, float, str]


def _signature(task: _Task) -> str:
    """Return the metric with its settings, and its numbers of rows unless it is unbiased."""
    parts = [f"{key}={task.settings[key]}" for key in sorted(task.settings)]
    if task.name not in ("kernel", "mmd"):
        parts.append(f"rows={len(task.real)}:{len(task.fake)}")
    return f"{task.name}({', '.join(parts)})"


def _frechet(task: _Task) -> _Interval:
    value = task.value
    found = jackknife(value, _without_each(task))
    note = f"about {value - found.bias:.3g} for infinitely many rows, to first order"
    return value, max(0.0, found.lo), found.hi, note


def _transport(task: _Task) -> _Interval:
    value = task.value
    found = jackknife(value, _without_each(task))
    return value, max(0.0, found.lo), found.hi, ""


def _without_each(task: _Task) -> Tensor:
    """Recompute the metric without each group."""
    real, fake = task.sides()
    function = METRICS[task.name].function
    values = [
        function(real.rows[real.group != g], fake.rows[fake.group != g], **task.settings)
        for g in range(task.count)
    ]
    return torch.tensor(values, dtype=torch.float64)


def _mmd(task: _Task) -> _Interval:
    """Take the full value and all deletions from one pass over the kernel, of fixed bandwidths."""
    build = distances.polynomial if task.name == "kernel" else distances.gaussian_mixture
    kernel = build(task.real, **task.settings)
    keep = [torch.cat([s.rows.new_ones(len(s.rows), 1), s.kept], 1) for s in task.sides()]
    values = distances.squared_mmd(kernel, task.real, task.fake, *keep)
    found = jackknife(values[0].item(), values[1:])
    return values[0].item(), found.lo, found.hi, ""


def _density(task: _Task) -> _Interval:
    value = task.value
    found = jackknife(value, coverage.prdc_deleted(task.name, *task.sides(), **task.settings))
    return value, max(0.0, found.lo), found.hi, ""


def _share(task: _Task) -> _Interval:
    """Give Wilson the number of independent rows that would vary as much; +2/+4 keeps it off 0 and 1."""
    value = task.value
    stderr = jackknife(value, coverage.prdc_deleted(task.name, *task.sides(), **task.settings)).stderr
    n = len(task.fake if task.name == "precision" else task.real)
    inner = (value * n + 2) / (n + 4)
    return value, *wilson(value, inner * (1 - inner) / max(stderr**2, inner * (1 - inner) / n)), ""


def _accuracy(task: _Task) -> _Interval:
    """Divide the number of rows by 1 + J/(J - 1) for J folds, which share their training rows.

    Source: Nadeau & Bengio 2003, section 3: 1/J + test/train in place of 1/J.
    """
    value = task.value
    folds = int(task.settings.get("folds", 5))
    n = 2 * min(len(task.real), len(task.fake))
    return value, *wilson(value, n / (1 + folds / (folds - 1))), ""


_INTERVALS: dict[str, Callable[[_Task], _Interval]] = {
    "frechet": _frechet,
    "kernel": _mmd,
    "mmd": _mmd,
    "precision": _share,
    "recall": _share,
    "density": _density,
    "coverage": _share,
    "c2st": _accuracy,
    "sliced_wasserstein": _transport,
}
