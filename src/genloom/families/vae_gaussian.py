"""Variational autoencoder with a Gaussian posterior and a standard normal prior.

Kingma & Welling 2014, arXiv:1312.6114; beta as in Higgins et al. 2017; scored by the importance-weighted
bound of Burda et al. 2016, arXiv:1509.00519.  B batch, S event shape, D scalars, Z latent dimensions,
K importance samples, P numbers per scalar of the likelihood.
"""

import itertools
import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Latent, Likelihood, Sampler
from genloom.core.events import Batch, Event, Real, Value, flat_leaf, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.likelihoods import Output, output_for, to_input


class Config(card.Config):
    """Settings of the Gaussian VAE."""

    latent_dim: int = Field(32, ge=1, description="more than the data use: unused ones cost nothing")
    network: Literal["auto", "mlp", "conv"] = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(
        32, ge=1, description="channels after the first convolution, doubled at each halving"
    )
    likelihood: Literal["auto", "bernoulli", "softmax", "discretised_logistic", "gaussian"] = "auto"
    beta: float = Field(
        1.0, ge=0, description="weight of the KL term; only 1 trains a bound on the likelihood"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps over which beta grows from 0")
    importance_samples: int = Field(32, ge=1, description="K of the bound that log_prob returns")
    emit: Literal["typical", "draw"] = Field(
        "typical", description="samples of images show the mean of p(x|z), as is the custom; others draw it"
    )
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = flat_leaf(event)
        emit: Literal["typical", "draw"] = "draw" if isinstance(leaf.kind, Real) else "typical"
        if leaf.dim <= 128:
            return cls(latent_dim=16, hidden=256, lr=2e-3, emit=emit)
        return cls(emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        leaf = flat_leaf(event)
        output = output_for(leaf, self.likelihood)
        classes = card.class_count(cond)
        conv = self.network == "conv" or (
            self.network == "auto" and len(leaf.extents) == 3 and (leaf.extents[0] > 1 or leaf.dim > 1024)
        )
        features = classes + 1 if classes else 0
        encoder: nn.Module
        decoder: nn.Module
        if conv:
            encoder = ConvEncoder(leaf.extents, self.channels, 2 * self.latent_dim, features)
            decoder = ConvDecoder(
                leaf.extents, self.channels, self.latent_dim + features, output.parameters_per_scalar
            )
        else:
            encoder = mlp(leaf.dim + features, self.hidden, 2 * self.latent_dim)
            decoder = mlp(self.latent_dim + features, self.hidden, leaf.dim * output.parameters_per_scalar)
        return Model(
            event, encoder, decoder, output, self.latent_dim, classes, self.importance_samples, self.emit
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

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


def kl_from_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), summed over the last axis (Kingma & Welling, appendix B)."""
    return 0.5 * (mean**2 + torch.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)


def normal_log_prob(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(z; mean, std^2), summed over the last axis."""
    return (-0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return log (1/K) sum_k w_k from log w (K, B) (Burda et al., equation 8)."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)
    )


def halvings(height: int, width: int) -> int:
    """Return how often an image can be halved before a side falls below 4."""
    return max(1, int(math.log2(max(min(height, width), 8) / 4)))


class ConvEncoder(nn.Module):
    """Strided convolutions, then a linear layer. Takes (B, C*H*W + features)."""

    def __init__(self, shape: tuple[int, ...], channels: int, outputs: int, features: int) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape[0], *(channels * 2**i for i in range(halvings(*shape[1:])))]
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.SiLU(), nn.Conv2d(b, b, 3, 1, 1), nn.SiLU()]
        self.convs = nn.Sequential(*layers)
        with torch.no_grad():
            flat = self.convs(torch.zeros(1, *shape)).numel()
        self.out = nn.Linear(flat + features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        image, rest = x.split([math.prod(self.shape), x.shape[1] - math.prod(self.shape)], 1)
        h = self.convs(image.view(-1, *self.shape).contiguous(memory_format=torch.channels_last))
        return self.out(torch.cat([h.flatten(1), rest], 1))


class ConvDecoder(nn.Module):
    """A linear layer, then upsampling convolutions, cropped to the image. Returns (B, C*H*W*P)."""

    def __init__(self, shape: tuple[int, ...], channels: int, inputs: int, per_scalar: int) -> None:
        super().__init__()
        self.shape, self.per_scalar = shape, per_scalar
        n = halvings(*shape[1:])
        self.small = (-(-shape[1] // 2**n), -(-shape[2] // 2**n))
        widths = [channels * 2**i for i in reversed(range(n))]
        self.start = nn.Linear(inputs, widths[0] * math.prod(self.small))
        layers: list[nn.Module] = []
        for a, b in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.SiLU(), nn.Conv2d(a, 4 * b, 3, 1, 1), nn.PixelShuffle(2)]
        self.convs = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(channels, shape[0] * per_scalar, 3, 1, 1))

    def forward(self, z: Tensor) -> Tensor:
        h = self.start(z).view(z.shape[0], -1, *self.small)
        y = self.convs(h.contiguous(memory_format=torch.channels_last))
        c, height, width = self.shape
        y = y[:, :, :height, :width].reshape(-1, c, self.per_scalar, height, width)
        return y.movedim(2, -1).reshape(z.shape[0], -1)


class Model(nn.Module, Sampler, Likelihood, Latent):
    """Encoder q(z|x), decoder p(x|z), prior N(0, I)."""

    def __init__(
        self,
        event: Event,
        encoder: nn.Module,
        decoder: nn.Module,
        output: Output,
        latent_dim: int,
        classes: int,
        importance_samples: int,
        emit: str,
    ) -> None:
        super().__init__()
        self.event, self.shape = event, flat_leaf(event).extents
        self.encoder, self.decoder, self.output = encoder, decoder, output
        self.latent_dim, self.classes = latent_dim, classes
        self.importance_samples, self.emit = importance_samples, emit

    def posterior(self, x: Tensor, cond: Value | None) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of q(z|x), (B, Z) each."""
        dtype = next(self.encoder.parameters()).dtype
        flat = self._with_label(to_input(self.event, x, dtype).flatten(1), cond)
        mean, log_std = self.encoder(flat).to(dtype).chunk(2, 1)
        return mean, log_std.clamp(-7, 5)

    def likelihood_parameters(self, z: Tensor, cond: Value | None) -> Tensor:
        """Return the parameters (B, *S, P) of p(x|z)."""
        flat = self.decoder(self._with_label(z, cond)).to(z.dtype)
        return flat.view(z.shape[0], *self.shape, self.output.parameters_per_scalar)

    def _with_label(self, h: Tensor, cond: Value | None) -> Tensor:
        if not self.classes:
            return h
        label = labels_or_null(cond, self.classes, h.shape[0])
        return torch.cat([h, F.one_hot(label, self.classes + 1).to(h.dtype)], 1)

    def elbo_terms(self, x: Tensor, cond: Value | None, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return -E_q log p(x|z) by one draw, and KL(q || p), (B,) each, in nats."""
        mean, log_std = self.posterior(x, cond)
        z = mean + log_std.exp() * noise.normal(self.latent_dim).to(mean)
        log_px = self.output.log_prob(self.likelihood_parameters(z, cond), x)
        return -log_px.flatten(1).sum(1), kl_from_standard_normal(mean, log_std)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return the importance-weighted lower bound with K samples."""
        x = tensor(x)
        mean, log_std = self.posterior(x, cond)
        log_weights = []
        for _ in range(self.importance_samples):
            z = mean + log_std.exp() * noise.normal(self.latent_dim).to(mean)
            log_px = self.output.log_prob(self.likelihood_parameters(z, cond), x).flatten(1).sum(1)
            log_weights.append(log_px + normal_log_prob(z, z * 0, z * 0) - normal_log_prob(z, mean, log_std))
        return LogProb(importance_weighted_bound(torch.stack(log_weights)), Bound.LOWER, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.posterior(tensor(x), cond)[0]

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        return self.output.typical(self.likelihood_parameters(z, cond))

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        z = noise.normal(self.latent_dim).to(next(self.parameters()))
        if self.emit == "typical":
            return self.decode(z, cond)
        return self.output.draw(self.likelihood_parameters(z, cond), noise)


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
