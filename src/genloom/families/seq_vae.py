"""Variational autoencoder of sequences: one code for a whole text, which a recurrent network spells out.

Bowman et al. 2016, arXiv:1511.06349. A recurrent decoder can do without its code, and then the posterior
collapses; what is done against it: free bits (Kingma et al. 2016, arXiv:1606.04934), a weight of the KL term
that grows, and symbols hidden from the decoder.

Shapes: B batch, L positions, T symbols read at once, Z latent dimensions, U units, C classes, K importance
samples, V what can come next.
"""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Latent, LatentVariable, Likelihood, Sampler
from genloom.core.card import Card, Reference, class_count
from genloom.core.events import Batch, Event, Leaf, Value, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import (
    Average,
    Clock,
    Group,
    Loss,
    LossFunction,
    Objective,
    Optimiser,
    Phase,
    Stage,
)
from genloom.core.randomness import Noise, SampleNoise
from genloom.core.sequences import Alphabet
from genloom.nn.decoding import Greedy, draw_items
from genloom.nn.dropout import Map, channel_dropout, identity
from genloom.nn.gaussian_vae import (
    NormalPosterior,
    StandardNormal,
    active_units,
    free_bits,
    kl_of_normals,
)
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.recurrent import BothWays, RecurrentNetwork, States, recurrent_layers, run_layers
from genloom.nn.sequences import SHORT, SequenceModel, alphabet_of
from genloom.nn.vae import importance_weighted_bound


class Config(card.Config):
    """Settings of a variational autoencoder of sequences, and of its training."""

    latent_dim: int = Field(32, gt=0, description="of the code")
    units: int = Field(512, gt=0, description="of the encoder and of the decoder")
    embedding: int = Field(64, gt=0, description="values that stand for a symbol")
    symbol_dropout: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of symbols that the decoder does not see in training; 1: none, in use as well",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="of channels between layers, the same at all places")
    free_bits: float = Field(0.25, ge=0, description="nats of KL that each latent unit has for nothing")
    warmup: float = Field(0.2, ge=0, lt=1, description="fraction of the steps over which the KL term grows")
    importance_samples: card.Free[int] = Field(16, gt=0, description="K of the bound that log_prob returns")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(2e-3, gt=0, description="peak rate of AdamW, which decays as a cosine")
    batch_size: int = Field(64, gt=0)

    @classmethod
    def preset(cls, event: Event) -> Self:
        small = isinstance(event, Leaf) and event.extents[0] <= SHORT
        return cls(latent_dim=16, units=256, batch_size=128) if small else cls()

    @model_validator(mode="after")
    def _two_halves(self) -> Self:
        if self.units % 2:
            raise ValueError("units must be even, as each direction of the encoder gets half of them")
        return self

    def build(self, event: Event, cond: Event | None) -> "SequenceVAE":
        alphabet, longest = alphabet_of("seq.vae", event, None)
        classes = class_count(cond)
        features = self.latent_dim + (classes + 1 if classes else 0)
        blind = self.symbol_dropout == 1
        decoder = Decoder(alphabet, features, self.embedding, self.units, self.dropout, blind)
        encoder = Encoder(alphabet, self.embedding, self.units)
        spelling = SequenceModel(alphabet, longest, decoder)
        return SequenceVAE(encoder, spelling, self.latent_dim, self.units, classes, self.importance_samples)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, SequenceVAE)
        moved = Optimiser(self.lr, "adamw", schedule="cosine", warmup=0.02, clip=1.0)
        phase = Phase("elbo", ("vae",), negative_bound(model, self))
        objective = Objective({"vae": Group(model, moved)}, [phase], Average())
        return [Stage("vae", objective, self.batch_size, alike=model.spelling.uneven)]


class Encoder(nn.Module):
    """Reads a text in both directions into one row of numbers: the mean over its places."""

    def __init__(self, alphabet: Alphabet, embedding: int, units: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet.outputs, embedding)
        self.layers = BothWays("lstm", embedding, units, 1)

    def forward(self, symbols: Tensor, present: Tensor, drop: Map) -> Tensor:
        """Map (B, L) to (B, U)."""
        x = self.layers(drop(self.embedding(symbols)), present, drop)
        return (x * present[..., None]).sum(1) / present.sum(1, keepdim=True)


class Decoder(RecurrentNetwork):
    """Spells a text from features that it sees at every place: the first of its states, (B, 1, F)."""

    def __init__(
        self,
        alphabet: Alphabet,
        features: int,
        embedding: int,
        units: int,
        dropout: float,
        blind: bool,
    ) -> None:
        super().__init__()
        self.dropout, self.seen = dropout, alphabet.hide if blind else identity
        self.embedding = nn.Embedding(alphabet.inputs, embedding)
        self.start = nn.Linear(features, units)
        self.layers = recurrent_layers("lstm", embedding + features, units, 1)
        self.head = nn.Linear(units, alphabet.outputs)

    def opening(self, rows: int, cond: Value | None, drop: Map) -> States:  # noqa: ARG002
        assert cond is not None
        features = tensor(cond)[:, None]
        first = self.start(features).tanh()
        return [(features,), (first, torch.zeros_like(first))]

    def read(self, symbols: Tensor, states: States, drop: Map) -> tuple[Tensor, States]:
        source, *states = states
        seen = self.embedding(self.seen(symbols))
        features = source[0].to(seen).expand(-1, symbols.shape[1], -1)
        x, left = run_layers(self.layers, torch.cat((drop(seen), features), -1), states, drop)
        return self.head(x), [source, *left]


