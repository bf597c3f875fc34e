"""Train every family briefly on a small set and write what came out: python tests/golden/record.py [NAMES]"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import torch

import genloom
from genloom.core import registry
from genloom.core.capabilities import Sampler
from genloom.recipes.fitting import unfit
from genloom.recipes.runs import view_for

RECORDS = Path(__file__).with_name("records.json")
SETS = ("digits", "torus", "sums", "numerals")
"""Each family is recorded on the first that has a view it takes."""
STEPS = 20
ITEMS = 64

CHEAP = {"sampling_steps": 8, "bound_terms": 4}
"""Settings of diffusion models, which would take long."""


def fits(family: str, data: str) -> bool:
    """Tell whether the family takes a view of the data."""
    card = registry.load(family).card
    view = view_for(card, genloom.open_data(data).modality)
    return view is not None and not unfit(card, view)


def measure(family: str, folder: Path) -> dict[str, float]:
    """Return the mean value of samples, of reconstructions where none are drawn, and any log-likelihood."""
    data = next(name for name in SETS if fits(family, name))
    train = {"steps": STEPS, "precision": "fp32"}
    free = registry.load(family).config.free()
    model = {name: value for name, value in CHEAP.items() if name in free}
    trained = genloom.fit(family, data, out=folder, model=model, train=train, conditional="no", seed=0)
    items = genloom.open_data(data).test.items[:ITEMS]
    if isinstance(trained.model, Sampler):
        found = {"sample_mean": float(trained.sample(ITEMS, seed=0).float().mean())}
    else:
        gap = trained.reconstruct(items).float() - items.float()
        found = {"reconstruction_error": float(gap.square().mean())}
    if registry.load(family).card.likelihood:
        found["log_prob"] = float(trained.log_prob(items).value.mean())
    return found


def main(families: list[str]) -> None:
    """Write the records of the families, and where they were made."""
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {"families": {}}
    for family in families or list(registry.BUILT_IN):
        with tempfile.TemporaryDirectory() as folder:
            records["families"][family] = measure(family, Path(folder) / "run")
        print(family, records["families"][family])
    records["provenance"] = {
        "command": "python tests/golden/record.py",
        "torch": torch.__version__,
        "machine": platform.machine(),
        "steps": STEPS,
    }
    RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
