"""Output distributions: turn a network's numbers into a factorised distribution over an event.

B batch, S the event's shape, P parameters per scalar.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.errors import Unsupported
from genloom.core.events import Binary, Bounded, Categorical, Event, Leaf, Real, describe
from genloom.core.randomness import Noise
from genloom.math.bernoulli import bernoulli_log_prob
from genloom.math.logistic import discretised_logistic


class Output(nn.Module, ABC):
    """A distribution of independent scalars whose parameters a network gives."""

    parameters_per_scalar: int

    def forward(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return log p(x) of items (B, *S) by each of K draws of their parameters, (K B,) nats.

        Args:
            parameters: (K B, *S, P), all items of one draw, then all of the next.
        """
        draws = len(parameters) // max(len(x), 1)
        rows = x if draws == 1 else x.repeat(draws, *[1] * (x.dim() - 1))
        whole = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        return self.log_prob(whole, rows).flatten(1).sum(1)

    @abstractmethod
    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Return (B, *S) log-probabilities or densities of x, from parameters (B, *S, P), in nats."""

    @abstractmethod
    def typical(self, parameters: Tensor) -> Tensor:
        """Return the value (B, *S) to show for the distribution: its mean or mode."""

    @abstractmethod
    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        """Draw x (B, *S)."""


class Bernoulli(Output):
    """0 or 1, from one logit."""

    parameters_per_scalar = 1

    def forward(self, parameters: Tensor, x: Tensor) -> Tensor:
        return bernoulli_log_prob(parameters.flatten(1), x.flatten(1))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits = parameters[..., 0]
        return x.to(logits.dtype) * logits - F.softplus(logits)

    def typical(self, parameters: Tensor) -> Tensor:
        return (parameters[..., 0] > 0).long()

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        return noise.bernoulli(parameters[..., 0].sigmoid()).long()


class Softmax(Output):
    """One of k categories, from k logits."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.parameters_per_scalar = k

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return parameters.log_softmax(-1).gather(-1, x[..., None])[..., 0]

    def typical(self, parameters: Tensor) -> Tensor:
        levels = torch.arange(self.parameters_per_scalar, dtype=parameters.dtype)
        return (parameters.softmax(-1) @ levels).round().long()

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        return noise.categorical(parameters)


