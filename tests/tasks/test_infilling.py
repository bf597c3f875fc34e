"""Completions do not depend on how many are made, and masks that do not fit are refused in one line."""

import pytest
import torch

from genloom.core.errors import DataError, Unsupported
from genloom.core.events import Binary, Categorical, Leaf, tensor
from genloom.families import ar_made, vae_gaussian
from genloom.tasks.infilling import infill

EVENT, LABEL = Leaf((2, 3), Binary()), Leaf((), Categorical(3))


def make() -> ar_made.Model:
    torch.manual_seed(0)
    model = ar_made.Config(hidden=(8,), orders=2).build(EVENT, LABEL)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p))
    return model


def test_a_completion_is_the_same_however_many_are_made() -> None:
    model, x = make(), torch.arange(60).view(10, 2, 3) % 2
    known, label = torch.arange(6).view(2, 3) % 3 == 0, torch.arange(10) % 3
    filled = tensor(infill(model, x, known, cond=label, micro_batch=4))
    assert filled.shape == x.shape
    assert torch.equal(filled[:, known], x[:, known])
    assert torch.equal(tensor(infill(model, x[:3], known, cond=label[:3], micro_batch=4)), filled[:3])
    assert not torch.equal(tensor(infill(model, x, known, cond=label, micro_batch=4, seed=1)), filled)


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(4, 2, 3, dtype=torch.int64)
    with pytest.raises(DataError, match="must be booleans"):
        infill(make(), x, x)
    with pytest.raises(DataError, match=r"of shape \(3, 2\) does not fit items of shape \(4, 2, 3\)"):
        infill(make(), x, torch.zeros(3, 2, dtype=torch.bool))
    vae = vae_gaussian.Config.preset(EVENT).build(EVENT, None)
    with pytest.raises(Unsupported, match="infill needs a model that offers Infill"):
        infill(vae, x, x.bool())
