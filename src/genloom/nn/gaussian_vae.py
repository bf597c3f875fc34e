"""A latent-variable model with a Gaussian posterior and prior, and the bounds on its evidence.

Kingma & Welling 2014, arXiv:1312.6114; the importance-weighted bound is Burda et al. 2016, arXiv:1509.00519.
B batch, S event shape, Z latent dimensions, K importance samples, P numbers per scalar of the likelihood.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.capabilities import Latent, Likelihood, Sampler
from genloom.core.events import Event, Value, flat_leaf, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.randomness import Noise
from genloom.nn.labels import labels_or_null
from genloom.nn.likelihoods import Output, to_input

Emit = Literal["typical", "draw"]


def kl_from_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), summed over the last axis (Kingma & Welling, appendix B)."""
    return 0.5 * (mean**2 + torch.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)


def normal_log_prob(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(z; mean, std^2), summed over the last axis."""
    return (-0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return log (1/K) sum_k w_k from log w (K, B) (Burda et al., equation 8)."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


class GaussianVAE(nn.Module, Sampler, Likelihood, Latent):
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
        emit: Emit,
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

    def log_joint(self, x: Tensor, z: Tensor, cond: Value | None) -> Tensor:
        """Return log p(x, z | cond), (B,) nats."""
        log_px = self.output.log_prob(self.likelihood_parameters(z, cond), x).flatten(1).sum(1)
        return log_px + normal_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))

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
            log_weights.append(self.log_joint(x, z, cond) - normal_log_prob(z, mean, log_std))
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
