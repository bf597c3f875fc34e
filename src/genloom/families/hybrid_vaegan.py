"""VAE-GAN: a VAE whose error is measured in a discriminator's features. Larsen et al. 2016, arXiv:1512.09300.

B batch, S event shape, Z latent dimensions, F features of an item in the chosen layer.
"""

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Latent, Sampler
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Batch, Event, Leaf, Value, describe, image_leaf, items, nearest_level
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.adversarial import (
    Critic,
    Generator,
    check_depth,
    convolutional_critic,
    convolutional_generator,
    dense_critic,
    dense_generator,
    gradient_norm,
    widths,
)
from genloom.nn.autoencoders import ConvEncoder, mlp
from genloom.nn.gaussian_vae import kl_from_standard_normal
from genloom.nn.labels import labels_or_null

LAYERS = 3
"""Hidden layers of the dense networks, for images too small for convolutions."""


class Config(card.Config):
    """Settings of the three networks and of how they train."""

    latent_dim: int = Field(64, ge=1, description="dimensions of the code")
    channels: tuple[PositiveInt, ...] = Field(
        (), description="convolution widths, finest first, each halving the image; none for dense layers"
    )
    hidden: int = Field(256, ge=1, description="width of the dense layers")
    layer: int = Field(1, ge=1, description="of the discriminator, in whose features errors are measured")
    gamma: float = Field(3.0, gt=0, description="weight of the decoder's feature error")
    kl_weight: float = Field(1.0, ge=0, description="of the encoder's KL term against its feature error")
    gradient_penalty: float = Field(0.1, ge=0, description="of the discriminator's slope at real items")
    lr: float = Field(2e-3, gt=0, description="peak rate of the three Adams, decayed to zero")
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's momentum: low, as the targets move")
    batch_size: int = Field(64, ge=1, description="as in the paper")

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = image_leaf(event)
        return cls(channels=widths(min(leaf.extents[1:])), latent_dim=64 if leaf.dim > 128 else 16)

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        if not card.graded_image(event):
            raise DataError(f"hybrid.vaegan needs images of scaled grey levels, not {describe(event)}")
        leaf, z = image_leaf(event), self.latent_dim
        if not self.channels:
            encoder: nn.Module = mlp(leaf.dim, self.hidden, 2 * z)
            decoder = dense_generator(leaf, z, self.hidden, LAYERS, 0)
            critic = dense_critic(leaf, self.hidden, LAYERS, 0)
        else:
            check_depth(leaf, self.channels)
            encoder = ConvEncoder(leaf.extents, self.channels[0], 2 * z, 0)
            decoder = convolutional_generator(leaf, z, self.channels, 0)
            critic = convolutional_critic(leaf, self.channels, 0)
        return Model(leaf, encoder, decoder, critic, z, self.layer)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def discriminate(batch: Batch, noise: Noise, _: Clock) -> Loss:
            x = items(batch["x"], model.leaf.extents)
            rebuilt, drawn = model.rebuilt_and_drawn(x, noise)
            slope = gradient_norm(model.judge, x).square().mean()
            terms = {
                "real": F.softplus(-model.judge(x)).mean(),
                "false": 0.5 * (F.softplus(model.judge(rebuilt)) + F.softplus(model.judge(drawn))).mean(),
                "slope": 0.5 * self.gradient_penalty * slope,
            }
            return Loss(terms)

        def encode(batch: Batch, noise: Noise, _: Clock) -> Loss:
            x = items(batch["x"], model.leaf.extents)
            mean, log_std = model.posterior(x)
            rebuilt = model.generate(model.perturbed(mean, log_std, noise))
            error = feature_error(model.features(x), model.features(rebuilt)).sum(1)
            kl = kl_from_standard_normal(mean, log_std).mean()
            return Loss({"error": error.mean(), "kl": self.kl_weight * kl})

        def decode(batch: Batch, noise: Noise, _: Clock) -> Loss:
            x = items(batch["x"], model.leaf.extents)
            rebuilt, drawn = model.rebuilt_and_drawn(x, noise)
            error = feature_error(model.features(x), model.features(rebuilt)).mean()
            fooling = 0.5 * (F.softplus(-model.judge(rebuilt)) + F.softplus(-model.judge(drawn))).mean()
            return Loss({"error": self.gamma * error, "fooling": fooling})

        adam = Optimiser(self.lr, betas=(self.beta1, 0.999), schedule="linear", clip=100.0)
        modules = {"discriminator": model.critic, "encoder": model.encoder, "decoder": model.decoder}
        losses = {"discriminator": discriminate, "encoder": encode, "decoder": decode}
        groups = {name: Group(module, adam) for name, module in modules.items()}
        phases = [Phase(name, (name,), loss) for name, loss in losses.items()]
        return [Stage("vaegan", Objective(groups, phases, Average()), self.batch_size)]


