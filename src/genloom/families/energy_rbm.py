"""Restricted Boltzmann machine with binomial visible units, trained by contrastive divergence.

Hinton 2002, Neural Computation 14(8); persistent chains: Tieleman 2008, ICML; rate-coded units: Teh &
Hinton 2001, NIPS.  B batch, C chains, D visible units, H hidden units, K the largest level (binary: 1).
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Energy, Likelihood, Sampler
from genloom.core.card import Card, Reference
from genloom.core.events import Batch, Categorical, Event, Value, categories, flat_leaf, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise, TrainNoise, generator
from genloom.math.ais import Bracket, anneal, anneal_back, bracket, ladder


class Config(card.Config):
    """Settings of an RBM, of its training, and of its annealed chains."""

    hidden: int = Field(500, gt=0, description="hidden units; most published figures are for 500")
    algorithm: Literal["pcd", "cd"] = Field(
        "pcd", description="negative chains persist, or start at the data"
    )
    k: int = Field(2, gt=0, description="Gibbs steps per update: each buys a larger rate without divergence")
    chains: int = Field(250, gt=0, description="persistent chains, whose noise the gradient inherits")
    lr: float = Field(5e-3, gt=0, description="peak rate; falls linearly to 0, so that chains catch up")
    decay: float = Field(0.0, ge=0, description="penalty per squared weight in nats: keeps chains mixing")
    batch_size: int = Field(250, gt=0, description="data noise comparable to that of the chains")
    horizon: float = Field(0.1, gt=0, le=1, description="fraction of the past that weights are averaged over")
    temperatures: card.Free[int] = Field(1000, gt=0, description="annealing steps that estimate log Z")
    particles: card.Free[int] = Field(100, gt=1, description="annealed chains that estimate log Z")
    sample_temperatures: card.Free[int] = Field(300, gt=0, description="annealing steps that start a sample")
    sample_steps: card.Free[int] = Field(100, gt=0, description="Gibbs steps that finish a sample")

    @classmethod
    def preset(cls, event: Event) -> "Config":
        """Take fewer units, chains and annealing steps for small items, so that steps are many."""
        if flat_leaf(event).dim > 128:
            return cls()
        return cls(
            hidden=200,
            chains=100,
            batch_size=100,
            temperatures=300,
            sample_temperatures=100,
            sample_steps=50,
        )

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        leaf = flat_leaf(event)
        return Model(
            shape=leaf.extents,
            top=categories(leaf.kind) - 1,
            hidden=self.hidden,
            temperatures=self.temperatures,
            particles=self.particles,
            sample_temperatures=self.sample_temperatures,
            sample_steps=self.sample_steps,
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        return [Stage("train", make_objective(model, self), self.batch_size)]


@dataclass(frozen=True)
class Weights:
    """An RBM with p(v, h) proportional to prod_i C(K, v_i) exp(b.v + c.h + v W h).

    Shapes: w (D, H), b (D,), c (H,). ``top`` is K.
    """

    w: Tensor
    b: Tensor
    c: Tensor
    top: int

    def hidden(self, v: Tensor) -> Tensor:
        """Return the log-odds of the hidden units given levels (B, D): (B, H) in their dtype."""
        return torch.addmm(self.c, v, self.w).to(v.dtype)

    def visible(self, h: Tensor) -> Tensor:
        """Return the log-odds of each spike of the visible units given 0/1 (B, H): (B, D)."""
        return torch.addmm(self.b, h, self.w.T).to(h.dtype)


def log_choose(v: Tensor, top: int) -> Tensor:
    """Return sum_i log C(K, v_i), the log number of spike trains with these counts: (B,) for (B, D)."""
    if top == 1:
        return v.new_zeros(v.shape[0])
    whole = torch.lgamma(v.new_tensor(top + 1.0))
    return (whole - torch.lgamma(v + 1) - torch.lgamma(top + 1 - v)).sum(1)


def free_energy(v: Tensor, rbm: Weights) -> Tensor:
    """Return F(v) = -log sum_h exp(-E(v, h)), (B,) nats, for levels (B, D).

    Source: Hinton 2012, A practical guide to training RBMs, equation 25; the binomial coefficient is the
    number of ways K replicas of a binary unit (Teh & Hinton 2001, section 2) give the count v.
    """
    return -(v @ rbm.b) - F.softplus(rbm.hidden(v)).sum(1) - log_choose(v, rbm.top)


def binomial(logits: Tensor, top: int, noise: Noise) -> Tensor:
    """Draw counts in 0..K, in the dtype of ``logits``, from the log-odds (B, D) of one success.

    More than one trial: inversion of the distribution function, from the likelier end so that the first
    mass is at least 2^-K.
    """
    if top == 1:
        return noise.bernoulli(logits.sigmoid())
    low = -logits.abs().to(logits.dtype if top <= 64 else torch.float64)
    u = noise.uniform(*logits.shape[1:]).to(low)
    odds, mass = low.exp(), (-top * F.softplus(low)).exp()
    total, count = mass.clone(), torch.zeros_like(mass)
    for j in range(top):
        count += u > total
        mass *= odds * ((top - j) / (j + 1))
        total += mass
    return torch.where(logits > 0, top - count, count).to(logits.dtype)


def gibbs(v: Tensor, rbm: Weights, noise: Noise, steps: int) -> Tensor:
    """Return levels (B, D) after alternating draws from p(h | v) and p(v | h)."""
    for _ in range(steps):
        h = noise.bernoulli(rbm.hidden(v).sigmoid())
        v = binomial(rbm.visible(h), rbm.top, noise)
    return v


State = tuple[Tensor, Tensor]
"""Levels (C, D) and the log-odds of the hidden units given them at beta 1, (C, H)."""


@dataclass(frozen=True)
class Path:
    """RBMs from independent visible units (beta 0) to ``rbm`` (beta 1).

    At beta, the weights and hidden biases are beta times those of ``rbm``, and the visible biases lie
    between ``base`` (D,) and its own.

    Source: Salakhutdinov & Murray 2008, ICML, equations 14 to 18, with one set of hidden units.
    """

    rbm: Weights
    base: Tensor
    noise: Noise

    def state(self, v: Tensor) -> State:
        """Attach the hidden log-odds to levels."""
        return v, self.rbm.hidden(v)

    def start(self) -> State:
        """Draw exact samples at beta 0, one for each row of the noise."""
        rows = self.noise.uniform().shape[0]
        return self.state(binomial(self.base.expand(rows, -1), self.rbm.top, self.noise))

    def log_ratio(self, state: State, a: float, b: float) -> Tensor:
        """Return log f_b(v) - log f_a(v), (C,)."""
        v, x = state
        return (b - a) * (v @ (self.rbm.b - self.base)) + (F.softplus(b * x) - F.softplus(a * x)).sum(1)

    def move(self, state: State, beta: float) -> State:
        """Draw h given v and v given h at an inverse temperature."""
        h = self.noise.bernoulli((beta * state[1]).sigmoid())
        bias = torch.lerp(self.base, self.rbm.b, beta)
        return self.state(binomial(torch.addmm(bias, h, self.rbm.w.T, alpha=beta), self.rbm.top, self.noise))

    def log_z0(self) -> float:
        """Return log Z at beta 0, nats."""
        return float(self.rbm.top * F.softplus(self.base).sum()) + self.rbm.w.shape[1] * math.log(2)


class Model(nn.Module, Energy, Likelihood, Sampler):
    """An RBM whose parameters are departures from independent units, in centred coordinates.

    The energy is written in v - mean and h - 1/2, which makes the gradient the centred one and learning
    insensitive to which value of a unit is called 0.

    Source: Melchior, Fischer & Wiskott 2016, JMLR 17(99), equations 4 to 8; here the offsets stay where
    they are while the weights move.
    """

    mean: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        top: int,
        hidden: int,
        temperatures: int,
        particles: int,
        sample_temperatures: int,
        sample_steps: int,
    ) -> None:
        super().__init__()
        dim = math.prod(shape)
        self.shape, self.top = shape, top
        self.temperatures, self.particles = temperatures, particles
        self.sample_temperatures, self.sample_steps = sample_temperatures, sample_steps
        self.w = nn.Parameter(torch.randn(dim, hidden) * 0.01 / top)
        self.b = nn.Parameter(torch.zeros(dim))
        self.c = nn.Parameter(torch.zeros(hidden))
        self.register_buffer("mean", torch.full((dim,), 0.5 * top))
        self._known: tuple[bytes, Bracket] | None = None

    def base(self) -> Tensor:
        """Return the log-odds (D,) of independent units with the mean of the data."""
        return (self.mean / self.top).clamp(1e-4, 1 - 1e-4).logit()

    def weights(self) -> Weights:
        """Return the RBM in ordinary coordinates."""
        b = self.base() + self.b - 0.5 * self.w.sum(1)
        return Weights(self.w, b, self.c - self.mean @ self.w, self.top)

    def flat(self, x: Value) -> Tensor:
        """Return levels as (B, D) in the dtype of the weights."""
        return tensor(x).flatten(1).to(self.w.dtype)

    def energy(self, x: Value, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Return the free energy F(x), (B,) nats."""
        return free_energy(self.flat(x), self.weights())

    @torch.no_grad()
    def log_partition(
        self, seed: int = 0, particles: int | None = None, temperatures: int | None = None
    ) -> Bracket:
        """Bracket log Z by annealing from independent units to the model, and back.

        The way back starts from the final states of the way there, drawn by weight and moved on by as
        many Gibbs steps as a sample takes.

        Source: Salakhutdinov & Murray 2008, section 4; way back: Grosse et al. 2015, arXiv:1511.02543.
        """
        rows = particles or self.particles
        noise = TrainNoise(generator("rbm log Z", seed), rows, 0, rows)
        path = Path(self.weights(), self.base(), noise)
        betas = ladder(temperatures or self.temperatures)
        state, forward = anneal(path.start(), betas, path.log_ratio, path.move)
        chosen = noise.categorical(forward.expand(rows, -1))
        start = gibbs(state[0][chosen], path.rbm, noise, self.sample_steps)
        _, backward = anneal_back(path.state(start), betas, path.log_ratio, path.move)
        return bracket(path.log_z0(), forward, backward)

    def known_log_partition(self) -> Bracket:
        """Return ``log_partition()``, computed once for each setting of the weights."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.w, self.b, self.c, self.mean):
            digest.update(part.detach().cpu().numpy().tobytes())
        if self._known is None or self._known[0] != digest.digest():
            self._known = digest.digest(), self.log_partition()
        return self._known[1]

    @torch.no_grad()
    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:  # noqa: ARG002
        """Return -F(x) - log Z with log Z by annealed importance sampling, the same for every batch.

        The bracket is that of log Z.
        """
        log_z = self.known_log_partition()
        value = -self.energy(x) - log_z.estimate
        bracket = (log_z.upper - log_z.estimate, log_z.estimate - log_z.lower)
        return LogProb(value, Bound.ESTIMATE, stderr=torch.full_like(value, log_z.stderr), bracket=bracket)

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Draw items by annealing from independent units, then Gibbs steps; each row is its own chain."""
        path = Path(self.weights(), self.base(), noise)
        state = path.start()
        for beta in ladder(self.sample_temperatures)[1:]:
            state = path.move(state, beta)
        v = gibbs(state[0], path.rbm, noise, self.sample_steps)
        return v.round().long().view(-1, *self.shape)


