"""Flow matching on straight paths. Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.

Times are drawn as Esser et al. 2024, arXiv:2403.03206, section 3.1, draw them.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from genloom.core import card
from genloom.core.card import graded_image, real
from genloom.core.events import Batch, Event
from genloom.core.likelihood import Bound
from genloom.core.randomness import Noise
from genloom.nn.denoising import Diffusion
from genloom.nn.diffusing import PathSetting, Prediction, Ratios, Sampler, Settings


class Config(Settings):
    """Settings of flow matching."""

    path: PathSetting = "straight"
    prediction: Prediction = "velocity"
    ratios: Ratios = (0.0, 1.0)
    sampler: Sampler = "heun"
    reflow: int = Field(
        0,
        ge=0,
        le=1000,
        description="calls by which a start leads noise to data, to learn straight ways from",
    )

    @classmethod
    def preset(cls, event: Event) -> Self:
        return cls.suited(event, {"ratios": None, "variance": "forward", "likelihood": "ode"})

    @model_validator(mode="after")
    def _reflow_needs_a_start(self) -> Self:
        if self.reflow and self.start is None:
            raise ValueError("reflow is for a model that has a start: name a run of diffusion.flow_matching")
        if self.reflow and self.fills:
            raise ValueError("reflow is of whole items: leave fills out, and start from a model without")
        if self.reflow and (self.coupling != "independent" or self.dequantise):
            raise ValueError("reflow pairs noise and data by itself: leave coupling and dequantise out")
        return self

    def error(self, model: Diffusion) -> Callable[[Batch, Noise], Tensor]:
        """Return what is learnt from: data, or where the start leads noise (Liu et al. 2023, section 2.2)."""
        if not self.reflow:
            return super().error(model)
        teacher = copy.deepcopy(model).eval().requires_grad_(False)
        teacher.drawing = replace(model.drawing, sampler="heun", calls=self.reflow, guidance_scale=1.0)

        def apart(batch: Batch, noise: Noise) -> Tensor:
            x0, told = self.seen(model, batch, noise)
            eps = noise.normal(*model.leaf.extents).to(x0)
            time = model.course.draw(noise)
            return model.error_between(teacher.arrival(eps, noise, told), eps, time, told)

        return apart


CARD = card.Card(
    name="diffusion.flow_matching",
    title="Flow matching",
    summary="Learns the velocity of straight ways from noise to data; draws by following it.",
    events=(graded_image, real),
    references=(
        card.Reference("Lipman et al.", 2023, "Flow matching for generative modeling", "arXiv:2210.02747"),
        card.Reference("Liu et al.", 2022, "Flow straight and fast", "arXiv:2209.03003"),
        card.Reference("Esser et al.", 2024, "Scaling rectified flow transformers", "arXiv:2403.03206"),
    ),
    good_at=(
        "Draws in few calls, as ways are nearly straight.",
        "Densities of vectors by the equation of flow.",
    ),
    bad_at=("Follows an equation for each sample and each density.",),
    likelihood=Bound.LOWER,
    conditions="text",
    autocast=True,
)
