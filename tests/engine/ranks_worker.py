"""Trains the toy and the small fit on every rank; each rank leaves what it has. Usage: ranks_worker.py OUT"""

import sys
from pathlib import Path

import torch
from engine_toys import Pair, adversarial, digits_fit, toy_rhythm
from safetensors.torch import save_file

from genloom.core.objective import Average
from genloom.train import ranks
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


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    with ranks.process_group():
        assert ranks.world() == 2
        save_file({**train_toy().tensors(), **helpers()}, out / f"rank{ranks.rank()}.safetensors")
        digits_fit(out / "run")