def make_objective(model: Model, config: Config) -> Objective:
    """Return contrastive divergence with persistent chains, or with chains that start at the data."""
    chains = torch.zeros(config.chains, model.mean.numel())
    persistent = config.algorithm == "pcd"

    def track_mean(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        model.mean.lerp_(model.flat(batch["x"]).mean(0), 1 / (clock.step + 1))

    def advance(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
        seed = int(noise.integers(1 << 23)[0])
        own = TrainNoise(generator("rbm chains", seed), len(chains), 0, len(chains))
        chains.copy_(gibbs(chains.to(model.w.dtype), model.weights(), own, config.k))

    def contrast(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
        rbm, v = model.weights(), model.flat(batch["x"])
        with torch.no_grad():
            fake = chains.to(v.dtype) if persistent else gibbs(v, rbm, noise, config.k)
        penalty = 0.5 * config.decay * model.w.square().sum()
        return Loss(
            {"contrast": free_energy(v, rbm).mean() - free_energy(fake, rbm).mean(), "decay": penalty}
        )

    moves = [Phase("chains", update=advance)] if persistent else []
    return Objective(
        groups={"rbm": Group(model, Optimiser(config.lr, schedule="linear"))},
        phases=[Phase("mean", update=track_mean), *moves, Phase("contrast", ("rbm",), loss=contrast)],
        average=Average(horizon=config.horizon),
        state={"chains": chains} if persistent else {},
    )


def _few_levels(kind: Categorical) -> bool:
    return kind.ordered and kind.k <= 32


CARD = Card(
    name="energy.rbm",
    title="Restricted Boltzmann machine",
    summary="One layer of hidden units that vote on every visible unit; sampled by Gibbs chains.",
    events=(card.leaf_of(Categorical, where=_few_levels), card.binary, card.ordered_levels),
    likelihood=Bound.ESTIMATE,
    autocast=True,
    references=(
        Reference(
            "Hinton",
            2002,
            "Training products of experts by minimizing contrastive divergence",
            "doi:10.1162/089976602760128018",
        ),
        Reference(
            "Tieleman",
            2008,
            "Training restricted Boltzmann machines using approximations to the likelihood gradient",
            "ICML",
        ),
        Reference(
            "Salakhutdinov & Murray", 2008, "On the quantitative analysis of deep belief networks", "ICML"
        ),
        Reference(
            "Teh & Hinton", 2001, "Rate-coded restricted Boltzmann machines for face recognition", "NIPS"
        ),
    ),
    good_at=(
        "binary data of a few hundred variables",
        "features, and conditional queries by clamped Gibbs chains",
    ),
    bad_at=(
        "sampling when modes lie far apart",
        "data with many grey levels, which binomial units render too crisp",
    ),
)
