"""NICE: additive couplings, then a learned scale for each value. Dinh et al. 2015, arXiv:1410.8516.

B batch, D values of an item, H hidden units. Inside the flow values are columns (D, B).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference, class_count, real
from genloom.core.errors import DataError
from genloom.core.events import Event, describe, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.flows import FlowLayer, Order, VectorFlow, columns, label_table, maximum_likelihood
from genloom.nn.masked import affine


class Config(card.Config):
    """Settings of NICE."""

    layers: int = Field(4, gt=0, description="additive couplings; the paper uses 4")
    hidden: tuple[int, ...] = Field((512, 512, 512), min_length=1, description="hidden widths of a coupling")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, cosine to zero")
    clip: float = Field(10.0, gt=0, description="an outlier has a large gradient")
    batch_size: int = Field(128, gt=0, description="small enough to adapt, large enough to fill vector units")

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Widen for images, as the paper does: 1,000 units for 784 pixels."""
        return cls(hidden=(1000, 1000, 1000)) if flat_leaf(event).dim > 256 else cls()

    def build(self, event: Event, cond: Event | None) -> VectorFlow:
        if not real(event):
            raise DataError(f"flow.nice needs real numbers of fixed shape, not {describe(event)}")
        shape, classes = flat_leaf(event).extents, class_count(cond)
        dim = math.prod(shape)
        couplings = [Additive(dim, classes, self.hidden) for _ in range(self.layers if dim > 1 else 0)]
        return VectorFlow(shape, classes, orders(dim, len(couplings) + 1), [*couplings, Scale(dim)])

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=self.clip)
        objective = maximum_likelihood(
            model, model.norm, model.log_density, model.classes, self.label_dropout, optimiser
        )
        return [Stage("fit", objective, self.batch_size)]


def orders(dim: int, count: int) -> list[Order]:
    """Put odd places before even ones, as in the paper, then turn by half, so that all take turns."""
    first = torch.cat([torch.arange(1, dim, 2), torch.arange(0, dim, 2)])
    return [Order(first), *(Order(torch.arange(dim).roll(dim // 2)) for _ in range(count - 1))]


class Additive(FlowLayer):
    """The second part of the values is shifted by a function of the first (section 3.2): volume stays."""

    def __init__(self, dim: int, classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.kept = dim // 2
        layers = [nn.Linear(a, b) for a, b in pairwise([self.kept, *hidden, dim - self.kept])]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.ModuleList(layers)
        self.label = label_table(classes, hidden[0])

    def _shift(self, kept: Tensor, label: Tensor) -> Tensor:
        context = columns(self.label, label)
        first, *others = cast(list[nn.Linear], list(self.layers))
        h = affine(first, kept) if context is None else affine(first, kept) + context
        for layer in others:
            h = affine(layer, h.relu())
        return h.to(kept.dtype)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = x.split((self.kept, len(x) - self.kept))
        return torch.cat((kept, moved + self._shift(kept, label))), x.new_zeros(x.shape[1])

    def inverse(self, y: Tensor, label: Tensor) -> Tensor:
        kept, moved = y.split((self.kept, len(y) - self.kept))
        return torch.cat((kept, moved - self._shift(kept, label)))


class Scale(FlowLayer):
    """Each value times a learned factor (section 3.3): the only layer that changes volume."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return x * self.log_scale.exp()[:, None], self.log_scale.sum().expand(x.shape[1])

    def inverse(self, y: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002
        return y * (-self.log_scale).exp()[:, None]


CARD = Card(
    name="flow.nice",
    title="NICE",
    summary="Shifts half of the values by functions of the other half, so that sampling is one pass.",
    events=(real,),
    conditions="class",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Dinh et al.", 2015, "NICE: Non-linear independent components estimation", "arXiv:1410.8516"
        ),
    ),
    good_at=("Simple, stable, and as fast to draw from as to score.",),
    bad_at=("Cannot change volume from place to place, so it needs many layers.",),
    autocast=True,
)
