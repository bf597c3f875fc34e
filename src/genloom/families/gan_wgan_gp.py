"""Wasserstein GAN with gradient penalty. Gulrajani et al. 2017, arXiv:1704.00028.

B batch, S event shape, Z latent dimensions, K classes (label K means "no class"), F critic features.
"""

import itertools
import math
from collections.abc import Callable
from typing import Self

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Sampler
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import (
    Batch,
    Bounded,
    Event,
    Leaf,
    Value,
    describe,
    flat_leaf,
    image_leaf,
    nearest_level,
    rows,
    tensor,
)
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.labels import labels_or_null

SLOPE = 0.2
"""Of the leaky rectifiers below zero: both networks pass gradients everywhere."""


class Config(card.Config):
    """Settings of the two networks and of how they train."""

    latent_dim: int = Field(64, gt=0, description="dimensions of the generator's normal input")
    channels: tuple[int, ...] = Field(
        (), description="convolution widths, finest first, each halving the image; none for dense layers"
    )
    hidden: int = Field(256, gt=0, description="width of the dense layers")
    layers: int = Field(3, gt=0, description="hidden dense layers of each network")
    n_critic: int = Field(
        1, gt=0, description="critic steps a generator step; the paper takes 5, short budgets fewer"
    )
    gradient_penalty_weight: float = Field(10.0, gt=0, description="lambda of eq. 3")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of both networks; high, for short budgets")
    beta1: float = Field(0.0, ge=0, lt=1, description="Adam's momentum; the paper's 0 suits moving targets")
    beta2: float = Field(0.9, ge=0, lt=1, description="Adam's decay of squared gradients, as in the paper")
    batch_size: int = Field(64, gt=0, description="rows a step, as in the paper")

    @classmethod
    def preset(cls, event: Event) -> Self:
        if card.graded_image(event):
            return cls(channels=widths(min(image_leaf(event).extents[1:])))
        return cls()

    def build(self, event: Event, cond: Event | None) -> "Model":
        if not any(accepts(event) for accepts in CARD.events):
            raise DataError(f"gan.wgan_gp needs scaled grey levels or real numbers, not {describe(event)}")
        leaf, classes = flat_leaf(event), card.class_count(cond)
        if not self.channels:
            generator = dense_generator(leaf, self.latent_dim, self.hidden, self.layers, classes)
            critic = dense_critic(leaf, self.hidden, self.layers, classes)
        else:
            check_depth(image_leaf(leaf), self.channels)
            generator = convolutional_generator(leaf, self.latent_dim, self.channels, classes)
            critic = convolutional_critic(leaf, self.channels, classes)
        return Model(leaf, self.latent_dim, classes, generator, critic)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def critic_loss(batch: Batch, noise: Noise, _: Clock) -> Loss:
            x = tensor(batch["x"])
            label = labels_or_null(batch.get("cond"), model.classes, len(x))
            with torch.no_grad():
                fake = model.generate(noise, label)
            on_real, on_fake = model.critic(torch.cat([x, fake]), label.repeat(2)).chunk(2)
            between = interpolate(x, fake, noise.uniform().to(x.dtype))
            norm = gradient_norm(lambda points: model.critic(points, label), between)
            terms = {
                "negative_distance": on_fake.mean() - on_real.mean(),
                "penalty": self.gradient_penalty_weight * gradient_penalty(norm),
            }
            return Loss(terms, {"gradient_norm": norm.mean()})

        def generator_loss(batch: Batch, noise: Noise, _: Clock) -> Loss:
            label = labels_or_null(batch.get("cond"), model.classes, rows(batch["x"]))
            return Loss({"negative_score": -model.critic(model.generate(noise, label), label).mean()})

        def count_labels(batch: Batch, _: Noise, __: Clock) -> None:
            label = labels_or_null(batch.get("cond"), model.classes, rows(batch["x"]))
            model.counts += label.bincount(minlength=model.classes + 1)[: model.classes]

        adam = Optimiser(self.lr, betas=(self.beta1, self.beta2), schedule="linear")
        phases = [
            Phase("critic", ("critic",), critic_loss, repeats=self.n_critic),
            Phase("generator", ("generator",), generator_loss),
        ]
        if model.classes:
            phases.append(Phase("labels", update=count_labels))
        groups = {"critic": Group(model.critic, adam), "generator": Group(model.generator, adam)}
        return [Stage("gan", Objective(groups, phases, average=Average()), self.batch_size)]