class Names(Output):
    """One of k categories without an order, from k logits."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.parameters_per_scalar = k

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return -F.cross_entropy(parameters.movedim(-1, 1), x, reduction="none")

    def typical(self, parameters: Tensor) -> Tensor:
        return parameters.argmax(-1)

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        return noise.categorical(parameters)


class DiscretisedLogistic(Output):
    """One of k ordered levels: a logistic density on [-1, 1], integrated over each level's bin.

    Source: Kingma et al. 2016, arXiv:1606.04934, appendix C; the first and last bins reach to infinity
    as in Salimans et al. 2017, arXiv:1701.05517, equation 2.
    """

    parameters_per_scalar = 2

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def _location_and_scale(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return parameters[..., 0], (parameters[..., 1] - 2).clamp(-7, 3)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        mean, log_scale = self._location_and_scale(parameters)
        return discretised_logistic(x.to(mean.dtype) * (2 / (self.k - 1)) - 1, mean, log_scale, self.k)

    def _level(self, y: Tensor) -> Tensor:
        return ((y + 1) * ((self.k - 1) / 2)).round().long().clamp(0, self.k - 1)

    def typical(self, parameters: Tensor) -> Tensor:
        return self._level(parameters[..., 0])

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        mean, log_scale = self._location_and_scale(parameters)
        u = noise.uniform(*mean.shape[1:]).to(mean)
        return self._level(mean + log_scale.exp() * torch.logit(u))


def normal_log_density(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log N(x; mean, std^2) of every scalar, in nats."""
    return -0.5 * ((x - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


class Normal(Output):
    """A normal density, from mean and log standard deviation."""

    parameters_per_scalar = 2

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return normal_log_density(x, parameters[..., 0], parameters[..., 1].clamp(-7, 5))

    def typical(self, parameters: Tensor) -> Tensor:
        return parameters[..., 0]

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        mean, log_std = parameters[..., 0], parameters[..., 1].clamp(-7, 5)
        return mean + log_std.exp() * noise.normal(*mean.shape[1:]).to(mean)


class UnitNormal(Output):
    """A normal density of unit variance, from its mean: half the squared distance, up to a constant."""

    parameters_per_scalar = 1

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        return -0.5 * (x - parameters[..., 0]) ** 2 - 0.5 * math.log(2 * math.pi)

    def typical(self, parameters: Tensor) -> Tensor:
        return parameters[..., 0]

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        mean = parameters[..., 0]
        return mean + noise.normal(*mean.shape[1:]).to(mean)


class NormalMixture(Output):
    """A mixture of K normals, from their logits, means and log standard deviations.

    The means start spread over [-2, 2], where data of unit variance lie: equal normals would stay equal.
    """

    start: Tensor

    def __init__(self, components: int) -> None:
        super().__init__()
        self.components, self.parameters_per_scalar = components, 3 * components
        start = torch.linspace(-2, 2, components) if components > 1 else torch.zeros(1)
        self.register_buffer("start", start, persistent=False)

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, means and log standard deviations, (B, *S, K) each."""
        logits, shift, log_std = parameters.unflatten(-1, (3, self.components)).unbind(-2)
        return logits, self.start + shift, log_std.clamp(-7, 5)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        logits, mean, log_std = self._parts(parameters)
        return (logits.log_softmax(-1) + normal_log_density(x[..., None], mean, log_std)).logsumexp(-1)

    def typical(self, parameters: Tensor) -> Tensor:
        logits, mean, _ = self._parts(parameters)
        return (logits.softmax(-1) * mean).sum(-1)

    def draw(self, parameters: Tensor, noise: Noise) -> Tensor:
        logits, *shape = self._parts(parameters)
        chosen = noise.categorical(logits)[..., None]
        mean, log_std = (part.gather(-1, chosen)[..., 0] for part in shape)
        return mean + log_std.exp() * noise.normal(*mean.shape[1:]).to(mean)


SOFTMAX_LEVELS = 32
"""Up to this many ordered levels, free probabilities for each beat a parametric shape."""


OutputName = Literal["auto", "bernoulli", "softmax", "discretised_logistic", "gaussian", "unit_gaussian"]


def output_for(event: Event, name: OutputName = "auto") -> Output:
    """Return the output distribution for a leaf.

    Args:
        name: of the distribution; ``auto`` chooses by the event's kind.

    Raises:
        Unsupported: the distribution does not fit the event's kind.
    """
    kind = event.kind if isinstance(event, Leaf) else None
    if isinstance(kind, Binary) and name in ("auto", "bernoulli"):
        return Bernoulli()
    if isinstance(kind, Categorical) and not kind.ordered and name in ("auto", "softmax"):
        return Names(kind.k)
    if isinstance(kind, Categorical):
        softmax = name == "softmax" or (name == "auto" and kind.k <= SOFTMAX_LEVELS)
        if softmax:
            return Softmax(kind.k)
        if name in ("auto", "discretised_logistic") and kind.ordered:
            return DiscretisedLogistic(kind.k)
    if isinstance(kind, Real | Bounded) and name in ("auto", "gaussian"):
        return Normal()
    if isinstance(kind, Real | Bounded) and name == "unit_gaussian":
        return UnitNormal()
    raise Unsupported(f"a {name} likelihood does not fit {describe(event)}")


def to_input(event: Event, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale a leaf's values to about [-1, 1], as networks like them."""
    kind = event.kind if isinstance(event, Leaf) else None
    if isinstance(kind, Binary):
        return x.to(dtype) * 2 - 1
    if isinstance(kind, Categorical):
        return x.to(dtype) * (2 / (kind.k - 1)) - 1
    return x.to(dtype)


def squared_or_cross_entropy(leaf: Leaf) -> Output:
    """Return an output whose error is half the squared distance of numbers, else the cross-entropy."""
    return output_for(leaf, "unit_gaussian" if isinstance(leaf.kind, Real | Bounded) else "auto")
