"""Diffusion as Karras et al. 2022, arXiv:2206.00364, set it up: exploding noise, scaled networks, Heun."""

from typing import Self

from genloom.core import card
from genloom.core.card import graded_image, real
from genloom.core.events import Event
from genloom.core.likelihood import Bound
from genloom.nn.diffusing import DataStd, PathSetting, Places, Ratios, Sampler, Settings, Steps


class Config(Settings):
    """Settings of a diffusion model of Karras et al.; v along this path is their preconditioning."""

    path: PathSetting = "ve"
    data_std: DataStd = 0.5
    ratios: Ratios = (-1.2, 1.2)
    sampler: Sampler = "heun"
    sampling_steps: Steps = 35
    grid: Places = "karras"

    @classmethod
    def preset(cls, event: Event) -> Self:
        return cls.suited(event, {"data_std": 1.0, "ratios": (-0.8, 1.4), "variance": "forward"})


CARD = card.Card(
    name="diffusion.edm",
    title="Diffusion model of Karras et al.",
    summary="Learns to remove noise, mostly of the strengths that matter; draws by a method of second order.",
    events=(graded_image, real),
    references=(
        card.Reference(
            "Karras et al.",
            2022,
            "Elucidating the design space of diffusion-based generative models",
            "arXiv:2206.00364",
        ),
        card.Reference(
            "Song et al.", 2021, "Score-based generative modeling through SDEs", "arXiv:2011.13456"
        ),
    ),
    good_at=("Good samples after few, well-placed network calls.",),
    bad_at=("Learns little where noise is very weak, so that its bound is loose.",),
    likelihood=Bound.LOWER,
    conditions="text",
    autocast=True,
)
