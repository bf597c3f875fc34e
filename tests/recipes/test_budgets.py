"""What a comparison of finished runs says about their budgets."""

from pathlib import Path

from genloom.recipes.comparing import _common_budget
from genloom.recipes.runs import Run
from genloom.train.config import TrainConfig


def run(**train: float) -> Run:
    return Run(Path("run"), {"train": TrainConfig(**train).model_dump()})  # type: ignore[arg-type]


def test_equal_budgets_are_named() -> None:
    assert _common_budget([run(steps=5), run(steps=5)])["text"] == "5 training steps for each fit"


def test_budgets_that_differ_are_no_budget() -> None:
    found = _common_budget([run(steps=5), run(budget=60)])
    assert (found["kind"], found["value"]) == ("mixed", None)
