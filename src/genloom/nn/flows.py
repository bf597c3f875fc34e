"""What normalizing flows share: the normal base, the data-dependent first layer, mixing, the objective.

B batch, D values of an item, H hidden units. What mixes values takes them as columns (D, B).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Invertible, Likelihood, Sampler
from genloom.core.events import Batch, Value, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.nn.conditions import Condition, context_columns, context_map
from genloom.nn.masked import Made, Prefix, affine

ONCE = 1 << 62
"""``every`` of a phase that runs at the first step only."""

Mixing = Literal["reverse", "random", "lu"]

LARGEST_LOG_SCALE = math.log(1000.0)
"""No layer stretches or shrinks a value by more than a factor of 1,000, so that none overflows."""


def log_normal(z: Tensor) -> Tensor:
    """Return the log-density of standard normals: (B, ...) -> (B,) nats."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def limited(log_scale: Tensor) -> Tensor:
    """Squeeze log-scales smoothly into the open interval of ``LARGEST_LOG_SCALE``, with slope 1 at zero."""
    return log_scale / (1 + log_scale.abs() / LARGEST_LOG_SCALE)


REACH = 4.0
"""Standard deviations within which networks of affine flows see values as they are."""


def tamed(x: Tensor) -> Tensor:
    """Return what a network sees of values: beyond ``REACH`` they grow as a logarithm only.

    Scales are exponentials of what the network gives, and would carry an outlier off to infinity.
    """
    beyond = (x.abs() - REACH).clamp_min(0)
    return x - x.sign() * (beyond - beyond.log1p())


class Base(ABC):
    """What a flow turns items into: independent values of a known law."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of codes (B, D), (B,) nats."""

    @abstractmethod
    def draw(self, noise: Noise, dim: int) -> Tensor:
        """Draw codes (B, D)."""


class Normals(Base):
    """Standard normals."""

    def log_prob(self, z: Tensor) -> Tensor:
        return log_normal(z)

    def draw(self, noise: Noise, dim: int) -> Tensor:
        return noise.normal(dim)


class Entrance(nn.Module, ABC):
    """What items (B, D) pass first."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the items (B, D) and the log-determinant (), in nats."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """Undo ``forward``."""

    @abstractmethod
    def initialise(self, x: Tensor) -> None:
        """Set the parameters in place from items (B, ...)."""


class ActNorm(Entrance):
    """A learned shift and scale of every value, set from one batch to zero mean and unit variance.

    Source: Kingma & Dhariwal 2018, arXiv:1807.03039, section 3.1. Deviation: one for each value rather than
        each channel, and only at the entrance, so it does the work of standardising the data.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum()

    def inverse(self, z: Tensor) -> Tensor:
        return z * self.log_scale.exp() + self.shift

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        x = x.flatten(1)
        self.shift.copy_(x.mean(0))
        if len(x) > 1:
            self.log_scale.copy_(x.std(0, correction=0).clamp_min(1e-3).log())


