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
    with pytest.raises(ConfigError, match=r"is a run of baseline.gmm: name one of diffusion.ddpm"):
        tuned(other, tmp_path / "out")
    with pytest.raises(ConfigError, match="a start has its own hidden: leave it out"):
        genloom.fit(
            "diffusion.consistency",
            "two_moons",
            out=tmp_path / "out",
            model={"start": str(start), "hidden": 9},
        )
    changed = tmp_path / "changed"
    shutil.copytree(start, changed)
    (changed / "model.safetensors").write_bytes(b"else")
    with pytest.raises(DataError, match="is not what this fit began with"):
        tuned(changed, tmp_path / "out")
    with pytest.raises(DataError, match="does not fit these data"):
        genloom.fit("diffusion.consistency", "digits", out=tmp_path / "out", model={"start": str(start)})


def test_a_start_may_lack_settings_that_came_later(start: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(start, older)
    facts = json.loads((older / "run.json").read_text())
    del facts["config"]["network"]
    (older / "run.json").write_text(json.dumps(facts))
    assert tuned(older, tmp_path / "tuned").run.config.model_dump()["network"] == "unet"


def test_what_cannot_be_fitted_leaves_nothing(start: Path, tmp_path: Path) -> None:
    model = {**SMALL, "coupling": "optimal"}
    train = {"steps": 1, "accumulate": 2}
    with pytest.raises(ConfigError, match="cannot be split"):
        genloom.fit("diffusion.flow_matching", "two_moons", out=tmp_path / "run", model=model, train=train)
    with pytest.raises(ConfigError, match="chosen when samples are drawn"):
        genloom.fit(
            "diffusion.ddpm", "two_moons", out=tmp_path / "run", model={"guide": str(start), "path": "ve"}
        )
    assert not (tmp_path / "run").exists()
