"""VQ-VAE: a map of discrete codes, and a prior of that map which is a model of its own.

van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937.
B batch, S event shape, E numbers of a code's vector, K codes, H W the size of the map.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card, registry
from genloom.core.capabilities import Latent, Likelihood, Sampler, need
from genloom.core.card import ModelRef
from genloom.core.errors import ConfigError
from genloom.core.events import (
    Batch,
    Binary,
    Categorical,
    Event,
    Leaf,
    Value,
    image_leaf,
    tensor,
)
from genloom.core.likelihood import Bound, LogProb, given, weaken
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage, mapped
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import map_decoder, map_encoder, map_input, map_parameters
from genloom.nn.ladder import padded
from genloom.nn.likelihoods import Output, OutputName, output_for
from genloom.nn.quantiser import Quantiser, from_bits, perplexity, to_bits
from genloom.nn.vae import Emit


class Config(card.Config):
    """Settings of a VQ-VAE."""

    bits: int = Field(6, ge=1, le=12, description="binary logarithm of the number of codes")
    dim: int = Field(32, ge=1, description="numbers of a code's vector")
    halvings: int = Field(2, ge=1, le=5, description="how often the image is halved into the map of codes")
    channels: int = Field(64, ge=1, description="of the convolutions, all at a reduced size")
    blocks: int = Field(2, ge=0, description="residual blocks of the encoder and of the decoder")
    likelihood: OutputName = "auto"
    commitment: float = Field(0.25, ge=0, description="beta, as in the paper")
    decay: float = Field(0.99, ge=0, lt=1, description="of the codebook's moving averages, as in the paper")
    dead: float = Field(0.1, ge=0, description="a code with fewer vectors a batch starts anew at one")
    prior: ModelRef = Field(
        ModelRef(family="ar.pixelcnn"),
        description='model of code maps: a family, or {"family": .., "settings": {..}}',
    )
    prior_share: float = Field(0.5, gt=0, lt=1, description="of the budget that trains the prior")
    emit: Emit = Field("typical", description="samples show the mean of p(x|z), or draw it")
    lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(64, ge=1)

    @classmethod
    def preset(cls, event: Event) -> "Config":
        _, height, width = image_leaf(event).extents
        return cls(halvings=1, channels=32, dim=16) if height * width <= 256 else cls()

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        leaf = image_leaf(event)
        family = registry.load(self.prior.family)
        if cond is not None and family.card.conditions == "none":
            raise ConfigError(f"the prior {self.prior.family} takes no condition: use another, or no labels")
        if family.card.likelihood not in (Bound.EXACT, Bound.LOWER):
            raise ConfigError(f"the prior {self.prior.family} has no likelihood, nor a lower bound of it")
        shape = padded(leaf.extents, self.halvings)
        codes = code_event(family.card, self.bits, (shape[1] >> self.halvings, shape[2] >> self.halvings))
        output = output_for(leaf, self.likelihood)
        encoder = map_encoder(shape[0], self.channels, self.halvings, self.blocks, self.dim)
        numbers = shape[0] * output.parameters_per_scalar
        decoder = map_decoder(self.dim, self.channels, self.halvings, self.blocks, numbers)
        quantiser = Quantiser(1 << self.bits, self.dim, self.decay, self.dead)
        prior = registry.settings_of(self.prior, codes).build(codes, cond)
        return Model(leaf, shape, encoder, quantiser, decoder, output, codes, prior, self.emit)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def follow(batch: Batch, noise: Noise, clock: Clock) -> None:  # noqa: ARG001
            model.quantiser.follow(model.vectors(tensor(batch["x"])).flatten(0, 2), noise)

        def reconstruction(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            """Return equation 3 without its second term, which the codebook's averages replace."""
            x = tensor(batch["x"])
            z = model.vectors(x)
            codes = model.quantiser.nearest(z)
            nearest = model.quantiser.vectors(codes)
            gap = (z - nearest).square().flatten(1).sum(1).mean()
            nats = model.log_likelihood(x, z + (nearest - z).detach()).mean()
            used = perplexity(codes, 1 << self.bits)
            return Loss({"reconstruction": -nats, "commitment": self.commitment * gap}, {"perplexity": used})

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.02, clip=200.0)
        phases = [Phase("codebook", update=follow), Phase("fit", ("autoencoder",), reconstruction)]
        parts = nn.ModuleList([model.encoder, model.decoder])
        objective = Objective({"autoencoder": Group(parts, optimiser)}, phases, Average())
        first = Stage("autoencoder", objective, self.batch_size, 1 - self.prior_share)
        return [first, *self._prior_stages(model)]

    def _prior_stages(self, model: "Model") -> list[Stage]:
        """Return the stages of the prior's own family, which see codes."""

        def coded(batch: Batch, noise: Noise) -> Batch:  # noqa: ARG001
            return {**batch, "x": model.code_items(model.encode(batch["x"]))}

        stages = registry.settings_of(self.prior, model.codes).stages(model.prior)
        if any(stage.objective is None for stage in stages):
            raise ConfigError(f"the prior {self.prior.family} is not trained by gradients")
        return [mapped(stage, "prior", self.prior_share, coded) for stage in stages]


