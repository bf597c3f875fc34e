"""Hierarchical VAE: a ladder of stochastic layers, inferred from the top down with the item's features.

Sonderby et al. 2016, arXiv:1602.02282 (the ladder and its warm-up); Child 2021, arXiv:2011.10650 (blocks).
B batch, S event shape, L layers of codes, Z all codes of an item, K importance samples.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Latent, LatentVariable, Likelihood, Sampler
from genloom.core.errors import ConfigError
from genloom.core.events import Batch, Event, Leaf, Real, Value, flat_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.gaussian_vae import (
    active_units,
    free_bits,
    kl_from_standard_normal,
    log_normal_ratio,
    normal_log_prob,
)
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.ladder import Scale, StochasticLayer, flat_to_map, make_scales, padded
from genloom.nn.likelihoods import Output, OutputName, output_for, to_input
from genloom.nn.vae import Emit, importance_weighted_bound


class Config(card.Config):
    """Settings of a hierarchical VAE. Tuples have one number a scale, from the vector at the top down."""

    layers: card.Widths = Field(
        (1, 3, 2), description="stochastic layers: a vector, then maps of ever finer size"
    )
    widths: card.Widths = Field((128, 64, 32), description="channels of each scale")
    codes: card.Widths = Field(
        (16, 8, 4), description="code channels of each layer: unused ones cost nothing"
    )
    likelihood: OutputName = "auto"
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of the steps over which the KL term grows")
    free_bits: float = Field(0.0, ge=0, description="nats of KL that each stochastic layer has for nothing")
    importance_samples: card.Free[int] = Field(32, ge=1, description="K of the bound that log_prob returns")
    emit: card.Free[Emit] = Field("typical", description="samples show the mean of p(x|z), or draw it")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    lr: float = Field(2e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(64, ge=1, description="steps count for more than a smooth gradient")

    @classmethod
    def preset(cls, event: Event) -> "Config":
        leaf = flat_leaf(event)
        emit: Emit = "draw" if isinstance(leaf.kind, Real) else "typical"
        if len(leaf.extents) != 3:
            return cls(layers=(2,), widths=(128,), codes=(8,), emit=emit)
        if leaf.dim <= 128:
            return cls(layers=(1, 1), widths=(64, 32), codes=(8, 4), emit=emit)
        return cls(emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        leaf = flat_leaf(event)
        if not len(self.layers) == len(self.widths) == len(self.codes):
            raise ConfigError("layers, widths and codes need one number for each scale")
        if len(leaf.extents) != 3 and len(self.layers) > 1:
            raise ConfigError("only images have scales below the top: give one number of layers")
        output, classes = output_for(leaf, self.likelihood), card.class_count(cond)
        scales = make_scales(as_maps(leaf, len(self.layers)), self.layers, self.widths, self.codes)
        return Model(leaf, scales, self.widths, output, classes, self.importance_samples, self.emit)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def negative_elbo(batch: Batch, noise: Noise, clock: Clock) -> Loss:
            weight = min(1.0, clock.progress / self.warmup if self.warmup else 1.0)
            label = batch.get("cond")
            if label is not None:
                label = hide_labels(tensor(label), model.classes, self.label_dropout, noise)
            x = tensor(batch["x"])
            found = next(model.inferred(x, label, noise, 1))
            kl = torch.stack([kl_from_standard_normal(c.mean, c.log_std) for c in found.codes], 1)
            means = torch.cat([c.mean for c in found.codes], 1)
            return Loss(
                {
                    "reconstruction": -model.score(x, model.likelihood_parameters(found.h)).mean(),
                    "kl": weight * free_bits(kl, self.free_bits),
                },
                {"rate": kl.sum(1).mean(), "active_units": active_units(means)},
            )

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=200.0)
        phase = Phase("elbo", ("vae",), negative_elbo)
        objective = Objective({"vae": Group(model, optimiser)}, [phase], Average())
        return [Stage("vae", objective, self.batch_size)]


def as_maps(leaf: Leaf, scales: int) -> tuple[int, int, int]:
    """Return the items' shape as (C, H, W), padded to be halved for every scale below the top."""
    return padded(leaf.extents, scales - 1) if len(leaf.extents) == 3 else (leaf.dim, 1, 1)


