"""Latent diffusion: a map of normal codes of an image, and a diffusion model of such maps.

Rombach et al. 2022, arXiv:2112.10752; scored as Vahdat et al. 2021, arXiv:2106.05931, score it.
B batch, S event shape, Z channels, H W size of a map of codes.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core import card
from genloom.core.capabilities import Infill, Latent, Likelihood, Redrawer, Sampler
from genloom.core.card import symbol_sequence
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Batch, Event, Leaf, Real, Value, image_leaf, items, tensor
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage, mapped
from genloom.core.randomness import Noise
from genloom.nn.autoencoders import map_decoder, map_encoder, map_input, map_parameters
from genloom.nn.denoising import Diffusion
from genloom.nn.diffusing import ADOPTED, Settings
from genloom.nn.gaussian_vae import kl_from_standard_normal, normal_log_prob
from genloom.nn.ladder import padded
from genloom.nn.likelihoods import DiscretisedLogistic, Output, OutputName, output_for
from genloom.nn.lora import adapt
from genloom.nn.networks import Networks
from genloom.nn.pipelines import facts_of, holds_pipeline, load_parts, pipeline_digest
from genloom.nn.prompts import prompts_for
from genloom.nn.vae import Emit

AUTOENCODER = ("halvings", "latent_channels", "channels", "blocks", "output")
"""Settings that say what the autoencoder's weights mean."""

PIPELINE_REACH = 2
"""Of the encoders of pipelines, nearly: some of their layers see all of an image."""

WARMUP = 0.5
"""Share of the autoencoder's steps in which the weight of the KL term grows, so that codes are used."""


