"""Autoencoder: items through a narrow code and back. Hinton & Salakhutdinov 2006, Science 313(5786).

B batch, S event shape, Z latent dimensions. It is no generative model: nothing says how codes are
distributed, so it draws no samples. Deviation: trained from random weights, which needs no layers of RBMs.
"""

from pydantic import Field
from torch import nn

from genloom.core import card
from genloom.core.events import Batch, Categorical, Event, flat_leaf
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import Autoencoder, Network, autoencoder
from genloom.nn.likelihoods import squared_or_cross_entropy


class Config(card.Config):
    """Settings of the autoencoder."""

    latent_dim: int = Field(32, ge=1, description="numbers that an item is squeezed into")
    network: Network = Field("auto", description="conv for colour and large images")
    hidden: int = Field(512, ge=1, description="units of each of the two hidden layers of the mlp")
    channels: int = Field(32, ge=1, description="channels after the first convolution, then doubled")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        """Squeeze small items into a quarter of their numbers."""
        leaf = flat_leaf(event)
        return cls(latent_dim=max(1, leaf.dim // 4), hidden=256, lr=2e-3) if leaf.dim <= 128 else cls()

    def build(self, event: Event, cond: Event | None) -> nn.Module:  # noqa: ARG002
        leaf = flat_leaf(event)
        return autoencoder(
            leaf,
            self.network,
            squared_or_cross_entropy(leaf),
            hidden=self.hidden,
            channels=self.channels,
            latent_dim=self.latent_dim,
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Autoencoder)

        def error(batch: Batch, _: Noise, __: Clock) -> Loss:
            return Loss({"error": model.error(batch["x"], model.encode(batch["x"])).mean()})

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.01, clip=200.0)
        groups = {"autoencoder": Group(model, optimiser)}
        phases = [Phase("error", ("autoencoder",), error)]
        return [Stage("autoencoder", Objective(groups, phases, Average()), self.batch_size)]


CARD = card.Card(
    name="ae.plain",
    title="Autoencoder",
    summary="Squeezes items through a narrow code and back; it draws no samples.",
    events=(card.binary_image, card.graded_image, card.binary, card.leaf_of(Categorical), card.real),
    references=(
        card.Reference(
            "Hinton & Salakhutdinov",
            2006,
            "Reducing the dimensionality of data with neural networks",
            "Science 313(5786), doi:10.1126/science.1127647",
        ),
    ),
    good_at=("Short codes from which items come back with little error.",),
    bad_at=("It is no generative model: it draws no samples and gives no likelihood.",),
)
