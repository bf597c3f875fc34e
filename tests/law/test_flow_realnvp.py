"""RealNVP: exact densities and inverses over scales, odd sizes included."""

import pytest
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Categorical, Event, Leaf, Real
from genloom.core.randomness import SampleNoise
from genloom.families.flow_realnvp import CARD, Config, channelwise, checkerboard
from genloom.nn.multiscale import MultiscaleFlow

CLASSES = 3
SMALL = [(1, 1, 2), (2, 1, 1), (1, 2, 2), (1, 5, 3), (2, 3, 3), (1, 4, 4), (1, 6, 6)]
LARGE = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


def random_model(shape: tuple[int, int, int], *, classes: int = 0, spread: float = 0.1) -> MultiscaleFlow:
    """Return a float64 model whose weights are ``spread`` away from those of the identity."""
    torch.manual_seed(0)
    cond: Event | None = Leaf((), Categorical(classes)) if classes else None
    model = Config(channels=8, couplings=2).build(Leaf(shape, Real()), cond).double()
    for parameter in model.parameters():
        parameter.data += spread * torch.randn_like(parameter)
    return model


def labels(classes: int, count: int) -> Tensor | None:
    """Return labels that include "none", or None."""
    return torch.arange(count) % (classes + 1) if classes else None


@pytest.mark.parametrize("shape", LARGE)
def test_inverse_of_large_images(shape) -> None:
    model = random_model(shape)
    x = torch.randn(2, *shape, dtype=torch.float64)
    assert (model.decode(model.encode(x)) - x).abs().max() < 1e-9
    model = random_model(shape, spread=0.03).float()
    assert (model.decode(model.encode(x.float())) - x.float()).abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(2, 1, 1), (1, 1, 2)])
def test_density_integrates_to_one(shape) -> None:
    model = random_model(shape, classes=CLASSES)
    side, count = 12.0, 160
    axis = (torch.arange(count, dtype=torch.float64) + 0.5) * (2 * side / count) - side
    grid = torch.cartesian_prod(axis, axis).unflatten(1, shape)
    with torch.no_grad():
        mass = model.log_density(grid, torch.ones(len(grid), dtype=torch.int64)).exp().sum()
    assert abs(mass * (2 * side / count) ** 2 - 1) < 1e-3


def test_masks() -> None:
    board = checkerboard((2, 3, 4))
    assert (board[0] == board[1]).all()
    assert (board[:, 1:] + board[:, :-1] == 1).all()
    assert (board[:, :, 1:] + board[:, :, :-1] == 1).all()
    assert channelwise((5, 1, 1)).flatten().tolist() == [1, 1, 0, 0, 0]


def test_every_value_is_transformed() -> None:
    model = random_model((1, 8, 8))
    for scale in model.scales:
        moved = sum(1 - coupling.mask for coupling in scale.couplings)
        assert (moved > 0).all()


def test_first_batch_standardises() -> None:
    config = Config(channels=8)
    model = config.build(Leaf((1, 4, 4), Real()), None)
    (stage,) = config.stages(model)
    assert stage.objective is not None
    x = 5 + 3 * torch.randn(100, 1, 4, 4)
    update = stage.objective.phases[0].update
    assert update is not None
    update({"x": x}, SampleNoise(0, torch.arange(100)), None)  # type: ignore[arg-type]
    z = model.encode(x)
    assert z.mean(0).abs().max() < 1e-5
    assert (z.std(0, correction=0) - 1).abs().max() < 1e-5


def test_labels_matter_and_null_is_unconditional() -> None:
    model = random_model((1, 4, 4), classes=CLASSES)
    noise = SampleNoise(0, torch.arange(CLASSES + 1))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64).expand(CLASSES + 1, 1, 4, 4)
    scored = model.log_prob(x, torch.arange(CLASSES + 1), noise=noise)
    assert len(scored.value.unique()) == CLASSES + 1
    torch.testing.assert_close(model.log_prob(x[:1], noise=noise).value, scored.value[-1:])


def test_samples_do_not_depend_on_the_batch() -> None:
    model = random_model((1, 4, 4)).float()
    whole = model.sample(SampleNoise(3, torch.arange(8)))
    part = model.sample(SampleNoise(3, torch.arange(5, 8)))
    torch.testing.assert_close(part, whole[5:])


def test_refuses_other_events() -> None:
    assert not CARD.events[0](Leaf((5,), Real()))
    with pytest.raises(DataError, match="image"):
        Config().build(Leaf((5,), Real()), None)