class Config(Settings):
    """Settings of latent diffusion: those of diffusion are of the model of codes."""

    adopted: ClassVar[tuple[str, ...]] = (*ADOPTED, *AUTOENCODER)

    halvings: int = Field(1, ge=1, le=5, description="how often the image is halved into the map of codes")
    latent_channels: int = Field(4, ge=1, description="numbers of a code")
    channels: int = Field(64, ge=1, description="of the autoencoder's convolutions, all at a reduced size")
    blocks: int = Field(2, ge=0, description="residual blocks of the encoder and of the decoder")
    output: OutputName = Field("auto", description="p(x|z)")
    beta: float = Field(0.1, ge=0, description="weight of the KL term, which keeps codes near N(0, 1)")
    emit: card.Free[Emit] = Field("typical", description="samples show the mean of p(x|z), or draw it")
    autoencoder_share: float = Field(0.2, gt=0, lt=1, description="of the budget that trains the autoencoder")
    pipeline: bool = Field(False, description="the start is a pipeline of diffusers; found by itself")
    autoencoder_lr: float = Field(1e-3, gt=0, description="peak rate of Adam, decayed by a cosine")

    @classmethod
    def preset(cls, event: Event) -> Self:
        size = max(image_leaf(event).extents[1:])
        if size <= 16:
            small: dict[str, Any] = {"widths": (32, 64), "channels": 32, "lr": 4e-3, "batch_size": 64}
            return cls(variance="forward", bound_terms=16, dit_patch=1, **small)
        return cls(variance="forward", dit_patch=1, halvings=1 if size <= 32 else 2)

    @model_validator(mode="after")
    def _pipelines_are_starts(self) -> Self:
        if self.pipeline and self.start is None:
            raise ValueError("a pipeline is named by its folder: --model.start FOLDER")
        if self.pipeline and self.text_encoder is not None:
            raise ValueError("a pipeline has an encoder of texts: leave text_encoder out")
        if self.pipeline and self.fills:
            raise ValueError("the network of a pipeline cannot be told parts: leave fills out")
        return self

    @classmethod
    def settings_of_start(cls, folder: Path) -> dict[str, Any]:
        if not holds_pipeline(folder):
            return super().settings_of_start(folder)
        facts = asdict(facts_of(folder))
        del facts["side"]
        return {"pipeline": True, "start_sha256": pipeline_digest(folder), **facts}

    @classmethod
    def idle(cls, found: Mapping[str, Any]) -> Collection[str]:
        trained = *super().idle(found), "beta", "autoencoder_share", "autoencoder_lr"
        if "pipeline" not in found:
            return trained
        networks = (name for name in Networks.model_fields if name != "text_encoder")
        return (*trained, *networks, "data_std", "channels", "blocks", "output")

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        leaf = image_leaf(event)
        shape = padded(leaf.extents, self.halvings)
        codes = Leaf((self.latent_channels, shape[1] >> self.halvings, shape[2] >> self.halvings), Real())
        output = output_for(leaf, self.output)
        if self.pipeline:
            return self._loaded(leaf, shape, codes, cond, output)
        sizes = self.channels, self.halvings, self.blocks
        encoder = map_encoder(shape[0], *sizes, 2 * self.latent_channels)
        decoder = map_decoder(self.latent_channels, *sizes, shape[0] * output.parameters_per_scalar)
        prior = self.denoiser(codes, cond)
        return Model(leaf, shape, encoder, decoder, output, prior, self.emit, 1 + self.blocks)

    def _loaded(
        self, leaf: Leaf, shape: tuple[int, int, int], codes: Leaf, cond: Event | None, output: Output
    ) -> nn.Module:
        """Return a model of the networks of a pipeline.

        Raises:
            ConfigError, DataError: it is not for these images, is gone or damaged, or has changed.
        """
        assert self.start is not None
        if leaf.extents[0] != 3 or not isinstance(output, DiscretisedLogistic):
            raise ConfigError("a pipeline is for colour images of more than 64 levels")
        if cond is not None and not symbol_sequence(cond):
            raise ConfigError("a pipeline is given texts: add --data.captions")
        folder = Path(self.start)
        try:
            facts_of(folder)
            now = pipeline_digest(folder)
        except ValueError as error:
            raise DataError(f"{error}; this run began with it") from error
        if now != self.start_sha256:
            raise DataError(f"{folder} has changed since this run began: restore it, or begin another")
        if self.guide is not None:
            raise ConfigError("a pipeline takes no guide: leave --model.guide out")
        parts, ways = load_parts(folder), self.ways(cond)
        given = prompts_for(cond)
        prior = Diffusion(codes, parts.network, parts.embedding, given, self.course(), *ways)
        if self.lora_rank:
            adapt(prior.network, self.lora_rank, self.lora_alpha)
        return Model(leaf, shape, parts.encoder, parts.decoder, output, prior, self.emit, PIPELINE_REACH)

    def begin(self, model: nn.Module) -> None:
        if not self.pipeline:
            super().begin(model)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def negative_elbo(batch: Batch, noise: Noise, clock: Clock) -> Loss:
            x = tensor(batch["x"])
            mean, log_std = model.posterior(x)
            z = drawn(mean, log_std, noise)
            kl = kl_from_standard_normal(mean.flatten(1), log_std.flatten(1)).mean()
            weight = self.beta * min(1.0, clock.progress / WARMUP)
            return Loss(
                {"reconstruction": -model.log_likelihood(x, z).mean(), "kl": weight * kl}, {"rate": kl}
            )

        def coded(batch: Batch, noise: Noise) -> Batch:
            return {**batch, "x": model.draw_code(tensor(batch["x"]), noise)}

        optimiser = Optimiser(self.autoencoder_lr, schedule="cosine", warmup=0.02, clip=200.0)
        parts = nn.ModuleList([model.encoder, model.decoder])
        phases = [Phase("elbo", ("autoencoder",), negative_elbo)]
        objective = Objective({"autoencoder": Group(parts, optimiser)}, phases, Average())
        first = Stage("autoencoder", objective, self.batch_size, self.autoencoder_share)
        self.begin(model)
        if self.start is not None:
            return [mapped(self.denoising(model.prior), "prior", 1.0, coded)]
        share = 1 - self.autoencoder_share
        return [first, mapped(self.denoising(model.prior), "prior", share, coded)]


def drawn(mean: Tensor, log_std: Tensor, noise: Noise) -> Tensor:
    """Draw normal codes (B, Z, H, W)."""
    return mean + log_std.exp() * noise.normal(*mean.shape[1:]).to(mean)


