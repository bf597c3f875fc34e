"""NICE: additive couplings, then a learned scale for each value. Dinh et al. 2015, arXiv:1410.8516.

B batch, D values of an item, H hidden units. Inside the flow values are columns (D, B).
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference, real
from genloom.core.errors import DataError
from genloom.core.events import Event, describe, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import Dense, FlowLayer, Order, VectorFlow, maximum_likelihood


class Config(card.Config):
    """Settings of NICE."""

    layers: int = Field(4, gt=0, description="additive couplings; the paper uses 4")
    hidden: card.Widths = Field((512, 512, 512), description="hidden widths of a coupling")
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
        shape, condition = flat_leaf(event).extents, condition_for(cond)
        dim = math.prod(shape)
        couplings = [Additive(dim, condition, self.hidden) for _ in range(self.layers if dim > 1 else 0)]
        return VectorFlow(shape, condition, orders(dim, len(couplings) + 1), [*couplings, Scale(dim)])

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
        return [Stage("fit", objective, self.batch_size)]


def orders(dim: int, count: int) -> list[Order]:
    """Put odd places before even ones, as in the paper, then turn by half, so that all take turns."""
    first = torch.cat([torch.arange(1, dim, 2), torch.arange(0, dim, 2)])
    return [Order(first), *(Order(torch.arange(dim).roll(dim // 2)) for _ in range(count - 1))]


class Additive(FlowLayer):
    """The second part of the values is shifted by a function of the first (section 3.2): volume stays."""

    def __init__(self, dim: int, condition: Condition | None, hidden: Sequence[int]) -> None:
        super().__init__()
        self.kept = dim // 2
        self.network = Dense(self.kept, hidden, dim - self.kept, condition)

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        kept, moved = x.split((self.kept, len(x) - self.kept))
        return torch.cat((kept, moved + self.network(kept, context))), x.new_zeros(x.shape[1])

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        kept, moved = y.split((self.kept, len(y) - self.kept))
        return torch.cat((kept, moved - self.network(kept, context)))


class Scale(FlowLayer):
    """Each value times a learned factor (section 3.3): the only layer that changes volume."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return x * self.log_scale.exp()[:, None], self.log_scale.sum().expand(x.shape[1])

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:  # noqa: ARG002
        return y * (-self.log_scale).exp()[:, None]


CARD = Card(
    name="flow.nice",
    title="NICE",
    summary="Shifts half of the values by functions of the other half, so that sampling is one pass.",
    events=(real,),
    conditions="any",
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
