"""NICE: exact inverses, a volume that is the same everywhere, and densities that integrate to one."""

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Event, Leaf, Real
from genloom.families.flow_nice import Config
from genloom.nn.flows import VectorFlow


def random_model(shape: tuple[int, ...], classes: int = 0) -> VectorFlow:
    """Return a float64 model away from the identity."""
    torch.manual_seed(0)
    cond: Event | None = Leaf((), Categorical(classes)) if classes else None
    model = Config(hidden=(24, 18)).build(Leaf(shape, Real()), cond).double()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def test_every_value_is_moved() -> None:
    model = random_model((5,))
    x = torch.randn(1, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda row: model.forward_and_log_det(row)[0][0], x)[:, 0]
    assert (jacobian != 0).all(), "after four couplings every code depends on every value"


def test_only_real_numbers() -> None:
    with pytest.raises(DataError, match=r"flow\.nice needs real numbers"):
        Config().build(Leaf((3,), Binary()), None)
