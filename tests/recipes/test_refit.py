"""Training on the validation items as well."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import genloom
from genloom.core.errors import ConfigError
from genloom.modalities.base import Split
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes.comparing import CompareConfig, compare, compare_runs
from genloom.recipes.runs import open_run

FEW = {"points": 100}


def fitted(family: str, out: Path, **train: Any) -> dict[str, Any]:
    genloom.fit(family, "sums", out=out, train=train, data=FEW)
    return open_run(out).facts


def test_a_refit_chooses_nothing_by_validation_and_keeps_the_last_weights(tmp_path: Path) -> None:
    part = fitted("seq.lstm", tmp_path / "part", steps=4)
    both = fitted("seq.lstm", tmp_path / "all", steps=4, refit=True)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("part", "all")
    ]
    assert all("valid/loss" in record for record in logs[0])
    assert not any("valid/loss" in record for record in logs[1])
    assert part["best"]["step"] is not None
    assert both["best"] == {"value": None, "step": None}
    assert part["data"] == both["data"]
    assert part["weights_sha256"] != both["weights_sha256"]


def test_a_refit_learns_from_the_items_of_both_splits(tmp_path: Path) -> None:
    fitted("seq.lstm", tmp_path / "all", steps=1, refit=True)
    dataset = open_data("sums", DataOptions(**FEW))
    learnt = open_run(tmp_path / "all").trained_on(dataset)
    assert torch.equal(learnt.items, torch.cat((dataset.train.items, dataset.valid.items)))


def test_splits_are_joined_with_their_labels() -> None:
    digits = open_data("digits")
    both = digits.train.joined(digits.valid)
    assert len(both) == len(digits.train) + len(digits.valid)
    assert both.labels is not None
    assert digits.valid.labels is not None
    assert torch.equal(both.labels[-len(digits.valid) :], digits.valid.labels)
    assert Split(both.items).joined(both).labels is None


def test_what_is_fitted_at_once_keeps_its_validation_items(tmp_path: Path) -> None:
    part = fitted("seq.ngram", tmp_path / "part")
    both = fitted("seq.ngram", tmp_path / "all", refit=True)
    assert part["weights_sha256"] == both["weights_sha256"]


def test_a_comparison_needs_unseen_items(tmp_path: Path) -> None:
    fitted("seq.lstm", tmp_path / "run", steps=1, refit=True)
    with pytest.raises(ConfigError, match="leave --refit out"):
        compare(CompareConfig("sums", train=genloom.TrainConfig(steps=1, refit=True)), tmp_path / "out")
    with pytest.raises(ConfigError, match="learnt from the validation items"):
        compare_runs([tmp_path / "run"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
