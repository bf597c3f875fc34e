"""Line charts and scatter plots as SVG: direct labels, dashes and markers as well as colour, no legend.

Colours are CSS variables (``--c0`` to ``--c6``, ``--ink``, ``--muted``, ``--rule``) with fallbacks, so a
chart follows the page's theme and still stands alone as a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from genloom.report.markup import Markup, el, join
from genloom.report.numbers import short, tick_labels
from genloom.report.scale import Scale, fit

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#7A6A00", "#56B4E9", "#332288")
_DASHES = ("", "5 3", "1.5 2.5", "8 3 2 3", "3 2", "10 3", "6 2 1 2 1 2")
_CORNERS = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle": ((0, -1.2), (1.2, 1), (-1.2, 1)),
}
_MARKERS = ("circle", *_CORNERS)
_POINTS = 240
_LINE = 13.0


@dataclass(frozen=True)
class Series:
    """One named line: x and y of equal length; points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """One named place of a scatter plot; a quiet one is drawn hollow and in grey."""

    name: str
    x: float
    y: float
    quiet: bool = False


@dataclass(frozen=True)
class _Frame:
    x: Scale
    y: Scale
    width: int
    height: int
    left: float = 46.0
    right: float = 62.0
    top: float = 24.0
    bottom: float = 36.0

    def place(self, x: float, y: float) -> tuple[float, float]:
        inner_width = self.width - self.left - self.right
        inner_height = self.height - self.top - self.bottom
        return self.left + self.x.at(x) * inner_width, self.height - self.bottom - self.y.at(y) * inner_height


def chart(
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    x_limits: tuple[float, float] | None = None,
    width: int = 380,
    height: int = 220,
) -> str:
    """Return an SVG line chart, each line labelled at its end; "" if no series has a finite point.

    A few extreme points (a loss before the first step, a divergence) leave the frame rather than flatten
    everything else; the y title then says so.

    Args:
        series: Lines, told apart by dash, marker, label and colour.
        x_title: With its unit.
        y_title: With its unit.
        log_x: Draw x on a logarithmic axis; points at x <= 0 are left out.
        x_limits: Least and greatest x, to share an axis between charts.
        width: In user units; the drawing scales with its container.
        height: In user units.
    """
    kept = [line for line in (_cleaned(one, log_x) for one in series) if line.x]
    if not kept:
        return ""
    limits, cut = _limits([y for line in kept for y in line.y])
    xs = x_limits or [x for line in kept for x in line.x]
    x_scale = fit(xs, log=True, pad=0) if log_x else fit(xs, log=False, pad=0)
    longest = max(len(line.name) for line in kept)
    frame = _Frame(x_scale, fit(limits, log=False, pad=0.1), width, height, right=14 + 6.2 * longest)
    y_title += " (extremes cut)" if cut else ""
    lines = reversed([_line(frame, line, index) for index, line in enumerate(kept)])
    said = f"Line chart of {y_title} against {x_title}: " + ", ".join(line.name for line in kept)
    return _svg(frame, said, _grid(frame, x_title, y_title), _inside(frame, *lines), _labels(frame, kept))


def scatter(
    points: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    floor: float | None = None,
    width: int = 760,
    height: int = 360,
) -> str:
    """Return an SVG scatter plot with a label at every point; "" if there are no points.

    Axes turn logarithmic where the values span a factor of 20. ``floor`` draws a dashed horizontal line.
    """
    if not points:
        return ""
    ys = [point.y for point in points] + ([floor] if floor is not None else [])
    frame = _Frame(fit([point.x for point in points], pad=0.06), fit(ys, pad=0.08), width, height, right=20.0)
    marks = [_spot(frame, point) for point in points]
    lines = [_floor_line(frame, floor)] if floor is not None else []
    said = f"{y_title} against {x_title}: " + ", ".join(
        f"{p.name} ({short(p.x)}, {short(p.y)})" for p in points
    )
    return _svg(frame, said, _grid(frame, x_title, y_title), *lines, *marks, *_spot_labels(frame, points))


def _svg(frame: _Frame, said: str, *parts: Markup) -> str:
    return el(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        class_="chart",
        viewBox=f"0 0 {frame.width} {frame.height}",
        role="img",
        aria_label=said,
        font_size="11",
        font_family="inherit",
    )


