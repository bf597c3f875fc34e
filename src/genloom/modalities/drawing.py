"""Pictures of items: a grid of images as PNG, a scatter of points as SVG."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SEPARATOR = 128
SIDE, MARGIN = 360, 34
MAX_POINTS = 2_000
COLUMN, ROW, WIDTH = 420, 15, 60
"""Of a page of texts: a column and a row in pixels, and the characters of a line."""
GAP, LINE, LABEL, INK = 10, 18, 150, "#1f2937"
HEAT = ((255, 255, 255), (253, 186, 116), (234, 88, 12), (124, 45, 18), (28, 10, 5))


@dataclass(frozen=True)
class PictureRow:
    """Pictures (3, H, W) uint8 with a caption below each."""

    name: str
    pictures: Sequence[np.ndarray]
    captions: Sequence[str]


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels, (1, H, W) grey or (3, H, W) colour, as PNG."""
    picture = Image.fromarray(pixels[0] if pixels.shape[0] == 1 else np.moveaxis(pixels, 0, 2))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def animation(frames: Sequence[bytes], milliseconds: int = 120) -> bytes:
    """Return PNG pictures of one size as an animated PNG that plays them forth and back, for ever."""
    first, *others = [Image.open(io.BytesIO(frame)) for frame in (*frames, *frames[-2:0:-1])]
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()


def grid(pixels: np.ndarray, columns: int) -> np.ndarray:
    """Lay images out in rows, at their own size, with grey lines of one pixel between and around them.

    Args:
        pixels: (n, C, H, W) uint8.

    Returns:
        (C, rows (H + 1) + 1, columns (W + 1) + 1) uint8.
    """
    count, channels, height, width = pixels.shape
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    sheet = np.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), SEPARATOR, np.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def heat(shares: np.ndarray) -> np.ndarray:
    """Return colours (3, H, W) uint8 of shares (H, W) in [0, 1], from white over orange to near black."""
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(shares, stops, channel) for channel in zip(*HEAT, strict=True)]).astype(
        np.uint8
    )


def sheet(rows: Sequence[PictureRow], columns: Sequence[str]) -> np.ndarray:
    """Lay rows of equal pictures out under the names of columns, with a name and captions for each row.

    Returns:
        (3, H, W) uint8.
    """
    side = rows[0].pictures[0].shape[1]
    step, left, top = side + GAP, LABEL, GAP + LINE
    size = (left + step * len(columns), top + (step + LINE) * len(rows))
    page = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for j, name in enumerate(columns):
        pen.text((left + j * step, GAP // 2), name, INK, font)
    for i, row in enumerate(rows):
        y = top + i * (step + LINE)
        pen.text((GAP, y + side // 2), row.name, INK, font)
        for j, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            page.paste(Image.fromarray(np.moveaxis(picture, 0, 2)), (left + j * step, y))
            pen.text((left + j * step, y + side + 1), caption, INK, font)
    return np.moveaxis(np.array(page), 2, 0)


def scatter(
    points: np.ndarray, names: tuple[str, str], columns: tuple[str, ...], reference: np.ndarray | None
) -> bytes:
    """Return an SVG scatter of points over reference points, with the reference's axes.

    Args:
        points: (n, 2); at most 2,000 are drawn, and those outside the axes are counted in the legend.
        names: what the points and the reference points are called.
        columns: the names of the two axes.
        reference: (m, 2) or None.
    """
    frame = points if reference is None else reference
    low, high = _limits(frame)
    shown = points[:MAX_POINTS]
    inside = ((shown >= low) & (shown <= high)).all(axis=1)
    layers = [] if reference is None else [_dots(reference[:MAX_POINTS], low, high, "#8a8f98")]
    layers.append(_dots(shown[inside], low, high, "#c2410c"))
    outside = int((~inside).sum())
    legend = f"{names[0]}{f' ({outside:,} outside)' if outside else ''}"
    texts = [
        _text(MARGIN, MARGIN - 12, legend, "#c2410c"),
        "" if reference is None else _text(SIDE - MARGIN, MARGIN - 12, names[1], "#6b7280", "end"),
        *_axis_texts(low, high, columns),
    ]
    inner = SIDE - 2 * MARGIN
    box = f'<rect x="{MARGIN}" y="{MARGIN}" width="{inner}" height="{inner}" fill="none" stroke="#8a8f98"/>'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" height="{SIDE}" '
        'role="img" font-family="sans-serif" font-size="11">'
    )
    return "\n".join([opening, box, *layers, *filter(None, texts), "</svg>\n"]).encode()


def page(columns: Sequence[tuple[str, Sequence[str]]]) -> bytes:
    """Return an SVG of texts, a column for each title, all lines in a fixed width.

    Args:
        columns: titles with their texts; a text may have several lines.
    """
    blocks = [(title, _wrapped(texts)) for title, texts in columns]
    width, height = COLUMN * len(blocks), ROW * (3 + max(len(lines) for _, lines in blocks))
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" font-family="monospace" font-size="11" xml:space="preserve">'
    )
    texts = [
        _text(COLUMN * i + GAP, ROW * (row + 1), line, "#6b7280" if row == 0 else INK)
        for i, (title, lines) in enumerate(blocks)
        for row, line in enumerate([title, "", *lines])
        if line
    ]
    return "\n".join([opening, *texts, "</svg>\n"]).encode()


def _wrapped(texts: Sequence[str]) -> list[str]:
    """Return the lines of texts, long ones cut, with a blank line after a text of several."""
    found: list[str] = []
    for text in texts:
        clean = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
        lines = [line[i : i + WIDTH] for line in clean.split("\n") for i in range(0, len(line) or 1, WIDTH)]
        found += lines if len(lines) == 1 else [*lines, ""]
    return found


def _limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the finite points' box, widened by 8% on each side."""
    finite = points[np.isfinite(points).all(axis=1)]
    if len(finite) == 0:
        return np.zeros(2), np.ones(2)
    low, high = finite.min(axis=0), finite.max(axis=0)
    pad = np.where(high > low, 0.08 * (high - low), 0.5)
    return low - pad, high + pad


def _dots(points: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> str:
    inner = SIDE - 2 * MARGIN
    unit = (points - low) / (high - low)
    x, y = MARGIN + inner * unit[:, 0], SIDE - MARGIN - inner * unit[:, 1]
    path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x, y, strict=True))
    return (
        f'<path d="{path}" stroke="{colour}" stroke-width="3" stroke-linecap="round" stroke-opacity="0.5" '
        'fill="none"/>'
    )


def _axis_texts(low: np.ndarray, high: np.ndarray, columns: tuple[str, ...]) -> list[str]:
    bottom, grey = SIDE - MARGIN + 14, "#6b7280"
    return [
        _text(MARGIN, bottom, f"{low[0]:.3g}", grey),
        _text(SIDE // 2, bottom, columns[0], grey, "middle"),
        _text(SIDE - MARGIN, bottom, f"{high[0]:.3g}", grey, "end"),
        _text(MARGIN - 4, SIDE - MARGIN, f"{low[1]:.3g}", grey, "end"),
        _text(MARGIN + 4, MARGIN + 14, columns[1], grey),
        _text(MARGIN - 4, MARGIN + 8, f"{high[1]:.3g}", grey, "end"),
    ]


def _text(x: int, y: int, words: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