class Order(nn.Module):
    """A fixed order of the values."""

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reordered values (D, B) and the log-determinant ()."""
        return x.index_select(0, self.order), x.new_zeros(())

    def inverse(self, y: Tensor) -> Tensor:
        """Undo ``forward``."""
        return y.index_select(0, self.order.argsort())


class LUMatrix(nn.Module):
    """A random order, then a learned matrix L U with unit lower L, starting as the identity.

    Source: Durkan et al. 2019, section 3.3; the diagonal of U is positive, as exp of its parameters.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.order = Order(torch.randperm(dim))
        self.lower = nn.Parameter(torch.zeros(dim, dim))
        self.upper = nn.Parameter(torch.zeros(dim, dim))
        self.log_diagonal = nn.Parameter(torch.zeros(dim))

    def _factors(self) -> tuple[Tensor, Tensor]:
        identity = torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return self.lower.tril(-1) + identity, self.upper.triu(1) + self.log_diagonal.exp().diag()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixed values (D, B) and the log-determinant ()."""
        lower, upper = self._factors()
        with torch.autocast(x.device.type, enabled=False):
            return lower @ (upper @ self.order(x)[0]), self.log_diagonal.sum()

    def inverse(self, y: Tensor) -> Tensor:
        """Undo ``forward``."""
        lower, upper = self._factors()
        y = torch.linalg.solve_triangular(lower, y, upper=False, unitriangular=True)
        return self.order.inverse(torch.linalg.solve_triangular(upper, y, upper=True))


def make_mixer(mixing: Mixing, dim: int) -> Order | LUMatrix:
    """Return what reorders or mixes values before a layer of splines."""
    if mixing == "lu" and dim > 1:
        return LUMatrix(dim)
    return Order(torch.randperm(dim) if mixing == "random" else torch.arange(dim).flip(0))


class Dense(nn.Module):
    """A ReLU network on columns whose first layer also sees a context; zero at first."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, condition: Condition | None) -> None:
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in pairwise([inputs, *hidden, outputs])]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)
        self.context = context_map(condition, hidden[0])

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map (inputs, B) to (outputs, B) in the dtype of x."""
        first, *others = cast(list[nn.Linear], list(self.layers))
        h, seen = affine(first, x), context_columns(self.context, context)
        h = h if seen is None else h + seen
        for layer in others:
            h = affine(layer, h.relu())
        return h.to(x.dtype)


class FlowLayer(nn.Module, ABC):
    """An invertible map of columns (D, B), set by the features of a condition, columns (F, B), or by none."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mapped values (D, B) and the log-determinant (B,)."""

    @abstractmethod
    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""


