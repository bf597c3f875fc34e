"""Runs whose weights are averaged over another length of training."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import genloom
from genloom.core.errors import ConfigError, RunError
from genloom.recipes.averaging import average_run
from genloom.recipes.runs import open_run
from genloom.train.snapshots import HORIZONS

SMALL = {"hidden": 16, "layers": 1, "embedding": 8, "bound_terms": 2, "sampling_steps": 3}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "run"
    train = {"steps": 40, "snapshots": True, "validate_every": 4}
    genloom.fit("diffusion.ddpm", "two_moons", out=out, model=SMALL, train=train)
    return out


def test_snapshots_hold_both_averages_in_half_precision(kept: Path) -> None:
    files = sorted((kept / "snapshots" / "diffusion").iterdir())
    assert [file.name for file in files] == [f"{step:08d}.safetensors" for step in range(4, 41, 4)]
    held = load_file(files[-1])
    assert {name.partition("/")[0] for name in held} == {str(h) for h in HORIZONS}
    assert {value.dtype for value in held.values()} == {torch.float16}


def test_a_length_is_chosen_by_validation_or_named(kept: Path, tmp_path: Path) -> None:
    chosen = average_run(open_run(kept), None, tmp_path / "chosen")
    assert chosen.tried[chosen.horizon] == min(chosen.tried.values())
    named = average_run(open_run(kept), 0.2, tmp_path / "named")
    assert named.tried == {}
    facts = json.loads((tmp_path / "named" / "run.json").read_text())
    assert facts["averaged"]["horizon"] == 0.2
    assert facts["averaged"]["missed"] < 0.05
    samples = [genloom.load(tmp_path / name).sample(4) for name in ("chosen", "named")]
    assert all(bool(x.isfinite().all()) for x in samples)
    short = genloom.load(kept).average(tmp_path / "short", 0.05)
    weights = [r.load().state_dict() for r in (named.run, short.run)]
    assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


def test_what_cannot_be_averaged_is_refused(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        average_run(open_run(kept), 1.5, tmp_path / "out")
    genloom.fit("diffusion.ddpm", "two_moons", out=tmp_path / "plain", model=SMALL, train={"steps": 2})
    with pytest.raises(RunError, match="fit with --snapshots"):
        average_run(open_run(tmp_path / "plain"), 0.1, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"cannot be mixed to a horizon of 0.01"):
        average_run(open_run(kept), 0.01, tmp_path / "out")
    with pytest.raises(ConfigError, match="averages no weights"):
        genloom.fit("baseline.gmm", "two_moons", out=tmp_path / "out", train={"snapshots": True})
    with pytest.raises(RunError, match="choose another --out"):
        average_run(open_run(kept), 0.1, tmp_path / "plain")
    assert not (tmp_path / "out").exists()
