"""Where a value stands on an axis, and where the ticks go."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

_LOG_FROM = 20.0


@dataclass(frozen=True)
class Scale:
    """An axis from ``lo`` to ``hi``, linear or logarithmic."""

    lo: float
    hi: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at ``lo``, 1 at ``hi``, unclipped."""
        if not self.log:
            return (value - self.lo) / (self.hi - self.lo)
        return log10(max(value, self.lo * 1e-3) / self.lo) / log10(self.hi / self.lo)

    def clipped(self, value: float) -> float:
        """Return the position, kept inside [0, 1]."""
        return min(max(self.at(value), 0.0), 1.0)

    def ticks(self, about: int = 4) -> list[float]:
        """Return about that many round values inside the axis."""
        return _log_ticks(self.lo, self.hi, about) if self.log else _linear_ticks(self.lo, self.hi, about)


def fit(values: Iterable[float], *, log: bool | None = None, pad: float = 0.04) -> Scale:
    """Return the scale that holds the values, padded; by default logarithmic from a ratio of 20 upwards."""
    kept = sorted(value for value in values if isfinite(value))
    if not kept:
        return Scale(0.0, 1.0)
    positive = [value for value in kept if value > 0]
    if log is None:
        log = len(positive) == len(kept) and kept[-1] / kept[0] > _LOG_FROM
    if log and positive:
        ratio = max(positive[-1] / positive[0], 1.1)
        return Scale(positive[0] / ratio**pad, positive[0] * ratio ** (1 + pad), log=True)
    width = kept[-1] - kept[0]
    if width == 0:
        return Scale(kept[0] - (abs(kept[0]) or 1.0) / 2, kept[0] + (abs(kept[0]) or 1.0) / 2)
    return Scale(kept[0] - pad * width, kept[-1] + pad * width)


def _linear_ticks(lo: float, hi: float, about: int) -> list[float]:
    raw = (hi - lo) / max(about, 1)
    size = 10.0 ** floor(log10(raw))
    step = min((m * size for m in (1, 2, 5, 10)), key=lambda s: abs(log10(s / raw)))
    first, last = ceil(lo / step - 1e-9), floor(hi / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(lo: float, hi: float, about: int) -> list[float]:
    first, last = floor(log10(lo)), ceil(log10(hi))
    every = max(1, ceil((last - first) / max(about, 1)))
    mantissas = (1, 2, 5) if hi / lo <= 30 else (1, 3) if hi / lo <= 3000 else (1,)
    values = (m * 10.0**e for e in range(first, last + 1, every) for m in mantissas)
    return [value for value in values if lo * 0.999 <= value <= hi * 1.001]
