"""How well a score tells two groups apart: the area under the receiver operating characteristic."""

import math

import torch
from torch import Tensor

from genloom.core.errors import DataError


def auroc(low: Tensor, high: Tensor) -> tuple[float, float, float]:
    """Return the chance that a score of the second group exceeds one of the first, ties counted half.

    Args:
        low: (n,) scores of the group that should score low.
        high: (m,) scores of the group that should score high.

    Returns:
        The area and its 95% interval; 0.5 is chance, 1 perfect.

    Raises:
        DataError: a group has fewer than two scores.

    Source: Mann & Whitney 1947 for the area; DeLong et al. 1988, equation 5, for its variance.
    """
    if min(len(low), len(high)) < 2:
        raise DataError("an area under the curve needs two scores of each group at least")
    low, high = low.double(), high.double()
    below, above = _wins(low, high), _wins(high, low)
    area = float(below.mean())
    variance = float(below.var() / len(high) + above.var() / len(low))
    reach = 1.96 * math.sqrt(variance)
    return area, max(0.0, area - reach), min(1.0, area + reach)


def _wins(others: Tensor, scores: Tensor) -> Tensor:
    """Return for each score the share of others below it, ties counted half."""
    ordered = others.sort().values
    under = torch.searchsorted(ordered, scores, right=False)
    up_to = torch.searchsorted(ordered, scores, right=True)
    return (under + up_to).double() / (2 * len(others))
