"""The logistic distribution, rounded to levels."""

import torch
import torch.nn.functional as F
from torch import Tensor


def discretised_logistic(x: Tensor, mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Return the log-probability of a level under a logistic rounded to the levels of [-1, 1].

    The outer levels take the tails. With a < b the rescaled edges of the level's bin,
    log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)) loses no digits.

    Args:
        x: scaled levels in [-1, 1].
        mean, log_scale: of the logistic, on the same scale.

    Returns:
        Nats, in the broadcast shape.

    Source: Salimans et al. 2017, arXiv:1701.05517, equation 2.
    """
    half = 1 / (levels - 1)
    inverse = torch.exp(-log_scale)
    middle = (x - mean) * inverse
    lowest, highest = x < half - 1, x > 1 - half
    below_upper = F.logsigmoid(middle + half * inverse).masked_fill(highest, 0)
    above_lower = F.logsigmoid(half * inverse - middle).masked_fill(lowest, 0)
    width = torch.log(-torch.expm1(-2 * half * inverse)).masked_fill(lowest | highest, 0)
    return below_upper + above_lower + width
