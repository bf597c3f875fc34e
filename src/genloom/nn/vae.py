"""A latent-variable model of three parts, posterior q(z|x), prior p(z) and decoder p(x|z), and its bound.

Kingma & Welling 2014, arXiv:1312.6114; scored by the bound of Burda et al. 2016, arXiv:1509.00519.
B batch, S event shape, Z latent dimensions, K importance samples, P numbers per scalar of the likelihood,
I inputs of the encoder: the item, and the label as zeros and ones where there are labels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.capabilities import Latent, LatentVariable, Likelihood, Sampler
from genloom.core.card import class_count
from genloom.core.events import Event, Value, flat_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Network, encoder_and_decoder
from genloom.nn.labels import labels_or_null
from genloom.nn.likelihoods import Output, OutputName, output_for, to_input

Emit = Literal["typical", "draw"]


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """Return log (1/K) sum_k w_k from log w (K, B) (Burda et al., equation 8)."""
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


class Posterior(nn.Module, ABC):
    """q(z|x), from the encoder's inputs."""

    @abstractmethod
    def draws(self, inputs: Tensor, noise: Noise, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw ``count`` times a code (B, Z), each with its log q(z|x) (B,) in nats, differentiably."""

    @abstractmethod
    def centre(self, inputs: Tensor) -> Tensor:
        """Return one code (B, Z) that stands for the item."""


class Prior(nn.Module, ABC):
    """p(z|y), given a label or none."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @abstractmethod
    def log_prob(self, z: Tensor, cond: Value | None) -> Tensor:
        """Return log p(z|y) of codes (B, Z), (B,) nats."""

    @abstractmethod
    def draw(self, noise: Noise, cond: Value | None) -> Tensor:
        """Draw a code for each row of ``noise``, (B, Z)."""


class VAE(nn.Module, Sampler, Likelihood, Latent, LatentVariable):
    """Posterior, prior and decoder (B, Z + labels) -> (B, D P) as one model."""

    def __init__(
        self,
        event: Event,
        posterior: Posterior,
        prior: Prior,
        decoder: nn.Module,
        output: Output,
        classes: int,
        importance_samples: int,
        emit: Emit,
    ) -> None:
        super().__init__()
        self.event, self.shape = event, flat_leaf(event).extents
        self.posterior, self.prior, self.decoder, self.output = posterior, prior, decoder, output
        self.classes, self.importance_samples, self.emit = classes, importance_samples, emit

    @property
    def latent_dim(self) -> int:
        """Z."""
        return self.prior.dim

    def inputs(self, x: Tensor, cond: Value | None) -> Tensor:
        """Return what the encoder sees, (B, I)."""
        dtype = next(self.parameters()).dtype
        return self._with_label(to_input(self.event, items(x, self.shape), dtype).flatten(1), cond)

    def _with_label(self, h: Tensor, cond: Value | None) -> Tensor:
        if not self.classes:
            return h
        label = labels_or_null(cond, self.classes, h.shape[0])
        return torch.cat([h, F.one_hot(label, self.classes + 1).to(h.dtype)], 1)

    def likelihood_parameters(self, z: Tensor, cond: Value | None) -> Tensor:
        """Return the parameters (B, *S, P) of p(x|z)."""
        return self._decoded(z, cond).to(z.dtype)

    def _decoded(self, z: Tensor, cond: Value | None) -> Tensor:
        """Return the same in the precision that the decoder works in."""
        flat: Tensor = self.decoder(self._with_label(z, cond))
        return flat.view(z.shape[0], *self.shape, self.output.parameters_per_scalar)

    def draw_code(self, noise: Noise, cond: Value | None = None) -> Tensor:
        return self.prior.draw(noise, cond).to(next(self.parameters()))

    def log_prior(self, z: Tensor, cond: Value | None = None) -> Tensor:
        return self.prior.log_prob(z, cond)

    def log_likelihood(self, x: Value, z: Tensor, cond: Value | None = None) -> Tensor:
        """Return log p(x | z, cond) of items (B, *S) for codes (K B, Z), K for each item: (K B,) nats."""
        nats: Tensor = self.output(self._decoded(z, cond), items(x, self.shape))
        return nats.to(z.dtype)

    def infer(self, x: Value, noise: Noise, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        return next(self.posterior.draws(self.inputs(tensor(x), cond), noise, 1))

    def log_joint(self, x: Tensor, z: Tensor, cond: Value | None) -> Tensor:
        """Return log p(x, z | cond), (B,) nats."""
        return self.log_likelihood(x, z, cond) + self.log_prior(z, cond)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return the importance-weighted lower bound with K samples."""
        x = tensor(x)
        drawn = self.posterior.draws(self.inputs(x, cond), noise, self.importance_samples)
        log_weights = [self.log_joint(x, z, cond) - log_q for z, log_q in drawn]
        return LogProb(importance_weighted_bound(torch.stack(log_weights)), Bound.LOWER, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.posterior.centre(self.inputs(tensor(x), cond))

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        return self.output.typical(self.likelihood_parameters(z, cond))

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        z = self.draw_code(noise, cond)
        if self.emit == "typical":
            return self.decode(z, cond)
        return self.output.draw(self.likelihood_parameters(z, cond), noise)


class Settings(Protocol):
    """What the configurations of these models have in common."""

    @property
    def latent_dim(self) -> int: ...
    @property
    def network(self) -> Network: ...
    @property
    def hidden(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def likelihood(self) -> OutputName: ...
    @property
    def importance_samples(self) -> int: ...
    @property
    def emit(self) -> Emit: ...


def make_vae(
    settings: Settings,
    event: Event,
    cond: Event | None,
    posterior: Callable[[nn.Module], Posterior],
    prior: Callable[[Posterior, int, int], Prior],
    *,
    codes: int | None = None,
) -> VAE:
    """Return an untrained model of items of ``event``.

    Args:
        posterior: makes it of the encoder.
        prior: makes it of the posterior, the number I of its inputs, and the number of classes.
        codes: how many numbers the encoder gives, 2 Z unless told.
    """
    leaf = flat_leaf(event)
    output, classes = output_for(leaf, settings.likelihood), class_count(cond)
    features = classes + 1 if classes else 0
    encoder, decoder = encoder_and_decoder(
        leaf,
        settings.network,
        hidden=settings.hidden,
        channels=settings.channels,
        codes=codes or 2 * settings.latent_dim,
        latent_dim=settings.latent_dim,
        features=features,
        per_scalar=output.parameters_per_scalar,
    )
    q = posterior(encoder)
    p = prior(q, leaf.dim + features, classes)
    return VAE(event, q, p, decoder, output, classes, settings.importance_samples, settings.emit)
