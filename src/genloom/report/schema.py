"""The plain results mapping that every report is drawn from: JSON in, nothing computed elsewhere."""

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Literal, NotRequired, TypedDict

from genloom.core.errors import DataError

VERSION = 1
LIKELIHOODS = ("nll", "bits_per_dim")
REAL, COPIES = "real", "copies"

Pictures = Mapping[str, tuple[str, bytes]]
"""Media type (``image/png`` or ``image/svg+xml``) and bytes, keyed ``real``, ``copies``, ``<row name>`` for
samples and ``<row name>:classes`` for a grid with one row per class, in the order of ``data.classes``."""


class FingerprintJson(TypedDict, total=False):
    """What a figure was computed with; two figures compare only if their digests are equal."""

    metric: str
    version: object
    features: object
    preprocessing: object
    data: object
    digest: str


class FigureJson(TypedDict):
    """One measured number.

    ``kind`` is that of the log-likelihood behind the figure: ``exact``, ``lower_bound``, ``upper_bound``,
    ``estimate`` or ``unnormalised``; figures that are not likelihoods say ``exact``. ``given`` names what was
    conditioned on, "" for nothing. ``value`` is null where the figure could not be computed, and an infinite
    number is the string ``inf`` or ``-inf``.
    """

    name: NotRequired[str]
    value: float | str | None
    lo: NotRequired[float | str | None]
    hi: NotRequired[float | str | None]
    n: NotRequired[int | None]
    kind: NotRequired[str]
    given: NotRequired[str]
    note: NotRequired[str]
    fingerprint: NotRequired[FingerprintJson]


class Column(TypedDict):
    """One figure of merit. ``half`` means that 0.5 is ideal (a two-sample classifier that only guesses)."""

    key: str
    title: str
    better: Literal["lower", "higher", "half"]
    unit: NotRequired[str]
    how: NotRequired[str]


class Cost(TypedDict, total=False):
    """What a row cost: a count, seconds, steps, seconds per 1,000 samples and operations per step."""

    parameters: int | None
    train_seconds: float | None
    steps: int | None
    sample_seconds_per_1000: float | None
    flops_per_step: float | None


class CurvePoint(TypedDict):
    """One point of a learning curve; ``train`` and ``valid`` are in the row's ``curve_label``."""

    step: int
    seconds: float
    train: NotRequired[float | None]
    valid: NotRequired[float | None]


class Row(TypedDict):
    """One line of the leaderboard. Only ``ok`` models hold a rank; references are named real and copies."""

    name: str
    title: str
    role: Literal["model", "reference"]
    status: Literal["ok", "failed", "copying", "reference"]
    why: NotRequired[str]
    rank: NotRequired[int | None]
    figures: dict[str, FigureJson]
    per_seed: NotRequired[dict[str, list[float]]]
    cost: NotRequired[Cost]
    curves: NotRequired[list[CurvePoint]]
    curve_label: NotRequired[str]
    run: NotRequired[str]
    view: NotRequired[str]
    references: NotRequired[list[str]]


class Skipped(TypedDict):
    """A family that was not tried, and why."""

    name: str
    reason: str


class Data(TypedDict):
    """The data, its splits (numbers of items) and its units: rates are per unit, of ``units_per_item``."""

    name: str
    description: NotRequired[str]
    fingerprint: NotRequired[str]
    sizes: NotRequired[dict[str, int]]
    units: NotRequired[str]
    units_per_item: NotRequired[float]
    classes: NotRequired[list[object]]
    notes: NotRequired[list[str]]


class Budget(TypedDict):
    """What every family was given; ``text`` says it in words. Finished runs may have had mixed budgets."""

    kind: Literal["seconds", "steps", "flops", "mixed"]
    value: float | None
    text: str


class Results(TypedDict):
    """Everything one comparison found.

    With one seed ``lo`` and ``hi`` of a figure cover sampling only; with several they cover the spread
    between the seeds as well, and ``per_seed`` of a row lists the value of each seed.
    """

    version: int
    data: Data
    budget: Budget
    seeds: list[int]
    machine: dict[str, object]
    command: str
    started: str
    seconds: float
    columns: list[Column]
    rank_by: str
    rows: list[Row]
    skipped: NotRequired[list[Skipped]]
    remarks: NotRequired[list[str]]


