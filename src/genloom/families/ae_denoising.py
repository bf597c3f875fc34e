"""Denoising autoencoder: learn to undo a corruption, then sample by corrupting and undoing in turn.

Vincent et al. 2008, ICML; 2010, JMLR 11; its residual is the score of the noisy data: Alain & Bengio 2014,
arXiv:1211.4246; the Markov chain: Bengio et al. 2013, arXiv:1305.6663. B batch, S event shape, D values of an
item, Z latent dimensions.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Latent, Sampler
from genloom.core.errors import ConfigError
from genloom.core.events import (
    Batch,
    Categorical,
    Event,
    Leaf,
    Value,
    categories,
    flat_leaf,
    is_discrete,
    items,
)
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Autoencoder, Network, autoencoder, legal, network_input
from genloom.nn.likelihoods import output_for

Corruption = Literal["auto", "gaussian", "masking", "replacing"]
Emit = Literal["typical", "draw"]


class Config(card.Config):
    """Settings of a denoising autoencoder."""

    latent_dim: int = Field(256, ge=1, description="may exceed the data's own: noise keeps it from copying")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(32, ge=1, description="channels after the first convolution, then doubled")
    corruption: Corruption = Field(
        "auto", description="gaussian for numbers; masking (by 0) or replacing (by any value) for the rest"
    )
    noise: float = Field(
        0.5,
        gt=0,
        description="standard deviation, or the largest share of values corrupted",
    )
    steps: int = Field(60, ge=1, description="of the Markov chain that draws a sample")
    emit: Emit = Field("draw", description="samples are the chain's states, or typical of the last one")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        """Corrupt up to 60% of discrete values: more blurs samples, less keeps the chain where it is."""
        leaf = flat_leaf(event)
        emit: Emit = "typical" if len(leaf.extents) == 3 else "draw"
        noise = 0.6 if is_discrete(leaf.kind) else 0.5
        if leaf.dim <= 128:
            return cls(latent_dim=64, hidden=256, noise=noise, emit=emit, lr=2e-3)
        return cls(noise=noise, emit=emit)

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        leaf = flat_leaf(event)
        network = autoencoder(
            leaf,
            self.network,
            output_for(leaf),
            hidden=self.hidden,
            channels=self.channels,
            latent_dim=self.latent_dim,
        )
        return Model(
            network, corruption_for(leaf, self.corruption, self.noise), self.noise, self.steps, self.emit
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def error(batch: Batch, noise: Noise, _: Clock) -> Loss:
            return Loss({"error": model.error(batch["x"], noise).mean()})

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0)
        groups = {"autoencoder": Group(model, optimiser)}
        phases = [Phase("error", ("autoencoder",), error)]
        return [Stage("autoencoder", Objective(groups, phases, Average()), self.batch_size)]


def corruption_for(leaf: Leaf, name: Corruption, noise: float) -> Corruption:
    """Return a corruption that suits a leaf.

    Raises:
        ConfigError: the one asked for does not, or its share is above 1.
    """
    discrete = is_discrete(leaf.kind)
    if name == "auto":
        name = "masking" if discrete else "gaussian"
    if (name == "gaussian") == discrete:
        raise ConfigError(f"corruption {name} does not suit {'discrete values' if discrete else 'numbers'}")
    if discrete and noise > 1:
        raise ConfigError(f"noise is the largest share of values to corrupt: at most 1, not {noise}")
    return name


def score(denoised: Tensor, noisy: Tensor, std: float) -> Tensor:
    """Return the gradient of the noisy data's log-density from the mean of clean items given noisy ones.

    Source: Alain & Bengio, theorem 1 (there for small noise); exact at any noise by Miyasawa 1961's formula.
    """
    return (denoised - noisy) / std**2


class Model(nn.Module, Sampler, Latent):
    """A network that gives p(x | corrupted x), its values independent of one another."""

    def __init__(
        self, network: Autoencoder, corruption: Corruption, noise: float, steps: int, emit: Emit
    ) -> None:
        super().__init__()
        self.network, self.corruption, self.level = network, corruption, noise
        self.steps, self.emit = steps, emit

    def corrupt(self, x: Tensor, noise: Noise) -> Tensor:
        """Return corrupted items as the encoder takes them, (B, D).

        Of discrete items a share is corrupted that is drawn for each between 0 and ``level``.
        Deviation: the papers fix the share.
        """
        leaf = self.network.leaf
        clean = self.network.inputs(x)
        if self.corruption == "gaussian":
            return clean + self.level * noise.normal(leaf.dim).to(clean)
        share = self.level * noise.uniform(1)
        hit = noise.uniform(leaf.dim) < share
        if self.corruption == "masking":
            return clean * ~hit.repeat_interleave(clean.shape[1] // leaf.dim, 1)
        other = noise.integers(categories(leaf.kind), leaf.dim)
        return self.network.inputs(torch.where(hit, other, x.flatten(1)).view(x.shape))

    def given(self, corrupted: Tensor) -> Tensor:
        """Return the parameters (B, *S, P) of p(x | corrupted), from inputs (B, D)."""
        return self.network.parameters_of(self.network.encoder(corrupted).to(corrupted.dtype))

    def error(self, x: Value, noise: Noise) -> Tensor:
        """Return -log p(x | x corrupted once), (B,) nats."""
        x = items(x, self.network.leaf.extents)
        return -self.network.output(self.given(self.corrupt(x, noise)), x)

    def encode(self, x: Value, cond: Value | None = None) -> Tensor:
        return self.network.encode(x, cond)

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:
        return self.network.decode(z, cond)

    def start(self, noise: Noise) -> Tensor:
        """Return inputs (B, D) that tell nothing of any item."""
        leaf, like = self.network.leaf, next(self.network.parameters())
        if self.corruption == "gaussian":
            return noise.normal(leaf.dim).to(like)
        x = noise.integers(categories(leaf.kind), *leaf.extents)
        clean = network_input(leaf, x, like.dtype)
        return clean if self.corruption == "replacing" else torch.zeros_like(clean)

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:  # noqa: ARG002
        """Run the chain x ~ p(x | corrupted), corrupted ~ C(corrupted | x).

        If p is the true posterior of C, the chain leaves the data's distribution as it is (Bengio et al.,
        theorem 1).
        """
        output, leaf = self.network.output, self.network.leaf
        corrupted = self.start(noise)
        for _ in range(self.steps):
            corrupted = self.corrupt(output.draw(self.given(corrupted), noise), noise)
        last = self.given(corrupted)
        return legal(output.typical(last) if self.emit == "typical" else output.draw(last, noise), leaf)


CARD = card.Card(
    name="ae.denoising",
    title="Denoising autoencoder",
    summary="Learns to undo noise, and samples by adding and undoing it in turn.",
    events=(card.binary_image, card.level_image, card.binary, card.leaf_of(Categorical), card.real),
    references=(
        card.Reference(
            "Vincent et al.",
            2010,
            "Stacked denoising autoencoders",
            "JMLR 11, jmlr.org/papers/v11/vincent10a",
        ),
        card.Reference("Alain & Bengio", 2014, "What regularized auto-encoders learn", "arXiv:1211.4246"),
        card.Reference(
            "Bengio et al.",
            2013,
            "Generalized denoising auto-encoders",
            "arXiv:1305.6663",
        ),
    ),
    good_at=("Codes that do not depend on small faults.", "Any data that can be corrupted."),
    bad_at=("Its chain mixes slowly between kinds that noise does not join.", "Gives no likelihood."),
)
