"""Stages: each begins where the one before ended, and a stopped one goes on within its own."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from engine_toys import figures, fingerprint
from torch import Tensor, nn

from genloom.core import card, registry
from genloom.core.capabilities import Sampler
from genloom.core.errors import Interrupted
from genloom.core.events import Batch, Event, Value, flat_leaf, tensor
from genloom.core.objective import Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.recipes.fitting import FitConfig, fit
from genloom.recipes.runs import Run
from genloom.train import loop
from genloom.train.config import TrainConfig

NAME = "toy.staged"


class Cloud(nn.Module, Sampler):
    """A centre, learned first, and a spread around it, learned next."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.centre, self.spread = nn.Linear(1, dim, bias=False), nn.Linear(1, dim, bias=False)
        nn.init.zeros_(self.centre.weight)

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        spread = self.spread.weight[:, 0]
        return self.centre.weight[:, 0] + spread * noise.normal(len(spread))


class Config(card.Config):
    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Cloud(flat_leaf(event).dim)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Cloud)

        def away(batch: Batch) -> Tensor:
            return (tensor(batch["x"]).flatten(1) - model.centre.weight[:, 0]).square()

        def place(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            return Loss({"distance": away(batch).mean()})

        def widen(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            return Loss({"misfit": (away(batch) - model.spread.weight[:, 0].square()).square().mean()})

        stages = {"centre": (model.centre, place), "spread": (model.spread, widen)}
        return [
            Stage(
                name,
                Objective({name: Group(part, Optimiser(0.05))}, [Phase("pull", (name,), loss)]),
                16,
                budget_share=0.5,
            )
            for name, (part, loss) in stages.items()
        ]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the family above."""
    module: Any = ModuleType("genloom_toy_staged")
    module.Config = Config
    module.CARD = card.Card(NAME, "Staged", "A cloud.", (card.real,), (), (), ())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(registry.BUILT_IN, NAME, module.__name__)  # type: ignore[arg-type]


def staged_fit(out: Path) -> Run:
    config = FitConfig(NAME, "iris", train=TrainConfig(steps=40, checkpoint_every=7, validate_every=5))
    return fit(config, out, progress=False)


def test_the_second_stage_keeps_what_the_first_learned(tmp_path: Path) -> None:
    run = staged_fit(tmp_path / "run")
    stages = run.facts["stages"]
    assert {name: stage["steps"] for name, stage in stages.items()} == {"centre": 20, "spread": 20}
    assert run.facts["steps"] == 40
    model = run.load()
    assert isinstance(model, Cloud)
    assert float(model.centre.weight.norm().detach()) > 0
    assert [line["step"] for line in figures(tmp_path / "run")] == [5, 10, 15, 20] * 2
    pictures = {p.name.split("-")[0] for p in (tmp_path / "run" / "samples").iterdir()}
    assert pictures == {"centre", "spread"}


@pytest.mark.parametrize("stage", ["centre", "spread"])
def test_a_stopped_stage_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    whole = staged_fit(tmp_path / "whole")
    real = loop.run

    def stopped(*arguments: Any) -> None:
        rhythm, stop = arguments[1], arguments[-1]
        stop.requested = rhythm.stage == stage
        real(*arguments)

    monkeypatch.setattr(loop, "run", stopped)
    with pytest.raises(Interrupted, match="stopped at step 1 of 20"):
        staged_fit(tmp_path / "parts")
    monkeypatch.setattr(loop, "run", real)
    parts = staged_fit(tmp_path / "parts")
    assert fingerprint(parts.folder) == fingerprint(whole.folder)
    assert figures(parts.folder) == figures(whole.folder)
    assert torch.equal(*(run.load().state_dict()["spread.weight"] for run in (whole, parts)))
