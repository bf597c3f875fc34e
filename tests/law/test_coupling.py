"""Laws of couplings of noise and data."""

import itertools

import torch

from genloom.core.events import Leaf, Real
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
