"""Conditional VAE: posterior, decoder and prior all depend on the label, the prior through a network.

Sohn, Lee & Yan 2015, Learning structured output representation using deep conditional generative models,
NeurIPS; equation 4 is the bound. B batch, Z latent dimensions.
"""

from pydantic import Field
from torch import nn

from genloom.core import card
from genloom.core.events import Event, Real, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.autoencoders import Network
from genloom.nn.gaussian_vae import LearnedNormal, NormalPosterior, elbo_objective
from genloom.nn.likelihoods import OutputName
from genloom.nn.vae import VAE, Emit, make_vae


class Config(card.Config):
    """Settings of a conditional VAE."""

    latent_dim: int = Field(32, ge=1, description="more than the data use: unused ones cost nothing")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(
        32, ge=1, description="channels after the first convolution, doubled at each halving"
    )
    prior_hidden: int = Field(64, ge=1, description="units of the prior's network: a label says little")
    likelihood: OutputName = "auto"
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps over which the KL term grows")
    free_bits: float = Field(0.0, ge=0, description="nats of KL that each latent unit has for nothing")
    importance_samples: card.Free[int] = Field(32, ge=1, description="K of the bound that log_prob returns")
    emit: card.Free[Emit] = Field("typical", description="samples show the mean of p(x|z), or draw it")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = flat_leaf(event)
        emit: Emit = "draw" if isinstance(leaf.kind, Real) else "typical"
        if leaf.dim <= 128:
            return cls(latent_dim=16, hidden=256, prior_hidden=32, lr=2e-3, emit=emit)
        return cls(emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        return make_vae(
            self,
            event,
            cond,
            NormalPosterior,
            lambda _, __, classes: LearnedNormal(self.latent_dim, classes, self.prior_hidden),
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VAE)
        objective = elbo_objective(
            model,
            Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0),
            warmup=self.warmup,
            floor=self.free_bits,
            label_dropout=self.label_dropout,
        )
        return [Stage("vae", objective, self.batch_size)]


CARD = card.Card(
    name="vae.conditional",
    title="Conditional variational autoencoder",
    summary="A variational autoencoder whose prior of the code is learned for each label.",
    events=(card.binary_image, card.level_image, card.binary, card.ordered_levels, card.real),
    references=(
        card.Reference(
            "Sohn et al.",
            2015,
            "Learning structured output representation using deep conditional generative models",
            "NeurIPS",
        ),
    ),
    good_at=("Items of a chosen class, whose codes may lie apart from those of other classes.",),
    bad_at=("Data without labels, where it is a plain VAE with a shifted prior.",),
    likelihood=Bound.LOWER,
    conditions="class",
)
