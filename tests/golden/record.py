"""Train every family briefly on digits and write what came out: python tests/golden/record.py [FAMILY ...]"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import torch

import genloom
from genloom.core import registry
from genloom.core.capabilities import Sampler

RECORDS = Path(__file__).with_name("records.json")
STEPS = 20
ITEMS = 64


def measure(family: str, folder: Path) -> dict[str, float]:
    """Return the mean level of samples, of reconstructions where none are drawn, and any log-likelihood."""
    train = {"steps": STEPS, "precision": "fp32"}
    trained = genloom.fit(family, "digits", out=folder, train=train, conditional="no", seed=0)
    items = genloom.open_data("digits").test.items[:ITEMS]
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