def check(results: Results) -> None:
    """Raise DataError unless the results can be drawn: a known version and a ranking column that exists."""
    if results.get("version") != VERSION:
        raise DataError(
            f"results have version {results.get('version')}, but this genloom draws version {VERSION}: "
            "run compare again"
        )
    if results["rank_by"] not in {column["key"] for column in results["columns"]}:
        raise DataError(f"results are ranked by {results['rank_by']!r}, which is not one of their columns")


def finite(value: object) -> float | None:
    """Return the number, or None where it is missing, NaN, infinite or no number."""
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else None


def value_of(row: Row, key: str) -> float | None:
    """Return a row's finite figure, or None."""
    figure = row["figures"].get(key)
    return finite(figure["value"]) if figure else None


def interval_of(figure: FigureJson) -> tuple[float, float] | None:
    """Return the finite (lo, hi) of a figure, or None."""
    lo, hi = finite(figure.get("lo")), finite(figure.get("hi"))
    return (lo, hi) if lo is not None and hi is not None else None


def kind_of(figure: FigureJson) -> tuple[str, str]:
    """Return (kind, given): likelihoods compare only if both are equal."""
    return figure.get("kind") or "exact", figure.get("given") or ""


def ranked(results: Results) -> list[Row]:
    """Return the models that hold a rank, best first: failed, copying and reference rows never do."""
    rows = [row for row in results["rows"] if row["role"] == "model" and row["status"] == "ok"]
    return sorted((row for row in rows if row.get("rank")), key=lambda row: row.get("rank") or 0)


def unranked(results: Results) -> list[Row]:
    """Return the models without a rank, in the order given."""
    held = {row["name"] for row in ranked(results)}
    return [row for row in results["rows"] if row["role"] == "model" and row["name"] not in held]


def references(results: Results) -> list[Row]:
    """Return the reference rows, in the order given."""
    return [row for row in results["rows"] if row["role"] == "reference"]


def column_of(results: Results, key: str) -> Column:
    """Return the column of that key."""
    return next(column for column in results["columns"] if column["key"] == key)


def likelihood_columns(results: Results) -> list[Column]:
    """Return the columns whose figures may differ in kind: likelihoods, and any column of mixed kinds."""
    return [
        c for c in results["columns"] if c["key"] in LIKELIHOODS or len(_kinds(results["rows"], c["key"])) > 1
    ]


def _kinds(rows: Iterable[Row], key: str) -> set[tuple[str, str]]:
    return {kind_of(row["figures"][key]) for row in rows if value_of(row, key) is not None}


def badness(column: Column, value: float) -> float:
    """Return a number that is smaller the better the value is."""
    return {"lower": value, "higher": -value, "half": abs(value - 0.5)}[column["better"]]


def leaders(rows: Iterable[Row], column: Column) -> set[str]:
    """Return the names of the best row of a column and of those whose interval overlaps the best one's.

    Only figures of equal kind, condition and digest are compared: each such group has its own leaders.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if value_of(row, column["key"]) is not None:
            figure = row["figures"][column["key"]]
            digest = figure.get("fingerprint", {}).get("digest", "")
            groups.setdefault((*kind_of(figure), digest), []).append(row)
    return {name for group in groups.values() for name in _leaders_of_one_kind(group, column)}


def _leaders_of_one_kind(rows: list[Row], column: Column) -> set[str]:
    key = column["key"]
    best = min(rows, key=lambda row: badness(column, value_of(row, key) or 0.0))
    return {row["name"] for row in rows if row is best or overlap(best["figures"][key], row["figures"][key])}


def overlap(a: FigureJson, b: FigureJson) -> bool:
    """Return whether the intervals of two figures overlap; without both intervals they are told apart."""
    first, second = interval_of(a), interval_of(b)
    return bool(first and second and first[0] <= second[1] and second[0] <= first[1])
