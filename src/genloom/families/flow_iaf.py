"""Inverse autoregressive flow: drawn from in one pass. Kingma et al. 2016, arXiv:1606.04934.

B batch, D values of an item, H hidden units. Inside the flow values are columns (D, B).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
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
from genloom.nn.conditions import Condition, condition_for, context_columns, context_map
from genloom.nn.flows import FlowLayer, Mixing, VectorFlow, limited, make_mixer, maximum_likelihood
from genloom.nn.masked import Made, Prefix, blind_weights

MOST_VALUES = 256
"""Training scores items value by value: beyond this a step takes seconds."""


class Config(card.Config):
    """Settings of an inverse autoregressive flow."""

    layers: int = Field(5, gt=0, description="as many as a masked autoregressive flow has, for comparison")
    hidden: card.Widths = Field((128, 128), description="hidden widths of each network")
    mixing: Mixing = Field("reverse", description="between layers: reversed or random order, or LU matrices")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, cosine to zero")
    clip: float = Field(10.0, gt=0, description="an outlier has a large gradient")
    batch_size: int = Field(256, gt=0, description="large: a step has D parts, each with its overhead")

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Shorten where values are many, as each layer is undone value by value."""
        return cls(layers=2, hidden=(256,)) if flat_leaf(event).dim > 16 else cls()

    def build(self, event: Event, cond: Event | None) -> VectorFlow:
        if not real(event):
            raise DataError(f"flow.iaf needs real numbers of fixed shape, not {describe(event)}")
        shape, condition = flat_leaf(event).extents, condition_for(cond)
        dim = math.prod(shape)
        if dim > MOST_VALUES:
            raise DataError(
                f"flow.iaf scores value by value and takes at most {MOST_VALUES} of them, not {dim}: "
                "fit flow.maf, which scores in one pass"
            )
        mixers = [make_mixer(self.mixing, dim) for _ in range(self.layers)]
        return VectorFlow(shape, condition, mixers, [Affine(dim, condition, self.hidden) for _ in mixers])

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
        return [Stage("fit", replace(objective, exempt=blind_weights(model)), self.batch_size)]


class Affine(FlowLayer):
    """Codes become values by shifts and scales that are functions of the codes before (equation 10)."""

    def __init__(self, dim: int, condition: Condition | None, hidden: Sequence[int]) -> None:
        super().__init__()
        self.made = Made(dim, 2, hidden, context=condition is not None)
        self.context = context_map(condition, hidden[0])

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the codes (D, B), found one after another, and the log-determinant (B,)."""
        prefix = Prefix(self.made, x, context_columns(self.context, context))
        codes, log_det = [], x.new_zeros(x.shape[1])
        for value in x:
            shift, raw = prefix.outputs().to(x.dtype)
            log_scale = limited(raw)
            codes.append((value - shift) * (-log_scale).exp())
            log_det = log_det - log_scale
            prefix.read(codes[-1])
        return torch.stack(codes), log_det

    def inverse(self, z: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``, in one pass."""
        shift, raw = self.made(z, context_columns(self.context, context)).to(z.dtype)
        return shift + limited(raw).exp() * z


CARD = Card(
    name="flow.iaf",
    title="Inverse autoregressive flow",
    summary="Stacks affine autoregressive layers that turn normals into data, each in one pass.",
    events=(real,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Kingma et al.",
            2016,
            "Improving variational inference with inverse autoregressive flow",
            "arXiv:1606.04934",
        ),
    ),
    good_at=("Draws in one pass a layer, however many values an item has.",),
    bad_at=("Scores, and so trains, value by value: for few values only.",),
)
