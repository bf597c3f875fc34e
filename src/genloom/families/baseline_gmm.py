"""Gaussian mixture by EM, its size and covariances chosen on validation rows.

Dempster, Laird & Rubin 1977, JRSS B 39(1); low-rank covariances: Ghahramani & Hinton 1996, CRG-TR-96-1.
B batch, D scalars in an item, K components, R factors.
"""

import math
from collections.abc import Iterator
from itertools import product

from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Likelihood, Sampler
from genloom.core.card import Card, Reference
from genloom.core.errors import DataError
from genloom.core.events import Bounded, Event, Leaf, Value, flat_leaf, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Stage
from genloom.core.randomness import Noise
from genloom.math.gmm import (
    Dense,
    LowRank,
    Mixture,
    Prior,
    Shape,
    cluster,
    em,
    first_parts,
    maximise,
    spread_centres,
)
from genloom.nn.fitted import evenly, fitted_buffers, require_fitted


class Config(card.Config):
    """Settings of a Gaussian mixture: every combination listed is a candidate."""

    components: card.Widths = Field((1, 2, 5, 10, 20, 40, 80), description="tried until one is worse")
    shapes: tuple[Shape, ...] = Field(("full", "tied", "diag", "factor"), description="kinds of covariance")
    ranks: card.Widths = Field((4, 8, 16), description="factors of the low-rank kind")
    prior: float = Field(5.0, gt=0, description="pseudo-rows that keep a component's covariance regular")
    prior_scale: float = Field(0.1, gt=0, description="their variance, as a share of the data's own")
    steps: int = Field(50, gt=0, description="EM steps for each candidate, fewer once validation falls")
    tolerance: float = Field(1e-4, ge=0, description="gain in nats per scalar that is worth another step")
    seeds: int = Field(5000, gt=0, description="rows that k-means starts from: enough to find 100 clusters")
    scorers: int = Field(5000, gt=0, description="validation rows that choose among candidates")

    @classmethod
    def preset(cls, event: Event) -> "Config":
        """Leave out full matrices and most sizes where one matrix has more than 128^2 entries."""
        if flat_leaf(event).dim <= 128:
            return cls()
        return cls(components=(10, 30), shapes=("diag", "factor"), ranks=(16,), steps=15)

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        return Model(flat_leaf(event), self)

    def stages(self, model: nn.Module) -> list[Stage]:  # noqa: ARG002
        return [Stage("fit", None)]


