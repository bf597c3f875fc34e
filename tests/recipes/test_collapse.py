"""A fit counts the latent units in use, and says so when there are none."""

from pathlib import Path

import pytest

from genloom.modalities.datasets import DataOptions
from genloom.recipes.fitting import FitConfig, fit
from genloom.train.config import TrainConfig


@pytest.mark.parametrize(("beta", "collapsed"), [(1e-3, False), (1e3, True)])
def test_a_collapsed_posterior_is_announced(tmp_path: Path, beta: float, collapsed: bool) -> None:
    model = {"beta": beta, "hidden": 32, "latent_dim": 3, "warmup": 0.0}
    config = FitConfig("vae.gaussian", "digits", model, TrainConfig(steps=80), DataOptions(limit=400))
    said = list[str]()
    run = fit(config, tmp_path / "run", progress=False, say=said.append)
    assert (run.facts["active_units"] == 0) == collapsed
    assert any("the posterior has collapsed" in text for text in said) == collapsed
