"""A picture of attention: what each part of a written text looks at."""

from collections.abc import Sequence

from genloom.report.markup import Markup, el

CELL, ROOM, SIZE = 22, 96, 11
"""Pixels of a square, of the labels beside the squares, and of their letters."""

INK, FULL = "#111827", "#1d4ed8"


def draw_attention(shares: Sequence[Sequence[float]], columns: Sequence[str], rows: Sequence[str]) -> bytes:
    """Return an SVG of shares (T, S), from white for 0 to blue for 1.

    Args:
        columns, rows: the S parts that are read, and the T that are written.
    """
    width, height = ROOM + CELL * len(columns), ROOM + CELL * len(rows)
    middles = [ROOM + CELL * (place + 0.7) for place in range(max(len(columns), len(rows)))]
    above = [_label(x, ROOM - 6.0, label, turned=True) for x, label in zip(middles, columns, strict=False)]
    beside = [_label(ROOM - 6.0, y, label, turned=False) for y, label in zip(middles, rows, strict=False)]
    squares = [
        _square(ROOM + CELL * column, ROOM + CELL * row, share)
        for row, line in enumerate(shares)
        for column, share in enumerate(line)
    ]
    ground = el("rect", width=width, height=height, fill="#fff")
    picture = el(
        "svg",
        *(ground, *above, *beside, *squares),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        font_family="sans-serif",
        font_size=SIZE,
    )
    return f"{picture}\n".encode()


def _label(x: float, y: float, text: str, *, turned: bool) -> Markup:
    """Return a label that rises from its place, or ends there."""
    how = {"transform": f"rotate(-60 {x:g} {y:g})"} if turned else {"text_anchor": "end"}
    return el("text", text, x=x, y=y, fill=INK, **how)


def _square(x: int, y: int, share: float) -> Markup:
    title = el("title", f"{share:.1%}")
    return el("rect", title, x=x, y=y, width=CELL - 1, height=CELL - 1, fill=FULL, fill_opacity=share)