@dataclass(frozen=True)
class Code:
    """A layer's posterior and a draw from it, in units of the prior, (B, Z of the layer) each."""

    mean: Tensor
    log_std: Tensor
    u: Tensor


@dataclass(frozen=True)
class Inferred:
    """A pass down the ladder: the codes of every layer, and what the likelihood is made of."""

    codes: list[Code]
    h: Tensor


Choose = Callable[[int, StochasticLayer, Tensor], Tensor]
"""(scale, layer, h) -> the code u of the layer, (B, Z, H, W)."""


class Model(nn.Module, Sampler, Likelihood, Latent, LatentVariable):
    """p(x|z) prod_l p(z_l | z_<l), with q(z|x) = prod_l q(z_l | z_<l, x) (Child 2021, equations 2 and 3)."""

    def __init__(
        self,
        leaf: Leaf,
        scales: list[Scale],
        widths: tuple[int, ...],
        output: Output,
        classes: int,
        importance_samples: int,
        emit: Emit,
    ) -> None:
        super().__init__()
        self.leaf, self.output, self.classes = leaf, output, classes
        self.importance_samples, self.emit = importance_samples, emit
        self.padded = as_maps(leaf, len(scales))
        self.scales = nn.ModuleList(scales)
        self.start = nn.Embedding(classes + 1, widths[0])
        numbers = self.padded[0] * output.parameters_per_scalar
        self.head: nn.Module = (
            flat_to_map(widths[0], numbers, self.padded[1:])
            if len(scales) == 1
            else nn.Sequential(nn.SiLU(), nn.Conv2d(widths[-1], 4 * numbers, 3, 1, 1), nn.PixelShuffle(2))
        )

    @property
    def _dtype(self) -> torch.dtype:
        return self.start.weight.dtype

    def _all_scales(self) -> list[Scale]:
        return [scale for scale in self.scales if isinstance(scale, Scale)]

    def features(self, x: Tensor) -> list[Tensor]:
        """Return what each scale knows of items (B, *S), from the top down."""
        h = to_input(self.leaf, items(x, self.leaf.extents), self._dtype)
        channels, height, width = self.padded
        if len(self.leaf.extents) == 3:
            h = F.pad(h, (0, width - h.shape[3], 0, height - h.shape[2]))
        h = h.reshape(-1, channels, height, width).contiguous(memory_format=torch.channels_last)
        found = []
        for scale in reversed(self._all_scales()):
            h = scale.up(h)
            found.append(h)
        return found[::-1]

    def descend(self, batch: int, cond: Value | None, choose: Choose) -> Tensor:
        """Go down the ladder with codes that are chosen on the way; return the finest h."""
        label = labels_or_null(cond, self.classes, batch)
        h = self.start(label)[:, :, None, None]
        for number, scale in enumerate(self._all_scales()):
            h = scale.down(h).contiguous(memory_format=torch.channels_last)
            for layer in scale.layers:
                assert isinstance(layer, StochasticLayer)
                h = layer(h, choose(number, layer, h))
        return h

    def inferred(self, x: Tensor, cond: Value | None, noise: Noise, count: int) -> Iterator[Inferred]:
        """Draw the codes of items ``count`` times from the posterior."""
        features = self.features(x)
        for _ in range(count):
            codes: list[Code] = []

            def choose(number: int, layer: StochasticLayer, h: Tensor, codes: list[Code] = codes) -> Tensor:
                mean, log_std = layer.posterior(h, features[number])
                u = mean + log_std.exp() * noise.normal(*mean.shape[1:]).to(mean)
                codes.append(Code(mean.flatten(1), log_std.flatten(1), u.flatten(1)))
                return u

            h = self.descend(len(x), cond, choose)
            yield Inferred(codes, h)

    def likelihood_parameters(self, h: Tensor) -> Tensor:
        """Return the parameters (B, *S, P) of p(x|z) from the finest h."""
        y = self.head(h).to(self._dtype).unflatten(1, (self.padded[0], -1)).movedim(2, -1)
        if len(self.leaf.extents) == 3:
            y = y[:, :, : self.leaf.extents[1], : self.leaf.extents[2]]
        return y.reshape(len(h), *self.leaf.extents, self.output.parameters_per_scalar)

    def score(self, x: Value, parameters: Tensor) -> Tensor:
        """Return log p(x|z), (B,) nats, from the parameters of p(x|z)."""
        return self.output(parameters, items(x, self.leaf.extents))

    def draw_code(self, noise: Noise, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        total = sum(s.codes * math.prod(s.size) * len(s.layers) for s in self._all_scales())
        return noise.normal(total).to(self._dtype)

    def log_prior(self, z: Tensor, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        return normal_log_prob(z, torch.zeros_like(z), torch.zeros_like(z))

    def log_likelihood(self, x: Value, z: Tensor, cond: Value | None = None) -> Tensor:
        return self.score(x, self._read(z, cond))

    def infer(self, x: Value, noise: Noise, cond: Value | None = None) -> tuple[Tensor, Tensor]:
        codes = next(self.inferred(tensor(x), cond, noise, 1)).codes
        nats = [normal_log_prob(code.u, code.mean, code.log_std) for code in codes]
        return torch.cat([code.u for code in codes], 1), torch.stack(nats).sum(0)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return the importance-weighted lower bound with K samples."""
        x = tensor(x)
        log_weights = []
        for found in self.inferred(x, cond, noise, self.importance_samples):
            ratios = [log_normal_ratio(c.u, c.mean, c.log_std) for c in found.codes]
            nats = self.score(x, self.likelihood_parameters(found.h))
            log_weights.append(nats + torch.stack(ratios).sum(0))
        return LogProb(importance_weighted_bound(torch.stack(log_weights)), Bound.LOWER, given(cond))

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        """Return the posterior means (B, Z), each layer's given those above it, in units of the prior."""
        features, found = self.features(tensor(x)), list[Tensor]()

        def choose(number: int, layer: StochasticLayer, h: Tensor) -> Tensor:
            found.append(layer.posterior(h, features[number])[0])
            return found[-1]

        self.descend(len(features[0]), cond, choose)
        return torch.cat([u.flatten(1) for u in found], 1)

    def _read(self, z: Tensor, cond: Value | None) -> Tensor:
        """Return the parameters of p(x|z) for codes (B, Z)."""
        sizes = [s.codes * math.prod(s.size) for s in self._all_scales() for _ in s.layers]
        parts = iter(z.split(sizes, 1))

        def choose(number: int, layer: StochasticLayer, h: Tensor) -> Tensor:  # noqa: ARG001
            return next(parts).reshape(len(z), layer.codes, *h.shape[2:])

        return self.likelihood_parameters(self.descend(len(z), cond, choose))

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        return self.output.typical(self._read(z, cond))

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        parameters = self._read(self.draw_code(noise, cond), cond)
        if self.emit == "typical":
            return self.output.typical(parameters)
        return self.output.draw(parameters, noise)


CARD = card.Card(
    name="vae.hierarchical",
    title="Hierarchical variational autoencoder",
    summary="A ladder of codes from a vector to fine maps, each given those above it.",
    events=(card.binary_image, card.level_image, card.binary, card.ordered_levels, card.real),
    references=(
        card.Reference("Sonderby et al.", 2016, "Ladder variational autoencoders", "arXiv:1602.02282"),
        card.Reference(
            "Child",
            2021,
            "Very deep VAEs generalize autoregressive models and can outperform them on images",
            "arXiv:2011.10650",
        ),
    ),
    good_at=("Learns more from each image than a plain VAE.", "Draws in one pass."),
    bad_at=("A step costs several times that of a plain VAE: minutes on a CPU are too short for it.",),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
)
