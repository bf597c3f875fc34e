"""Training on the validation items as well."""

import json
from pathlib import Path

import pytest

import genloom
from genloom.core.errors import ConfigError


def test_a_refit_chooses_nothing_by_validation_and_keeps_the_last_weights(tmp_path: Path) -> None:
    fitted = {
        kind: genloom.fit(
            "seq.lstm",
            "sums",
            out=tmp_path / kind,
            train={"steps": 4},
            data={"points": 100, "refit": kind == "all"},
        )
        for kind in ("part", "all")
    }
    logs = {
        kind: [json.loads(line) for line in (tmp_path / kind / "metrics.jsonl").read_text().splitlines()]
        for kind in fitted
    }
    assert all("valid/loss" in record for record in logs["part"])
    assert not any("valid/loss" in record for record in logs["all"])
    facts = json.loads((tmp_path / "all" / "run.json").read_text())
    assert facts["best"] == {"value": None, "step": None}
    assert "training takes the validation items as well" in facts["notes"]


def test_what_is_chosen_by_validation_items_needs_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="chooses by validation items: leave"):
        genloom.fit("seq.ngram", "sums", out=tmp_path / "run", data={"points": 100, "refit": True})
