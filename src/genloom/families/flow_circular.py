"""Flow of angles by circular splines. Rezende et al. 2020, arXiv:2002.02428.

B batch, D angles of an item, K bins of a spline. Inside the flow angles are columns (D, B), in radians.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.errors import DataError
from genloom.core.events import Circular, Event, describe, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.math.splines import circular, circular_inverse
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import (
    Base,
    Dense,
    Entrance,
    FlowLayer,
    VectorFlow,
    make_mixer,
    maximum_likelihood,
)

TURN = 2 * math.pi

angles = card.leaf_of(Circular)


class Config(card.Config):
    """Settings of a flow of angles."""

    layers: int = Field(6, gt=0, description="each moves half of the angles given the other half, in turn")
    hidden: card.Widths = Field((128, 128), description="hidden widths of each network")
    bins: int = Field(16, gt=1, le=500, description="twice those of a line: a circle has no tails to help")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(2e-3, gt=0, description="peak rate of Adam, cosine to zero")
    clip: float = Field(1.0, gt=0, description="rare angles have large gradients")
    batch_size: int = Field(256, gt=0, description="large enough to fill vector units, small enough to adapt")

    def build(self, event: Event, cond: Event | None) -> VectorFlow:
        if not angles(event):
            raise DataError(f"flow.circular needs angles of fixed shape, not {describe(event)}")
        condition, dim = condition_for(cond), flat_leaf(event).dim
        mixers = [make_mixer("reverse", dim) for _ in range(self.layers)]
        layers = [Coupling(dim, condition, self.hidden, self.bins) for _ in mixers]
        parts = (flat_leaf(event).extents, condition, mixers, layers)
        return VectorFlow(*parts, entrance=AsTheyAre(), base=Turns())

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VectorFlow)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.05, clip=self.clip)
        objective = maximum_likelihood(model, self.label_dropout, optimiser)
        return [Stage("fit", objective, self.batch_size)]


class AsTheyAre(Entrance):
    """Leaves angles alone: they have a scale already."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(())

    def inverse(self, z: Tensor) -> Tensor:
        return z

    def initialise(self, x: Tensor) -> None:
        """Change nothing."""


class Turns(Base):
    """Uniform angles."""

    def log_prob(self, z: Tensor) -> Tensor:
        return z.new_full((len(z),), -z.shape[1] * math.log(TURN))

    def draw(self, noise: Noise, dim: int) -> Tensor:
        return TURN * noise.uniform(dim)


class Coupling(FlowLayer):
    """The latter angles turn by a constant, then pass circular splines set by cosine and sine of the others.

    Source: Rezende et al., on circular splines; the turn is their phase translation. A single angle passes a
        spline of its own. Whole turns of an angle change nothing, in either direction.
    """

    def __init__(self, dim: int, condition: Condition | None, hidden: tuple[int, ...], bins: int) -> None:
        super().__init__()
        self.kept, moved = dim // 2, dim - dim // 2
        self.network = Dense(1 + 2 * self.kept, hidden, 3 * bins * moved, condition)
        self.turn = nn.Parameter(torch.zeros(moved, 1))

    def _raw(self, kept: Tensor, context: Tensor | None) -> Tensor:
        """Return the parameters (3 K, moved, B) of the splines."""
        seen = torch.cat((kept.new_ones(1, kept.shape[1]), kept.cos(), kept.sin()))
        return self.network(seen, context).unflatten(0, (-1, len(self.turn)))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the angles (D, B) in [0, 2 pi) and the log-determinant (B,)."""
        kept, moved = wrapped(x).split((self.kept, len(self.turn)))
        moved, log_slope = circular(wrapped(moved + self.turn), self._raw(kept, context))
        return torch.cat((kept, wrapped(moved))), log_slope.sum(0)

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        kept, moved = wrapped(y).split((self.kept, len(self.turn)))
        turned = circular_inverse(moved, self._raw(kept, context))
        return torch.cat((kept, wrapped(turned - self.turn)))


def wrapped(x: Tensor) -> Tensor:
    """Return angles in [0, 2 pi); 2 pi itself, which rounding can give, becomes 0."""
    x = x.remainder(TURN)
    return x.masked_fill(x >= TURN, 0.0)


CARD = Card(
    name="flow.circular",
    title="Circular spline flow",
    summary="Turns angles into uniform ones by splines that close around the circle.",
    events=(angles,),
    conditions="any",
    likelihood=Bound.EXACT,
    references=(
        Reference("Rezende et al.", 2020, "Normalizing flows on tori and spheres", "arXiv:2002.02428"),
        Reference("Durkan et al.", 2019, "Neural spline flows", "arXiv:1906.04032"),
    ),
    good_at=("Angles: torsions, directions, times of day; no seam where the circle closes.",),
    bad_at=("Takes angles only.", "Walks between codes, angles too, take no short cut through a whole turn."),
    autocast=True,
)
