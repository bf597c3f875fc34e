"""Adversarial autoencoder: a discriminator of codes makes them look like draws of a prior.

Makhzani et al. 2016, arXiv:1511.05644. B batch, S event shape, Z latent dimensions.
"""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Latent, Sampler
from genloom.core.events import Batch, Categorical, Event, Value, flat_leaf
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Autoencoder, Network, autoencoder, mlp
from genloom.nn.likelihoods import squared_or_cross_entropy


class Config(card.Config):
    """Settings of an adversarial autoencoder."""

    latent_dim: int = Field(8, ge=1, description="small, so that codes can fill the prior")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each hidden layer of the dense networks")
    channels: int = Field(32, ge=1, description="channels after the first convolution, then doubled")
    weight: float = Field(1.0, gt=0, description="of fooling the discriminator, in nats of the error")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    discriminator_lr: float = Field(1e-3, gt=0, description="peak rate of the discriminator's Adam")
    beta1: float = Field(0.5, ge=0, lt=1, description="momentum of both: low, as the target moves")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        dim = flat_leaf(event).dim
        return cls(hidden=256, lr=2e-3, latent_dim=min(8, max(2, dim // 2))) if dim <= 128 else cls()

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        leaf = flat_leaf(event)
        network = autoencoder(
            leaf,
            self.network,
            squared_or_cross_entropy(leaf),
            hidden=self.hidden,
            channels=self.channels,
            latent_dim=self.latent_dim,
        )
        return Model(network, mlp(self.latent_dim, self.hidden, 1), self.latent_dim)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def discriminate(batch: Batch, noise: Noise, _: Clock) -> Loss:
            codes = model.network.encode(batch["x"])
            drawn = noise.normal(model.latent_dim).to(codes)
            return Loss({"mistakes": mistakes(model.judge(drawn), model.judge(codes))})

        def reconstruct(batch: Batch, _: Noise, __: Clock) -> Loss:
            codes = model.network.encode(batch["x"])
            error = model.network.error(batch["x"], codes).mean()
            return Loss({"error": error, "fooling": self.weight * F.softplus(-model.judge(codes)).mean()})

        betas = (self.beta1, 0.999)
        groups = {
            "discriminator": Group(model.discriminator, Optimiser(self.discriminator_lr, betas=betas)),
            "autoencoder": Group(
                model.network, Optimiser(self.lr, betas=betas, schedule="cosine", warmup=0.01, clip=200.0)
            ),
        }
        phases = [
            Phase("discriminator", ("discriminator",), discriminate),
            Phase("autoencoder", ("autoencoder",), reconstruct),
        ]
        return [Stage("adversarial", Objective(groups, phases, Average()), self.batch_size)]


def mistakes(on_prior: Tensor, on_codes: Tensor) -> Tensor:
    """Return the cross-entropy of telling draws of the prior from codes, in nats a pair.

    It is least where the logit is log p(z) - log q(z), and 2 log 2 where nothing tells them apart.

    Args:
        on_prior, on_codes: logits (B,) of "drawn from the prior".

    Source: Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and theorem 1.
    """
    return F.softplus(-on_prior).mean() + F.softplus(on_codes).mean()


class Model(nn.Module, Sampler, Latent):
    """A deterministic autoencoder whose codes are to be standard normals, and the judge of that.

    Deviation: the encoder lowers its error and fools the discriminator in one step, not in two of different
    rates: then ``weight`` says what one is worth in the other.
    """

    def __init__(self, network: Autoencoder, discriminator: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network, self.discriminator, self.latent_dim = network, discriminator, latent_dim

    def judge(self, z: Tensor) -> Tensor:
        """Return the logit (B,) that a code is a draw of the prior."""
        return self.discriminator(z).squeeze(-1).to(z.dtype)

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.network.encode(x, cond)

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        return self.network.decode(z, cond)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:  # noqa: ARG002
        z = noise.normal(self.latent_dim)
        return self.network.decode(z.to(next(self.network.parameters())))


CARD = card.Card(
    name="hybrid.aae",
    title="Adversarial autoencoder",
    summary="An autoencoder whose codes a discriminator makes look like draws of a normal prior.",
    events=(card.binary_image, card.graded_image, card.binary, card.leaf_of(Categorical), card.real),
    references=(card.Reference("Makhzani et al.", 2016, "Adversarial autoencoders", "arXiv:1511.05644"),),
    good_at=("Codes that fill a known prior, for walks and edits.", "Any prior that can be drawn from."),
    bad_at=("Gives no likelihood.", "Two players: a weight must balance them; samples lie on a surface."),
)
