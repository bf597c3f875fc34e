"""Settings of drawing and scoring, set anew for a trained model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import genloom
from genloom.cli.main import main
from genloom.core import registry
from genloom.core.errors import ConfigError, RunError
from genloom.recipes.targets import RECIPES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("anew") / "run"
    settings = {"sampling_steps": 2, "hidden": 8}
    genloom.fit("diffusion.ddpm", "two_moons", out=out, model=settings, train={"steps": 3})
    return out


def test_samples_and_scores_follow_them(folder: Path) -> None:
    plain = genloom.load(folder).sample(4)
    same = genloom.load(folder, sampling_steps=2).sample(4)
    other = genloom.load(folder, sampling_steps=5, sampler="heun").sample(4)
    assert torch.equal(same, plain)
    assert not torch.equal(other, plain)
    assert torch.equal(genloom.load(folder).sample(4), plain)
    scored = [genloom.load(folder, likelihood=name).log_prob(plain).value for name in ("bound", "ode")]
    assert scored[0].isfinite().all()
    assert scored[1].isfinite().all()
    assert not torch.equal(*scored)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"hidden": 9},
            "hidden of diffusion.ddpm cannot be set for a trained model; what can: ",
        ),
        ({"nothing": 9}, "nothing of diffusion.ddpm cannot be set"),
        ({"sampling_steps": 0}, "sampling_steps"),
        ({"sampler": "walk"}, "sampler"),
    ],
)
def test_others_are_refused(folder: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        genloom.load(folder, **settings)


def test_a_weaker_model_guides(folder: Path, tmp_path: Path) -> None:
    weak = {"hidden": 4, "layers": 1, "prediction": "epsilon"}
    genloom.fit("diffusion.ddpm", "two_moons", out=tmp_path / "weak", model=weak, train={"steps": 2})
    plain = genloom.load(folder).sample(4)
    guided = genloom.load(folder, guide=str(tmp_path / "weak"), guidance_scale=2.0).sample(4)
    assert not torch.equal(guided, plain)
    assert torch.equal(genloom.load(folder, guide=str(tmp_path / "weak")).sample(4), plain)
    with pytest.raises(ConfigError, match="is not a run directory"):
        genloom.load(folder, guide=str(tmp_path / "none"))
    genloom.fit("diffusion.edm", "two_moons", out=tmp_path / "edm", model=weak, train={"steps": 2})
    with pytest.raises(ConfigError, match="goes along ve, not cosine"):
        genloom.load(folder, guide=str(tmp_path / "edm"))


def test_a_model_that_is_refused_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models with labels"):
        genloom.fit(
            "diffusion.ddpm",
            "two_moons",
            out=tmp_path / "run",
            model={"guidance_scale": 2.0},
            conditional="no",
        )
    assert not (tmp_path / "run").exists()


def test_they_are_flags_as_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", str(folder), "-n", "3", "--model.sampling-steps", "3", "--model.sampler", "unipc"])
    shown = capsys.readouterr().out
    assert "3 samples" in shown
    assert "seed-0-n-3-sampling_steps=3-sampler=unipc" in shown
    main(["evaluate", str(folder), "--limit", "40", "--scored", "4", "--model.likelihood", "ode", "--json"])
    assert json.loads(capsys.readouterr().out)["settings"] == {"likelihood": "ode"}
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(folder), "--model.hidden", "9"])
    assert stopped.value.code == 2
    assert "cannot be set for a trained model" in capsys.readouterr().err


def test_a_run_of_another_version_is_told_so(folder: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    facts = json.loads((older / "run.json").read_text())
    facts["config"]["schedule"] = "linear"
    (older / "run.json").write_text(json.dumps(facts))
    for settings in ({}, {"sampling_steps": 3}):
        with pytest.raises(RunError, match="does not fit this version"):
            genloom.load(older, **settings).sample(2)


def test_recipes_score_by_such_settings_alone() -> None:
    for name, recipe in RECIPES.items():
        assert set(recipe.scoring) <= set(registry.load(recipe.fit.family).config.free()), name
