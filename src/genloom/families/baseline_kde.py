"""Kernel density estimate with one Gaussian bandwidth. Rosenblatt 1956; Parzen 1962.

N training rows, B batch, D scalars in an item.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Likelihood, Sampler
from genloom.core.card import Card, Reference
from genloom.core.errors import DataError
from genloom.core.events import Bounded, Event, Leaf, Value, flat_leaf, items
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Stage
from genloom.core.randomness import Noise
from genloom.nn.fitted import evenly, fitted_buffers, require_fitted

CHUNK = 256
"""Rows scored at once: a chunk against 50,000 centres takes 50 MB."""


class Config(card.Config):
    """Settings of a kernel density estimate."""

    scorers: int = Field(1000, gt=0, description="validation rows that choose the bandwidth; noise ~ 1/sqrt")
    iterations: int = Field(
        200, gt=0, description="EM steps on the bandwidth at most; 10 suffice in 64 dimensions"
    )

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Model(flat_leaf(event), self.scorers, self.iterations)

    def stages(self, model: nn.Module) -> list[Stage]:  # noqa: ARG002
        return [Stage("fit", None)]


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Return |x_i - c_j|^2, (B, N), for (B, D) and (N, D)."""
    origin = centres.mean(0)
    x, centres = x - origin, centres - origin
    lengths = x.square().sum(1)[:, None] + centres.square().sum(1)
    return torch.addmm(lengths, x, centres.T, alpha=-2).clamp_min(0)


def log_density(squares: Tensor, log_bandwidth: Tensor, dim: int) -> Tensor:
    """Return the log of the mean of Gaussian kernels, (B,) nats, from squared distances (B, N)."""
    log_kernels = -0.5 * squares * (-2 * log_bandwidth).exp()
    norm = dim * (0.5 * math.log(2 * math.pi) + log_bandwidth) + math.log(squares.shape[1])
    return log_kernels.logsumexp(1) - norm


def fit_bandwidth(squares: Tensor, dim: int, log_bandwidth: Tensor, iterations: int) -> Tensor:
    """Return the log bandwidth that maximises the likelihood of held-out rows, by EM.

    Each step sets the variance to the mean over rows and scalars of the posterior expected square.

    Args:
        squares: distances of held-out rows to the centres, (B, N).

    Source: Dempster, Laird & Rubin 1977, for a mixture whose only free parameter is its variance.
    """
    for _ in range(iterations):
        posterior = (-0.5 * squares * (-2 * log_bandwidth).exp()).softmax(1)
        variance = (posterior * squares).sum(1).mean() / dim
        before, log_bandwidth = log_bandwidth, 0.5 * variance.clamp_min(1e-12).log()
        if abs(float(log_bandwidth - before)) < 1e-4:
            break
    return log_bandwidth


class Model(nn.Module, ClosedForm, Likelihood, Sampler):
    """The training rows, each blurred by the same Gaussian.

    In a box, the density is that of the unrestricted mixture (so some mass lies outside), and samples
    are moved to the nearest point of the box.
    """

    centres: Tensor
    log_bandwidth: Tensor

    def __init__(self, leaf: Leaf, scorers: int, iterations: int) -> None:
        super().__init__()
        self.leaf, self.scorers, self.iterations = leaf, scorers, iterations
        fitted_buffers(self, "centres", "log_bandwidth")

    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        """Keep the training rows; choose the bandwidth on the first validation rows."""
        self.centres = self.flat(train)
        if not self.centres.isfinite().all():
            raise DataError("a kernel density estimate needs complete rows: remove or fill missing values")
        scale = self.centres.var(0, correction=0).mean().clamp_min(1e-12)
        start = 0.5 * scale.log()
        squares = squared_distances(evenly(self.flat(valid), self.scorers), self.centres)
        self.log_bandwidth = fit_bandwidth(squares, self.leaf.dim, start, self.iterations)
        nats = log_density(squares, self.log_bandwidth, self.leaf.dim)
        return {"bandwidth": float(self.log_bandwidth.exp()), "valid_nats": -float(nats.mean())}

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        require_fitted(self.centres)
        parts = [
            log_density(squared_distances(part, self.centres), self.log_bandwidth, self.leaf.dim)
            for part in self.flat(x).split(CHUNK)
        ]
        return LogProb(torch.cat(parts), Bound.EXACT)

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        require_fitted(self.centres)
        chosen = self.centres[noise.integers(len(self.centres))]
        x = chosen + self.log_bandwidth.exp() * noise.normal(self.leaf.dim).to(chosen)
        kind = self.leaf.kind
        inside = x.clamp(kind.lo, kind.hi) if isinstance(kind, Bounded) else x
        return inside.view(-1, *self.leaf.extents)

    def flat(self, x: Value) -> Tensor:
        """Return rows (B, D) in the dtype of the centres."""
        return items(x, self.leaf.extents).flatten(1).to(self.centres)


CARD = Card(
    name="baseline.kde",
    title="Kernel density estimate",
    summary="Every training row, blurred by a Gaussian whose width is chosen on validation rows.",
    events=(card.real, card.continuous_box),
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Rosenblatt",
            1956,
            "Remarks on some nonparametric estimates of a density function",
            "doi:10.1214/aoms/1177728190",
        ),
        Reference(
            "Parzen",
            1962,
            "On estimation of a probability density function and mode",
            "doi:10.1214/aoms/1177704472",
        ),
    ),
    good_at=(
        "Needs no training; hard to beat in one or two dimensions.",
        "Shows what blurred copies of the training data score.",
    ),
    bad_at=(
        "Its samples are copies of training rows with noise.",
        "Its likelihood is poor in many dimensions.",
    ),
)
