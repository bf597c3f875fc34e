"""The comparison as one self-contained HTML page: no script, no request, readable without colour."""

import base64
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Literal

from genloom.core.errors import DataError
from genloom.report.curves import Point, Series, chart, scatter
from genloom.report.markup import Markup, Node, el, join
from genloom.report.numbers import decimals, duration, number
from genloom.report.schema import (
    COPIES,
    REAL,
    Pictures,
    Results,
    Row,
    check,
    column_of,
    finite,
    ranked,
    references,
    unranked,
    value_of,
)
from genloom.report.tables import costs, leaderboard, likelihoods, methods, plain
from genloom.report.words import coverage, floor_sentence, listed, plural, setting, skipped, ties

_MEDIA = ("image/png", "image/svg+xml")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}|[a-z-]+/\d{7})")
_SMOOTH_FROM = 400


def render(results: Results, pictures: Pictures) -> str:
    """Return the whole report page.

    Args:
        results: As in ``genloom.report.schema``; any figure, curve or cost may be missing.
        pictures: Media type and bytes, keyed as in ``genloom.report.schema.Pictures``.

    Raises:
        DataError: If the results are of another version, or a picture is neither PNG nor SVG.
    """
    check(results)
    sections = [
        _leaderboard(results),
        _likelihoods(results),
        _classes(results, pictures),
        _curves(results),
        _costs(results),
        _methods(results),
        _models(results),
        _setup(results),
    ]
    shown = [section for section in sections if section]
    main = el("main", _gallery(results, pictures), *(section for _, _, section in shown))
    links = (el("a", name, href=f"#{anchor}") for anchor, name, _ in shown)
    body = el("body", _masthead(results, el("nav", *links, aria_label="Sections")), main, _footer(results))
    return f"<!doctype html>\n{el('html', _head(results), body, lang='en')}\n"


_Section = tuple[str, str, Markup]


def _head(results: Results) -> Markup:
    style = files("genloom.report").joinpath("style.css").read_text(encoding="utf-8")
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("title", f"{results['data']['name']}: generative models compared"),
        el("style", Markup(style)),
    )


def _masthead(results: Results, nav: Markup) -> Markup:
    remarks = results.get("remarks", [])
    return el(
        "header",
        el("p", "genloom compare", class_="kicker"),
        el("h1", _headline(results)),
        el("p", setting(results), class_="setting"),
        el("p", remarks[0], class_="lede") if remarks else None,
        nav,
    )


def _headline(results: Results) -> str:
    models = [row for row in results["rows"] if row["role"] == "model"]
    return f"{plural(len(models), 'generative model')} compared: {results['data']['name']}"


def _section(anchor: str, title: str, *parts: Node, link: str = "") -> _Section:
    return anchor, link or title, el("section", el("h2", title), *parts, id=anchor)


def _notes(*sentences: str) -> Markup | None:
    kept = [sentence for sentence in sentences if sentence]
    return el("div", *(el("p", sentence) for sentence in kept), class_="notes") if kept else None


def _gallery(results: Results, pictures: Pictures) -> Markup | None:
    """Real data first, then every model by rank, then the planted copies."""
    tiles = []
    if REAL in pictures:
        tiles.append(_tile("Real data", "not generated", pictures[REAL], "real"))
    tiles += [_model_tile(row, results, pictures) for row in [*ranked(results), *unranked(results)]]
    if COPIES in pictures:
        tiles.append(_tile("Planted copies", "training items, to test the audit", pictures[COPIES], "copies"))
    return el("div", *tiles, class_="gallery") if pictures else None


def _model_tile(row: Row, results: Results, pictures: Pictures) -> Markup:
    column = column_of(results, results["rank_by"])
    value = value_of(row, column["key"])
    digits = decimals(results["rows"], column["key"])
    figure = f"{column['title']} {number(value, digits)}" if value is not None else f"no {column['title']}"
    held = row.get("rank") if row in ranked(results) else None
    status = "" if held else row["status"] if row["status"] != "ok" else "not ranked"
    return _tile(row["title"], figure, pictures.get(row["name"]), status, str(held or ""))


def _tile(title: str, under: str, picture: tuple[str, bytes] | None, status: str, rank: str = "") -> Markup:
    image = _image(picture, f"Samples: {title}") if picture else el("div", "no samples", class_="missing")
    chip = el("span", status, class_="status") if status in ("failed", "copying", "not ranked") else None
    place = el("span", rank, class_="place", aria_label=f"rank {rank}") if rank else None
    caption = el(
        "figcaption", place, el("span", title, class_="title"), chip, el("span", under, class_="under")
    )
    return el("figure", image, caption, class_=f"tile {status}".strip())


