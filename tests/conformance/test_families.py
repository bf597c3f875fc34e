"""Every family that genloom brings keeps every promise that it makes."""

from collections.abc import Mapping

import pytest

from genloom.core import registry
from genloom.testing import Check, checks_for

SMALL: Mapping[str, object] = {
    "sampling_steps": 6,
    "bound_terms": 4,
    "widths": (16, 16),
    "depths": (1, 1),
    "embedding": 32,
    "hidden": 32,
    "layers": 1,
}
"""Of diffusion models."""

SYMBOLS = {name: value for name, value in SMALL.items() if name != "hidden"} | {"width": 32, "heads": 2}

CHEAP: Mapping[str, Mapping[str, object]] = {
    "energy.rbm": {
        "hidden": 32,
        "chains": 40,
        "temperatures": 60,
        "sample_temperatures": 20,
        "sample_steps": 5,
    },
    "diffusion.ddpm": SMALL,
    "diffusion.edm": SMALL,
    "diffusion.flow_matching": {**SMALL, "likelihood": "bound"},
    "diffusion.latent": {**SMALL, "channels": 16, "blocks": 1},
    "diffusion.consistency": {n: v for n, v in SMALL.items() if n != "bound_terms"},
    "diffusion.discrete": SYMBOLS,
    "ar.pixelsnail": {"blocks": 1},
    "vae.gaussian": {"importance_samples": 4},
    "vae.hierarchical": {"importance_samples": 4},
    "vae.flow": {"importance_samples": 4},
    "vae.vq": {"channels": 8, "prior": {"family": "ar.pixelcnn", "settings": {"channels": 4}}},
}
"""Settings that change how long sampling and scoring take, and not what they promise."""

CHECKS = [c for name in registry.BUILT_IN for c in checks_for(name, settings=CHEAP.get(name, {}))]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_family(check: Check) -> None:
    check()