def code_event(prior: card.Card, bits: int, size: tuple[int, int]) -> Leaf:
    """Return code maps as the prior takes them: categories where it can, else the digits of their numbers.

    Raises:
        ConfigError: it takes neither.
    """
    for event in (Leaf((1, *size), Categorical(1 << bits)), Leaf((bits, *size), Binary())):
        if any(accepts(event) for accepts in prior.events):
            return event
    raise ConfigError(f"the prior {prior.name} takes neither images of categories nor binary ones")


class Model(nn.Module, Sampler, Likelihood, Latent):
    """Encoder, codebook and decoder of an image, and a model of its codes."""

    def __init__(
        self,
        leaf: Leaf,
        shape: tuple[int, int, int],
        encoder: nn.Module,
        quantiser: Quantiser,
        decoder: nn.Module,
        output: Output,
        codes: Leaf,
        prior: nn.Module,
        emit: Emit,
    ) -> None:
        super().__init__()
        self.leaf, self.shape, self.codes, self.emit = leaf, shape, codes, emit
        self.encoder, self.quantiser, self.decoder = encoder, quantiser, decoder
        self.output, self.prior = output, prior

    @property
    def _dtype(self) -> torch.dtype:
        return self.quantiser.codebook.dtype

    def vectors(self, x: Tensor) -> Tensor:
        """Return what the encoder makes of items (B, *S), (B, H, W, E)."""
        out: Tensor = self.encoder(map_input(self.leaf, self.shape, x, self._dtype))
        return out.to(self._dtype).permute(0, 2, 3, 1)

    def likelihood_parameters(self, z: Tensor) -> Tensor:
        """Return the parameters (B, *S, P) of p(x|z) from vectors (B, H, W, E)."""
        return map_parameters(self.leaf, self.decoder(z.permute(0, 3, 1, 2)).to(self._dtype))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), (B,) nats."""
        return self.output(self.likelihood_parameters(z), x)

    def code_items(self, codes: Tensor) -> Tensor:
        """Return codes (B, H, W) as items of the prior."""
        if isinstance(self.codes.kind, Binary):
            return to_bits(codes, self.codes.extents[0])
        return codes[:, None]

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return log p(x|z) + log p(z) at the encoder's code z, one term of p(x) = sum_z p(x|z) p(z)."""
        codes = self.encode(x)
        nats = self.log_likelihood(tensor(x), self.quantiser.vectors(codes))
        prior = need(self.prior, Likelihood, "log_prob")
        code = prior.log_prob(self.code_items(codes), cond, noise=noise)
        return LogProb(nats + code.value, weaken(Bound.LOWER, code.kind), given(cond))

    @torch.no_grad()
    def encode(self, x: Value, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Return the codes (B, H, W) int64."""
        return self.quantiser.nearest(self.vectors(tensor(x)))

    def decode(self, z: Tensor, cond: Value | None = None) -> Value:  # noqa: ARG002
        """Return the most typical item for codes (B, H, W)."""
        return self.output.typical(self.likelihood_parameters(self.quantiser.vectors(z)))

    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        drawn = tensor(need(self.prior, Sampler, "sample").sample(noise, cond))
        codes = from_bits(drawn) if isinstance(self.codes.kind, Binary) else drawn[:, 0]
        if self.emit == "typical":
            return self.decode(codes)
        return self.output.draw(self.likelihood_parameters(self.quantiser.vectors(codes)), noise)


CARD = card.Card(
    name="vae.vq",
    title="VQ-VAE",
    summary="Turns images into maps of discrete codes, and models the maps with a prior of their own.",
    events=(card.binary_image, card.level_image),
    references=(
        card.Reference(
            "van den Oord et al.", 2017, "Neural discrete representation learning", "arXiv:1711.00937"
        ),
        card.Reference("Dhariwal et al.", 2020, "Jukebox", "arXiv:2005.00341"),
    ),
    good_at=("Short discrete codes that other models can learn.",),
    bad_at=("Its likelihood counts one code of an image only, so the bound is loose.",),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
)