class Model(nn.Module, ClosedForm, Likelihood, Sampler):
    """A mixture of Gaussians, evaluated in float64.

    In a box, the density is that of the unrestricted mixture (so some mass lies outside), and samples
    are moved to the nearest point of the box.
    """

    log_weight: Tensor
    mean: Tensor
    factor: Tensor
    loading: Tensor
    variance: Tensor

    def __init__(self, leaf: Leaf, config: Config) -> None:
        super().__init__()
        self.leaf, self.config = leaf, config
        fitted_buffers(self, "log_weight", "mean", "factor", "loading", "variance")

    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        """Run EM for every candidate; keep the mixture, and the step, that validation rows like best."""
        x, held = flat(train), evenly(flat(valid), self.config.scorers)
        if not (x.isfinite().all() and held.isfinite().all()):
            raise DataError("a Gaussian mixture needs complete rows: remove or fill missing values")
        best, chosen = -math.inf, None
        for shape, rank in self._covariances():
            previous = -math.inf
            for k in self.config.components:
                nats, mixture = best_step(self._climb(x, k, shape, rank, noise), held)
                if nats > best:
                    best, chosen = nats, mixture
                if nats < previous:
                    break
                previous = nats
        if chosen is None:
            raise DataError("no Gaussian mixture could be fitted: are there constant or repeated rows only?")
        self.keep(chosen)
        return {"valid_nats": -best, "components": float(len(self.log_weight))}

    def _covariances(self) -> list[tuple[Shape, int]]:
        """Return the kinds to try, each with its rank (0 where it has none)."""
        ranks = sorted({min(r, self.leaf.dim - 1) for r in self.config.ranks} - {0})
        plain: list[tuple[Shape, int]] = [(s, 0) for s in self.config.shapes if s != "factor"]
        return plain + [(s, r) for s, r in product(self.config.shapes, ranks) if s == "factor"]

    def _climb(self, x: Tensor, k: int, shape: Shape, rank: int, noise: Noise) -> Iterator[Mixture]:
        """Yield the mixtures of one EM run that starts from k-means on some of the rows."""
        config = self.config
        prior = Prior(config.prior_scale * x.var(0, correction=0).clamp_min(1e-9), config.prior)
        some = x if len(x) <= config.seeds else x[noise.integers(len(x), config.seeds)[0]]
        share = cluster(some, spread_centres(some, k, noise), steps=10)
        first = maximise(some, share, first_parts(some, share, shape, rank, prior), prior)
        for mixture, _ in em(x, first, prior, config.steps, config.tolerance * x.shape[1]):
            yield mixture

    def keep(self, mixture: Mixture) -> None:
        """Make a mixture this model's own."""
        parts, none = mixture.parts, self.mean.new_zeros(0)
        dense, low = (parts.factor, none) if isinstance(parts, Dense) else (none, parts.loading)
        variance = none if isinstance(parts, Dense) else parts.variance
        for name, value in (
            ("log_weight", mixture.log_weight),
            ("mean", parts.mean),
            ("factor", dense),
            ("loading", low),
            ("variance", variance),
        ):
            setattr(self, name, value.to(self.mean))

    def mixture(self) -> Mixture:
        """Return this model's mixture in float64."""
        require_fitted(self.mean)
        mean = self.mean.double()
        if self.factor.numel():
            return Mixture(self.log_weight.double(), Dense(mean, self.factor.double()))
        return Mixture(self.log_weight.double(), LowRank(mean, self.loading.double(), self.variance.double()))

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        return LogProb(self.mixture().log_density(flat(x)), Bound.EXACT)

    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        mixture = self.mixture()
        rows = noise.uniform().shape[0]
        x = mixture.parts.draw(noise.categorical(mixture.log_weight.expand(rows, -1)), noise).to(self.mean)
        kind = self.leaf.kind
        inside = x.clamp(kind.lo, kind.hi) if isinstance(kind, Bounded) else x
        return inside.view(-1, *self.leaf.extents)


def flat(x: Value) -> Tensor:
    """Return rows (B, D) in float64."""
    return tensor(x).flatten(1).double()


def best_step(climb: Iterator[Mixture], held: Tensor) -> tuple[float, Mixture | None]:
    """Return the best mean log-likelihood of held-out rows (N, D) on a climb, and its mixture.

    The climb is left once a step lowers it.
    """
    best, chosen = -math.inf, None
    for mixture in climb:
        nats = float(mixture.log_density(held).mean())
        if not nats > best:
            break
        best, chosen = nats, mixture
    return best, chosen


CARD = Card(
    name="baseline.gmm",
    title="Gaussian mixture",
    summary="A weighted sum of Gaussians fitted by EM; size and covariances are chosen on validation rows.",
    events=(card.real, card.continuous_box),
    likelihood=Bound.EXACT,
    references=(
        Reference(
            "Dempster, Laird & Rubin",
            1977,
            "Maximum likelihood from incomplete data via the EM algorithm",
            "JRSS B 39(1)",
        ),
        Reference(
            "Ghahramani & Hinton", 1996, "The EM algorithm for mixtures of factor analyzers", "CRG-TR-96-1"
        ),
    ),
    good_at=("Small and smooth data: fitted in seconds, scored exactly.", "A strong floor for densities."),
    bad_at=("Curved, thin manifolds need many components.", "Sharp edges and point masses."),
)
