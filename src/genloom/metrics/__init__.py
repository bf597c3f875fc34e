"""Metrics: pure functions of feature rows, and figures that carry an interval and a fingerprint."""

from genloom.metrics.copying import CopyReport, copying
from genloom.metrics.coverage import prdc
from genloom.metrics.density import parzen_bandwidth, parzen_log_likelihood
from genloom.metrics.distances import (
    frechet_distance,
    inception_score,
    kernel_distance,
    mmd_rbf,
    sliced_wasserstein,
)
from genloom.metrics.figures import (
    Figure,
    Fingerprint,
    Jackknife,
    bootstrap,
    compare,
    jackknife,
    student,
    wilson,
)
from genloom.metrics.probing import probe_accuracy
from genloom.metrics.ranking import auroc
from genloom.metrics.rates import bits_per_dim, likelihood_figure, nats_per_item
from genloom.metrics.registry import METRICS, Metric, measure
from genloom.metrics.translation import translation_figures
from genloom.metrics.two_sample import c2st

__all__ = [
    "METRICS",
    "CopyReport",
    "Figure",
    "Fingerprint",
    "Jackknife",
    "Metric",
    "auroc",
    "bits_per_dim",
    "bootstrap",
    "c2st",
    "compare",
    "copying",
    "frechet_distance",
    "inception_score",
    "jackknife",
    "kernel_distance",
    "likelihood_figure",
    "measure",
    "mmd_rbf",
    "nats_per_item",
    "parzen_bandwidth",
    "parzen_log_likelihood",
    "prdc",
    "probe_accuracy",
    "sliced_wasserstein",
    "student",
    "translation_figures",
    "wilson",
]
