"""Metrics are lines of JSON that a resumed run continues."""

import sys
from pathlib import Path

import pytest

from genloom.core.errors import MissingExtra
from genloom.train.log import MetricLog, read


def test_lines_can_be_read_back(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, "fit", 0)
    log.write(1, 0.12345, {"loss": 2.5})
    log.write(2, 0.2, {"loss": 1.5})
    assert read(tmp_path) == [
        {"stage": "fit", "step": 1, "seconds": 0.123, "loss": 2.5},
        {"stage": "fit", "step": 2, "seconds": 0.2, "loss": 1.5},
    ]


def test_resuming_drops_later_and_broken_lines(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, "fit", 0)
    for step in (1, 2, 3):
        log.write(step, step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "fit", "step": 4, "lo')
    log = MetricLog(tmp_path, "fit", 2)
    log.write(3, 9, {"loss": 7})
    assert [(r["step"], r["loss"]) for r in read(tmp_path)] == [(1, 1), (2, 2), (3, 7)]


def test_lines_of_another_stage_stay(tmp_path: Path) -> None:
    MetricLog(tmp_path, "first", 0).write(9, 1.0, {"loss": 1})
    MetricLog(tmp_path, "second", 0).write(1, 2.0, {"loss": 2})
    MetricLog(tmp_path, "second", 0)
    assert [(r["stage"], r["step"]) for r in read(tmp_path)] == [("first", 9)]


def test_lines_are_strict_json(tmp_path: Path) -> None:
    MetricLog(tmp_path, "fit", 0).write(1, 0.1, {"loss": float("inf")})
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()
    assert read(tmp_path)[0]["loss"] == "inf"


def test_nothing_logged_is_an_empty_list(tmp_path: Path) -> None:
    MetricLog(tmp_path, "fit", 0).close()
    assert read(tmp_path) == []


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = MetricLog(tmp_path, "fit", 0, tensorboard=True)
    log.write(1, 0.1, {"loss": 2.5})
    log.close()
    assert list((tmp_path / "tensorboard" / "fit").glob("events.out.tfevents.*"))


def test_missing_tensorboard_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'genloom\[tensorboard\]'"):
        MetricLog(tmp_path, "fit", 0, tensorboard=True)
