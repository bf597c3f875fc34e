"""Neural spline flow, autoregressive or coupling. Durkan et al. 2019, arXiv:1906.04032.

Shapes: B batch, D values of an item, H hidden units, K bins, P = 3 K - 1 parameters of a spline. Inside the
flow values are columns (D, B), which keeps every bin and every hidden unit contiguous.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference, real
from genloom.core.errors import DataError
from genloom.core.events import Event, describe, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.math.splines import parameter_count, rational_quadratic, rational_quadratic_inverse
from genloom.nn.conditions import Condition, condition_for, context_columns, context_map
from genloom.nn.flows import (
    Dense,
    FlowLayer,
    Mixing,
    VectorFlow,
    make_mixer,
    maximum_likelihood,
)
from genloom.nn.masked import Made, Prefix, blind_weights

Form = Literal["coupling", "autoregressive"]


class Config(card.Config):
    """Settings of a neural spline flow."""

    transform: Form = Field("autoregressive", description="autoregressive fits best; coupling draws faster")
    layers: int = Field(5, gt=0, description="splines in sequence; the paper uses 5 to 10 for tables")
    hidden: card.Widths = Field((128, 128), description="hidden widths of each network")
    bins: int = Field(8, gt=1, le=500, description="8 suffices in the paper's ablation")
    bound: float = Field(4.0, gt=0, description="splines act within; data enters with unit variance")
    mixing: Mixing = Field("lu", description="between splines: reversed or random order, or LU matrices")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(2e-3, gt=0, description="peak rate of Adam, cosine to zero")
    warmup: float = Field(0.05, ge=0, lt=1, description="first steps are small while splines leave identity")
    clip: float = Field(1.0, gt=0, description="an outlier near a spline's end has a large gradient")
    batch_size: int = Field(256, gt=0, description="large enough to fill vector units, small enough to adapt")

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Couple where values are so many that drawing one by one would be slow; bend more where few."""
        dim = flat_leaf(event).dim
        return cls(transform="coupling") if dim > 256 else cls(bins=24) if dim <= 2 else cls()

    def build(self, event: Event, cond: Event | None) -> VectorFlow:
        if not real(event):
            raise DataError(f"flow.nsf needs real numbers of fixed shape, not {describe(event)}")
        shape, condition = flat_leaf(event).extents, condition_for(cond)
        dim = math.prod(shape)
        kind = Coupling if self.transform == "coupling" and dim > 1 else Autoregressive
        mixers = [make_mixer(self.mixing, dim) for _ in range(self.layers)]
        splines = [kind(dim, condition, self.hidden, self.bins, self.bound) for _ in mixers]
        return VectorFlow(shape, condition, mixers, splines)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=self.warmup, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
        return [Stage("fit", replace(objective, exempt=blind_weights(model)), self.batch_size)]


class Autoregressive(FlowLayer):
    """Each value passes a spline set by the values before it; both directions cost one network pass."""

    def __init__(
        self, dim: int, condition: Condition | None, hidden: Sequence[int], bins: int, bound: float
    ) -> None:
        super().__init__()
        self.bound = bound
        self.made = Made(dim, parameter_count(bins), hidden, context=condition is not None)
        self.context = context_map(condition, hidden[0])

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the values (D, B) after their splines, and the log-determinant (B,)."""
        raw = self.made(x, context_columns(self.context, context)).to(x.dtype)
        y, log_slope = rational_quadratic(x, raw, self.bound)
        return y, log_slope.sum(0)

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``, value by value."""
        x = torch.empty_like(y)
        prefix = Prefix(self.made, y, context_columns(self.context, context))
        for d in range(len(y)):
            x[d] = rational_quadratic_inverse(y[d], prefix.outputs().to(y.dtype), self.bound)
            prefix.read(x[d])
        return x


class Coupling(FlowLayer):
    """The second half of the values passes splines set by the first half, which stays."""

    def __init__(
        self, dim: int, condition: Condition | None, hidden: Sequence[int], bins: int, bound: float
    ) -> None:
        super().__init__()
        self.bound, self.kept, self.outputs = bound, dim // 2, parameter_count(bins)
        self.network = Dense(self.kept, hidden, self.outputs * (dim - self.kept), condition)

    def _raw(self, kept: Tensor, context: Tensor | None) -> Tensor:
        """Return the parameters (P, D - D // 2, B) of the splines."""
        return self.network(kept, context).unflatten(0, (self.outputs, -1))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the values (D, B) after the splines, and the log-determinant (B,)."""
        kept, moved = x.split((self.kept, len(x) - self.kept))
        moved, log_slope = rational_quadratic(moved, self._raw(kept, context), self.bound)
        return torch.cat((kept, moved)), log_slope.sum(0)

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        kept, moved = y.split((self.kept, len(y) - self.kept))
        return torch.cat((kept, rational_quadratic_inverse(moved, self._raw(kept, context), self.bound)))


CARD = Card(
    name="flow.nsf",
    title="Neural spline flow",
    summary="Bends data into normals by monotone splines that can be undone, with an exact likelihood.",
    events=(real,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference("Durkan et al.", 2019, "Neural spline flows", "arXiv:1906.04032"),
        Reference(
            "Germain et al.", 2015, "MADE: Masked autoencoder for distribution estimation", "arXiv:1502.03509"
        ),
    ),
    good_at=("Tables and other vectors of up to some hundred numbers.", "Exact densities, and codes."),
    bad_at=("Large images: it does not know that pixels have neighbours.", "Data on a thin surface."),
    autocast=True,
)
