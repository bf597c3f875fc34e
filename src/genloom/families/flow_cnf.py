"""Continuous normalizing flow. Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2019, arXiv:1810.01367.

B batch, D values of an item, H hidden units. Inside the flow values are columns (D, B).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference, real
from genloom.core.errors import DataError
from genloom.core.events import Event, Value, describe, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.math.ode import dopri5
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import FlowLayer, Order, VectorFlow, log_normal, maximum_likelihood
from genloom.nn.masked import affine


class Config(card.Config):
    """Settings of a continuous normalizing flow."""

    layers: int = Field(1, gt=0, description="equations in sequence, each with a network of its own")
    hidden: int = Field(128, gt=0, description="units of both hidden layers of each network")
    tolerance: float = Field(
        1e-5, ge=1e-7, lt=0.1, description="of a step of the solver in float32; in float64 its square"
    )
    trace: Literal["exact", "hutchinson"] = Field(
        "exact", description="in training; an estimate is no faster here; scores are always exact"
    )
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(3e-3, gt=0, description="peak rate of Adam, cosine to zero")
    clip: float = Field(10.0, gt=0, description="steep fields have large gradients")
    batch_size: int = Field(
        256, gt=0, description="large: the solver's steps cost much the same for few items"
    )

    @classmethod
    def preset(cls, event: Event) -> Self:
        return cls(hidden=256, lr=1e-3) if flat_leaf(event).dim > 16 else cls()

    def build(self, event: Event, cond: Event | None) -> VectorFlow:
        if not real(event):
            raise DataError(f"flow.cnf needs real numbers of fixed shape, not {describe(event)}")
        shape, condition = flat_leaf(event).extents, condition_for(cond)
        dim = math.prod(shape)
        orders = [Order(torch.arange(dim)) for _ in range(self.layers)]
        layers = [Continuous(dim, condition, self.hidden, self.tolerance) for _ in orders]
        return VectorFlow(shape, condition, orders, layers)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.05, clip=self.clip)
        score = None if self.trace == "exact" else partial(estimated_log_density, model)
        objective = maximum_likelihood(model, self.label_dropout, optimiser, score)
        return [Stage("fit", objective, self.batch_size)]


Trace = Callable[[Tensor, Tensor], Tensor]
"""Maps the slopes of both hidden layers, (H, B) each, to the trace of the field's Jacobian (B,)."""


class Gate(nn.Module):
    """A shift and a factor of hidden units, set by time and condition; no shift and a factor of one at first.

    Source: Grathwohl et al., appendix B.1, where it is called concatsquash.
    """

    def __init__(self, condition: Condition | None, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1 + (condition.features if condition else 0), 2 * hidden)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shift and the factor (H, B) for time and features (1 + F, B)."""
        shift, gate = affine(self.linear, given).chunk(2)
        return shift, 2 * gate.sigmoid()


class Continuous(FlowLayer):
    """Values move for one unit of time along a field v, log-volumes with its trace (Chen et al., theorem 1).

    The field has two hidden layers, v = W3 g2 tanh(W2 g1 tanh(W1 x + s1) + s2) + b3. So the trace of its
    Jacobian, sum_ij d2_i W2_ij d1_j (W1 W3)_ji with d the slopes of the hidden units, is exact at the price
    of one matrix product, which is also that of an estimate.
    """

    def __init__(self, dim: int, condition: Condition | None, hidden: int, tolerance: float) -> None:
        super().__init__()
        self.tolerance = tolerance
        self.first, self.second = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.last = nn.Linear(hidden, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.gates = nn.ModuleList(Gate(condition, hidden) for _ in range(2))

    def velocity_and_slopes(
        self, t: Tensor, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return v (D, B) at times (B,), and what the hidden units' outputs change by with their inputs."""
        given = t[None] if context is None else torch.cat((t[None], context))
        (s1, g1), (s2, g2) = (gate(given) for gate in self.gates)
        a1 = torch.tanh(self.first.weight @ x + s1)
        a2 = torch.tanh(self.second.weight @ (g1 * a1) + s2)
        return affine(self.last, g2 * a2), g1 * (1 - a1.square()), g2 * (1 - a2.square())

    def _tolerance(self, x: Tensor) -> float:
        return self.tolerance if x.dtype == torch.float32 else self.tolerance**2

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the values (D, B) at the end, and the log-determinant (B,)."""
        cycles = self.second.weight * (self.first.weight @ self.last.weight).t()
        return self._moved(x, context, lambda d1, d2: (d2 * (cycles @ d1)).sum(0))

    def estimate(self, x: Tensor, context: Tensor | None, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same with an estimate of the log-determinant from signs s (D, B): trace J = E[s J s].

        Source: Grathwohl et al., section 3.1, where signs are held for the whole solution too.
        """
        into, out = self.first.weight @ signs, self.last.weight.t() @ signs
        return self._moved(x, context, lambda d1, d2: (out * d2 * (self.second.weight @ (d1 * into))).sum(0))

    def _moved(self, x: Tensor, context: Tensor | None, trace: Trace) -> tuple[Tensor, Tensor]:
        def field(t: Tensor, state: Tensor) -> Tensor:
            v, d1, d2 = self.velocity_and_slopes(t, state[:-1], context)
            return torch.cat((v, trace(d1, d2)[None]))

        state = torch.cat((x, torch.zeros_like(x[:1])))
        end = dopri5(field, state, 0.0, 1.0, self._tolerance(x))
        return end[:-1], end[-1]

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``, to the solver's tolerance."""
        return dopri5(
            lambda t, x: self.velocity_and_slopes(t, x, context)[0], y, 1.0, 0.0, self._tolerance(y)
        )


def estimated_log_density(model: VectorFlow, x: Tensor, cond: Value | None, noise: Noise) -> Tensor:
    """Return an unbiased estimate of log p(x | cond), (B,) nats, by one draw of random signs a layer."""

    def call(layer: FlowLayer, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        assert isinstance(layer, Continuous)
        return layer.estimate(h, context, 2 * noise.integers(2, len(h)).t().to(h) - 1)

    z, log_det = model.walk(x, cond, call)
    return log_normal(z) + log_det


CARD = Card(
    name="flow.cnf",
    title="Continuous normalizing flow",
    summary="Moves data to normals along a learned field, by solving a differential equation.",
    events=(real,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference("Chen et al.", 2018, "Neural ordinary differential equations", "arXiv:1806.07366"),
        Reference(
            "Grathwohl et al.",
            2019,
            "FFJORD: Free-form continuous dynamics for scalable reversible generative models",
            "arXiv:1810.01367",
        ),
    ),
    good_at=("Smooth densities of few values, with few weights.", "Equally fast in both directions."),
    bad_at=("Training solves an equation a step.", "Exact to its solver's tolerance only."),
)
