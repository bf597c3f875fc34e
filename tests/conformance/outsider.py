"""A family that someone else might publish: a normal distribution for each class, as a flow."""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Infill, Invertible, Likelihood, Sampler
from genloom.core.errors import DataError
from genloom.core.events import Batch, Event, Value, describe, items, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise


class Config(card.Config):
    """Settings."""

    lr: float = Field(1e-2, gt=0)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        if not card.real(event):
            raise DataError(f"flow.outsider needs real numbers, not {describe(event)}")
        return Model(event.extents, card.class_count(cond))

    def stages(self, model: nn.Module) -> list[Stage]:
        def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            x, cond = tensor(batch["x"]), batch.get("cond")
            if cond is not None:
                cond = torch.where(noise.uniform() < 0.3, model.classes, tensor(cond))
            return Loss({"nll": -model.log_density(x, cond).mean()})

        objective = Objective(
            {"flow": Group(model, Optimiser(self.lr))}, [Phase("fit", ("flow",), loss)], Average()
        )
        return [Stage("fit", objective)]


class Model(nn.Module, Sampler, Likelihood, Invertible, Infill):
    """z = (x - shift) exp(-log_scale), with a row of shifts and scales for each class and for none."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shape, self.classes, self.dim = shape, classes, math.prod(shape)
        self.shift = nn.Parameter(torch.randn(classes + 1, self.dim))
        self.log_scale = nn.Parameter(torch.randn(classes + 1, self.dim) / 10)

    def _rows(self, cond: Value | None, count: int) -> tuple[Tensor, Tensor]:
        label = torch.full((count,), self.classes) if cond is None else tensor(cond)
        return self.shift[label], self.log_scale[label]

    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        x = items(x, self.shape).flatten(1)
        shift, log_scale = self._rows(cond, len(x))
        return (x - shift) * (-log_scale).exp(), -log_scale.sum(1)

    def log_density(self, x: Tensor, cond: Value | None) -> Tensor:
        z, log_det = self.forward_and_log_det(x, cond)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(tensor(x), cond), Bound.EXACT)

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.forward_and_log_det(tensor(x), cond)[0]

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        shift, log_scale = self._rows(cond, len(z))
        return (z * log_scale.exp() + shift).view(-1, *self.shape)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        return self.decode(noise.normal(self.dim).to(self.shift), cond)

    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Value:
        """Draw from p(unknown | known), as values are independent."""
        return torch.where(tensor(known), tensor(x), tensor(self.sample(noise, cond)))


CARD = card.Card(
    name="flow.outsider",
    title="Outsider",
    summary="A normal distribution for each class.",
    events=(card.real,),
    references=(card.Reference("Gauss", 1809, "Theoria motus", "Hamburg"),),
    good_at=("Normal data.",),
    bad_at=("Anything else.",),
    likelihood=Bound.EXACT,
    conditions="class",
)
