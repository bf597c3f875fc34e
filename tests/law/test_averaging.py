"""Averages of weights of any length, from a few that were kept."""

import pytest
import torch

from genloom.core.objective import Average, Group, Objective, Optimiser, Phase
from genloom.math.averaging import overlap, shares
from genloom.train.snapshots import HORIZONS
from genloom.train.state import State

STEPS = 2000


def profile(step: int, horizon: float, total: int = STEPS) -> torch.Tensor:
    """Return what each step counts in an average, by running it on unit vectors' coordinates."""
    left = torch.ones(total, dtype=torch.float64)
    times = torch.arange(1, total + 1, dtype=torch.float64)
    share = (1 / (horizon * times)).clamp_max(1)
    keep = (1 - share[1:step]).flip(0).cumprod(0).flip(0)
    left[: step - 1] = keep
    return torch.cat((share[:step] * left[:step], torch.zeros(total - step)))


@pytest.mark.parametrize("pair", [(0.1, 0.1), (0.05, 0.2), (0.2, 0.1)])
def test_overlaps_are_those_of_averages(pair: tuple[float, float]) -> None:
    steps = torch.tensor([1000.0]), torch.tensor([1600.0])
    found = overlap(steps[0].double(), torch.tensor([pair[0]]), steps[1].double(), torch.tensor([pair[1]]))
    exact = float(profile(1000, pair[0]) @ profile(1600, pair[1]))
    assert float(found) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("horizon", [0.03, 0.07, 0.1, 0.3])
def test_other_lengths_are_mixed_from_what_was_kept(horizon: float) -> None:
    steps = torch.arange(100, STEPS + 1, 100).repeat_interleave(2)
    horizons = torch.tensor(HORIZONS).repeat(20)
    found, missed = shares(steps, horizons, STEPS, horizon)
    kept = torch.stack([profile(int(s), float(h)) for s, h in zip(steps, horizons, strict=True)])
    wanted = profile(STEPS, horizon)
    gap = float((found @ kept - wanted).norm() / wanted.norm())
    assert gap == pytest.approx(missed, abs=0.03)
    assert gap < 0.1
    assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 4])
def test_few_that_were_kept_still_sum_to_one(count: int) -> None:
    steps = torch.linspace(STEPS / count, STEPS, count).repeat_interleave(2)
    horizons = torch.tensor(HORIZONS).repeat(count)
    for horizon in (0.01, 0.1, 0.3):
        found, missed = shares(steps, horizons, STEPS, horizon)
        assert float(found.sum()) == pytest.approx(1)
        assert (missed > 0.25) == ((count == 1 and horizon == 0.01) or horizon == 0.01)


def tracked() -> tuple[torch.nn.Linear, State]:
    """Return a layer and its state, with an average tracked."""
    layer = torch.nn.Linear(1, 1, bias=False)
    objective = Objective({"all": Group(layer, Optimiser(1e-3))}, [Phase("none", update=print)], Average())
    return layer, State.fresh(layer, objective, (0.1,))


def test_tracked_averages_are_of_their_profiles() -> None:
    layer, state = tracked()
    values = torch.randn(50)
    for number, value in enumerate(values, 1):
        layer.weight.data.fill_(float(value))
        state.step = number
        state.update_average()
    expected = float(profile(50, 0.1, 50) @ values.double())
    assert float(state.tracked[0.1][0]) == pytest.approx(expected, rel=1e-4)
    _, copy = tracked()
    copy.load(state.tensors())
    assert torch.equal(copy.tracked[0.1][0], state.tracked[0.1][0])