def widths(side: int) -> tuple[int, ...]:
    """Return convolution widths that take an image of this shorter side down to 2 or 3 pixels.

    Images below 8 pixels get none: dense layers suit them better.
    """
    return () if side < 8 else tuple(min(32 * 2**i, 256) for i in range(int(math.log2(side)) - 1))


def check_depth(leaf: Leaf, channels: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` if the image is too small to be halved once for each width."""
    if min(leaf.extents[1:]) < 2 ** len(channels):
        raise ConfigError(
            f"{len(channels)} channels halve the image as often: it needs sides of at least "
            f"{2 ** len(channels)} pixels, not {leaf.extents[1]}x{leaf.extents[2]}; give fewer channels"
        )


def interpolate(x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return points share x + (1 - share) fake on the lines between pairs (Algorithm 1, line 6).

    Args:
        x, fake: (B, *S).
        share: (B,) in [0, 1].
    """
    return torch.lerp(fake, x, share.view(-1, *(1,) * (x.ndim - 1)))


def gradient_norm(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the Euclidean norm (B,) of the critic's gradient at each x, itself differentiable.

    Args:
        critic: maps (B, *S) to (B,), row by row.
        x: (B, *S).
    """
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)


def gradient_penalty(norm: Tensor) -> Tensor:
    """Return the mean squared distance of gradient norms (B,) from 1 (eq. 3)."""
    return (norm - 1).square().mean()


@torch.no_grad()
def he_start(layer: nn.Linear | nn.ConvTranspose2d) -> None:
    """Start a layer so that signals keep their size through it and its rectifier.

    Smaller weights would let the code fade beside the label, and the first items of a class be all alike.
    Source: He et al. 2015, arXiv:1502.01852, eq. 15; a transposed convolution's output sees only one in
    stride^2 of its kernel's weights.
    """
    seen: float = layer.weight[0].numel()
    if isinstance(layer, nn.ConvTranspose2d):
        seen = layer.weight[:, 0].numel() / math.prod(layer.stride)
    layer.weight.normal_(std=math.sqrt(2 / ((1 + SLOPE**2) * seen)))


class Generator(nn.Module):
    """Maps normal codes (B, Z) and labels (B,) in 0..K-1 to items (B, *S).

    The label's vector is added to the first layer, which equals concatenating a one-hot label to the code.
    """

    def __init__(self, latent_dim: int, classes: int, width: int, body: nn.Module) -> None:
        super().__init__()
        self.entry = nn.Linear(latent_dim, width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.body = body
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                he_start(layer)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        h = self.entry(z)
        return self.body(h if self.label is None else h + self.label(label)).to(z.dtype)


class Critic(nn.Module):
    """Maps items (B, *S) and labels (B,) in 0..K to scores (B,).

    The label enters by projection (Miyato & Koyama 2018, arXiv:1802.05637, eq. 3): w.h + embedding(label).h.
    Only differences of scores matter, so there is no bias. The score is computed in the item's own
    precision, whatever that of the features.
    """

    def __init__(self, classes: int, width: int, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 1, bias=False)
        self.label = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.body(x).to(x.dtype)
        with torch.autocast("cpu", enabled=False):
            score = self.head(h).squeeze(-1)
            return score if self.label is None else score + (self.label(label) * h).sum(-1)


class Range(nn.Module):
    """Squashes real numbers into [lo, hi]."""

    def __init__(self, lo: float, hi: float) -> None:
        super().__init__()
        self.centre, self.radius = (lo + hi) / 2, (hi - lo) / 2

    def forward(self, x: Tensor) -> Tensor:
        return self.centre + self.radius * x.tanh()


def output_layer(leaf: Leaf) -> nn.Module:
    """Return the generator's last layer, which keeps to the event's range."""
    return Range(leaf.kind.lo, leaf.kind.hi) if isinstance(leaf.kind, Bounded) else nn.Identity()


def dense_generator(leaf: Leaf, latent_dim: int, hidden: int, layers: int, classes: int) -> Generator:
    """Return a generator of dense layers, without normalisation."""
    body: list[nn.Module] = [nn.LeakyReLU(SLOPE)]
    for _ in range(layers - 1):
        body += [nn.Linear(hidden, hidden), nn.LeakyReLU(SLOPE)]
    body += [nn.Linear(hidden, leaf.dim), output_layer(leaf), nn.Unflatten(1, leaf.extents)]
    return Generator(latent_dim, classes, hidden, nn.Sequential(*body))


def dense_critic(leaf: Leaf, hidden: int, layers: int, classes: int) -> Critic:
    """Return a critic of dense layers, without normalisation."""
    body: list[nn.Module] = [nn.Flatten()]
    for inputs in [leaf.dim, *[hidden] * (layers - 1)]:
        body += [nn.Linear(inputs, hidden), nn.LeakyReLU(SLOPE)]
    return Critic(classes, hidden, nn.Sequential(*body))


def convolutional_generator(
    leaf: Leaf, latent_dim: int, channels: tuple[int, ...], classes: int
) -> Generator:
    """Return a generator of transposed convolutions that double the image, without normalisation."""
    depth, (colours, *sides) = len(channels), leaf.extents
    size = [[-(-side // 2**i) for side in sides] for i in range(depth, -1, -1)]
    body: list[nn.Module] = [nn.Unflatten(1, (channels[-1], *size[0]))]
    for (inputs, outputs), (h, w) in zip(
        itertools.pairwise([*reversed(channels), colours]), size[1:], strict=True
    ):
        kernel = (4 - h % 2, 4 - w % 2)
        body += [nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=1)]
    body.append(output_layer(leaf))
    return Generator(latent_dim, classes, channels[-1] * math.prod(size[0]), nn.Sequential(*body))


def convolutional_critic(leaf: Leaf, channels: tuple[int, ...], classes: int) -> Critic:
    """Return a critic of strided convolutions, without normalisation."""
    body: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise([leaf.extents[0], *channels]):
        body += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
    pixels = math.prod(side >> len(channels) for side in leaf.extents[1:])
    return Critic(classes, channels[-1] * pixels, nn.Sequential(*body, nn.Flatten()))


class Model(nn.Module, Sampler):
    """A generator and the critic it trains against.

    ``counts`` (K,) holds how often each class was seen: without a label, the class is drawn in proportion.
    """

    counts: Tensor

    def __init__(
        self, event: Leaf, latent_dim: int, classes: int, generator: Generator, critic: Critic
    ) -> None:
        super().__init__()
        self.event, self.latent_dim, self.classes = event, latent_dim, classes
        self.generator, self.critic = generator, critic
        self.register_buffer("counts", torch.ones(classes))

    def generate(self, noise: Noise, label: Tensor | None) -> Tensor:
        """Return items (B, *S) in the event's range, of a random class where the label is "no class"."""
        z = noise.normal(self.latent_dim).to(self.counts.dtype)
        drawn = labels_or_null(label, self.classes, len(z))
        if self.classes:
            guess = noise.categorical(self.counts.log().expand(len(z), -1))
            drawn = torch.where(drawn == self.classes, guess, drawn)
        return self.generator(z, drawn)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        x = self.generate(noise, None if cond is None else tensor(cond))
        return nearest_level(x, self.event.kind)


CARD = card.Card(
    name="gan.wgan_gp",
    title="Wasserstein GAN with gradient penalty",
    summary="A generator that learns to lower the Wasserstein distance which a smooth critic measures.",
    events=(card.graded_image, card.real),
    references=(
        card.Reference("Gulrajani et al.", 2017, "Improved training of Wasserstein GANs", "arXiv:1704.00028"),
        card.Reference("Arjovsky et al.", 2017, "Wasserstein GAN", "arXiv:1701.07875"),
        card.Reference("Miyato & Koyama", 2018, "cGANs with projection discriminator", "arXiv:1802.05637"),
    ),
    good_at=("Draws sharp items in one pass.", "Trains steadily for a GAN, on any real data."),
    bad_at=("Gives no likelihood.", "Its loss does not say when to stop; rare kinds may be missed."),
    conditions="class",
    autocast=True,
)
