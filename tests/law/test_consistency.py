"""Laws of consistency models, with the exact map of normal data in place of the network."""

import pytest
import torch
from test_denoising import MEAN, STD, VECTOR, Basis, noise
from torch import Tensor

from genloom.core.events import tensor
from genloom.core.measurements import Measurement
from genloom.core.objective import Clock
from genloom.core.randomness import TrainNoise, generator
from genloom.families import diffusion_consistency
from genloom.families.diffusion_consistency import Config, Model, gap_to_neighbours
from genloom.math.paths import PATHS, PathName

SMALL = {"hidden": 8, "layers": 1, "embedding": 8}


def exact_model(path: PathName = "cosine", **settings: object) -> Model:
    """Return a model whose estimates are where normal data with noise lead."""
    model = Config.model_validate({"path": path, **SMALL, **settings}).build(VECTOR, None).double()

    def output(x: Tensor, time: Tensor, label: Tensor) -> Tensor:  # noqa: ARG001
        course = model.diffusion.course
        seen = course.seen(time).to(x)
        x0 = MEAN + STD * (x - seen.data * MEAN) / ((seen.data * STD) ** 2 + seen.noise**2).sqrt()
        return course.told(time).to(x).of(x0, (x - seen.data * x0) / seen.noise)

    model.diffusion.output = output  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("path", ["cosine", "ve", "straight"])
@pytest.mark.parametrize("calls", [1, 2, 4])
def test_any_number_of_calls_draws_the_data(path: PathName, calls: int) -> None:
    """Samples are affine in the noise, so that their moments follow without a draw."""
    drawn = tensor(exact_model(path, sampling_steps=calls).sample(Basis(calls + 1)))
    centre, moved = drawn[0], drawn[1:] - drawn[0]
    assert torch.allclose(centre, MEAN, atol=0.02)
    assert torch.allclose(moved.square().sum(0).sqrt(), STD, rtol=0.01)


def slope(exact: bool) -> float:
    """Return the slope of the loss, at the exact map or at a denoiser, as estimates grow with x."""
    model, rows = exact_model(), 20_000
    x0 = MEAN + STD * torch.randn(rows, 2, generator=generator(1)).double()
    label, ratio = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), 0.7).double()
    output, share = model.diffusion.output, torch.zeros((), dtype=torch.float64, requires_grad=True)

    def moved(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return (output(x, time, label) if exact else denoised(x, time)) + share * x

    def denoised(x: Tensor, time: Tensor) -> Tensor:
        course = model.diffusion.course
        seen = course.seen(time).to(x)
        gain = STD**2 * seen.data / ((seen.data * STD) ** 2 + seen.noise**2)
        x0 = MEAN + gain * (x - seen.data * MEAN)
        return course.told(time).to(x).of(x0, (x - seen.data * x0) / seen.noise)

    model.diffusion.output = moved  # type: ignore[method-assign]
    loss = model.disagreement(x0, label, ratio, 0.02 * ratio, noise(rows)).mean()
    return float(torch.autograd.grad(loss, share)[0])


def test_the_exact_map_is_where_tuning_ends() -> None:
    """There the loss has no slope, up to the gap. Song et al. 2023, arXiv:2303.01469, theorem 2."""
    assert abs(slope(True)) < 0.05 * abs(slope(False))


def test_what_is_known_leaves_the_rest_as_it_is() -> None:
    """Of independent values, one known: the other keeps its deviation, in any number of calls."""
    first = Measurement(lambda x: x[:, :1], lambda y: torch.cat((y, torch.zeros_like(y)), 1))
    for calls in (1, 4, 30):
        known = torch.full((calls + 1, 1), 0.3).double()
        drawn = tensor(exact_model(sampling_steps=calls).restore(first, known, Basis(calls + 1)))
        moved = drawn[1:] - drawn[0]
        assert torch.allclose(drawn[:, 0], known[:, 0])
        assert float(moved[:, 1].square().sum().sqrt()) == pytest.approx(float(STD[1]), rel=0.01)


def test_the_nearest_place_is_compared_with_the_data() -> None:
    """Where the gap is all, the target is x_0, and the distance is over gap and root of the values."""
    model, x0 = exact_model(), torch.tensor([[0.4, -1.0], [2.0, 0.5]]).double()
    ratio, label = torch.tensor([0.5, 2.0]).double(), torch.zeros(2, dtype=torch.int64)
    found = model.disagreement(x0, label, ratio, ratio, noise(2))
    time = PATHS["cosine"].time(ratio)
    seen = PATHS["cosine"].at(time).to(x0)
    x = seen.of(x0, noise(2).normal(2))
    led = MEAN + STD * (x - seen.data * MEAN) / ((seen.data * STD) ** 2 + seen.noise**2).sqrt()
    smooth = 0.00054 * 2**0.5
    expected = (((led - x0).square().sum(1) + smooth**2).sqrt() - smooth) / (ratio * 2**0.5)
    torch.testing.assert_close(found, expected)


def test_tuning_halves_the_gap_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[float]()

    def spied(ratio: Tensor, halvings: float) -> Tensor:
        seen.append(halvings)
        return gap_to_neighbours(ratio, halvings)

    monkeypatch.setattr(diffusion_consistency, "gap_to_neighbours", spied)
    config = Config.model_validate({**SMALL, "halvings": 6.0})
    model = config.build(VECTOR, None)
    objective = config.stages(model)[1].objective
    assert objective is not None
    loss = objective.phases[0].loss
    assert loss is not None
    for step in (0, 50, 100):
        loss({"x": torch.randn(4, 2)}, TrainNoise(generator(0), 4, 0, 4), Clock(step, 100))
    assert seen == [0.0, 3.0, 6.0]


def test_gaps_reach_the_data_at_first_and_are_halved() -> None:
    ratio = torch.tensor([0.01, 0.5, 5.0, 80.0]).double()
    first, later, last = (gap_to_neighbours(ratio, n) for n in (0.0, 4.0, 7.0))
    assert torch.equal(first[:2], ratio[:2])
    assert (first <= ratio).all()
    assert torch.allclose(last, later / 8)
    assert float(last[-1] / ratio[-1]) == pytest.approx(1 / 256)
