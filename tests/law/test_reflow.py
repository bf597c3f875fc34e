"""Straight ways that are learnt from where a model leads noise."""

from pathlib import Path

import pytest
import torch

import genloom
from genloom.core.errors import ConfigError
from genloom.core.randomness import SampleNoise
from genloom.nn.denoising import Diffusion

BOUND = {"likelihood": "bound", "bound_terms": 2}
SMALL = {"hidden": 64, "layers": 2, "embedding": 32, **BOUND}


def led(trained: genloom.Trained, calls: int) -> torch.Tensor:
    """Return where the same noise leads in so many calls of Euler's method."""
    run = trained.run.with_settings({"sampler": "ddim", "sampling_steps": calls})
    model = run.load()
    assert isinstance(model, Diffusion)
    eps = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    told = model.prompts.complete(None, 500)
    return model.arrival(eps, SampleNoise(0, torch.arange(500)), told)


def test_ways_that_are_learnt_anew_are_straighter(tmp_path: Path) -> None:
    data = {"points": 1000}
    first = genloom.fit(
        "diffusion.flow_matching",
        "two_moons",
        out=tmp_path / "first",
        model={**SMALL, "lr": 5e-3},
        data=data,
        train={"steps": 300},
        conditional="no",
    )
    again = genloom.fit(
        "diffusion.flow_matching",
        "two_moons",
        out=tmp_path / "again",
        model={"start": str(tmp_path / "first"), "reflow": 10, "tuning_lr": 3e-3, **BOUND},
        data=data,
        train={"steps": 150},
        conditional="no",
    )
    gaps = [(led(t, 1) - led(t, 64)).square().mean() for t in (first, again)]
    assert gaps[1] < 0.3 * gaps[0], "one call leads nearer to where many lead"
    moved = (led(again, 64) - led(first, 64)).square().mean()
    assert moved < 0.2 * gaps[0], "many calls lead where they led before"


def test_ways_are_learnt_anew_from_a_start_only() -> None:
    with pytest.raises(ConfigError, match="reflow is for a model that has a start"):
        genloom.fit("diffusion.flow_matching", "two_moons", out="none", model={"reflow": 4})
