"""Likelihoods as rates: nats per item and bits per dimension, with intervals."""

import math

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.likelihood import LogProb
from genloom.metrics.figures import Figure, Fingerprint, student


def nats_per_item(log_prob: Tensor) -> float:
    """Return the mean negative log-likelihood of (n,) nats, in nats per item."""
    return -log_prob.double().mean().item()


def bits_per_dim(log_prob: Tensor, units: Tensor | int) -> float:
    """Return the sum of negative log-likelihoods over the sum of units, in bits per unit.

    Args:
        log_prob: (n,) nats.
        units: (n,) how many units (pixels, characters, frames, bytes) each item has, or the number all have.

    Source: van den Oord, Kalchbrenner & Kavukcuoglu 2016, section 5.2. A ratio of sums, not a mean of
    ratios: long items weigh more.
    """
    total = _units(units, log_prob).sum()
    return (-log_prob.double().sum() / total / math.log(2)).item()


def likelihood_figure(
    log_prob: LogProb, *, data: str, preprocessing: str = "", units: Tensor | int | None = None
) -> Figure:
    """Return negative log-likelihood as a figure: nats per item, or bits per dimension where units are given.

    The interval is Student's t on the linearised ratio of sums, widened by the bracket of an estimate, whose
    error all items share (that of log Z, say); noise drawn anew for each item is part of the scatter.
    ``kind`` stays that of the log-likelihood: a figure of kind ``lower_bound`` is an *upper* bound on the
    negative log-likelihood.

    Args:
        log_prob: (n,) nats, with its kind and what was given.
        data: names the test items.
        preprocessing: names what was done to them (levels, binarisation).
        units: as in ``bits_per_dim``.

    Returns:
        A figure named ``nats_per_item`` or ``bits_per_dim``.

    Source: Cochran 1977, Sampling Techniques, equation 6.13 (variance of a ratio).
    """
    value = log_prob.value.detach().to("cpu", torch.float64)
    if value.ndim != 1 or len(value) < 2:
        raise DataError(f"a likelihood figure needs at least 2 items in one axis, not {tuple(value.shape)}")
    if units is None:
        name, weight, ratio = "nats_per_item", torch.ones_like(value), nats_per_item(value)
    else:
        name, weight, ratio = "bits_per_dim", _units(units, value) * math.log(2), bits_per_dim(value, units)
    spread = (-value - ratio * weight).square().sum() / (len(value) - 1) * len(value)
    reach = student(0.95, len(value) - 1) * spread.sqrt().item() / weight.sum().item()
    scale = 1.0 if units is None else weight.mean().item()
    below, above = log_prob.bracket or (0.0, 0.0)
    lo, hi = ratio - reach - above / scale, ratio + reach + below / scale
    if not math.isfinite(ratio):
        lo, hi = -math.inf, math.inf
    mark = Fingerprint(name, 1, "none", preprocessing, data)
    note = _doubt(ratio, log_prob, scale)
    return Figure(name, ratio, lo, hi, len(value), mark, log_prob.kind.value, log_prob.given, note)


def _doubt(rate: float, log_prob: LogProb, scale: float) -> str:
    """Say between which rates the truth lies, or the standard error, where the likelihood is an estimate."""
    if log_prob.bracket is not None:
        below, above = log_prob.bracket
        return f"bracket {rate - above / scale:.4g} to {rate + below / scale:.4g}"
    if log_prob.stderr is not None:
        return f"mean stderr {log_prob.stderr.double().mean().item():.3g} nats"
    return ""


def _units(units: Tensor | int, log_prob: Tensor) -> Tensor:
    """Return (n,) units of each item, some of which may have none."""
    counts = torch.as_tensor(units, dtype=torch.float64).cpu().expand(log_prob.shape)
    if bool((counts < 0).any()) or not bool((counts > 0).any()):
        raise DataError("units must not be negative, and some item must have one")
    return counts