def _cleaned(series: Series, log_x: bool) -> Series:
    pairs = [(x, y) for x, y in zip(series.x, series.y, strict=True) if isfinite(x) and isfinite(y)]
    pairs = [(x, y) for x, y in pairs if x > 0 or not log_x]
    stride = max(1, -(-len(pairs) // _POINTS))
    thin = pairs[::stride] + (pairs[-1:] if (len(pairs) - 1) % stride else [])
    return replace(series, x=[x for x, _ in thin], y=[y for _, y in thin])


def _limits(values: list[float]) -> tuple[list[float], bool]:
    """Least and greatest y to show; extremes beyond three times the middle nine tenths are cut."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    room = 3 * (high - low)
    shown = [value for value in ordered if room == 0 or low - room <= value <= high + room]
    return [shown[0], shown[-1]], len(shown) < len(ordered)


def _grid(frame: _Frame, x_title: str, y_title: str) -> Markup:
    floor, right = frame.height - frame.bottom, frame.width - frame.right
    parts = []
    for tick, label in _ticks(frame.y, 4):
        _, y = frame.place(frame.x.lo, tick)
        parts.append(el("line", x1=frame.left, x2=right, y1=y, y2=y, style="stroke:var(--rule,#ddd)"))
        parts.append(_text(label, frame.left - 6, y + 3.5, anchor="end"))
    for tick, label in _ticks(frame.x, 5):
        x, _ = frame.place(tick, frame.y.lo)
        parts.append(el("line", x1=x, x2=x, y1=floor, y2=floor + 3, style="stroke:var(--muted,#777)"))
        parts.append(_text(label, x, floor + 14, anchor="middle"))
    parts.append(el("line", x1=frame.left, x2=right, y1=floor, y2=floor, style="stroke:var(--muted,#777)"))
    parts.append(_text(x_title, (frame.left + right) / 2, frame.height - 6, anchor="middle"))
    parts.append(_text(y_title, 0.0, 11.0))
    return join(*parts)


def _ticks(scale: Scale, about: int) -> list[tuple[float, str]]:
    values = scale.ticks(about)
    return list(zip(values, tick_labels(values, log=scale.log), strict=True))


def _text(
    words: str, x: float, y: float, *, anchor: str | None = None, colour: str = "var(--muted,#666)"
) -> Markup:
    return el("text", words, x=x, y=y, text_anchor=anchor, style=f"fill:{colour}")


def _inside(frame: _Frame, *parts: Markup) -> Markup:
    """Clip to the frame: a nested svg hides what leaves it."""
    x, y = frame.left, frame.top - 4
    width, height = frame.width - frame.right - frame.left + 4, frame.height - frame.bottom - y
    return el(
        "svg", *parts, x=x, y=y, width=width, height=height, viewBox=f"{x:g} {y:g} {width:g} {height:g}"
    )


def _colour(index: int) -> str:
    place = index % len(_COLOURS)
    return f"var(--c{place},{_COLOURS[place]})"


def _line(frame: _Frame, line: Series, index: int) -> Markup:
    places = [frame.place(x, y) for x, y in zip(line.x, line.y, strict=True)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    style = f"fill:none;stroke:{_colour(index)};stroke-width:1.75;stroke-linejoin:round"
    dash = _DASHES[index % len(_DASHES)]
    return join(
        el("path", d=path, style=style, stroke_dasharray=dash or None),
        _marker(*places[-1], _MARKERS[index % len(_MARKERS)], f"fill:{_colour(index)}"),
    )


def _marker(x: float, y: float, shape: str, style: str, r: float = 3.0) -> Markup:
    if shape == "circle":
        return el("circle", cx=x, cy=y, r=r, style=style)
    corners = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in _CORNERS[shape])
    return el("polygon", points=corners, style=style)


def _labels(frame: _Frame, lines: Sequence[Series]) -> Markup:
    """Name each line at its end, pushed apart where ends are close and kept above the axis."""
    floor = frame.height - frame.bottom - 3
    ends = [frame.place(line.x[-1], line.y[-1]) for line in lines]
    order = sorted(range(len(lines)), key=lambda i: ends[i][1])
    bases: list[float] = []
    for i in order:
        bases.append(max(max(ends[i][1], frame.top) + 3.5, bases[-1] + _LINE if bases else 0.0))
    for rank in reversed(range(len(bases))):
        bases[rank] = min(bases[rank], floor - _LINE * (len(bases) - 1 - rank))
    return join(
        *(
            _text(lines[i].name, ends[i][0] + 8, base, colour=_colour(i))
            for i, base in zip(order, bases, strict=True)
        )
    )


def _spot(frame: _Frame, point: Point) -> Markup:
    colour = "var(--muted,#777)" if point.quiet else "var(--c0,#0072B2)"
    fill = "var(--page,#fff)" if point.quiet else colour
    return _marker(
        *frame.place(point.x, point.y), "circle", f"fill:{fill};stroke:{colour};stroke-width:1.5", 4.5
    )


def _spot_labels(frame: _Frame, points: Sequence[Point]) -> list[Markup]:
    """Write each name at the first side of its point where it meets no other name or point."""
    places = [frame.place(point.x, point.y) for point in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    parts = []
    for point, (x, y) in zip(points, places, strict=True):
        wide = 6.6 * len(point.name)
        sides = [(x + 9, y + 4), (x - 9 - wide, y + 4), (x - wide / 2, y - 10), (x - wide / 2, y + 18)]
        sides += [(x + 9, y - 8), (x + 9, y + 16), (x - 9 - wide, y - 8), (x - 9 - wide, y + 16)]
        boxes = [(left, base - 9, left + wide, base + 3) for left, base in sides]
        inside = [box for box in boxes if box[0] >= frame.left and box[2] <= frame.width]
        free = [box for box in inside if not any(_meet(box, other) for other in taken)]
        box = (free or inside or boxes)[0]
        taken.append(box)
        colour = "var(--muted,#666)" if point.quiet else "var(--ink,#111)"
        anchor, at = ("end", box[2]) if box[2] < x else ("start", box[0]) if box[0] > x else ("middle", x)
        parts.append(_text(point.name, at, box[3] - 3, anchor=anchor, colour=colour))
    return parts


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _floor_line(frame: _Frame, floor: float) -> Markup:
    _, y = frame.place(frame.x.lo, floor)
    right = frame.width - frame.right
    return join(
        el(
            "line",
            x1=frame.left,
            x2=right,
            y1=y,
            y2=y,
            style="stroke:var(--guide,#b34700)",
            stroke_dasharray="4 3",
        ),
        _text("real test data", right, y - 5, anchor="end", colour="var(--guide,#b34700)"),
    )
