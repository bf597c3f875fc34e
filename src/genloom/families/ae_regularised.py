"""Regularised autoencoder, sampled by a mixture fitted to its codes. Ghosh et al. 2020, arXiv:1903.12436.

The contractive penalty is Rifai et al. 2011, ICML. B batch, S event shape, D values of an item, Z latent
dimensions, K components.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import ClosedForm, Latent, Sampler
from genloom.core.errors import DataError
from genloom.core.events import Batch, Categorical, Event, Value, flat_leaf, rows, take
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.math.gmm import Dense, Mixture, Prior, cluster, em, first_parts, maximise, spread_centres
from genloom.nn.autoencoders import Autoencoder, Network, autoencoder
from genloom.nn.fitted import fitted_buffers, require_fitted
from genloom.nn.likelihoods import squared_or_cross_entropy

Regulariser = Literal["gradient", "l2", "contractive", "none"]
ENCODED = 1024
"""Rows encoded together for the mixture."""


class Config(card.Config):
    """Settings of a regularised autoencoder."""

    latent_dim: int = Field(32, ge=1, description="numbers that an item is squeezed into")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(32, ge=1, description="channels after the first convolution, then doubled")
    code_weight: float = Field(1e-2, ge=0, description="beta of eq. 11: keeps codes near zero")
    regulariser: Regulariser = Field("gradient", description="what keeps the decoder, or encoder, smooth")
    weight: float = Field(1e-3, ge=0, description="lambda of eq. 11, of the regulariser")
    components: int = Field(10, ge=1, description="K of the mixture, as in the paper")
    prior: float = Field(5.0, gt=0, description="pseudo-rows that keep a component's covariance regular")
    em_steps: int = Field(100, ge=1, description="most EM steps")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        """Squeeze small items into a quarter of their numbers."""
        leaf = flat_leaf(event)
        return cls(latent_dim=max(2, leaf.dim // 4), hidden=256, lr=2e-3) if leaf.dim <= 128 else cls()

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
        return Model(network, self)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)
        network = model.network
        penalty = PENALTIES.get(self.regulariser)

        def error(batch: Batch, noise: Noise, _: Clock) -> Loss:
            h = network.inputs(batch["x"])
            z = network.encode(batch["x"])
            terms = {
                "error": network.error(batch["x"], z).mean(),
                "codes": self.code_weight * 0.5 * z.square().sum(1).mean(),
            }
            if penalty is not None:
                terms["smoothness"] = self.weight * penalty(network, h, z, noise)
            return Loss(terms)

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0)
        groups = {"autoencoder": Group(network, optimiser)}
        objective = Objective(groups, [Phase("error", ("autoencoder",), error)], Average())
        return [Stage("autoencoder", objective, self.batch_size), Stage("mixture", None)]


def squared_jacobian(function: Callable[[Tensor], Tensor], x: Tensor, noise: Noise) -> Tensor:
    """Return an unbiased estimate of the squared norm (Frobenius) of df/dx at each x (B, N), differentiable.

    Source: Hutchinson 1990: E |v^T J|^2 = |J|^2 for standard normal v.
    """
    x = x if x.requires_grad else x.detach().requires_grad_()
    y = function(x).to(x.dtype)
    (product,) = torch.autograd.grad(y, x, noise.normal(y.shape[1]).to(y), create_graph=True)
    return product.square().sum(1)


def decoder_gradient(network: Autoencoder, _: Tensor, z: Tensor, noise: Noise) -> Tensor:
    """Return the mean squared norm of the decoder's Jacobian at the codes (Ghosh et al., section 3.1)."""
    return squared_jacobian(network.decoder, z, noise).mean()


def encoder_gradient(network: Autoencoder, h: Tensor, _: Tensor, noise: Noise) -> Tensor:
    """Return the mean squared norm of the encoder's Jacobian at the items (Rifai et al., equation 2)."""
    return squared_jacobian(network.encoder, h, noise).mean()


