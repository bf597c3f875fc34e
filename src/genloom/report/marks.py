"""Small inline pictures: interval bars, the axis above them, and bars of cost."""

from collections.abc import Iterable, Sequence
from itertools import chain

from genloom.report.markup import Markup, el
from genloom.report.numbers import pair, short, tick_labels
from genloom.report.scale import Scale, fit
from genloom.report.schema import Column, FigureJson, Row, finite, interval_of, value_of


def scale_of(rows: Iterable[Row], column: Column) -> Scale:
    """Return the scale that holds every value and interval of a column, and its ideal where that is 0.5."""
    rows = [row for row in rows if value_of(row, column["key"]) is not None]
    values = [value_of(row, column["key"]) or 0.0 for row in rows]
    ends = chain.from_iterable(interval_of(row["figures"][column["key"]]) or () for row in rows)
    ideal = [0.5] if column["better"] == "half" else []
    if fit(values).log:
        return fit([value for value in [*values, *ends] if value > 0], log=True)
    return fit([*values, *ends, *ideal], log=False)


def interval_bar(
    scale: Scale,
    column: Column,
    figure: FigureJson,
    guide: float | None,
    seeds: Sequence[float],
    middle: int = 7,
) -> Markup:
    """Return an SVG of the value (dot), its interval (bar), each seed (ticks) and the guide (dashed line).

    Args:
        scale: Shared by every row of the column.
        column: Names the figure in the accessible text.
        figure: A figure whose value is finite.
        guide: What real data scores, or the ideal.
        seeds: The value of each seed; drawn only if there are several.
        middle: Height of the bar below the top, in pixels.
    """
    value, ends = finite(figure["value"]) or 0.0, interval_of(figure)
    marks = [_upright("guide", scale.clipped(guide))] if guide is not None else []
    if ends:
        low, high = (_percent(scale.clipped(end)) for end in ends)
        marks.append(el("line", class_="interval", x1=low, x2=high, y1=middle, y2=middle))
    marks.append(el("circle", class_="dot", cx=_percent(scale.clipped(value)), cy=middle, r=3.5))
    if len(seeds) > 1:
        marks += [_seed(scale.clipped(seed), middle) for seed in seeds if finite(seed) is not None]
    said = f"{column['title']} {short(value)}" + (f", interval {pair(ends, 4)}" if ends else "")
    return el("svg", *marks, class_="bar", role="img", aria_label=said)


def guide_bar(scale: Scale, guide: float) -> Markup:
    """Return the guide alone, to carry its line through a row without a figure."""
    return el("svg", _upright("guide", scale.clipped(guide)), class_="bar", aria_hidden="true")


def axis(scale: Scale) -> Markup:
    """Return the numbers above a column of interval bars."""
    ticks = scale.ticks(4)
    labels = (
        el("text", label, x=_percent(scale.at(tick)), y=10, text_anchor="middle")
        for tick, label in zip(ticks, tick_labels(ticks, log=scale.log), strict=True)
    )
    return el("svg", *labels, class_="axis", height=14, width="100%", aria_hidden="true")


def cost_dot(scale: Scale, value: float) -> Markup:
    """Return a dot on a line; its number stands beside it."""
    line = el("line", class_="track", x1="0%", x2="100%", y1=5, y2=5)
    dot = el("circle", class_="dot", cx=_percent(scale.clipped(value)), cy=5, r=3.5)
    return el("svg", line, dot, class_="cost", aria_hidden="true")


def _upright(kind: str, at: float) -> Markup:
    return el("line", class_=kind, x1=_percent(at), x2=_percent(at), y1="0%", y2="100%")


def _seed(at: float, middle: int) -> Markup:
    mark = el("path", d="M0 -6V-2M0 2V6")
    return el("svg", mark, class_="seed", x=_percent(at), y=middle, overflow="visible")


def _percent(at: float) -> str:
    return f"{2 + 96 * at:.1f}%"
