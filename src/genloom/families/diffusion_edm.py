"""Diffusion as Karras et al. 2022, arXiv:2206.00364, set it up: exploding noise, scaled networks, Heun."""

from typing import Self

from pydantic import Field

from genloom.core import card
from genloom.core.card import graded_image, real
from genloom.core.events import Bounded, Event, flat_leaf
from genloom.core.likelihood import Bound
from genloom.math.paths import PathName
from genloom.math.solvers import SamplerName
from genloom.nn.denoising import GridName
from genloom.nn.diffusing import Ratios, Settings


class Config(Settings):
    """Settings of a diffusion model of Karras et al.; v along this path is their preconditioning."""

    path: PathName = Field("ve", description="from data to noise")
    data_std: float = Field(
        0.5, gt=0, description="deviation of data, which scales what the network sees and says"
    )
    ratios: Ratios | None = Field(
        (-1.2, 1.2),
        description="mean and deviation of the logarithm of noise to data in training; even in time if none",
    )
    sampler: card.Free[SamplerName] = Field(
        "heun", description="ddpm and ddim are of order 1, heun and dpm_solver_2m 2, adams and unipc more"
    )
    sampling_steps: card.Free[int] = Field(
        35, ge=1, le=100_000, description="network calls for one sample (NFE)"
    )
    grid: card.Free[GridName] = Field(
        "karras", description="where the calls are: even in time, or in powers of noise to data"
    )

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Fold large images; take smaller, faster steps on small ones; suit the noise to the data."""
        leaf = flat_leaf(event)
        if not isinstance(leaf.kind, Bounded):
            return cls(data_std=1.0, ratios=(-0.8, 1.4), variance="forward", batch_size=256)
        if max(leaf.extents[-2:]) <= 16:
            return cls(widths=(32, 64), bound_terms=16, lr=4e-3, batch_size=64)
        return cls(patch=2)


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
    conditions="class",
    autocast=True,
)