def _image(picture: tuple[str, bytes], alt: str) -> Markup:
    media, data = picture
    if media not in _MEDIA:
        raise DataError(f"a picture is {media}: a report takes {listed(_MEDIA)}")
    size = _png_size(data) if media == "image/png" else None
    width, height = size or (None, None)
    source = f"data:{media};base64,{base64.b64encode(data).decode('ascii')}"
    kind = "smooth" if size and size[0] >= _SMOOTH_FROM else "pixels"
    return el("img", src=source, alt=alt, width=width, height=height, class_=kind)


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the header chunk that every PNG starts with."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 24:
        return None
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _leaderboard(results: Results) -> _Section:
    column = column_of(results, results["rank_by"])
    reasons = skipped(results)
    items = (
        el("li", *(join(el("code", name), " ") for name in names), reason)
        for reason, names in reasons.items()
    )
    return _section(
        "leaderboard",
        "Leaderboard",
        _notes(
            f"Ranked by {column['title']}. {column.get('how', '')}", floor_sentence(results), ties(results)
        ),
        leaderboard(results),
        el(
            "p",
            el("b", "Bold"),
            ": the best of a column among ranked models, and every model whose interval overlaps it. ",
            coverage(results),
            class_="key",
        ),
        join(el("h3", "Skipped"), el("ul", *items, class_="skipped")) if reasons else None,
        _remarks(results),
    )


def _remarks(results: Results) -> Markup | None:
    rest = results.get("remarks", [])[1:]
    return (
        join(el("h3", "Remarks"), el("ul", *(el("li", remark) for remark in rest), class_="remarks"))
        if rest
        else None
    )


def _likelihoods(results: Results) -> _Section | None:
    table = likelihoods(results)
    if table is None:
        return None
    words = (
        "Likelihoods compare only with their own kind. A bound says the true value is at least that good, "
        "an estimate may err either way, and a model that was given something (such as the class) starts "
        "ahead. Each group is ranked by itself."
    )
    return _section("likelihoods", "Likelihoods, like with like", _notes(words), table, link="Likelihoods")


def _classes(results: Results, pictures: Pictures) -> _Section | None:
    rows = [row for row in [*ranked(results), *unranked(results)] if f"{row['name']}:classes" in pictures]
    if not rows:
        return None
    labels = [plain(one) for one in results["data"].get("classes", [])]
    scale = (
        el("ol", *(el("li", label) for label in labels), class_="labels", aria_hidden="true")
        if labels
        else None
    )
    tiles = (
        el(
            "figure",
            el(
                "div",
                scale,
                _image(pictures[f"{row['name']}:classes"], _classes_alt(row, labels)),
                class_="labelled",
            ),
            el("figcaption", el("span", row["title"], class_="title")),
            class_="tile",
        )
        for row in rows
    )
    words = "Asked for one class at a time: one row per class, so a wrong row is a wrong answer."
    return _section(
        "classes",
        "Samples by class",
        _notes(words),
        el("div", *tiles, class_="gallery wide"),
        link="By class",
    )


def _classes_alt(row: Row, labels: Sequence[str]) -> str:
    return f"Samples of {row['title']}, one row per class" + (f": {', '.join(labels)}" if labels else "")


def _curves(results: Results) -> _Section | None:
    rows = [*ranked(results), *unranked(results)]
    drawn = [row for row in rows if row.get("curves")]
    if not drawn:
        return None
    longest = max((point["seconds"] for row in drawn for point in row["curves"]), default=0.0)
    without = [row["title"] for row in rows if not row.get("curves")]
    panels = [panel for row in drawn if (panel := _panel(row, longest))]
    words = (
        "Each panel has its own vertical axis: losses of different families measure different things. "
        "The time axis is shared."
    )
    missing = f"No curve was recorded for {listed(without)}." if without else ""
    body = el("div", _switch(), el("div", *panels, class_="panels"), class_="curves")
    return _section("curves", "Learning curves", _notes(words, missing), body, link="Curves")


def _switch() -> Markup:
    """Two radio buttons that the style sheet obeys: no script."""
    choices = []
    for name, title in (("seconds", "seconds"), ("steps", "steps")):
        choices.append(el("input", type="radio", name="axis", id=f"by-{name}", checked=name == "seconds"))
        choices.append(el("label", title, for_=f"by-{name}"))
    return el("fieldset", el("legend", "Against"), *choices, class_="switch")


def _panel(row: Row, longest: float) -> Markup | None:
    unit = row.get("curve_label") or "loss"
    by_time = chart(_lines(row, "seconds"), x_title="seconds", y_title=unit, x_limits=(0.0, longest or 1.0))
    by_step = chart(_lines(row, "step"), x_title="steps", y_title=unit)
    if not by_time:
        return None
    status = el("span", row["status"], class_="status") if row["status"] != "ok" else None
    return el(
        "figure",
        el("figcaption", el("span", row["title"], class_="title"), status),
        el("div", Markup(by_time), class_="by-seconds"),
        el("div", Markup(by_step), class_="by-steps"),
        class_="panel",
    )


