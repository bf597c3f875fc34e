"""Trains the toy and the small fit on every rank; each rank leaves what it has. Usage: ranks_worker.py OUT"""

import sys
from pathlib import Path

import torch
from engine_toys import Pair, adversarial, digits_fit, toy_rhythm
from safetensors.torch import save_file

from genloom.core.objective import Average
from genloom.modalities.datasets import DataOptions
from genloom.recipes.fitting import FitConfig, fit
from genloom.recipes.runs import Run
from genloom.train import ranks
from genloom.train.config import TrainConfig
from genloom.train.state import State
from genloom.train.step import train_step


def train_toy(accumulate: int = 1) -> State:
    """Return the toy after a few steps."""
    model = Pair()
    state = State.fresh(model, adversarial(model, Average()))
    for _ in range(6):
        train_step(state, toy_rhythm(accumulate=accumulate))
    return state


def helpers() -> dict[str, torch.Tensor]:
    """Return what the small functions over ranks give."""
    mixed = [torch.full((2,), ranks.rank() + 1.0), torch.tensor([[ranks.rank() + 1.0]], dtype=torch.float64)]
    ranks.sum_(mixed)
    flags = [ranks.any_rank(ranks.rank() == 1), ranks.any_rank(False)]
    return {
        "helpers/sum": mixed[0],
        "helpers/double": mixed[1],
        "helpers/agree": torch.tensor(ranks.agree(float(ranks.rank()))),
        "helpers/any": torch.tensor(flags),
        "helpers/share": torch.tensor(ranks.share(7)),
    }


SMALL: dict[str, dict[str, object]] = {
    "ar.pixelcnn": {"channels": 8},
    "gan.wgan_gp": {"latent_dim": 4, "channels": (4, 8)},
    "flow.nsf": {"hidden": (16, 16), "layers": 2},
    "flow.realnvp": {"channels": 8},
    "diffusion.ddpm": {"widths": (32,), "depths": (1,), "bound_terms": 2},
    "energy.rbm": {"hidden": 20},
}
"""Small models of the families that train by gradients, but for the autoencoder of ``digits_fit``."""


def small_fit(family: str, out: Path) -> Run:
    """Fit a small model to a few digits for three steps."""
    train = TrainConfig(steps=3, batch_size=9, precision="fp32", validate_every=10)
    config = FitConfig(family, "digits", SMALL[family], train, DataOptions(limit=32))
    return fit(config, out, previews=False, progress=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    with ranks.process_group():
        assert ranks.world() == 2
        save_file({**train_toy().tensors(), **helpers()}, out / f"rank{ranks.rank()}.safetensors")
        digits_fit(out / "run")
        for name in SMALL:
            small_fit(name, out / name)
