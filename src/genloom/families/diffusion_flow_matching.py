"""Flow matching on straight paths. Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.

Times are drawn as Esser et al. 2024, arXiv:2403.03206, section 3.1, draw them.
"""

from typing import Self

from genloom.core import card
from genloom.core.card import graded_image, real
from genloom.core.events import Event
from genloom.core.likelihood import Bound
from genloom.nn.diffusing import PathSetting, Prediction, Ratios, Sampler, Settings


class Config(Settings):
    """Settings of flow matching."""

    path: PathSetting = "straight"
    prediction: Prediction = "velocity"
    ratios: Ratios = (0.0, 1.0)
    sampler: Sampler = "heun"

    @classmethod
    def preset(cls, event: Event) -> Self:
        return cls.suited(event, {"ratios": None, "variance": "forward", "likelihood": "ode"})


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
