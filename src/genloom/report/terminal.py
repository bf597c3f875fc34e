"""The leaderboard as a terminal table: as many columns as fit, readable without colour and when piped."""

import textwrap
from collections.abc import Sequence

from rich import box, get_console
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genloom.report.numbers import decimals, missing, number, pair, short
from genloom.report.schema import (
    Column,
    Results,
    Row,
    check,
    column_of,
    finite,
    interval_of,
    leaders,
    likelihood_columns,
    ranked,
    references,
    unranked,
    value_of,
)
from genloom.report.words import setting, sign, summary

_ARROWS = {"lower": "↓", "higher": "↑", "half": "→½"}
_COSTS = (("params", "parameters"), ("s to draw\n1,000", "sample_seconds_per_1000"))
_NAME = 30
_HEADING = 11


def leaderboard(results: Results, width: int | None = None) -> Table:
    """Return the leaderboard: ranked models, models without a rank, then references.

    The ranking column carries its interval. The likelihood, the other columns, parameters and seconds to
    draw 1,000 samples follow for as long as they fit. Bold marks the best of a column and what overlaps it.
    A likelihood shows ≤, ≥, ≈ or ∝ where it is not exact, and ``|class`` where the class was given.

    Args:
        results: As in ``genloom.report.schema``.
        width: Columns to fit; the width of the console by default.

    Raises:
        DataError: If the results are of another version.
    """
    check(results)
    width = width or get_console().width
    rank_by = column_of(results, results["rank_by"])
    likelihood = likelihood_columns(results)[:1]
    rest = [column for column in results["columns"] if column not in likelihood]
    others = [column for column in [*likelihood, *rest] if column is not rank_by]
    wide = Console(width=1000)
    for count in range(len(others) + len(_COSTS), 0, -1):
        table = _table(results, rank_by, others[:count], _COSTS[: max(count - len(others), 0)])
        if wide.measure(table).maximum <= width:
            return table
    return _table(results, rank_by, [], [])


def remarks(results: Results) -> list[str]:
    """Return the plain sentences under the table: remarks, ties, what is unranked or skipped, coverage."""
    return summary(results)


def _table(
    results: Results, rank_by: Column, others: Sequence[Column], costs: Sequence[tuple[str, str]]
) -> Table:
    title = Text(f"{results['data']['name']}: {setting(results)}", style="bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.show_edge = table.pad_edge = False
    table.add_column("#", justify="right", no_wrap=True, vertical="bottom")
    table.add_column("model", no_wrap=True, vertical="bottom", max_width=_NAME)
    for heading in [*(_heading(column) for column in (rank_by, *others)), *(Text(name) for name, _ in costs)]:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    groups = [group for group in (ranked(results), unranked(results), references(results)) if group]
    cells = _Cells(results)
    for group in groups:
        for row in group:
            table.add_row(*cells.line(row, rank_by, others), *(_cost(row, key) for _, key in costs))
        table.add_section()
    return table


def _heading(column: Column) -> Text:
    """The title in short lines, then the unit and which way is better."""
    last = " ".join(word for word in (column.get("unit", ""), _ARROWS[column["better"]]) if word)
    return Text("\n".join([*textwrap.wrap(column["title"], _HEADING), last]))


class _Cells:
    """What the cells of one table share: decimals, leaders and which columns are likelihoods, by column."""

    def __init__(self, results: Results) -> None:
        keys = [column["key"] for column in results["columns"]]
        self.digits = {key: decimals(results["rows"], key) for key in keys}
        self.leaders = {c["key"]: leaders(ranked(results), c) for c in results["columns"]}
        self.tagged = {column["key"] for column in likelihood_columns(results)}
        self.ranked = {row["name"] for row in ranked(results)}

    def line(self, row: Row, rank_by: Column, others: Sequence[Column]) -> list[Text]:
        held = row["name"] in self.ranked
        quiet = "" if held else "dim"
        status = f" ({row['status']})" if row["status"] in ("failed", "copying") else ""
        name = row["title"] if row["role"] == "reference" else row["name"]
        name = name if len(name + status) <= _NAME else name[: _NAME - len(status) - 1] + "…"
        first = self._figure(row, rank_by)
        ends = (
            interval_of(row["figures"][rank_by["key"]]) if value_of(row, rank_by["key"]) is not None else None
        )
        if ends:
            first.append(f" [{pair(ends, self.digits[rank_by['key']])}]", style="not bold dim")
        line = [Text(str(row.get("rank")) if held else "–"), Text(name + status), first]
        line += [self._figure(row, column) for column in others]
        for cell in line:
            cell.stylize_before(quiet)
        return line

    def _figure(self, row: Row, column: Column) -> Text:
        key = column["key"]
        value = value_of(row, key)
        if value is None:
            return Text(missing(row, key))
        figure = row["figures"][key]
        mark = sign(column, figure) if key in self.tagged else ""
        given = f"|{figure['given']}" if figure.get("given") else ""
        style = "bold" if row["name"] in self.leaders[key] else ""
        text = Text()
        text.append(f"{mark}{number(value, self.digits[key])}{given}", style=style)
        return text


def _cost(row: Row, key: str) -> Text:
    value = finite(row.get("cost", {}).get(key))
    return Text("–" if value is None else short(value))
