"""Flow of angles by circular splines. Rezende et al. 2020, arXiv:2002.02428.

B batch, D angles of an item, K bins of a spline. Inside the flow angles are columns (D, B), in radians.
"""

import math
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Invertible, Likelihood, Sampler
from genloom.core.card import Card, Reference
from genloom.core.errors import DataError
from genloom.core.events import Circular, Event, Value, describe, flat_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Optimiser, Stage
from genloom.core.randomness import Noise
from genloom.math.splines import circular, circular_inverse
from genloom.nn.conditions import Condition, condition_for
from genloom.nn.flows import Dense, FlowLayer, exactly, maximum_likelihood

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

    def build(self, event: Event, cond: Event | None) -> "Model":
        if not angles(event):
            raise DataError(f"flow.circular needs angles of fixed shape, not {describe(event)}")
        condition, dim = condition_for(cond), flat_leaf(event).dim
        layers = [Coupling(dim, bool(i % 2), condition, self.hidden, self.bins) for i in range(self.layers)]
        return Model(flat_leaf(event).extents, condition, layers)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.05, clip=self.clip)
        score = exactly(model.log_density)
        objective = maximum_likelihood(
            model, _as_it_is, score, model.condition, self.label_dropout, optimiser
        )
        return [Stage("fit", objective, self.batch_size)]


def _as_it_is(x: Tensor, cond: Value | None) -> None:
    """Leave angles alone: they have a scale already."""


class Coupling(FlowLayer):
    """Half of the angles turn by a constant, then pass circular splines set by cosine and sine of the others.

    Source: Rezende et al., on circular splines; the turn is their phase translation. A single angle passes a
        spline of its own.
    """

    def __init__(
        self, dim: int, last: bool, condition: Condition | None, hidden: tuple[int, ...], bins: int
    ) -> None:
        super().__init__()
        self.kept, self.last = dim // 2, last
        moved = dim - self.kept
        self.network = Dense(1 + 2 * self.kept, hidden, 3 * bins * moved, condition)
        self.turn = nn.Parameter(torch.zeros(moved, 1))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the angles that stay and those that move."""
        if self.last:
            return x[: self.kept], x[self.kept :]
        moved, kept = x.split((len(x) - self.kept, self.kept))
        return kept, moved

    def _joined(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((kept, moved) if self.last else (moved, kept))

    def _raw(self, kept: Tensor, context: Tensor | None) -> Tensor:
        """Return the parameters (3 K, moved, B) of the splines."""
        seen = torch.cat((kept.new_ones(1, kept.shape[1]), kept.cos(), kept.sin()))
        return self.network(seen, context).unflatten(0, (-1, len(self.turn)))

    def forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the angles (D, B) in [0, 2 pi) and the log-determinant (B,)."""
        kept, moved = self._halves(x)
        moved, log_slope = circular(wrapped(moved + self.turn), self._raw(kept, context))
        return self._joined(kept, moved), log_slope.sum(0)

    def inverse(self, y: Tensor, context: Tensor | None) -> Tensor:
        """Undo ``forward``."""
        kept, moved = self._halves(y)
        turned = circular_inverse(moved, self._raw(kept, context))
        return self._joined(kept, wrapped(turned - self.turn))


def wrapped(x: Tensor) -> Tensor:
    """Return angles in [0, 2 pi); 2 pi itself, which rounding can give, becomes 0."""
    x = x.remainder(TURN)
    return x.masked_fill(x >= TURN, 0.0)


class Model(nn.Module, Sampler, Likelihood, Invertible):
    """Couplings from angles to uniform angles."""

    def __init__(self, shape: tuple[int, ...], condition: Condition | None, layers: list[Coupling]) -> None:
        super().__init__()
        self.shape, self.dim, self.condition = shape, math.prod(shape), condition
        self.layers = nn.ModuleList(layers)

    def _walk(self) -> list[Coupling]:
        return cast(list[Coupling], list(self.layers))

    def _context(self, cond: Value | None, like: Tensor) -> Tensor | None:
        """Return the features (F, B) of conditions."""
        return None if self.condition is None else self.condition(cond, len(like), like.dtype).t()

    def forward_and_log_det(self, x: Tensor, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        """Map angles (B, *shape) to uniform angles (B, D) and return log |det dz/dx| (B,), in nats."""
        context, h = self._context(cond, x), x.flatten(1).t().contiguous()
        log_det = x.new_zeros(len(x))
        for layer in self._walk():
            h, more = layer(h, context)
            log_det = log_det + more
        return h.t(), log_det

    def log_density(self, x: Tensor, cond: Value | None = None) -> Tensor:
        """Return log p(x | cond), (B,) nats."""
        return self.forward_and_log_det(x, cond)[1] - self.dim * math.log(TURN)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.log_density(items(x, self.shape), cond), Bound.EXACT, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.forward_and_log_det(tensor(x), cond)[0]

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return the angles (B, *shape) of uniform ones (B, D), whole turns of which change nothing."""
        context, h = self._context(cond, z), wrapped(z).t().contiguous()
        for layer in reversed(self._walk()):
            h = layer.inverse(h, context)
        return h.t().unflatten(1, self.shape)

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:
        like = self._walk()[0].turn
        return self.decode(TURN * noise.uniform(self.dim).to(like), cond)


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