def decoder_weights(network: Autoencoder, _: Tensor, __: Tensor, ___: Noise) -> Tensor:
    """Return the sum of squares of the decoder's weights (Ghosh et al., section 3.1, Tikhonov)."""
    return torch.stack([p.square().sum() for p in network.decoder.parameters()]).sum()


Penalty = Callable[[Autoencoder, Tensor, Tensor, Noise], Tensor]
PENALTIES: dict[Regulariser, Penalty] = {
    "gradient": decoder_gradient,
    "contractive": encoder_gradient,
    "l2": decoder_weights,
}


class Model(nn.Module, Sampler, Latent, ClosedForm):
    """A deterministic autoencoder, and a mixture of normals over its codes."""

    log_weight: Tensor
    mean: Tensor
    factor: Tensor

    def __init__(self, network: Autoencoder, config: Config) -> None:
        super().__init__()
        self.network, self.config = network, config
        fitted_buffers(self, "log_weight", "mean", "factor")

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.network.encode(x, cond)

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        return self.network.decode(z, cond)

    @torch.no_grad()
    def fit(self, train: Value, valid: Value, noise: Noise, cond: Value | None = None) -> dict[str, float]:  # noqa: ARG002
        """Fit the mixture to the codes of all training rows by EM, from k-means."""
        z, held = self._codes(train), self._codes(valid)
        if not z.isfinite().all():
            raise DataError("some codes are not finite: are there missing values in the data?")
        config = self.config
        prior = Prior(0.1 * z.var(0, correction=0).clamp_min(1e-9), config.prior)
        share = cluster(z, spread_centres(z, min(config.components, len(z)), noise), steps=10)
        start = maximise(z, share, first_parts(z, share, "full", 0, prior), prior)
        *_, (mixture, nats) = em(z, start, prior, config.em_steps, 1e-4 * z.shape[1])
        assert isinstance(mixture.parts, Dense)
        self.log_weight = mixture.log_weight.to(self.log_weight)
        self.mean, self.factor = mixture.parts.mean.to(self.mean), mixture.parts.factor.to(self.factor)
        return {"codes_nats": -nats, "valid_codes_nats": -float(mixture.log_density(held).mean())}

    def _codes(self, x: Value) -> Tensor:
        """Return the codes of all items, (N, Z) float64."""
        parts = [self.encode(take(x, slice(i, i + ENCODED))) for i in range(0, rows(x), ENCODED)]
        return torch.cat(parts).double()

    def mixture(self) -> Mixture:
        """Return the density of codes in float64.

        Raises:
            Unsupported: the second stage has not been run.
        """
        require_fitted(self.mean)
        return Mixture(self.log_weight.double(), Dense(self.mean.double(), self.factor.double()))

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:  # noqa: ARG002
        """Decode codes drawn from the mixture (Ghosh et al., section 4)."""
        mixture = self.mixture()
        count = rows(noise.uniform())
        chosen = noise.categorical(mixture.log_weight.expand(count, -1))
        return self.network.decode(mixture.parts.draw(chosen, noise).to(self.mean))


CARD = card.Card(
    name="ae.regularised",
    title="Regularised autoencoder",
    summary="A smooth deterministic autoencoder; a mixture fitted to its codes makes it generate.",
    events=(card.binary_image, card.graded_image, card.binary, card.leaf_of(Categorical), card.real),
    references=(
        card.Reference(
            "Ghosh et al.", 2020, "From variational to deterministic autoencoders", "arXiv:1903.12436"
        ),
        card.Reference("Rifai et al.", 2011, "Contractive auto-encoders", "ICML"),
    ),
    good_at=(
        "Sharper items than a VAE of the same size.",
        "Trains steadily, without noise.",
    ),
    bad_at=("Gives no likelihood.", "Samples lie on a surface of the code's dimension."),
)
