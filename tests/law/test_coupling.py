"""Laws of couplings of noise and data."""

import itertools

import torch
from torch import Tensor

from genloom.core.events import Categorical, Leaf, Real
from genloom.core.randomness import TrainNoise, generator
from genloom.math.coupling import optimal_pairs
from genloom.nn.denoising import Diffusion
from genloom.nn.diffusing import Settings


def test_pairs_are_the_nearest_of_all_orders() -> None:
    source = generator(0)
    x, z = torch.randn(6, 2, 3, generator=source), torch.randn(6, 2, 3, generator=source)
    found = optimal_pairs(x, z, torch.zeros(6))
    costs = [float((x - z[list(order)]).square().sum()) for order in itertools.permutations(range(6))]
    assert float((x - found).square().sum()) <= min(costs) + 1e-4


def test_noise_on_a_line_is_sorted_as_data_are_within_classes() -> None:
    source = generator(1)
    x, z, label = (
        torch.randn(50, 1, generator=source),
        torch.randn(50, 1, generator=source),
        torch.arange(50) % 3,
    )
    found = optimal_pairs(x, z, label)
    for number in range(3):
        mine = label == number
        assert torch.equal(found[mine][x[mine].argsort(dim=0)[:, 0]], z[mine].sort(dim=0).values)


def test_near_noise_leaves_less_to_predict() -> None:
    """The least error of a velocity is its spread where ways cross: of pairs that are near, they do not."""
    leaf, rows = Leaf((1,), Real()), 4000
    x0, label = torch.randn(rows, 1, generator=generator(2)).double(), torch.zeros(rows, dtype=torch.int64)
    errors = []
    for coupling in ("independent", "optimal"):
        settings = Settings.model_validate(
            {
                "path": "straight",
                "prediction": "velocity",
                "coupling": coupling,
                "hidden": 8,
                "layers": 1,
                "embedding": 8,
            }
        )
        model = settings.build(leaf, None).double()
        assert isinstance(model, Diffusion)
        model.output = lambda x, time, label: torch.zeros_like(x)  # type: ignore[method-assign] # noqa: ARG005
        noise = TrainNoise(generator(3), rows, 0, rows)
        errors.append(float(model.denoising_error(x0, label, noise).mean()))
    assert errors[1] < 0.05 * errors[0]


def test_noise_is_paired_within_classes_in_training() -> None:
    """Were classes ignored, the noise of the lower one would be below zero."""
    rows = 400
    x0 = torch.cat((torch.full((rows // 2, 1), -5.0), torch.full((rows // 2, 1), 5.0)))
    label, seen = (x0[:, 0] > 0).long(), list[Tensor]()
    model = Settings.model_validate({"coupling": "optimal", "hidden": 8, "layers": 1, "embedding": 8}).build(
        Leaf((1,), Real()), Leaf((), Categorical(2))
    )

    def spied(x: Tensor, time: Tensor, label: Tensor) -> Tensor:  # noqa: ARG001
        mixed = model.course.seen(time).to(x)
        seen.append((x - mixed.data * x0) / mixed.noise)
        return torch.zeros_like(x)

    model.output = spied  # type: ignore[method-assign]
    model.denoising_error(x0, label, TrainNoise(generator(4), rows, 0, rows))
    assert abs(float(seen[0][label == 0].mean())) < 0.25
