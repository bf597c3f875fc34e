"""Normals as posterior and prior of a latent code, and what they need: densities, divergences, bounds.

Kingma & Welling 2014, arXiv:1312.6114; the importance-weighted bound is Burda et al. 2016, arXiv:1509.00519.
B batch, Z latent dimensions, K importance samples, H hidden units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genloom.core.events import Batch, Value, tensor
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase
from genloom.core.randomness import Noise
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.vae import VAE, Posterior, Prior

ACTIVE = 0.01
"""A unit is active where the variance over the data of its posterior mean is above this (Burda et al.)."""


def kl_of_normals(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """Return KL(N(mean, std^2) || N(prior_mean, prior_std^2)) of every scalar, in nats."""
    gap = log_std - prior_log_std
    return 0.5 * (((mean - prior_mean) * torch.exp(-prior_log_std)) ** 2 + torch.exp(2 * gap) - 1) - gap


def normal_log_prob(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(z; mean, std^2), summed over the last axis."""
    return (-0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def kl_from_standard_normal(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), summed over the last axis (Kingma & Welling, appendix B)."""
    return kl_of_normals(mean, log_std, torch.zeros_like(mean), torch.zeros_like(mean)).sum(-1)


def log_normal_ratio(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log N(z; 0, 1) - log N(z; mean, std^2), summed over the last axis."""
    return (0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 + log_std - 0.5 * z**2).sum(-1)


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Return the KL term that leaves each unit ``floor`` nats for nothing: (B, Z) -> ().

    Args:
        kl: nats of each item and unit.
        floor: lambda; 0 gives the mean of the KL.

    Source: Kingma et al. 2016, arXiv:1606.04934, equation 15, one group a unit. The mean inside the maximum
        is over the items computed together, so accumulated gradients are not exactly those of one batch.
    """
    return kl.mean(0).clamp_min(floor).sum()


def active_units(mean: Tensor) -> Tensor:
    """Count the units of posterior means (B, Z) that vary with the item; none is a collapsed posterior.

    Source: Burda et al. 2016, section 5.1 and appendix C, on a batch in place of the data set.
    """
    return (mean.detach().float().var(0, correction=0) > ACTIVE).sum().float()


class NormalPosterior(Posterior):
    """q(z|x) = N(mean, std^2), both from an encoder (B, I) -> (B, 2 Z)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, (B, Z) each."""
        mean, log_std = self.encoder(inputs).to(inputs.dtype).chunk(2, 1)
        return mean, log_std.clamp(-7, 5)

    def draws(self, inputs: Tensor, noise: Noise, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        mean, log_std = self(inputs)
        for _ in range(count):
            z = mean + log_std.exp() * noise.normal(mean.shape[1]).to(mean)
            yield z, normal_log_prob(z, mean, log_std)

    def centre(self, inputs: Tensor) -> Tensor:
        mean: Tensor = self(inputs)[0]
        return mean


class NormalPrior(Prior, ABC):
    """A prior of independent normals."""

    @abstractmethod
    def parameters_like(self, z: Tensor, cond: Value | None) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, each of the shape and dtype of ``z`` (B, Z)."""

    def log_prob(self, z: Tensor, cond: Value | None) -> Tensor:
        return normal_log_prob(z, *self.parameters_like(z, cond))

    def draw(self, noise: Noise, cond: Value | None) -> Tensor:
        z = noise.normal(self.dim)
        mean, log_std = self.parameters_like(z, cond)
        return mean + log_std.exp() * z.to(mean)


class StandardNormal(NormalPrior):
    """p(z) = N(0, I)."""

    def parameters_like(self, z: Tensor, cond: Value | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return torch.zeros_like(z), torch.zeros_like(z)


class LearnedNormal(NormalPrior):
    """p(z|y) = N(mean, std^2), both from a network of the label; standard normal at first."""

    def __init__(self, dim: int, classes: int, hidden: int) -> None:
        super().__init__(dim)
        self.classes = classes
        last = nn.Linear(hidden, 2 * dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(
            nn.Embedding(classes + 1, hidden), nn.Linear(hidden, hidden), nn.SiLU(), last
        )

    def parameters_like(self, z: Tensor, cond: Value | None) -> tuple[Tensor, Tensor]:
        dtype = next(self.parameters()).dtype
        mean, log_std = self.network(labels_or_null(cond, self.classes, len(z))).to(dtype).chunk(2, 1)
        return mean, log_std.clamp(-7, 5)


@dataclass(frozen=True)
class ElboTerms:
    """The bound of a batch in parts: -log p(x|z) by one draw (B,), KL(q || p) (B, Z), E[z|x] (B, Z)."""

    reconstruction: Tensor
    kl: Tensor
    mean: Tensor


def elbo_terms(model: VAE, x: Tensor, cond: Value | None, noise: Noise) -> ElboTerms:
    """Return the evidence lower bound in parts, the KL of normals in closed form, in nats."""
    posterior, prior = model.posterior, model.prior
    assert isinstance(posterior, NormalPosterior)
    assert isinstance(prior, NormalPrior)
    mean, log_std = posterior(model.inputs(x, cond))
    z = mean + log_std.exp() * noise.normal(model.latent_dim).to(mean)
    kl = kl_of_normals(mean, log_std, *prior.parameters_like(z, cond))
    return ElboTerms(-model.log_likelihood(x, z, cond), kl, mean)


def elbo_objective(
    model: VAE,
    optimiser: Optimiser,
    *,
    beta: float = 1.0,
    warmup: float = 0.0,
    floor: float = 0.0,
    label_dropout: float = 0.0,
) -> Objective:
    """Return the maximisation of the bound of a model with normal posterior and prior.

    Args:
        beta: weight of the KL term (Higgins et al. 2017).
        warmup: fraction of the steps over which it grows from 0 (Sonderby et al. 2016).
        floor: free bits of each unit, in nats.
        label_dropout: share of labels replaced by "no label".
    """

    def negative_elbo(batch: Batch, noise: Noise, clock: Clock) -> Loss:
        weight = beta * min(1.0, clock.progress / warmup if warmup else 1.0)
        label = batch.get("cond")
        if label is not None:
            label = hide_labels(tensor(label), model.classes, label_dropout, noise)
        found = elbo_terms(model, tensor(batch["x"]), label, noise)
        return Loss(
            {"reconstruction": found.reconstruction.mean(), "kl": weight * free_bits(found.kl, floor)},
            {"rate": found.kl.sum(1).mean(), "active_units": active_units(found.mean)},
        )

    phase = Phase("elbo", ("vae",), negative_elbo)
    return Objective({"vae": Group(model, optimiser)}, [phase], Average())
