"""The plain sentences of a report: what ranks, what does not and why, and what the intervals cover."""

from collections.abc import Sequence

from genloom.report.schema import (
    Column,
    FigureJson,
    Results,
    Row,
    column_of,
    leaders,
    overlap,
    ranked,
    references,
    unranked,
    value_of,
)

DIRECTION = {"lower": "lower is better", "higher": "higher is better", "half": "0.5 is best"}
_KINDS = {
    "lower_bound": "bound",
    "upper_bound": "bound",
    "estimate": "estimate",
    "unnormalised": "unnormalised",
}
_SIGNS = {"estimate": "≈", "unnormalised": "∝"}


def plural(count: int, noun: str, many: str = "") -> str:
    """Return ``1 model`` or ``12 models``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def sign(column: Column, figure: FigureJson) -> str:
    """Return ≤, ≥, ≈, ∝ or nothing: how the true value stands to the printed one.

    A lower bound on a log-likelihood printed as a loss (lower is better) is an upper limit of the true loss.
    """
    kind = figure.get("kind", "")
    if kind in ("lower_bound", "upper_bound"):
        return "≤" if (kind == "lower_bound") == (column["better"] == "lower") else "≥"
    return _SIGNS.get(kind, "")


def tag(column: Column, figure: FigureJson) -> str:
    """Return a likelihood's label: ``exact``, ``≤ bound``, ``≈ estimate``, with ``given class`` after it."""
    word = f"{sign(column, figure)} {_KINDS.get(figure.get('kind', ''), 'exact')}".strip()
    return f"{word}, given {figure['given']}" if figure.get("given") else word


def kind_heading(column: Column, figure: FigureJson) -> str:
    """Return the heading of a group of likelihoods of one kind and condition."""
    means = {
        "≤": "the true value is at most this",
        "≥": "the true value is at least this",
        "≈": "may err either way",
    }
    symbol = sign(column, figure)
    word = {"": "Exact", "≈": "≈ Estimates", "∝": "∝ Unnormalised"}.get(symbol, f"{symbol} Bounds")
    given = f", given {figure['given']}" if figure.get("given") else ""
    return word + given + (f": {means[symbol]}" if symbol in means else "")


def reason(row: Row, results: Results) -> str:
    """Return why a model holds no rank."""
    why = row.get("why", "")
    if row["status"] == "copying":
        return why or "Its samples are copies of training items."
    if row["status"] == "failed":
        return why or "It failed."
    return why or f"It has no {column_of(results, results['rank_by'])['title']}."


def coverage(results: Results) -> str:
    """Return what the intervals of these results cover, and what they do not."""
    seeds = results["seeds"]
    if len(seeds) > 1:
        return (
            f"Every model was trained {len(seeds)} times (seeds {listed([str(seed) for seed in seeds])}). "
            "The intervals cover both the draw of samples and the spread between these runs; "
            "they do not cover another data set, budget or machine."
        )
    return (
        "Every model was trained once, so the intervals cover sampling only: which samples were drawn and "
        "which test items they met. They do not cover a second training run, which may change close ranks."
    )


def ties(results: Results) -> str:
    """Return how many leading models the ranking cannot tell apart, or an empty string."""
    rows, column = ranked(results), column_of(results, results["rank_by"])
    first = [row for row in rows if row["name"] in leaders(rows[:1], column)]
    if not first:
        return ""
    best = first[0]["figures"][column["key"]]
    close = [
        row["title"] for row in rows[1:] if overlap(best, row["figures"].get(column["key"], {"value": None}))
    ]
    if not close:
        return ""
    others = listed(close) if len(close) < 4 else f"{len(close)} others"
    return f"First place is not settled: the interval of {rows[0]['title']} overlaps that of {others}."


def floor_sentence(results: Results) -> str:
    """Return what the dashed line is: the figure that other real data reach; or an empty string."""
    column = column_of(results, results["rank_by"])
    if not any(
        row["name"] == "real" and value_of(row, column["key"]) is not None for row in references(results)
    ):
        return ""
    return (
        f"The dashed line is what other real data, the validation items, score in {column['title']} against "
        "the test data: no honest model should be expected to do better."
    )


def setting(results: Results) -> str:
    """Return one line of what was compared, at what budget, on what data."""
    sizes = results["data"].get("sizes", {})
    split = ", ".join(f"{count:,} {name}" for name, count in sizes.items())
    parts = [
        results["budget"]["text"],
        plural(len(results["seeds"]), "seed"),
        split,
    ]
    return " · ".join(part for part in parts if part)


def summary(results: Results) -> list[str]:
    """Return the recipe's remarks, then ties, unranked models, skipped families and what intervals cover."""
    lines = [*results.get("remarks", []), ties(results)]
    lines += [f"{row['title']} is not ranked: {reason(row, results)}" for row in unranked(results)]
    for reason_of_skipping, names in skipped(results).items():
        verb = "was" if len(names) == 1 else "were"
        lines.append(f"{listed(names)} {verb} skipped: {reason_of_skipping}")
    return [line for line in [*lines, coverage(results)] if line]


def skipped(results: Results) -> dict[str, list[str]]:
    """Return the families that took no part, by the reason."""
    found: dict[str, list[str]] = {}
    for one in results.get("skipped", []):
        found.setdefault(one["reason"], []).append(one["name"])
    return found
