"""Flow matching on straight paths. Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003.

Times are drawn as Esser et al. 2024, arXiv:2403.03206, section 3.1, draw them.
"""

from typing import Self

from pydantic import Field

from genloom.core import card
from genloom.core.card import graded_image, real
from genloom.core.events import Bounded, Event, flat_leaf
from genloom.core.likelihood import Bound
from genloom.math.mixtures import PredictionName
from genloom.math.paths import PathName
from genloom.math.solvers import SamplerName
from genloom.nn.diffusing import Ratios, Settings


class Config(Settings):
    """Settings of flow matching."""

    path: PathName = Field("straight", description="from data to noise")
    prediction: PredictionName = Field("velocity", description="what the network says")
    ratios: Ratios | None = Field(
        (0.0, 1.0),
        description="mean and deviation of the logarithm of noise to data in training; even in time if none",
    )
    sampler: card.Free[SamplerName] = Field(
        "heun", description="ddpm and ddim are of order 1, heun and dpm_solver_2m 2, adams and unipc more"
    )

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Fold large images; take smaller, faster steps on small ones; suit the noise to the data."""
        leaf = flat_leaf(event)
        if not isinstance(leaf.kind, Bounded):
            return cls(ratios=None, variance="forward", likelihood="ode", batch_size=256)
        if max(leaf.extents[-2:]) <= 16:
            return cls(widths=(32, 64), bound_terms=16, lr=4e-3, batch_size=64)
        return cls(patch=2)


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
    conditions="class",
    autocast=True,
)
