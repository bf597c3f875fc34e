"""Which noise goes with which data.  B batch, S event shape."""

from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Coupling = Literal["independent", "optimal"]
"""Any noise with any data, or in each batch so that they are near to each other."""


def optimal_pairs(x: Tensor, z: Tensor, label: Tensor) -> Tensor:
    """Return noise (B, *S) in the order in which it is nearest to data (B, *S), by their squared distances.

    Data of a class share out the noise that they had, as noise would else tell of the class.

    Args:
        label: classes (B,), all the same where there are none.

    Source: Tong et al. 2024, arXiv:2302.00482, section 3.2; Pooladian et al. 2023, arXiv:2304.14772.
    """
    order = torch.arange(len(x))
    for number in set(label.tolist()):
        mine = (label == number).nonzero()[:, 0]
        cost = torch.cdist(x[mine].flatten(1).float(), z[mine].flatten(1).float()).square()
        order[mine] = mine[torch.as_tensor(linear_sum_assignment(cost.numpy())[1])]
    return z[order]
