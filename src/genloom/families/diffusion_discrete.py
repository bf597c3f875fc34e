"""Diffusion of symbols: they are masked or replaced one by one, and a network tells what they were.

D3PM, Austin et al. 2021, arXiv:2107.03006; with masks and all places' evidence it is MDLM, Sahoo et al. 2024,
arXiv:2406.07524.  B batch, D symbols of an item, K kinds of symbols, T steps of the bound.
"""

import itertools
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from genloom.core import card
from genloom.core.capabilities import Infill, Likelihood, Sampler
from genloom.core.card import Card, Reference, binary, class_count, leaf_of, level_image, symbol_sequence
from genloom.core.errors import DataError, Unsupported
from genloom.core.events import (
    Batch,
    Categorical,
    Event,
    Leaf,
    Padded,
    Value,
    categories,
    describe,
    is_discrete,
    items,
    tensor,
)
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.math import bounds
from genloom.math.corruption import corrupted, divergence, drawn, stepped_back
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.networks import unet_for
from genloom.nn.places import ImagePlaces, SequencePlaces
from genloom.nn.sequences import with_ends

Corruption = Literal["absorbing", "uniform"]
"""Symbols become a mask, or any symbol."""


class Config(card.Config):
    """Settings of a diffusion model of symbols."""

    corruption: Corruption = Field("absorbing", description="symbols become a mask, or any other symbol")
    sampling_steps: card.Free[int] = Field(
        64, ge=1, le=100_000, description="network calls for one sample (NFE)"
    )
    guidance_scale: card.Free[float] = Field(
        1.0, ge=0, le=100, description="0 ignores the label, 1 follows it, more exaggerates it"
    )
    timesteps: card.Free[int] = Field(1000, ge=2, le=100_000, description="T of the variational bound")
    bound_terms: card.Free[int] = Field(
        32, ge=1, le=100_000, description="strata and network calls of the bound"
    )
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, to learn no class")
    widths: card.Widths = Field((64, 128), description="U-Net channels, finest level first, for images")
    depths: card.Widths = Field((1, 2), description="residual blocks of each level and way")
    patch: int = Field(1, ge=1, description="side of the squares folded into channels before the U-Net")
    shade: int = Field(16, ge=1, description="values that stand for a symbol of an image")
    embedding: int = Field(128, ge=4, multiple_of=4, description="of time and label, for images")
    width: int = Field(192, ge=8, description="values a place between blocks, for sequences")
    layers: int = Field(4, ge=1, description="blocks of the transformer")
    heads: int = Field(4, ge=1, description="of attention")
    lr: float = Field(1e-3, gt=0, description="peak rate of AdamW, decayed by a cosine")
    batch_size: int = Field(64, ge=1)

    @classmethod
    def preset(cls, event: Event) -> Self:
        if isinstance(event, Leaf) and len(event.shape) == 3:
            return cls(**unet_for(event), lr=3e-3 if max(event.extents[1:]) <= 16 else 2e-3)
        return cls()

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError("widths and depths must name the same number of levels")
        if self.width % (4 * self.heads):
            raise ValueError("width must be four times a multiple of heads")
        return self

    def build(self, event: Event, cond: Event | None) -> "Model":
        if not isinstance(event, Leaf) or not is_discrete(event.kind):
            raise DataError(f"diffusion.discrete needs symbols, not {describe(event)}")
        classes, ends = class_count(cond), event.length_axis is not None
        outputs = categories(event.kind) + ends
        inputs = outputs + (self.corruption == "absorbing")
        if len(event.extents) == 3:
            channels, height, width = event.extents
            network: nn.Module = ImagePlaces(
                (channels, height, width),
                inputs,
                outputs,
                classes,
                self.shade,
                self.embedding,
                self.widths,
                self.depths,
                self.patch,
            )
        else:
            network = SequencePlaces(event.dim, inputs, outputs, classes, self.width, self.layers, self.heads)
        return Model(
            event,
            network,
            classes,
            self.corruption,
            self.sampling_steps,
            self.guidance_scale,
            self.timesteps,
            self.bound_terms,
        )

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def bound(batch: Batch, noise: Noise, clock: Clock) -> Loss:  # noqa: ARG001
            x = model.symbols(batch["x"])
            label = labels_or_null(batch.get("cond"), model.classes, len(x))
            label = hide_labels(label, model.classes, self.label_dropout, noise)
            index = 1 + (noise.uniform() * model.timesteps).long().clamp_max(model.timesteps - 1)
            term = model.term(x, index, label, noise)
            return Loss({"bound": model.timesteps * term.mean() / x.shape[1]})

        optimiser = Optimiser(self.lr, "adamw", weight_decay=0.01, schedule="cosine", warmup=0.05, clip=1.0)
        groups = {"network": Group(model, optimiser)}
        objective = Objective(groups, [Phase("tell", ("network",), bound)], Average())
        return [Stage("diffusion", objective, self.batch_size)]