def _lines(row: Row, axis: Literal["seconds", "step"]) -> list[Series]:
    points = row.get("curves", [])
    both: list[Series] = []
    for name, ys in (
        ("valid", [finite(point.get("valid")) for point in points]),
        ("train", [finite(point.get("train")) for point in points]),
    ):
        kept = [(float(point[axis]), y) for point, y in zip(points, ys, strict=True) if y is not None]
        both.append(Series(name, [x for x, _ in kept], [y for _, y in kept]))
    return both


def _costs(results: Results) -> _Section:
    column = column_of(results, results["rank_by"])
    points = [
        Point(row["title"], seconds, value, quiet=row["status"] != "ok")
        for row in [*ranked(results), *unranked(results)]
        if (seconds := finite(row.get("cost", {}).get("sample_seconds_per_1000"))) is not None
        and (value := value_of(row, column["key"])) is not None
    ]
    real = [value_of(row, column["key"]) for row in references(results) if row["name"] == REAL]
    title = f"{column['title']} ({'lower' if column['better'] == 'lower' else column['better']} is better)"
    plot = scatter(
        points, x_title="seconds to draw 1,000 samples", y_title=title, floor=next(iter(real), None)
    )
    caption = "Quality against the cost of sampling. Hollow points are models that hold no rank."
    figure = el("figure", Markup(plot), el("figcaption", caption), class_="plot") if plot else None
    return _section("cost", "What it cost", figure, costs(results), link="Cost")


def _methods(results: Results) -> _Section:
    words = (
        "Two values compare only if their digests are equal: a digest covers the metric, its version, "
        "the features, the preprocessing and the data."
    )
    return _section(
        "methods",
        "How every figure was computed",
        _notes(coverage(results), words),
        methods(results),
        link="Methods",
    )


def _models(results: Results) -> _Section:
    titles = ("Model", "Sources", "Data as", "Run")
    lines = (
        el(
            "tr",
            el("th", el("span", row["title"], class_="title"), el("code", row["name"]), scope="row"),
            el("td", *_citations(row.get("references", []))),
            el("td", row.get("view") or "–"),
            el("td", el("code", row["run"]) if row.get("run") else "–"),
        )
        for row in [*ranked(results), *unranked(results)]
    )
    head = el("thead", el("tr", *(el("th", title, scope="col") for title in titles)))
    table = el(
        "table",
        el("caption", "Models and their sources", class_="unseen"),
        head,
        el("tbody", *lines),
        class_="models",
    )
    return _section("models", "Models and their sources", el("div", table, class_="scroller"), link="Models")


def _citations(references: Sequence[str]) -> list[Markup]:
    return [el("span", _cited(reference), class_="citation") for reference in references]


def _cited(reference: str) -> Markup:
    match = _ARXIV.search(reference)
    if not match:
        return join(reference)
    link = el("a", match[0], href=f"https://arxiv.org/abs/{match[1]}", rel="noreferrer")
    return join(reference[: match.start()], link, reference[match.end() :])


def _setup(results: Results) -> _Section:
    data = results["data"]
    per_item = (
        f"{plain(data['units_per_item'])} {data.get('units', 'units')} an item"
        if "units_per_item" in data
        else ""
    )
    facts: Mapping[str, Node] = {
        "Data": join(el("b", data["name"]), f" {data.get('description', '')}"),
        "Splits": " · ".join(f"{count:,} {name}" for name, count in data.get("sizes", {}).items()),
        "Units": per_item,
        "Classes": ", ".join(plain(one) for one in data.get("classes", [])),
        "Notes": join(*(el("span", note, class_="line") for note in data.get("notes", []))),
        "Fingerprint": el("code", data["fingerprint"]) if data.get("fingerprint") else "",
        "Budget": results["budget"]["text"],
        "Seeds": ", ".join(str(seed) for seed in results["seeds"]),
        "Machine": " · ".join(
            f"{key.replace('_', ' ')} {plain(value)}" for key, value in results["machine"].items()
        ),
        "Started": f"{results['started']}, {duration(results['seconds'])} in all",
        "Command": el("code", results["command"], class_="command"),
    }
    terms = (el("div", el("dt", term), el("dd", fact)) for term, fact in facts.items() if fact)
    return _section("setup", "Data, machine, command", el("dl", *terms, class_="facts"), link="Setup")


def _footer(results: Results) -> Markup:
    version = results["machine"].get("genloom")
    return el(
        "footer",
        el(
            "p",
            f"Made by genloom {plain(version)}. This page is one file and loads nothing.".replace(" .", "."),
        ),
    )
