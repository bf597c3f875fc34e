"""Wasserstein GAN with gradient penalty. Gulrajani et al. 2017, arXiv:1704.00028.

B batch, S event shape, Z latent dimensions, K classes (label K means "no class"), F critic features.
"""

from typing import Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Sampler
from genloom.core.errors import DataError
from genloom.core.events import (
    Batch,
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
from genloom.nn.labels import labels_or_null


class Config(card.Config):
    """Settings of the two networks and of how they train."""

    latent_dim: int = Field(64, gt=0, description="dimensions of the generator's normal input")
    channels: tuple[PositiveInt, ...] = Field(
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


def interpolate(x: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return points share x + (1 - share) fake on the lines between pairs (Algorithm 1, line 6).

    Args:
        x, fake: (B, *S).
        share: (B,) in [0, 1].
    """
    return torch.lerp(fake, x, share.view(-1, *(1,) * (x.ndim - 1)))


def gradient_penalty(norm: Tensor) -> Tensor:
    """Return the mean squared distance of gradient norms (B,) from 1 (eq. 3)."""
    return (norm - 1).square().mean()


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
