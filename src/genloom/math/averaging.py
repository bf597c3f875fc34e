"""Averages of weights over training, of any length, from a few that were kept.

An average of horizon h after t steps weighs step s by its profile, (a / t) (s / t)^(a - 1) with a = 1 / h.
Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C, where a is gamma + 1.
"""

import torch
from torch import Tensor


def overlap(step: Tensor, horizon: Tensor, other_step: Tensor, other_horizon: Tensor) -> Tensor:
    """Return the integral of the product of two profiles. Karras et al., appendix C.3."""
    first = step <= other_step
    early, late = torch.where(first, step, other_step), torch.where(first, other_step, step)
    a, b = torch.where(first, horizon, other_horizon), torch.where(first, other_horizon, horizon)
    a, b = 1 / a, 1 / b
    return a * b / (a + b - 1) * (early / late) ** b / early


def shares(steps: Tensor, horizons: Tensor, step: float, horizon: float) -> tuple[Tensor, float]:
    """Return by what shares of kept averages, (N,) steps and horizons, another is met most nearly.

    They sum to 1, so that weights which did not change stay as they are.

    Returns:
        The shares (N,) float64, and what is missed: the norm of the gap between profiles over that of the
        one that is wanted.
    """
    steps, horizons = steps.double(), horizons.double()
    wanted = steps.new_tensor([step]), horizons.new_tensor([horizon])
    among = overlap(steps[:, None], horizons[:, None], steps[None], horizons[None])
    towards, own = overlap(steps, horizons, *wanted), float(overlap(*wanted, *wanted))
    one = torch.ones_like(towards)[:, None]
    held = torch.cat((torch.cat((among, one), 1), torch.cat((one.t(), one.new_zeros(1, 1)), 1)))
    aim = torch.cat((towards, towards.new_ones(1)))[:, None]
    found = torch.linalg.lstsq(held, aim, driver="gelsd").solution[:-1, 0]
    found = found / found.sum()
    gap = own - 2 * float(found @ towards) + float(found @ among @ found)
    return found, (max(gap, 0) / own) ** 0.5