class Model(nn.Module, Sampler, Likelihood, Infill):
    """A network that tells clean symbols from all that is left of them, and what is drawn and scored by it.

    Items of varying length are filled up with their end, which is a symbol like any other; what comes after
    the first is left out. alpha falls evenly from 1 to 0.

    Args:
        network: maps symbols (B, D), times (B,) and labels (B,) to logits (B, D, K), of the mask none.
        timesteps: T.
    """

    pi: Tensor

    def __init__(
        self,
        leaf: Leaf,
        network: nn.Module,
        classes: int,
        corruption: Corruption,
        sampling_steps: int,
        guidance_scale: float,
        timesteps: int,
        bound_terms: int,
    ) -> None:
        super().__init__()
        self.leaf, self.network, self.classes = leaf, network, classes
        self.masks = corruption == "absorbing"
        self.calls, self.guidance_scale = sampling_steps, guidance_scale
        self.timesteps, self.bound_terms = timesteps, bound_terms
        self.end = categories(leaf.kind) if leaf.length_axis is not None else None
        kinds = categories(leaf.kind) + (self.end is not None)
        mask = one_hot(torch.tensor(kinds), kinds + 1).float()
        self.register_buffer("pi", mask if self.masks else torch.ones(kinds) / kinds, persistent=False)

    def symbols(self, x: Value) -> Tensor:
        """Return the symbols of items, (B, D)."""
        if isinstance(x, Padded):
            items(x.values, self.leaf.extents)
            return with_ends(x, categories(self.leaf.kind), self.leaf.dim)[0]
        return items(x, self.leaf.extents).flatten(1)

    def items_of(self, symbols: Tensor) -> Value:
        """Return the items of symbols (B, D)."""
        if self.end is None:
            return symbols.view(-1, *self.leaf.extents)
        present = (symbols != self.end).long().cumprod(1)
        return Padded(symbols * present, present.sum(1))

    def told(self, x: Tensor, time: Tensor, label: Tensor, scale: float = 1.0) -> Tensor:
        """Return the probabilities of clean symbols (B, D, K) given x (B, D) at times (B,)."""
        logits = self.network(x, time.to(self.pi), label).to(self.pi.dtype).log_softmax(-1)
        if scale != 1 and self.classes:
            without = self.network(x, time.to(self.pi), torch.full_like(label, self.classes))
            logits = torch.lerp(without.to(self.pi.dtype).log_softmax(-1), logits, scale)
        found = logits.softmax(-1)
        if not self.masks:
            return found
        found = pad(found, (0, 1))
        clean = one_hot(x, len(self.pi)).to(found)
        return torch.where((x == len(self.pi) - 1)[..., None], found, clean)

    def hidden(self, x: Tensor, kept: Tensor, noise: Noise) -> Tensor:
        """Return symbols (B, D) of which shares (B,) are kept."""
        fresh = (
            torch.full_like(x, len(self.pi) - 1) if self.masks else noise.integers(len(self.pi), x.shape[1])
        )
        return corrupted(x, kept, fresh, noise.uniform(x.shape[1]))

    def term(self, x: Tensor, index: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of steps t (B,) in 1..T to s = t - 1, (B,) nats."""
        far, near = 1 - index.double() / self.timesteps, 1 - (index.double() - 1) / self.timesteps
        seen = self.hidden(x, far, noise)
        clean = one_hot(x, len(self.pi)).to(self.pi)
        own = stepped_back(seen, self.told(seen, 1 - far, label), self.pi, near, far)
        return divergence(stepped_back(seen, clean, self.pi, near, far), own)

    @torch.no_grad()
    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return an unbiased estimate of the variational bound, (B,) nats, a step from each stratum of T.

        Source: Austin et al. 2021, equation 1; nothing is left of x at T.
        """
        symbols = self.symbols(x)
        label = labels_or_null(cond, self.classes, len(symbols))
        ranges = bounds.strata(1, self.timesteps, self.bound_terms)
        index = bounds.draw_times(ranges, noise.uniform(len(ranges.count)))
        counts = enumerate(ranges.count.tolist())
        terms = [count * self.term(symbols, index[:, j], label, noise) for j, count in counts]
        return LogProb(-torch.stack(terms).sum(0), Bound.LOWER, given(cond))

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        """Walk from symbols of which nothing is left to clean ones."""
        nothing = noise.integers(len(self.pi), self.leaf.dim)
        return self.items_of(self._walked(nothing, torch.zeros_like(nothing, dtype=torch.bool), noise, cond))

    @torch.no_grad()
    def infill(self, x: Value, known: Value, noise: Noise, cond: Value | None = None) -> Value:
        """Walk with known symbols unmasked.

        Raises:
            Unsupported: symbols are replaced by others, not masked, so that what is known would not be seen.
        """
        if not self.masks:
            raise Unsupported("infill needs masks: fit with --model.corruption absorbing")
        symbols, fixed = self.symbols(x), tensor(known).flatten(1)
        return self.items_of(self._walked(symbols, fixed, noise, cond))

    def _walked(self, x: Tensor, known: Tensor, noise: Noise, cond: Value | None) -> Tensor:
        """Walk to clean symbols, of which those at known places are those of x (B, D)."""
        label = labels_or_null(cond, self.classes, len(x))
        clean, barred = one_hot(x, len(self.pi)).to(self.pi), self._before_known(x, known)
        alphas = torch.linspace(0, 1, self.calls + 1, dtype=torch.float64).expand(len(x), -1).t()
        here = self.hidden(x, alphas[0], noise)
        for far, near in itertools.pairwise(alphas):
            here = torch.where(known, x, here)
            told = self.told(here, 1 - far, label, self.guidance_scale).masked_fill(barred, 0)
            told = torch.where(known[..., None], clean, told)
            here = drawn(stepped_back(here, told, self.pi, near, far), noise.uniform(x.shape[1]))
        return torch.where(known, x, here)

    def _before_known(self, x: Tensor, known: Tensor) -> Tensor:
        """Return where items may not end, as symbols after are known, (B, D, K)."""
        barred = torch.zeros(*x.shape, len(self.pi), dtype=torch.bool)
        if self.end is not None:
            later = (known & (x != self.end)).flip(1).cumsum(1).flip(1) > 0
            barred[..., self.end] = later & ~known
        return barred


CARD = Card(
    name="diffusion.discrete",
    title="Diffusion of symbols",
    summary="Masks or replaces symbols one by one, and learns what they were; draws all places at once.",
    events=(
        level_image,
        leaf_of(Categorical, rank=3),
        symbol_sequence,
        binary,
        leaf_of(Categorical, rank=1),
    ),
    references=(
        Reference(
            "Austin et al.",
            2021,
            "Structured denoising diffusion in discrete state-spaces",
            "arXiv:2107.03006",
        ),
        Reference("Sahoo et al.", 2024, "Simple and effective masked diffusion", "arXiv:2406.07524"),
        Reference("Schiff et al.", 2024, "Guidance for discrete diffusion", "arXiv:2412.10193"),
    ),
    good_at=("Infilling of any places, all at once, by masks.", "Discrete data in any order."),
    bad_at=(
        "Likelihood bounds looser than an autoregressive model's.",
        "Few steps draw places that do not fit.",
    ),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
)