def feature_error(real: Tensor, rebuilt: Tensor) -> Tensor:
    """Return -log N(real; rebuilt, I) of every feature (B, F), up to a constant (equation 7)."""
    return 0.5 * (real - rebuilt).square()


def unit_power(h: Tensor) -> Tensor:
    """Return features (B, F) scaled to a mean square of 1 in each item, so that errors have a scale."""
    return h * (h.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Model(nn.Module, Sampler, Latent):
    """Encoder q(z|x), decoder of codes, and a discriminator whose layer tells how alike items are.

    Deviation: no batch normalisation, which would make items depend on one another; features are scaled to
    unit power instead, and the discriminator's slope at real items is penalised (Mescheder et al. 2018,
    arXiv:1801.04406, equation 9).
    """

    def __init__(
        self, leaf: Leaf, encoder: nn.Module, decoder: Generator, critic: Critic, latent_dim: int, layer: int
    ) -> None:
        super().__init__()
        self.leaf, self.latent_dim = leaf, latent_dim
        self.encoder, self.decoder, self.critic = encoder, decoder, critic
        assert isinstance(critic.body, nn.Sequential)
        ends = [i + 1 for i, part in enumerate(critic.body) if isinstance(part, nn.LeakyReLU)]
        if layer > len(ends):
            raise ConfigError(f"the discriminator has {len(ends)} hidden layers: layer cannot be {layer}")
        self.depth = ends[layer - 1]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of q(z|x), (B, Z) each."""
        mean, log_std = self.encoder(x.flatten(1)).to(x.dtype).chunk(2, 1)
        return mean, log_std.clamp(-7, 5)

    def perturbed(self, mean: Tensor, log_std: Tensor, noise: Noise) -> Tensor:
        """Draw codes (B, Z) of the posterior."""
        return mean + log_std.exp() * noise.normal(self.latent_dim).to(mean)

    def generate(self, z: Tensor) -> Tensor:
        """Return items (B, *S) between the event's bounds."""
        return self.decoder(z, labels_or_null(None, 0, len(z)))

    def rebuilt_and_drawn(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return items through a posterior's code, and items of the prior's codes, (B, *S) each."""
        rebuilt = self.generate(self.perturbed(*self.posterior(x), noise))
        return rebuilt, self.generate(noise.normal(self.latent_dim).to(x))

    def judge(self, x: Tensor) -> Tensor:
        """Return the logit (B,) that an item is real."""
        return self.critic(x, labels_or_null(None, 0, len(x)))

    def features(self, x: Tensor) -> Tensor:
        """Return Dis_l(x), (B, F), at unit power."""
        assert isinstance(self.critic.body, nn.Sequential)
        return unit_power(self.critic.body[: self.depth](x).flatten(1).to(x.dtype))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        return self.posterior(items(x, self.leaf.extents))[0]

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:  # noqa: ARG002
        return nearest_level(self.generate(z), self.leaf.kind)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        return self.decode(noise.normal(self.latent_dim).to(next(self.parameters())), cond)


CARD = card.Card(
    name="hybrid.vaegan",
    title="VAE-GAN",
    summary="A VAE and a GAN with one decoder; errors are measured in the discriminator's features.",
    events=(card.graded_image,),
    references=(
        card.Reference(
            "Larsen et al.", 2016, "Autoencoding beyond pixels using a learned similarity", "arXiv:1512.09300"
        ),
        card.Reference(
            "Mescheder et al.", 2018, "Which training methods for GANs do converge?", "arXiv:1801.04406"
        ),
    ),
    good_at=("Sharper reconstructions than a VAE, and codes that a GAN lacks.",),
    bad_at=("Gives no likelihood.", "Three players to balance; reconstructions alter details."),
)
