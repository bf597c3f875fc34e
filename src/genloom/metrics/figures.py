"""Figures: numbers that carry an interval and say exactly how they were made; and the intervals."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist

import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.core.randomness import generator


@dataclass(frozen=True)
class Fingerprint:
    """What must agree before two figures may be compared.

    ``metric`` names the statistic with its settings, and the numbers of rows where its expectation depends
    on them; ``version`` counts changes of its definition; ``features``, ``preprocessing`` and ``data`` name
    the feature extractor, what was done to the rows before it, and the reference data.
    """

    metric: str
    version: int
    features: str
    preprocessing: str
    data: str

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of a blake2b of the canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.blake2b(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Figure:
    """A value with a 95% interval [lo, hi], from ``n`` items.

    ``kind`` and ``given`` are those of ``genloom.core.likelihood.LogProb``: what the log-likelihood behind
    the figure is relative to the truth, and what it was conditioned on. Other figures leave the defaults.
    """

    name: str
    value: float
    lo: float
    hi: float
    n: int
    fingerprint: Fingerprint
    kind: str = "exact"
    given: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if any(math.isnan(v) for v in (self.value, self.lo, self.hi)) or self.lo > self.hi:
            raise DataError(
                f"figure {self.name} is not a number with an interval: {self.value} [{self.lo}, {self.hi}]; "
                "check the rows it was computed from"
            )

    def to_json(self) -> dict[str, object]:
        """Return a mapping that ``json.dumps`` writes as strict JSON; infinities become strings."""
        plain = asdict(self)
        return plain | {key: _finite(plain[key]) for key in ("value", "lo", "hi")}

    @classmethod
    def from_json(cls, plain: Mapping[str, object]) -> "Figure":
        """Rebuild a figure from ``to_json``'s mapping.

        Raises:
            DataError: a field is missing, unknown or of the wrong type.
        """
        try:
            mark = plain["fingerprint"]
            if not isinstance(mark, Mapping):
                raise TypeError("fingerprint must be a mapping")
            numbers = {key: float(str(plain[key])) for key in ("value", "lo", "hi")}
            rest = {key: plain[key] for key in plain if key not in {*numbers, "fingerprint"}}
            return cls(**numbers, **rest, fingerprint=Fingerprint(**mark))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a stored figure ({error}); measure it again") from error


def compare(a: Figure, b: Figure) -> int:
    """Order two figures by their intervals.

    Returns:
        -1 if all of a's interval lies below b's, +1 if above, 0 if they overlap.

    Raises:
        ConfigError: the figures were made differently, or differ in kind or in what was given.
    """
    for field in fields(Fingerprint):
        left, right = getattr(a.fingerprint, field.name), getattr(b.fingerprint, field.name)
        if left != right:
            raise _incomparable(a, b, field.name, left, right)
    for name in ("kind", "given"):
        left, right = getattr(a, name), getattr(b, name)
        if left != right:
            raise _incomparable(a, b, name, left, right)
    return int(a.lo > b.hi) - int(a.hi < b.lo)


def bootstrap(
    statistic: Callable[[Tensor], float], n: int, *, seed: int, resamples: int = 100, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic of ``n`` independent rows.

    Sound for means, ratios of means and other smooth statistics. *Not* for statistics that see a repeated
    row as structure: resampled rows with duplicates push a Fréchet distance, a kernel distance or any
    nearest-neighbour figure away from its value, so that the interval misses the truth altogether;
    ``jackknife`` serves those.

    Args:
        statistic: maps (n,) int64 indices of resampled rows to a number.
        n: number of rows, at least 2.
        seed: resamples are keyed by it.
        resamples: how many times the rows are resampled.
        level: nominal coverage in (0, 1).

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    if n < 2:
        raise DataError(f"an interval needs at least 2 rows, not {n}")
    source = generator("bootstrap", seed)
    values = [statistic(torch.randint(n, (n,), generator=source)) for _ in range(resamples)]
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    lo, hi = torch.tensor(values, dtype=torch.float64).quantile(ends).tolist()
    return lo, hi


@dataclass(frozen=True)
class Jackknife:
    """The spread of a statistic: its ``bias`` from the number of rows, standard error and interval."""

    bias: float
    stderr: float
    lo: float
    hi: float


def jackknife(value: float, deleted: Tensor, *, level: float = 0.95) -> Jackknife:
    """Return the delete-a-group jackknife interval of a statistic, by Student's t.

    Every row is used at most once, so nothing is duplicated and the figures that the bootstrap biases stay
    honest. The interval is centred on ``value``: it covers the statistic's expectation *at these numbers of
    rows*, the quantity that two models measured alike share. ``value - bias`` estimates its limit for
    infinitely many rows, and the interval shifted by ``-bias`` covers that limit. At a degenerate point
    (equal distributions, where a squared distance has no linear term) the variance is overestimated, up to
    twofold, so the interval errs on the wide side.

    Args:
        value: the statistic of all rows.
        deleted: (G,) the statistic without each of G random groups of equal size (of both samples at once).
        level: nominal coverage in (0, 1).

    Source: Shao & Tu 1995, The Jackknife and Bootstrap, section 2.3 (delete-d); Kott 2001 (groups).
    """
    count = deleted.shape[0]
    bias = (count - 1) * (deleted.mean().item() - value)
    stderr = math.sqrt((count - 1) * deleted.var(correction=0).item())
    reach = student(level, count - 1) * stderr
    return Jackknife(bias, stderr, value - reach, value + reach)


def groups(n: int, count: int, *, seed: int, side: str) -> Tensor:
    """Assign (n,) rows to ``count`` random groups whose sizes differ by at most one."""
    return torch.randperm(n, generator=generator("groups", seed, side)) % count


def wilson(share: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share among ``n`` independent rows; ``n`` may be effective.

    Source: Wilson 1927; for complex samples Korn & Graubard 1998.
    """
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * share * (1 - share) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach))


def student(level: float, dof: int) -> float:
    """Return the two-sided quantile of Student's t: exact for 1 and 2 degrees of freedom, within 1% for 3 at
    level 0.95, to 1e-3 for 9 and more.

    Source: Abramowitz & Stegun 26.7.5; the first two have closed forms.
    """
    if dof == 1:
        return math.tan(math.pi * level / 2)
    if dof == 2:
        return level * math.sqrt(2 / (1 - level * level))
    z = NormalDist().inv_cdf((1 + level) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / dof + second / dof**2 + third / dof**3


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _incomparable(a: Figure, b: Figure, field: str, left: object, right: object) -> ConfigError:
    return ConfigError(
        f"cannot compare {a.name} with {b.name}: {field} differs ({left!r} and {right!r}); "
        "measure both the same way"
    )
