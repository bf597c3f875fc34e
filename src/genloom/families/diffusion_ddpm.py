"""Denoising diffusion. Ho et al. 2020, arXiv:2006.11239.

Along the cosine path with v-prediction, both of Salimans & Ho 2022, arXiv:2202.00512; classifier-free
guidance of Ho & Salimans 2022, arXiv:2207.12598.
"""

from typing import Self

from genloom.core import card
from genloom.core.card import graded_image, real
from genloom.core.events import Event
from genloom.core.likelihood import Bound
from genloom.nn.diffusing import Settings


class Config(Settings):
    """Settings of a diffusion model."""

    @classmethod
    def preset(cls, event: Event) -> Self:
        small = {"sampler": "ddim", "eta": 0.5}
        return cls.suited(event, {"variance": "forward", "sampler": "ddpm", "sampling_steps": 100}, small)


CARD = card.Card(
    name="diffusion.ddpm",
    title="Denoising diffusion model",
    summary="Learns to remove noise of every strength; draws by removing it from pure noise step by step.",
    events=(graded_image, real),
    references=(
        card.Reference("Ho et al.", 2020, "Denoising diffusion probabilistic models", "arXiv:2006.11239"),
        card.Reference("Nichol & Dhariwal", 2021, "Improved DDPM", "arXiv:2102.09672"),
        card.Reference("Song et al.", 2021, "Denoising diffusion implicit models", "arXiv:2010.02502"),
        card.Reference("Salimans & Ho", 2022, "Progressive distillation", "arXiv:2202.00512"),
        card.Reference("Ho & Salimans", 2022, "Classifier-free diffusion guidance", "arXiv:2207.12598"),
    ),
    good_at=("Samples close to the data and covering it.", "Trains steadily, with one squared error."),
    bad_at=(
        "Sampling takes tens of network calls.",
        "Its likelihood bound is noisy and looser than a flow's.",
    ),
    likelihood=Bound.LOWER,
    conditions="text",
    autocast=True,
)