class Model(nn.Module, Sampler, Likelihood, Latent, Redrawer, Infill):
    """Encoder and decoder of an image, and a diffusion model of its codes.

    Args:
        reach: how many codes away a pixel still has a part in a code.
    """

    def __init__(
        self,
        leaf: Leaf,
        shape: tuple[int, int, int],
        encoder: nn.Module,
        decoder: nn.Module,
        output: Output,
        prior: Diffusion,
        emit: Emit,
        reach: int,
    ) -> None:
        super().__init__()
        self.leaf, self.shape, self.emit, self.reach = leaf, shape, emit, reach
        self.encoder, self.decoder, self.output, self.prior = encoder, decoder, output, prior

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation of the codes of items (B, *S), (B, Z, H, W) each."""
        dtype = next(self.decoder.parameters()).dtype
        said = self.encoder(map_input(self.leaf, self.shape, x, dtype)).to(dtype)
        mean, log_std = said.chunk(2, 1)
        return mean, log_std.clamp(-7, 5)

    def likelihood_parameters(self, z: Tensor) -> Tensor:
        """Return the parameters (B, *S, P) of p(x|z) from codes (B, Z, H, W)."""
        y = self.decoder(z.contiguous(memory_format=torch.channels_last)).to(z.dtype)
        return map_parameters(self.leaf, y)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z), (B,) nats."""
        return self.output(self.likelihood_parameters(z), x)

    @torch.no_grad()
    def draw_code(self, x: Tensor, noise: Noise) -> Tensor:
        """Draw codes (B, Z, H, W) from the posterior."""
        return drawn(*self.posterior(x), noise)

    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return log p(x|z) + log p(z) - log q(z|x) with one z drawn from q, (B,) nats, a lower bound."""
        mean, log_std = self.posterior(tensor(x))
        z = drawn(mean, log_std, noise)
        said = normal_log_prob(z.flatten(1), mean.flatten(1), log_std.flatten(1))
        prior = self.prior.log_prob(z, cond, noise=noise)
        return LogProb(self.log_likelihood(tensor(x), z) + prior.value - said, Bound.LOWER, given(cond))

    @torch.no_grad()
    def encode(self, x: Value, cond: Value | None = None) -> Tensor:  # noqa: ARG002
        """Return the means of codes (B, Z, H, W)."""
        return self.posterior(tensor(x))[0]

    @torch.no_grad()
    def decode(self, z: Tensor, cond: Value | None = None) -> Value:  # noqa: ARG002
        """Return the most typical item for codes (B, Z, H, W)."""
        return self.output.typical(self.likelihood_parameters(z))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        z = tensor(self.prior.sample(noise, cond))
        if self.emit == "typical":
            return self.decode(z)
        return self.output.draw(self.likelihood_parameters(z), noise)

    @torch.no_grad()
    def redraw(self, x: Tensor, strength: float, noise: Noise, cond: Value | None = None) -> Value:
        """Draw the codes of items anew from what noise leaves of them."""
        return self.decode(tensor(self.prior.redraw(self.encode(x), strength, noise, cond)))

    @torch.no_grad()
    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Value:
        """Infill codes, of which those are known that unknown pixels have no part in, and paste known pixels.

        The encoders of pipelines see a whole image, so that there what is known is so nearly.
        """
        x, known = items(x, self.leaf.extents), tensor(known)
        z = self.encode(x.where(known, 0))
        filled = self.prior.infill(z, self._known_codes(known).expand_as(z), noise, cond)
        return x.where(known, tensor(self.decode(tensor(filled))))

    def _known_codes(self, known: Tensor) -> Tensor:
        """Return which places of codes are known where pixels are, (B, 1, H, W)."""
        hidden = (~known).any(1, keepdim=True).float()
        hidden = F.pad(hidden, (0, self.shape[2] - hidden.shape[3], 0, self.shape[1] - hidden.shape[2]))
        side = self.shape[1] // self.prior.leaf.extents[1]
        return F.max_pool2d(F.max_pool2d(hidden, side), 2 * self.reach + 1, 1, self.reach) == 0


CARD = card.Card(
    name="diffusion.latent",
    title="Latent diffusion model",
    summary="Turns images into small maps of codes, and learns to remove noise from such maps.",
    events=(card.binary_image, card.level_image),
    references=(
        card.Reference(
            "Rombach et al.",
            2022,
            "High-resolution image synthesis with latent diffusion",
            "arXiv:2112.10752",
        ),
        card.Reference(
            "Vahdat et al.", 2021, "Score-based generative modeling in latent space", "arXiv:2106.05931"
        ),
    ),
    good_at=("Images from texts or classes.", "Cheaper steps, as maps of codes are small."),
    bad_at=(
        "What the autoencoder loses is lost.",
        "Repairs know only masks, as codes are not linear in pixels.",
    ),
    likelihood=Bound.LOWER,
    conditions="text",
    autocast=True,
)
