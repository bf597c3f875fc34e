"""Masked autoregressive flow. Papamakarios et al. 2017, arXiv:1705.07057.

B batch, D values of an item. Its layers are in ``nn/flows.py``.
"""

import math
from dataclasses import replace
from typing import Self

from pydantic import Field
from torch import nn

from genloom.core import card
from genloom.core.card import Card, Reference, real
from genloom.core.errors import DataError
from genloom.core.events import Event, describe, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.conditions import condition_for
from genloom.nn.flows import MaskedAffine, Mixing, VectorFlow, make_mixer, maximum_likelihood
from genloom.nn.masked import blind_weights


class Config(card.Config):
    """Settings of a masked autoregressive flow."""

    layers: int = Field(5, gt=0, description="the paper reports 5 and 10")
    hidden: card.Widths = Field((256, 256), description="hidden widths of each network")
    mixing: Mixing = Field("reverse", description="between layers: reversed or random order, or LU matrices")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, cosine to zero")
    clip: float = Field(10.0, gt=0, description="an outlier has a large gradient")
    batch_size: int = Field(128, gt=0, description="the paper's is 100")

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Widen for images, as the paper does: 1,024 units for 784 pixels."""
        return cls(hidden=(1024,)) if flat_leaf(event).dim > 256 else cls()

    def build(self, event: Event, cond: Event | None) -> VectorFlow:
        if not real(event):
            raise DataError(f"flow.maf needs real numbers of fixed shape, not {describe(event)}")
        shape, condition = flat_leaf(event).extents, condition_for(cond)
        dim = math.prod(shape)
        mixers = [make_mixer(self.mixing, dim) for _ in range(self.layers)]
        layers = [MaskedAffine(dim, condition, self.hidden) for _ in mixers]
        return VectorFlow(shape, condition, mixers, layers)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
        return [Stage("fit", replace(objective, exempt=blind_weights(model)), self.batch_size)]


CARD = Card(
    name="flow.maf",
    title="Masked autoregressive flow",
    summary="Stacks affine autoregressive layers that turn data into normals, with an exact likelihood.",
    events=(real,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Papamakarios et al.",
            2017,
            "Masked autoregressive flow for density estimation",
            "arXiv:1705.07057",
        ),
    ),
    good_at=("Densities of tables, fast to train.",),
    bad_at=("Separate clusters: an affine layer joins them by bridges.", "Draws value by value."),
    autocast=True,
)
