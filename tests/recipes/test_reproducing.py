"""Recipes are trained, scored and set beside their targets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genloom.core import registry
from genloom.core.errors import ConfigError
from genloom.modalities.datasets import DataOptions, names
from genloom.recipes import reproducing
from genloom.recipes.fitting import FitConfig
from genloom.recipes.targets import RECIPES, AtMost, Near, Recipe
from genloom.train.config import TrainConfig

SMALL = {"hidden": 8, "latent_dim": 2, "importance_samples": 2}
VAE = Recipe(
    FitConfig("vae.gaussian", "digits", SMALL, TrainConfig(steps=3), DataOptions(limit=60)),
    AtMost(10_000),
    "nothing",
    "digits",
    {"importance_samples": 64},
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


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="'mnist-vea'; did you mean mnist-vae"):
        reproducing.named(["mnist-vea"])