Call = Callable[[FlowLayer, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Applies a layer to columns (D, B) and a context, as its ``forward`` does."""


class MaskedAffine(FlowLayer):
    """Each value is shifted and scaled by functions of those before it.

    Source: Papamakarios et al. 2017, arXiv:1705.07057, equations 3 to 5. Deviation: the network sees outliers
        tamed.
    """

    def __init__(self, dim: int, condition: Condition | None, hidden: Sequence[int]) -> None:
        super().__init__()
        self.made = Made(dim, 2, hidden, context=condition is not None)
        self.context = context_map(condition, hidden[0])

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the standardised values (D, B) and the log-determinant (B,)."""
        raw = self.made(tamed(x), context_columns(self.context, context)).to(x.dtype)
        shift, log_scale = raw[0], limited(raw[1])
        return (x - shift) * (-log_scale).exp(), -log_scale.sum(0)

    def inverse(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``, value by value."""
        x = torch.empty_like(z)
        prefix = Prefix(self.made, z, context_columns(self.context, context))
        for d in range(len(z)):
            shift, log_scale = prefix.outputs().to(z.dtype)
            x[d] = shift + limited(log_scale).exp() * z[d]
            prefix.read(tamed(x[d]))
        return x


class Flow(nn.Module, Sampler, Likelihood, Invertible):
    """An invertible map of items (B, *shape) to codes (B, D) of a known law.

    A subclass maps both ways (``forward_and_log_det`` and ``decode``) and sets what standardises the data
    (``initialise``); likelihoods, codes and draws follow.

    Args:
        condition: what reads the conditions, None for none.
        base: the law of the codes; standard normals unless told.
    """

    def __init__(self, shape: tuple[int, ...], condition: Condition | None, base: Base | None = None) -> None:
        super().__init__()
        self.shape, self.dim, self.condition = shape, math.prod(shape), condition
        self.base = base or Normals()

    @abstractmethod
    def initialise(self, x: Tensor, cond: Value | None) -> None:
        """Set the normalisations in place from items (B, *shape) and their conditions."""

    @abstractmethod
    def decode(self, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return the items (B, *shape) of codes (B, D)."""

    def features(self, cond: Value | None, like: Tensor) -> Tensor | None:
        """Return the features (B, F) of conditions."""
        return None if self.condition is None else self.condition(cond, len(like), like.dtype)

    def log_density(self, x: Tensor, cond: Value | None = None) -> Tensor:
        """Return log p(x | cond), (B,) nats."""
        z, log_det = self.forward_and_log_det(x, cond)
        return self.base.log_prob(z) + log_det

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(items(x, self.shape), cond), Bound.EXACT, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.forward_and_log_det(tensor(x), cond)[0]

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        return self.decode(self.base.draw(noise, self.dim).to(next(self.parameters())), cond)


class VectorFlow(Flow):
    """A flow of vectors: an entrance, then alternately a mixing of the values and a layer, to the base.

    The entrance standardises unless told. The features of a condition, if there is one, are passed to every
    layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        condition: Condition | None,
        mixers: Sequence[Order | LUMatrix],
        layers: Sequence[FlowLayer],
        *,
        entrance: Entrance | None = None,
        base: Base | None = None,
    ) -> None:
        super().__init__(shape, condition, base)
        self.norm = entrance or ActNorm(self.dim)
        self.mixers, self.layers = nn.ModuleList(mixers), nn.ModuleList(layers)

    def _steps(self) -> list[tuple[Order | LUMatrix, FlowLayer]]:
        return cast(list, list(zip(self.mixers, self.layers, strict=True)))

    def _context(self, cond: Value | None, like: Tensor) -> Tensor | None:
        """Return the features of conditions as columns (F, B)."""
        features = self.features(cond, like)
        return None if features is None else features.t()

    def initialise(self, x: Tensor, cond: Value | None) -> None:  # noqa: ARG002
        self.norm.initialise(x)

    def walk(self, x: Tensor, cond: Value | None, call: Call) -> tuple[Tensor, Tensor]:
        """Map items (B, *shape) to codes (B, D) by ``call`` of each layer, and sum their log-determinants."""
        context = self._context(cond, x)
        h, log_det = self.norm(x.flatten(1))
        h = h.t().contiguous()
        for mix, layer in self._steps():
            h, volume = mix(h)
            h, more = call(layer, h, context)
            log_det = log_det + volume + more
        return h.t(), log_det

    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Map items (B, *shape) to codes (B, D) and return log |det dz/dx| (B,), in nats."""
        return self.walk(x, cond, FlowLayer.__call__)

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return the items (B, *shape) of codes (B, D). Not differentiable."""
        context = self._context(cond, z)
        h = z.t().contiguous()
        for mix, layer in reversed(self._steps()):
            h = mix.inverse(layer.inverse(h, context))
        return self.norm.inverse(h.t()).unflatten(1, self.shape)


Score = Callable[[Tensor, Value | None, Noise], Tensor]
"""Maps items, conditions and noise to log-likelihoods (B,), or to unbiased estimates of them."""


def maximum_likelihood(
    model: Flow, label_dropout: float, optimiser: Optimiser, score: Score | None = None
) -> Objective:
    """Return maximum likelihood, the normalisations set from the first batch.

    Args:
        label_dropout: share of labels replaced by "no label", for unconditional use.
        score: stands in for the exact log-density in training.
    """
    condition = model.condition

    def standardise(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        if condition is not None and "cond" in batch:
            condition.initialise(tensor(batch["cond"]))
        model.initialise(tensor(batch["x"]), batch.get("cond"))

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        x, cond = tensor(batch["x"]), batch.get("cond")
        if cond is not None and condition is not None:
            cond = condition.hide(tensor(cond), label_dropout, noise)
        log_prob = score(x, cond, noise) if score else model.log_density(x, cond)
        return Loss({"nll_per_value": -log_prob.mean() / x[0].numel()})

    phases = [
        Phase("standardise", update=standardise, every=ONCE),
        Phase("likelihood", ("flow",), loss),
    ]
    return Objective({"flow": Group(model, optimiser)}, phases, Average())
