"""NICE: exact inverses, a volume that is the same everywhere, and densities that integrate to one."""

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Event, Leaf, Real
from genloom.core.randomness import SampleNoise
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


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (2, 3)])
def test_inverse_and_log_det(shape: tuple[int, ...], classes: int) -> None:
    model = random_model(shape, classes)
    x = 2 * torch.randn(4, *shape, dtype=torch.float64)
    cond = torch.arange(4) % (classes + 1) if classes else None
    z, log_det = (part.detach() for part in model.forward_and_log_det(x, cond))
    assert (model.decode(z, cond) - x).abs().max() < 1e-9
    assert float((log_det - log_det[0]).abs().max()) < 1e-12, "the volume is the same everywhere"
    label = None if cond is None else cond[:1]
    jacobian = torch.autograd.functional.jacobian(
        lambda row: model.forward_and_log_det(row[None], label)[0][0], x[0]
    )
    assert abs(log_det[0] - jacobian.flatten(1).slogdet()[1]) < 1e-8


def test_every_value_is_moved() -> None:
    model = random_model((5,))
    x = torch.randn(1, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda row: model.forward_and_log_det(row)[0][0], x)[:, 0]
    assert (jacobian != 0).all(), "after four couplings every code depends on every value"


def test_float32_inverse() -> None:
    model = random_model((9,)).float()
    x = torch.randn(64, 9)
    assert (model.decode(model.encode(x)) - x).abs().max() < 1e-4


def test_the_density_integrates_to_one() -> None:
    model = random_model((2,))
    axis = torch.linspace(-15, 15, 1201, dtype=torch.float64)
    noise = SampleNoise(0, torch.arange(1))
    score = model.log_prob(torch.cartesian_prod(axis, axis), noise=noise).value.detach()
    assert float(score.exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-3)


def test_only_real_numbers() -> None:
    with pytest.raises(DataError, match=r"flow\.nice needs real numbers"):
        Config().build(Leaf((3,), Binary()), None)
