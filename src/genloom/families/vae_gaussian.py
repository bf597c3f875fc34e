"""Variational autoencoder with a Gaussian posterior and a standard normal prior.

Kingma & Welling 2014, arXiv:1312.6114; beta as in Higgins et al. 2017, free bits as in Kingma et al.
2016, arXiv:1606.04934; scored by the importance-weighted bound of Burda et al. 2016, arXiv:1509.00519.
"""

from pydantic import Field
from torch import nn

from genloom.core import card
from genloom.core.events import Event, Real, flat_leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Optimiser, Stage
from genloom.nn.autoencoders import Network
from genloom.nn.gaussian_vae import NormalPosterior, StandardNormal, elbo_objective
from genloom.nn.likelihoods import OutputName
from genloom.nn.vae import VAE, Emit, make_vae


class Config(card.Config):
    """Settings of the Gaussian VAE."""

    latent_dim: int = Field(32, ge=1, description="more than the data use: unused ones cost nothing")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(
        32, ge=1, description="channels after the first convolution, doubled at each halving"
    )
    likelihood: OutputName = "auto"
    beta: float = Field(
        1.0, ge=0, description="weight of the KL term; only 1 trains a bound on the likelihood"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps over which beta grows from 0")
    free_bits: float = Field(
        0.0, ge=0, description="nats of KL that each latent unit has for nothing: keeps units from collapsing"
    )
    importance_samples: card.Free[int] = Field(32, ge=1, description="K of the bound that log_prob returns")
    emit: card.Free[Emit] = Field(
        "typical", description="samples of images show the mean of p(x|z), as is the custom; others draw it"
    )
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = flat_leaf(event)
        emit: Emit = "draw" if isinstance(leaf.kind, Real) else "typical"
        if leaf.dim <= 128:
            return cls(latent_dim=16, hidden=256, lr=2e-3, emit=emit)
        return cls(emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        return make_vae(self, event, cond, NormalPosterior, lambda *_: StandardNormal(self.latent_dim))

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, VAE)
        objective = elbo_objective(
            model,
            Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0),
            beta=self.beta,
            warmup=self.warmup,
            floor=self.free_bits,
            label_dropout=self.label_dropout,
        )
        return [Stage("vae", objective, self.batch_size)]


CARD = card.Card(
    name="vae.gaussian",
    title="Variational autoencoder",
    summary="An encoder and a decoder trained together on a lower bound of the likelihood.",
    events=(card.binary_image, card.level_image, card.binary, card.ordered_levels, card.real),
    references=(
        card.Reference("Kingma & Welling", 2014, "Auto-encoding variational Bayes", "arXiv:1312.6114"),
        card.Reference("Higgins et al.", 2017, "beta-VAE", "ICLR"),
        card.Reference("Burda et al.", 2016, "Importance weighted autoencoders", "arXiv:1509.00519"),
        card.Reference(
            "Kingma et al.",
            2016,
            "Improving variational inference with inverse autoregressive flow",
            "arXiv:1606.04934",
        ),
    ),
    good_at=("Trains fast and steadily.", "Has a smooth latent space to explore and edit."),
    bad_at=("Its images are softer than the data: they show the mean of p(x|z).",),
    likelihood=Bound.LOWER,
    conditions="class",
)
