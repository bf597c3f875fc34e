"""Laws of consistency models, with the exact map of normal data in place of the network."""

import pytest
import torch
from test_denoising import MEAN, STD, VECTOR, Basis, noise
from torch import Tensor

from genloom.core.events import tensor
from genloom.core.randomness import generator
from genloom.families.diffusion_consistency import Config, Model, gap_to_neighbours
from genloom.math.paths import PathName

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


def test_gaps_reach_the_data_at_first_and_are_halved() -> None:
    ratio = torch.tensor([0.01, 0.5, 5.0, 80.0]).double()
    first, later, last = (gap_to_neighbours(ratio, n) for n in (0.0, 4.0, 7.0))
    assert torch.equal(first[:2], ratio[:2])
    assert (first <= ratio).all()
    assert torch.allclose(last, later / 8)
    assert float(last[-1] / ratio[-1]) == pytest.approx(1 / 256)
