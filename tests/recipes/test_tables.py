"""The leaderboard's arithmetic, against hand calculations."""

import math
from typing import Any

import pytest

from genloom.metrics import METRICS
from genloom.recipes.tables import COLUMNS, RANK_BY, merge_seeds, rank_rows, remarks


def figure(value: float | str, half: float = 1.0, **more: Any) -> dict[str, Any]:
    lo, hi = ("-inf", "inf") if isinstance(value, str) else (value - half, value + half)
    return {"value": value, "lo": lo, "hi": hi, "n": 100, "kind": "exact", **more}


def row(name: str, value: float | str | None, **more: Any) -> dict[str, Any]:
    figures = {} if value is None else {RANK_BY: figure(value)}
    made = {"name": name, "title": name.upper(), "role": "model", "status": "ok", "rank": None}
    return made | {"figures": figures} | more


def test_one_seed_stays_as_it_is() -> None:
    assert merge_seeds([{"nll": figure(3.0)}]) == {"nll": figure(3.0)}


def test_two_seeds_by_hand() -> None:
    """Values 1 and 3: deviation sqrt 2, its error of the mean 1, times Student's 12.706 with one degree."""
    merged = merge_seeds([{"nll": figure(1.0, 3.0, kind="lower_bound")}, {"nll": figure(3.0, 4.0)}])["nll"]
    reach = math.sqrt(12.7062**2 + ((9 + 16) / 2) / 2)
    assert merged["value"] == 2.0
    assert (merged["lo"], merged["hi"]) == (
        pytest.approx(2 - reach, abs=1e-3),
        pytest.approx(2 + reach, abs=1e-3),
    )
    assert (merged["kind"], merged["n"]) == ("lower_bound", 100)


def test_three_seeds_by_hand() -> None:
    """Values 1, 2 and 3: deviation 1, error 1/sqrt 3, times Student's 4.3027 with two degrees."""
    merged = merge_seeds([{"nll": figure(v, 0.6)} for v in (1.0, 2.0, 3.0)])["nll"]
    reach = math.sqrt((4.30265 / math.sqrt(3)) ** 2 + 0.36 / 3)
    assert (merged["value"], merged["hi"] - merged["value"]) == (2.0, pytest.approx(reach, abs=1e-4))


def test_equal_seeds_keep_the_sampling_error() -> None:
    merged = merge_seeds([{"nll": figure(5.0, 2.0)}] * 4)["nll"]
    assert (merged["lo"], merged["value"], merged["hi"]) == (4.0, 5.0, 6.0)


def test_an_infinite_seed_has_no_interval() -> None:
    merged = merge_seeds([{"nll": figure("inf")}, {"nll": figure(3.0)}])["nll"]
    assert (merged["value"], merged["lo"], merged["hi"]) == ("inf", "-inf", "inf")


def test_only_sound_models_are_ranked() -> None:
    rows = [
        row("worse", 9.0),
        row("endless", "inf"),
        row("real", 0.1, role="reference", status="reference"),
        row("best", 1.5),
        row("copier", 0.2, status="copying"),
        row("broken", 0.3, status="failed"),
        row("unmeasured", None),
    ]
    rank_rows(rows)
    assert {r["name"]: r["rank"] for r in rows if r["rank"]} == {"best": 1, "worse": 2, "endless": 3}


def test_the_remark_names_the_winner() -> None:
    rows = [row("flow.b", 2.0), row("flow.a", 1.0)]
    rank_rows(rows)
    assert remarks({"rows": rows}) == ["FLOW.A (flow.a) has the lowest Fréchet distance to the test data."]
    rows = [row("baseline.a", 1.0)]
    rank_rows(rows)
    assert "A classical baseline wins here" in remarks({"rows": rows})[0]
    assert remarks({"rows": [row("a", None)]}) == ["No model could be ranked."]


def test_columns_are_told_apart() -> None:
    keys = [column["key"] for column in COLUMNS]
    assert len(keys) == len(set(keys))
    assert RANK_BY in keys
    for column in COLUMNS:
        assert column["how"]
        assert column["better"] in ("lower", "higher", "half")
        if column["key"] in METRICS:
            assert column["better"] == METRICS[column["key"]].better


def test_a_note_about_one_seed_is_dropped() -> None:
    notes = [{"nll": figure(5.0, note=note)} for note in ("bracket 4 to 6", "bracket 5 to 7")]
    assert merge_seeds(notes)["nll"]["note"] == ""
    assert merge_seeds(notes[:1] * 2)["nll"]["note"] == "bracket 4 to 6"
