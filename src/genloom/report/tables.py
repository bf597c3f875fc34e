"""The tables of the HTML report: leaderboard, likelihoods like with like, costs, how figures were made."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from genloom.report.marks import axis, cost_dot, guide_bar, interval_bar, scale_of
from genloom.report.markup import Markup, Node, el, join
from genloom.report.numbers import decimals, duration, missing, number, pair, short, span
from genloom.report.scale import Scale, fit
from genloom.report.schema import (
    Column,
    FigureJson,
    Results,
    Row,
    badness,
    column_of,
    finite,
    interval_of,
    kind_of,
    leaders,
    likelihood_columns,
    ranked,
    references,
    unranked,
    value_of,
)
from genloom.report.words import DIRECTION, kind_heading, reason, sign, tag


@dataclass(frozen=True)
class _Drawn:
    """A column with what all its cells share."""

    column: Column
    scale: Scale
    digits: int
    guide: float | None
    leaders: frozenset[str]
    tagged: bool
    wide: bool


def leaderboard(results: Results) -> Markup:
    """Return the leaderboard: ranked models, then models without a rank and why, then the references."""
    apart = [column["key"] for column in likelihood_columns(results)]
    head = column_of(results, results["rank_by"])
    others = [c for c in results["columns"] if c is not head and c["key"] not in apart]
    columns = [_drawn(results, head, wide=True), *(_drawn(results, column) for column in others)]
    groups = [
        ("", ranked(results), "ranked"),
        ("Not ranked", unranked(results), "unranked"),
        ("For reference", references(results), "reference"),
    ]
    bodies = (_body(title, rows, kind, columns, results) for title, rows, kind in groups if rows)
    return _scroller("Leaderboard", el("thead", _head(columns)), *bodies, class_="board")


def likelihoods(results: Results) -> Markup | None:
    """Return the likelihood tables, one body per kind and condition, each ranked by itself; None if empty."""
    columns = likelihood_columns(results)
    models = [
        row
        for row in [*ranked(results), *unranked(results)]
        if any(value_of(row, c["key"]) is not None for c in columns)
    ]
    if not models:
        return None
    drawn = [_drawn(results, column, wide=column is columns[0]) for column in columns]
    bodies = [_kind_body(rows, drawn) for rows in _by_kind(models, columns)]
    return _scroller("Likelihoods", el("thead", _head(drawn)), *bodies, class_="board likelihoods")


def costs(results: Results) -> Markup:
    """Return what every model cost: parameters, training, steps and sampling."""
    rows = [*ranked(results), *unranked(results)]
    kinds: list[tuple[str, str, Callable[[float], str]]] = [
        ("parameters", "Parameters", short),
        ("train_seconds", "Training", duration),
        ("steps", "Steps", short),
        ("flops_per_step", "Operations a step", short),
        ("sample_seconds_per_1000", "Drawing 1,000 samples", duration),
    ]
    kept = [kind for kind in kinds if any(_cost(row, kind[0]) is not None for row in rows)]
    scales = {key: _cost_scale([_cost(row, key) for row in rows]) for key, _, _ in kept}
    titles = (
        el("th", title, el("small", "log scale") if scales[key].log else None, scope="col", class_="figure")
        for key, title, _ in kept
    )
    lines = []
    for row in rows:
        cells = (_cost_cell(_cost(row, key), say, scales[key]) for key, _, say in kept)
        lines.append(el("tr", _model_cell(row, None), *cells, class_=row["status"]))
    head = el("thead", el("tr", el("th", "Model", scope="col", class_="model"), *titles))
    return _scroller("Cost", head, el("tbody", *lines), class_="board costs")


def methods(results: Results) -> Markup:
    """Return how every figure was computed, with each distinct fingerprint and the models that share it."""
    titles = ("Figure", "Digest", "n", "Features", "Preprocessing", "Data", "Rows")
    head = el("thead", el("tr", *(el("th", title, scope="col") for title in titles)))
    bodies = (_method(column, results) for column in results["columns"])
    return _scroller("How every figure was computed", head, *bodies, class_="methods")


def _scroller(name: str, *parts: Node, class_: str) -> Markup:
    """A table that scrolls inside its own frame on a narrow screen, reachable by keyboard."""
    table = el("table", el("caption", name, class_="unseen"), *parts, class_=class_)
    return el("div", table, class_="scroller", role="region", aria_label=name, tabindex="0")


def _drawn(results: Results, column: Column, wide: bool = False) -> _Drawn:
    rows = [row for row in results["rows"] if value_of(row, column["key"]) is not None]
    real = [
        value_of(row, column["key"]) for row in rows if row["role"] == "reference" and row["name"] == "real"
    ]
    guide = 0.5 if column["better"] == "half" else next(iter(real), None)
    tagged = any(column["key"] == other["key"] for other in likelihood_columns(results))
    best = frozenset(leaders(ranked(results), column))
    return _Drawn(column, scale_of(rows, column), decimals(rows, column["key"]), guide, best, tagged, wide)


def _head(columns: Sequence[_Drawn]) -> Markup:
    rank = el("th", el("span", "Rank", class_="unseen"), scope="col", class_="rank")
    return el(
        "tr",
        rank,
        el("th", "Model", scope="col", class_="model"),
        *(_column_head(drawn) for drawn in columns),
    )


def _column_head(drawn: _Drawn) -> Markup:
    better, unit = drawn.column["better"], drawn.column.get("unit", "")
    direction = {"lower": "↓ lower", "higher": "↑ higher", "half": "½ is best"}[better]
    words = el("small", ", ".join(word for word in (unit, direction) if word))
    kind = "figure wide" if drawn.wide else "figure"
    head = el("th", el("span", drawn.column["title"], class_="title"), words, scope="col", class_=kind)
    plot = el("th", el("span", "Interval", class_="unseen"), axis(drawn.scale), scope="col", class_="plotted")
    return join(head, plot) if drawn.wide else head


def _body(title: str, rows: Sequence[Row], kind: str, columns: Sequence[_Drawn], results: Results) -> Markup:
    head = _group(title, columns) if title else None
    lines = (_line(row, str(row.get("rank")) if kind == "ranked" else "", columns, results) for row in rows)
    return el("tbody", head, *lines, class_=kind)


def _group(title: str, columns: Sequence[_Drawn]) -> Markup:
    return el("tr", el("th", title, colspan=_width(columns) + 2, scope="rowgroup"), class_="group")


def _width(columns: Sequence[_Drawn]) -> int:
    return sum(2 if drawn.wide else 1 for drawn in columns)


def _line(row: Row, rank: str, columns: Sequence[_Drawn], results: Results) -> Markup:
    why = reason(row, results) if row["role"] == "model" and not rank else row.get("why") or None
    place = el("td", rank or el("span", "–", aria_label="not ranked"), class_="rank")
    if all(value_of(row, drawn.column["key"]) is None for drawn in columns):
        empty = el(
            "td", el("span", why or "No figures.", class_="why"), colspan=_width(columns), class_="none"
        )
        return el("tr", place, _model_cell(row, None), empty, class_=row["status"])
    cells = (_cell(row, drawn) for drawn in columns)
    return el("tr", place, _model_cell(row, why), *cells, class_=row["status"])


def _model_cell(row: Row, why: str | None) -> Markup:
    status = el("span", row["status"], class_="status") if row["status"] in ("failed", "copying") else None
    note = el("span", why, class_="why") if why else None
    title = el("span", row["title"], class_="title")
    return el("th", title, status, el("code", row["name"]), note, scope="row", class_="model")


def _cell(row: Row, drawn: _Drawn) -> Markup:
    """One figure; a wide one takes two cells, so that its bars line up into one plot."""
    key = drawn.column["key"]
    if value_of(row, key) is None:
        plot = guide_bar(drawn.scale, drawn.guide) if drawn.wide and drawn.guide is not None else None
        empty = el("td", el("span", missing(row, key), aria_label="no figure"), class_="figure none")
        return join(empty, el("td", plot, class_="plotted")) if drawn.wide else empty
    figure = row["figures"][key]
    seeds, middle = row.get("per_seed", {}).get(key, []), 20 if drawn.wide else 7
    bar = interval_bar(drawn.scale, drawn.column, figure, drawn.guide, seeds, middle)
    if drawn.wide:
        return join(
            el("td", *_figure(row, figure, drawn), class_="figure wide"), el("td", bar, class_="plotted")
        )
    return el("td", *_figure(row, figure, drawn), bar, class_="figure")


def _figure(row: Row, figure: FigureJson, drawn: _Drawn) -> list[Markup]:
    before = f"{sign(drawn.column, figure)} " if drawn.tagged else ""
    said = (before + number(value_of(row, drawn.column["key"]), drawn.digits)).strip()
    parts = [el("strong" if row["name"] in drawn.leaders else "span", said, class_="value")]
    ends = interval_of(figure)
    if ends:
        parts.append(el("span", pair(ends, drawn.digits), class_="ends"))
    if drawn.tagged:
        parts.append(el("span", tag(drawn.column, figure), class_="tag"))
    return [*parts, el("span", figure["note"], class_="why")] if figure.get("note") else parts


def _by_kind(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[Row]]:
    """Group rows by the kind and condition of their first likelihood, best first within each group."""
    groups: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        column = next(c for c in columns if value_of(row, c["key"]) is not None)
        figure = row["figures"][column["key"]]
        place = badness(column, value_of(row, column["key"]) or 0.0)
        groups.setdefault(kind_of(figure), []).append((place, row))
    order = sorted(groups, key=lambda kind: (kind[0] != "exact", *kind))
    return [[row for _, row in sorted(groups[kind], key=lambda pair: pair[0])] for kind in order]


def _kind_body(rows: Sequence[Row], columns: Sequence[_Drawn]) -> Markup:
    first = next(d for d in columns if value_of(rows[0], d.column["key"]) is not None)
    head = _group(kind_heading(first.column, rows[0]["figures"][first.column["key"]]), columns)
    places = iter(range(1, len(rows) + 1))
    lines = (
        el(
            "tr",
            el("td", str(next(places)) if row["status"] == "ok" else "–", class_="rank"),
            _model_cell(row, None),
            *(_cell(row, drawn) for drawn in columns),
            class_=row["status"],
        )
        for row in rows
    )
    return el("tbody", head, *lines)


def _cost(row: Row, key: str) -> float | None:
    value = row.get("cost", {}).get(key)
    return finite(value)


def _cost_scale(values: Iterable[float | None]) -> Scale:
    kept = [value for value in values if value]
    scale = fit(kept)
    return scale if scale.log else Scale(0.0, max(kept, default=1.0))


def _cost_cell(value: float | None, say: Callable[[float], str], scale: Scale) -> Markup:
    if value is None:
        return el("td", "–", class_="figure none")
    return el("td", el("span", say(value), class_="value"), cost_dot(scale, value), class_="figure")


def _method(column: Column, results: Results) -> Markup:
    shared = _by_digest(results["rows"], column["key"])
    of_models = [pairs for pairs in shared.values() if any(row["role"] == "model" for row, _ in pairs)]
    warning = "Several digests: values of different digests do not compare." if len(of_models) > 1 else None
    name = el(
        "th",
        el("span", column["title"], class_="title"),
        el("span", f"{DIRECTION[column['better']].capitalize()}. {column.get('how', '')}", class_="how"),
        el("span", warning, class_="warning") if warning else None,
        scope="rowgroup",
        rowspan=max(len(shared), 1),
    )
    if not shared:
        return el("tbody", el("tr", name, el("td", "No row has this figure.", colspan=6)))
    names = [row["name"] for row in results["rows"]]
    lines = [_fingerprint_cells(digest, pairs, names) for digest, pairs in shared.items()]
    return el("tbody", el("tr", name, lines[0]), *(el("tr", line) for line in lines[1:]))


def _by_digest(rows: Sequence[Row], key: str) -> dict[str, list[tuple[Row, FigureJson]]]:
    """Group the rows that have a figure, finite or not, by the digest of its fingerprint."""
    shared: dict[str, list[tuple[Row, FigureJson]]] = {}
    for row in rows:
        figure = row["figures"].get(key)
        if figure and (finite(figure["value"]) is not None or "fingerprint" in figure):
            shared.setdefault(figure.get("fingerprint", {}).get("digest", ""), []).append((row, figure))
    return shared


def _fingerprint_cells(digest: str, pairs: Sequence[tuple[Row, FigureJson]], names: Sequence[str]) -> Markup:
    fingerprint = pairs[0][1].get("fingerprint", {})
    sizes = [figure["n"] for _, figure in pairs if figure.get("n") is not None]
    mine = [row["name"] for row, _ in pairs]
    others = [name for name in names if name not in mine]
    who = f"all but {', '.join(others)}" if len(others) < len(mine) else ", ".join(mine)
    version = fingerprint.get("version")
    return join(
        el("td", el("code", digest or "none"), el("small", f"version {plain(version)}") if version else None),
        el("td", span([int(size) for size in sizes if size is not None]), class_="n"),
        *(el("td", plain(fingerprint.get(key)) or "–") for key in ("features", "preprocessing", "data")),
        el("td", who if others else "all"),
    )


def plain(value: object) -> str:
    """Return a JSON value as a short text: strings as they are, null as nothing, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