class SequenceVAE(nn.Module, Sampler, Likelihood, Latent, LatentVariable):
    """An encoder of texts, a prior of codes, and a decoder that spells texts out.

    The prior is the same for all classes, so that a code says what a class does not.
    """

    def __init__(
        self,
        encoder: Encoder,
        spelling: SequenceModel,
        latent_dim: int,
        units: int,
        classes: int,
        importance_samples: int,
    ) -> None:
        super().__init__()
        self.encoder, self.spelling, self.prior = encoder, spelling, StandardNormal(latent_dim)
        self.posterior = NormalPosterior(nn.Linear(units + (classes + 1 if classes else 0), 2 * latent_dim))
        self.classes, self.importance_samples = classes, importance_samples

    def inputs(self, x: Value, cond: Value | None, drop: Map) -> Tensor:
        """Return what the posterior is made of, (B, U + C + 1)."""
        symbols, present = self.spelling.targets(x)
        return self.with_label(self.encoder(symbols, present, drop).to(self._dtype), cond)

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.embedding.weight.dtype

    def with_label(self, h: Tensor, cond: Value | None) -> Tensor:
        """Return rows with their labels as zeros and ones behind them, where there are classes."""
        if not self.classes:
            return h
        label = labels_or_null(cond, self.classes, len(h))
        return torch.cat((h, F.one_hot(label, self.classes + 1).to(h.dtype)), 1)

    def draw_code(self, noise: Noise, cond: Value | None = None) -> Tensor:
        return self.prior.draw(noise, cond).to(self._dtype)

    def log_prior(self, z: Tensor, cond: Value | None = None) -> Tensor:
        return self.prior.log_prob(z, cond)

    def log_likelihood(self, x: Value, z: Tensor, cond: Value | None = None) -> Tensor:
        return self.spelling.log_density(x, self.with_label(z, cond))

    def infer(self, x: Value, noise: Noise, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        return next(self.posterior.draws(self.inputs(x, cond, identity), noise, 1))

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return the importance-weighted lower bound with K samples."""
        drawn = self.posterior.draws(self.inputs(x, cond, identity), noise, self.importance_samples)
        weights = [self.log_likelihood(x, z, cond) + self.log_prior(z, cond) - log_q for z, log_q in drawn]
        return LogProb(importance_weighted_bound(torch.stack(weights)), Bound.LOWER, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.posterior.centre(self.inputs(x, cond, identity))

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        """Return each code's text by its likeliest symbol each time."""
        noise = SampleNoise(0, torch.arange(len(z)))
        return draw_items(self.spelling, noise, self.with_label(z, cond), Greedy())

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        return draw_items(self.spelling, noise, self.with_label(self.draw_code(noise, cond), cond))


def negative_bound(model: SequenceVAE, config: Config) -> LossFunction:
    """Return the negative evidence lower bound as a loss, in nats a text, divided by its greatest length."""

    longest = model.spelling.longest

    def loss(batch: Batch, noise: Noise, clock: Clock) -> Loss:
        x, label = batch["x"], batch.get("cond")
        if label is not None and model.classes:
            label = hide_labels(tensor(label), model.classes, config.label_dropout, noise)
        drop = channel_dropout(config.dropout, noise)
        mean, log_std = model.posterior(model.inputs(x, label, drop))
        z = mean + log_std.exp() * noise.normal(model.prior.dim).to(mean)
        kl = kl_of_normals(mean, log_std, *model.prior.parameters_like(z, label))
        features = model.with_label(z, label)
        nats = -model.spelling.log_density(x, features, noise, symbol_dropout=config.symbol_dropout)
        weight = min(1.0, clock.progress / config.warmup if config.warmup else 1.0) / longest
        return Loss(
            {
                "reconstruction": nats.mean() / longest,
                "kl": weight * free_bits(kl, config.free_bits),
            },
            {"rate": kl.sum(1).mean(), "active_units": active_units(mean)},
        )

    return loss


CARD = Card(
    name="seq.vae",
    title="Variational autoencoder of texts",
    summary="One code for a whole text, from which a recurrent network spells it out.",
    events=(card.symbol_sequence,),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
    references=(
        Reference("Bowman et al.", 2016, "Generating sentences from a continuous space", "arXiv:1511.06349"),
        Reference(
            "Kingma et al.",
            2016,
            "Improved variational inference with inverse autoregressive flow",
            "arXiv:1606.04934",
        ),
    ),
    good_at=("Walks between texts, texts like one at hand, and texts of a class.",),
    bad_at=("Likelihood: a recurrent network without a code does as well.",),
)
