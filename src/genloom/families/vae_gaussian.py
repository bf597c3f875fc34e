"""Variational autoencoder with a Gaussian posterior and a standard normal prior.

Kingma & Welling 2014, arXiv:1312.6114; beta as in Higgins et al. 2017; scored by the importance-weighted
bound of Burda et al. 2016, arXiv:1509.00519.
"""

from pydantic import Field
from torch import nn

from genloom.core import card
from genloom.core.events import Batch, Event, Real, flat_leaf, tensor
from genloom.core.likelihood import Bound
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Network, encoder_and_decoder
from genloom.nn.gaussian_vae import Emit, GaussianVAE
from genloom.nn.labels import hide_labels
from genloom.nn.likelihoods import OutputName, output_for


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
    importance_samples: int = Field(32, ge=1, description="K of the bound that log_prob returns")
    emit: Emit = Field(
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
        leaf = flat_leaf(event)
        output, classes = output_for(leaf, self.likelihood), card.class_count(cond)
        encoder, decoder = encoder_and_decoder(
            leaf,
            self.network,
            hidden=self.hidden,
            channels=self.channels,
            codes=2 * self.latent_dim,
            latent_dim=self.latent_dim,
            features=classes + 1 if classes else 0,
            per_scalar=output.parameters_per_scalar,
        )
        return GaussianVAE(
            event, encoder, decoder, output, self.latent_dim, classes, self.importance_samples, self.emit
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, GaussianVAE)

        def negative_elbo(batch: Batch, noise: Noise, clock: Clock) -> Loss:
            beta = self.beta * min(1.0, clock.progress / self.warmup if self.warmup else 1.0)
            label = batch.get("cond")
            if label is not None:
                label = hide_labels(tensor(label), model.classes, self.label_dropout, noise)
            reconstruction, kl = model.elbo_terms(tensor(batch["x"]), label, noise)
            return Loss(
                {"reconstruction": reconstruction.mean(), "kl": beta * kl.mean()}, {"rate": kl.mean()}
            )

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0)
        objective = Objective(
            {"vae": Group(model, optimiser)}, [Phase("elbo", ("vae",), negative_elbo)], Average()
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
    ),
    good_at=("Trains fast and steadily.", "Has a smooth latent space to explore and edit."),
    bad_at=("Its images are softer than the data: they show the mean of p(x|z).",),
    likelihood=Bound.LOWER,
    conditions="class",
)
