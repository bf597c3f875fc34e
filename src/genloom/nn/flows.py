"""What normalizing flows share: the normal base, the data-dependent first layer, the objective.

B batch, D values of an item.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from genloom.core.events import Batch, Value, tensor
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.nn.labels import hide_labels

ONCE = 1 << 62
"""``every`` of a phase that runs at the first step only."""


def log_normal(z: Tensor) -> Tensor:
    """Return the log-density of standard normals: (B, ...) -> (B,) nats."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


class ActNorm(nn.Module):
    """A learned shift and scale of every value, set from one batch to zero mean and unit variance.

    Source: Kingma & Dhariwal 2018, arXiv:1807.03039, section 3.1. Deviation: one for each value rather than
        each channel, and only at the entrance, so it does the work of standardising the data.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardised items (B, D) and the log-determinant (), in nats."""
        return (x - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum()

    def inverse(self, z: Tensor) -> Tensor:
        """Undo ``forward``: (B, D) -> (B, D)."""
        return z * self.log_scale.exp() + self.shift

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set the parameters in place from items (B, D)."""
        spread = x.std(0, correction=0).clamp_min(1e-3)
        self.shift.copy_(x.mean(0))
        self.log_scale.copy_(spread.log())


def maximum_likelihood(
    model: nn.Module,
    norm: ActNorm,
    score: Callable[[Tensor, Value | None], Tensor],
    classes: int,
    label_dropout: float,
    optimiser: Optimiser,
) -> Objective:
    """Return exact maximum likelihood, the first layer set from the first batch.

    Args:
        norm: the model's entrance.
        score: log-likelihood (B,) of items given labels, in nats.
        classes: number of labels, 0 for none.
        label_dropout: share of labels replaced by "no label", for unconditional use.
    """

    def initialise(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        norm.initialise(tensor(batch["x"]).flatten(1))

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        x, cond = tensor(batch["x"]), batch.get("cond")
        if cond is not None and classes:
            cond = hide_labels(tensor(cond), classes, label_dropout, noise)
        return Loss({"nll_per_value": -score(x, cond).mean() / x[0].numel()})

    phases = [
        Phase("standardise", update=initialise, every=ONCE),
        Phase("likelihood", ("flow",), loss),
    ]
    return Objective({"flow": Group(model, optimiser)}, phases, Average())
