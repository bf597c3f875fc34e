"""Consistency models tuned from a run of a diffusion model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import genloom
from genloom.core.errors import ConfigError, DataError

SMALL = {"hidden": 8, "layers": 1, "embedding": 8}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "run"
    settings = {**SMALL, "path": "ve", "prediction": "epsilon"}
    genloom.fit("diffusion.ddpm", "two_moons", out=out, model=settings, train={"steps": 3})
    return out


def tuned(start: Path, out: Path, steps: int = 1) -> genloom.Trained:
    model = {"start": str(start), "tuning_lr": 1e-12}
    return genloom.fit("diffusion.consistency", "two_moons", out=out, model=model, train={"steps": steps})


def test_path_network_and_weights_are_those_of_the_start(start: Path, tmp_path: Path) -> None:
    run = tuned(start, tmp_path / "tuned").run
    config = json.loads((run.folder / "run.json").read_text())["config"]
    assert (config["path"], config["prediction"], config["hidden"]) == ("ve", "epsilon", 8)
    assert list(run.facts["stages"]) == ["consistency"]
    old, new = genloom.load(start).model.state_dict(), run.load().state_dict()
    assert all(torch.allclose(new[f"diffusion.{name}"], weight, atol=1e-6) for name, weight in old.items())


def test_a_finished_run_does_without_its_start(start: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(start, copy)
    first = tuned(copy, tmp_path / "tuned").sample(4)
    shutil.rmtree(copy)
    assert torch.equal(genloom.load(tmp_path / "tuned").sample(4), first)


def test_without_a_start_diffusion_comes_first(tmp_path: Path) -> None:
    out = tmp_path / "both"
    genloom.fit("diffusion.consistency", "two_moons", out=out, model=SMALL, train={"steps": 10})
    stages = json.loads((out / "run.json").read_text())["stages"]
    assert {name: stage["steps"] for name, stage in stages.items()} == {"diffusion": 6, "consistency": 4}


def test_other_starts_are_refused(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        tuned(tmp_path / "none", tmp_path / "out")
    other = tmp_path / "other"
    genloom.fit("baseline.gmm", "two_moons", out=other)
    with pytest.raises(ConfigError, match=r"is a run of baseline.gmm: start from one of diffusion.\*"):
        tuned(other, tmp_path / "out")
    changed = tmp_path / "changed"
    shutil.copytree(start, changed)
    (changed / "model.safetensors").write_bytes(b"else")
    with pytest.raises(DataError, match="is not what this fit began with"):
        tuned(changed, tmp_path / "out")
    with pytest.raises(DataError, match="does not fit these data"):
        genloom.fit("diffusion.consistency", "digits", out=tmp_path / "out", model={"start": str(start)})
