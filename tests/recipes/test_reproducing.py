"""Recipes are trained, scored and set beside their targets."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genloom.core import registry
from genloom.core.errors import ConfigError
from genloom.core.events import tensor
from genloom.modalities.datasets import DataOptions, names, open_data
from genloom.recipes import reproducing
from genloom.recipes.evaluating import score_seen
from genloom.recipes.fitting import FitConfig
from genloom.recipes.runs import open_run
from genloom.recipes.targets import RECIPES, AtMost, Near, Recipe
from genloom.train.config import TrainConfig

SMALL = {"hidden": 8, "latent_dim": 2, "importance_samples": 2}
VAE = Recipe(
    FitConfig("vae.gaussian", "digits", SMALL, TrainConfig(steps=3), DataOptions(limit=60)),
    AtMost(10_000),
    "nothing",
    "digits",
    scoring={"importance_samples": 64},
)


def silent(text: str) -> None:
    """Say nothing."""


def test_targets() -> None:
    assert AtMost(86).met(86)
    assert not AtMost(86).met(86.1)
    assert Near(9.2336, 1e-3).met(9.2345)
    assert not Near(9.2336, 1e-3).met(9.2325)


def test_every_recipe_resolves() -> None:
    """Each names a family, data and settings that exist, and a score that differs only in its settings."""
    for name, recipe in RECIPES.items():
        family = registry.load(recipe.fit.family)
        family.config(**{**recipe.fit.model, **recipe.scoring})
        assert recipe.fit.source in names(), name
        assert (recipe.fit.train.budget or 0) <= 100 * 60


def test_a_reproduction_is_scored_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = replace(VAE, scoring={})
    monkeypatch.setattr(
        reproducing, "RECIPES", {"fine": VAE, "coarse": coarse, "hard": replace(VAE, target=AtMost(1))}
    )
    found = {
        n: reproducing.reproduce(n, tmp_path / n, progress=False, say=silent)
        for n in ("fine", "coarse", "hard")
    }
    assert found["fine"].figure.value < found["coarse"].figure.value, "more importance samples, tighter bound"
    assert found["fine"].figure.kind == "lower_bound"
    assert (found["fine"].met, found["hard"].met) == (True, False)
    assert "target <= 1: not met" in str(found["hard"])
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in found]
    assert weights[0] == weights[1] == weights[2]
    kept = json.loads((tmp_path / "fine" / "reproduction.json").read_text())
    assert kept["reached"]["value"] == pytest.approx(found["fine"].figure.value)
    assert kept["versions"]["torch"] == torch.__version__


def test_a_density_is_scored_in_the_space_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FitConfig(
        "flow.nice", "digits", {"hidden": (8,)}, TrainConfig(steps=3), DataOptions(limit=60), conditional="no"
    )
    recipes = {space: Recipe(fit, AtMost(1), "nothing", "digits", space) for space in ("data", "view")}
    monkeypatch.setattr(reproducing, "RECIPES", recipes)
    data, view = (
        reproducing.reproduce(n, tmp_path / n, progress=False, say=silent).figure for n in ("data", "view")
    )
    assert (data.kind, view.kind) == ("lower_bound", "exact")
    run = open_run(tmp_path / "view")
    items = open_data("digits", DataOptions(limit=60)).test.some(1_000)
    x = tensor(score_seen(run.load(), run, items)[1]).double()
    slope = math.log(1 - 2 * 0.05) - (x.sigmoid() * (1 - x.sigmoid())).log() - math.log(17)
    assert data.value == pytest.approx(view.value - float(slope.flatten(1).sum(1).mean()))


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="'mnist-vea'; did you mean mnist-vae"):
        reproducing.named(["mnist-vea"])
