"""Neural spline flows: exact densities, exact inverses, and an inverse that costs one pass."""

import pytest
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Binary, Categorical, Event, Leaf, Real
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise
from genloom.families.flow_nsf import CARD, Autoregressive, Config
from genloom.math.splines import rational_quadratic_inverse
from genloom.nn.conditions import context_columns
from genloom.nn.flows import VectorFlow
from genloom.nn.masked import Made

FORMS = ("autoregressive", "coupling")
MIXINGS = ("reverse", "random", "lu")
CLASSES = 3


def random_model(shape: tuple[int, ...], *, classes: int = 0, seed: int = 0, **settings) -> VectorFlow:
    """Return a float64 model away from the identity."""
    torch.manual_seed(seed)
    cond: Event | None = Leaf((), Categorical(classes)) if classes else None
    config = Config(**{"hidden": (24, 18), "layers": 3, **settings})
    model = config.build(Leaf(shape, Real()), cond).double()
    for parameter in model.parameters():
        parameter.data += 0.12 * torch.randn_like(parameter)
    return model


def labels(classes: int, count: int) -> Tensor | None:
    """Return labels that include "none", or None."""
    return torch.arange(count) % (classes + 1) if classes else None


@pytest.mark.parametrize("classes", [0, CLASSES])
@pytest.mark.parametrize("dim", [1, 2, 5, 40])
def test_incremental_inverse_equals_the_passes(dim: int, classes: int) -> None:
    """More inputs than hidden units (40 > 18) leaves some inputs without units of their own."""
    model = random_model((dim,), classes=classes)
    layer = model.layers[0]
    assert isinstance(layer, Autoregressive)
    y = torch.randn(dim, 6, dtype=torch.float64)
    features = None if model.condition is None else model.condition(labels(classes, 6), 6, y.dtype).t()
    context = context_columns(layer.context, features)
    x = torch.zeros_like(y)
    with torch.no_grad():
        for _ in range(dim):
            x = rational_quadratic_inverse(y, layer.made(x, context), layer.bound)
        assert (layer.inverse(y, features) - x).abs().max() < 1e-12


def test_outputs_see_earlier_inputs_only() -> None:
    made = Made(5, 2, (80, 80), context=False).double()
    torch.nn.init.normal_(made.layers[-1].weight)
    x = torch.randn(5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v[:, None])[..., 0], x)
    for sees in jacobian.abs():
        assert (sees.triu() == 0).all()
        assert (sees.diagonal(-1) > 0).all()


def test_conditional_on_labels() -> None:
    model = random_model((3,), classes=CLASSES)
    x = torch.randn(1, 3, dtype=torch.float64).expand(CLASSES + 1, 3)
    noise = SampleNoise(0, torch.arange(CLASSES + 1))
    scored = model.log_prob(x, torch.arange(CLASSES + 1), noise=noise)
    assert scored.given == "class"
    assert len(scored.value.unique()) == CLASSES + 1
    free = model.log_prob(x[:1], None, noise=noise)
    assert free.given == ""
    torch.testing.assert_close(free.value, scored.value[-1:])


def test_samples_do_not_depend_on_the_batch() -> None:
    model = random_model((4,)).float()
    whole = model.sample(SampleNoise(3, torch.arange(8)))
    part = model.sample(SampleNoise(3, torch.arange(5, 8)))
    torch.testing.assert_close(part, whole[5:])


def test_training_finds_a_bent_density() -> None:
    """Points on a noisy parabola, for which the entropy is known: it is a shear of two normals."""
    torch.manual_seed(0)
    u = torch.randn(2048, 2)
    x = torch.stack((u[:, 0], 0.2 * u[:, 1] + u[:, 0].square()), 1)
    config = Config(hidden=(32,), layers=2, mixing="reverse")
    model = config.build(Leaf((2,), Real()), None)
    (stage,) = config.stages(model)
    assert stage.objective is not None
    standardise, likelihood = stage.objective.phases
    assert standardise.update is not None
    assert likelihood.loss is not None
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(70):
        batch = {"x": x[(torch.arange(256) + 256 * step) % 2048]}
        noise = TrainNoise(torch.Generator(), 256, 0, 256)
        if step == 0:
            standardise.update(batch, noise, Clock(step, 70))
        optimiser.zero_grad()
        likelihood.loss(batch, noise, Clock(step, 70)).total.backward()
        optimiser.step()
    nats = -model.log_density(x).mean()
    entropy = 2 * 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e)) + torch.log(torch.tensor(0.2))
    assert abs(nats - entropy) < 0.15


def test_refuses_other_events() -> None:
    assert CARD.events[0](Leaf((2, 3), Real()))
    with pytest.raises(DataError, match="real numbers"):
        Config().build(Leaf((4,), Binary()), None)
