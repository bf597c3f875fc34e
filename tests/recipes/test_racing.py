"""Samplers against one another."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import genloom
from genloom.cli.main import main
from genloom.core.errors import ConfigError, Unsupported
from genloom.recipes.racing import SAMPLERS, race
from genloom.recipes.runs import open_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("racing") / "run"
    genloom.fit("diffusion.ddpm", "two_moons", out=out, model={"hidden": 32}, train={"steps": 300})
    return out


def test_more_calls_come_nearer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["samplers", str(folder), "--samplers", "ddim,unipc", "--calls", "1,8", "--limit", "200"])
    shown = capsys.readouterr().out
    assert str(folder / "samplers" / "samplers.svg") in shown
    found = json.loads((folder / "samplers" / "samplers.json").read_text())
    distances = {(heat["sampler"], heat["calls"]): heat["frechet"]["value"] for heat in found}
    assert distances["ddim", 8] < distances["ddim", 1] / 2
    assert distances["unipc", 8] < distances["ddim", 1] / 2
    ET.parse(folder / "samplers" / "samplers.svg")


def test_every_sampler_runs(folder: Path) -> None:
    said = list[str]()
    heats = race(open_run(folder), calls=[2], limit=40, say=said.append)
    assert [heat.sampler for heat in heats] == list(SAMPLERS)
    assert len(said) == len(SAMPLERS)


def test_several_models_and_single_points_in_one_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"hidden": 8, "layers": 1}
    fast = genloom.fit(
        "diffusion.consistency", "two_moons", out=tmp_path / "fast", model=model, train={"steps": 4}
    )
    options = ["--samplers", "ddim", "--calls", "2", "--also", "ddpm:7", "--limit", "40", "--json"]
    main(["samplers", str(folder), str(fast.run.folder), *options])
    heats = json.loads(capsys.readouterr().out)
    assert [(heat["sampler"], heat["calls"]) for heat in heats] == [
        ("ddim", 2),
        ("ddpm", 7),
        ("diffusion.consistency", 2),
    ]


def test_refusals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="sampler"):
        race(open_run(folder), ["walk"], [2])
    for flag, words in (
        ("--calls=a", "whole numbers"),
        ("--calls=0", "at least 1"),
        ("--also=ddpm", "whole numbers"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["samplers", str(folder), flag])
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
    other = genloom.fit("baseline.gmm", "two_moons", out=tmp_path / "gmm")
    with pytest.raises(Unsupported, match="no choice of samplers"):
        race(other.run, ["ddim"], [2])
