"""Consistency models: one network call leads from any noise to data. Song et al. 2023, arXiv:2303.01469.

A diffusion model is tuned until its estimates at two neighbouring places on the way to the data agree, by
the curriculum of Geng et al. 2024, arXiv:2406.14548.  B batch, S event shape.
"""

from collections.abc import Collection, Mapping
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Infill, Redrawer, Restorer, Sampler
from genloom.core.card import graded_image, real
from genloom.core.events import Batch, Event, Value
from genloom.core.measurements import Measurement
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.math.mixtures import beside
from genloom.math.paths import PATHS
from genloom.nn.denoising import Diffusion, Scoring
from genloom.nn.diffusing import Basics, Steps
from genloom.nn.filling import counted
from genloom.nn.starts import start_from
from genloom.nn.walks import GREATEST, LEAST, Drawing

SMOOTH = 0.00054
"""Of pseudo-Huber distances, times the square root of the values of an item. Song & Dhariwal 2024,
arXiv:2310.14189, section 3.3."""


class Config(Basics):
    """Settings of a consistency model."""

    tuning_share: float = Field(
        0.4, gt=0, lt=1, description="of the budget, after diffusion, where there is no start"
    )
    tuning_lr: float = Field(4e-4, gt=0, description="peak rate of Adam in tuning")
    tuning_ratios: tuple[float, float] = Field(
        (-0.4, 2.0), description="mean and deviation of the logarithm of noise to data of deviation 1"
    )
    halvings: float = Field(
        7.0, ge=1, le=20, description="how often the gap between neighbours is halved in tuning"
    )
    sampling_steps: Steps = 2

    @classmethod
    def idle(cls, found: Mapping[str, Any]) -> Collection[str]:
        return (*super().idle(found), "tuning_share", "ratios", "weighting", "coupling")

    @classmethod
    def preset(cls, event: Event) -> Self:
        return cls.suited(event, {})

    def build(self, event: Event, cond: Event | None) -> "Model":
        drawing = Drawing(
            sampler="consistency",
            calls=self.sampling_steps,
            grid=self.grid,
            clip=self.clip,
            bf16=self.precision == "bf16",
            fills=self.fills,
        )
        return Model(self.diffusion(event, cond, drawing, Scoring()))

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        before = []
        if self.start is None:
            before = [self.denoising(model.diffusion, 1 - self.tuning_share)]
        else:
            start_from(model.diffusion, self.fitted(self.start_weights(), model.diffusion))

        def disagreement(batch: Batch, noise: Noise, clock: Clock) -> Loss:
            x0, told = self.seen(model.diffusion, batch, noise)
            mean, deviation = self.tuning_ratios
            ratio = (mean + deviation * noise.normal().double()).exp().clamp(LEAST, GREATEST)
            gap = gap_to_neighbours(ratio, self.halvings * clock.progress)
            return Loss({"consistency": model.disagreement(x0, told, ratio, gap, noise).mean()})

        optimiser = Optimiser(self.tuning_lr, schedule="cosine", warmup=0.05, clip=1.0)
        tuned = Objective(
            {"tuned": Group(model.diffusion, optimiser)},
            [Phase("agree", ("tuned",), disagreement)],
            Average(),
        )
        share = 1.0 if self.start else self.tuning_share
        return [*before, Stage("consistency", tuned, self.batch_size, share)]


class Model(nn.Module, Sampler, Infill, Restorer, Redrawer):
    """A diffusion model whose estimates are where noisy data lead, and what is drawn by them."""

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def disagreement(self, x0: Tensor, told: Value, ratio: Tensor, gap: Tensor, noise: Noise) -> Tensor:
        """Return by how much two places on the way to the data lead apart, over the gap between them.

        Where the gap reaches the data, these are where the nearer place leads.

        Args:
            ratio: of noise to data of deviation 1 at the farther place, (B,).
            gap: to that at the nearer one, (B,), at most as large.

        Returns:
            Pseudo-Huber distances, (B,).

        Source: the loss of Geng et al. 2024, arXiv:2406.14548, section 3.
        """
        model, course = self.diffusion, self.diffusion.course
        path, eps = PATHS[course.path], noise.normal(*model.leaf.extents).to(x0)

        def led(ratio: Tensor) -> Tensor:
            time = path.time(ratio * course.std).clamp(0, path.end)
            x = course.seen(time).to(x0).of(x0, eps)
            return model.separated(x, time, model.output(x, time, told))[0]

        nearer = ratio - gap
        with torch.no_grad():
            data = beside(nearer, x0) < beside(torch.full_like(nearer, LEAST), x0)
            target = torch.where(data, x0, led(nearer.clamp_min(LEAST)))
        smooth = SMOOTH * model.leaf.dim**0.5
        apart = (led(ratio) - target) * counted(x0, told)
        distance = (apart.square().flatten(1).sum(1) + smooth**2).sqrt() - smooth
        return distance / (gap * model.leaf.dim**0.5).to(x0)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        return self.diffusion.sample(noise, cond)

    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Value:
        return self.diffusion.infill(x, known, noise, cond)

    def restore(
        self, measurement: Measurement, known: Tensor, noise: Noise, cond: Value | None = None
    ) -> Value:
        return self.diffusion.restore(measurement, known, noise, cond)

    def redraw(self, x: Tensor, strength: float, noise: Noise, cond: Value | None = None) -> Value:
        return self.diffusion.redraw(x, strength, noise, cond)


def gap_to_neighbours(ratio: Tensor, halvings: float) -> Tensor:
    """Return the gaps to the nearer places, (B,), for ratios of noise to data of deviation 1.

    At first they reach the data where noise is little; then their share halves again and again.

    Source: the mapping of Geng et al. 2024, section 3, with q = 2, k = 8 and b = 1, for whom data have
    a deviation of 1/2.
    """
    share = 2.0 ** -(1 + halvings) * (1 + 8 * torch.sigmoid(-ratio / 2))
    return ratio * share.clamp_max(1)


CARD = card.Card(
    name="diffusion.consistency",
    title="Consistency model",
    summary="A diffusion model tuned until one call of its network leads from noise to data.",
    events=(graded_image, real),
    references=(
        card.Reference("Song et al.", 2023, "Consistency models", "arXiv:2303.01469"),
        card.Reference("Geng et al.", 2024, "Consistency models made easy", "arXiv:2406.14548"),
        card.Reference(
            "Song & Dhariwal", 2024, "Improved techniques for training consistency models", "arXiv:2310.14189"
        ),
    ),
    good_at=(
        "Drawing in one to four network calls, in real time.",
        "Tuning a diffusion model that is there.",
    ),
    bad_at=(
        "No likelihood.",
        "Samples are a little worse than those of its diffusion model with many calls.",
    ),
    conditions="text",
    autocast=True,
)
