"""Numbers as people read them: as many digits as the interval deserves, equal ones down a column."""

from collections.abc import Iterable, Sequence
from math import floor, log10
from statistics import median

from genloom.report.schema import Row, interval_of, value_of


def decimals(rows: Iterable[Row], key: str) -> int:
    """Return the decimals of a column: two digits of the median half-width, else three of its values."""
    rows = [row for row in rows if value_of(row, key) is not None]
    intervals = [interval_of(row["figures"][key]) for row in rows]
    halves = [(pair[1] - pair[0]) / 2 for pair in intervals if pair and pair[1] > pair[0]]
    sizes = [abs(value_of(row, key) or 0.0) for row in rows]
    if halves:
        return _clip(1 - floor(log10(median(halves))))
    return _clip(2 - floor(log10(median(sizes)))) if sizes and median(sizes) > 0 else 2


def _clip(digits: int) -> int:
    return min(max(digits, 0), 4)


def number(value: float | None, digits: int) -> str:
    """Return the value with thousands commas and a true minus sign, or a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def missing(row: Row, key: str) -> str:
    """Return what stands where a row has no finite figure: ∞, −∞ or a dash."""
    figure = row["figures"].get(key)
    return {"inf": "∞", "-inf": "−∞"}.get(str(figure["value"]), "–") if figure else "–"


def pair(interval: tuple[float, float], digits: int) -> str:
    """Return an interval as ``lo to hi``, closed up with an en dash where neither end is negative."""
    lo, hi = (number(end, digits) for end in interval)
    return f"{lo} to {hi}" if interval[0] < 0 else f"{lo}–{hi}"


def short(value: float) -> str:
    """Return three significant digits with a metric suffix: 2.41 M, 18.3 k, 512, 0.12."""
    for size, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scale = 1e3 if suffix == "k" else size
            return f"{_three(value / scale)} {suffix}".replace("-", "−")
    return (f"{value:,.0f}" if float(value).is_integer() else _three(value)).replace("-", "−")


def duration(seconds: float) -> str:
    """Return seconds as µs, ms, s, or minutes and seconds."""
    if seconds >= 120:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    for size, suffix in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{_three(seconds / size)} {suffix}"
    return "0 s" if seconds <= 0 else "<1 µs"


def _three(value: float) -> str:
    digits = max(2 - floor(log10(abs(value))), 0) if value else 0
    return f"{value:,.{min(digits, 6)}f}"


def tick_labels(ticks: Sequence[float], *, log: bool) -> list[str]:
    """Return axis numbers: equal decimals on a linear axis, each its own on a logarithmic one."""
    if any(abs(tick) >= 1e4 for tick in ticks):
        return [short(tick) for tick in ticks]
    digits = [_needed(tick) for tick in ticks]
    return [number(t, own if log else max(digits)) for t, own in zip(ticks, digits, strict=True)]


def _needed(value: float) -> int:
    text = f"{value:.6f}".rstrip("0")
    return len(text.split(".")[1])


def span(values: Sequence[int]) -> str:
    """Return the one value, or the least and greatest."""
    if not values:
        return "–"
    lo, hi = min(values), max(values)
    return f"{lo:,}" if lo == hi else f"{lo:,}–{hi:,}"
