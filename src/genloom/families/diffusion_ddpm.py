"""Denoising diffusion. Ho et al. 2020, arXiv:2006.11239.

Cosine schedule of Nichol & Dhariwal 2021, arXiv:2102.09672; v-prediction of Salimans & Ho 2022,
arXiv:2202.00512; classifier-free guidance of Ho & Salimans 2022, arXiv:2207.12598.

B batch, S event shape, D scalars, E embedding, T steps, K strata.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from genloom.core import card
from genloom.core.capabilities import Denoiser, Likelihood, Sampler
from genloom.core.card import class_count, graded_image, real
from genloom.core.errors import ConfigError
from genloom.core.events import (
    Batch,
    Bounded,
    Event,
    Leaf,
    Real,
    Value,
    describe,
    flat_leaf,
    items,
    nearest_level,
    tensor,
)
from genloom.core.likelihood import Bound, LogProb, given
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.math import schedules
from genloom.math.mixtures import Mixture, PredictionName, prediction, separate
from genloom.math.solvers import SOLVERS, Grid, SamplerName, Variance
from genloom.nn.labels import hide_labels, labels_or_null
from genloom.nn.unet import TimeLabelEmbedding, UNet, silence


class Config(card.Config):
    """Settings of the diffusion, its network, sampler and training."""

    prediction: PredictionName = Field(
        "v", description="what the network returns; v keeps its meaning at both ends of the schedule"
    )
    schedule: Literal["linear", "cosine"] = Field(
        "cosine", description="cosine spends fewer steps where the image is all noise"
    )
    timesteps: int = Field(1000, ge=2, description="T; as in the paper")
    cosine_offset: float = Field(
        0.008, ge=0, lt=1, description="s; sets the first noise to about the width of one of 256 levels"
    )
    variance: Variance = Field(
        "posterior", description="of reverse steps: posterior suits discrete data, forward smooth densities"
    )
    clip: bool = Field(True, description="keep estimates of bounded data inside their bounds")
    sampler: SamplerName = Field(
        "ddim", description="ddpm and ddim are of order 1, heun and dpm_solver_2m 2, adams and unipc more"
    )
    sampling_steps: int = Field(50, ge=1, description="network calls for one sample")
    eta: float = Field(0.0, ge=0, le=1, description="noise of ddim: 0 none, 1 as much as ddpm")
    guidance_scale: float = Field(
        1.0, ge=0, description="0 ignores the label, 1 follows it, more exaggerates it"
    )
    bound_terms: int = Field(32, ge=1, description="strata, and so network calls, of the likelihood bound")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, to learn no class")
    widths: card.Widths = Field((64, 128), description="U-Net channels, finest level first")
    depths: card.Widths = Field((1, 2), description="residual blocks of each level and way")
    patch: int = Field(1, ge=1, description="side of the squares folded into channels before the U-Net")
    hidden: int = Field(256, ge=1, description="width of the network of vectors")
    layers: int = Field(3, ge=1, description="residual blocks of the network of vectors")
    embedding: int = Field(128, ge=4, description="E")
    lr: float = Field(2e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    @classmethod
    def preset(cls, event: Event) -> Self:
        """Fold large images; take smaller, faster steps on small ones; suit the variance to the data."""
        leaf = flat_leaf(event)
        if not isinstance(leaf.kind, Bounded):
            return cls(variance="forward", sampler="ddpm", sampling_steps=100, batch_size=256)
        if max(leaf.extents[-2:]) <= 16:
            return cls(widths=(32, 64), eta=0.5, bound_terms=16, lr=4e-3, batch_size=64)
        return cls(patch=2)

    def build(self, event: Event, cond: Event | None) -> "Model":
        leaf = flat_leaf(event)
        if not isinstance(leaf.kind, Bounded | Real):
            raise ConfigError(f"diffusion.ddpm needs real or scaled values, not {describe(event)}")
        if len(self.widths) != len(self.depths):
            raise ConfigError("widths and depths must name the same number of levels")
        network: nn.Module = (
            UNet(leaf.extents[0], self.embedding, self.widths, self.depths, self.patch)
            if len(leaf.extents) == 3
            else ResidualMLP(leaf.dim, self.embedding, self.hidden, self.layers)
        )
        return Model(
            leaf,
            network,
            TimeLabelEmbedding(self.embedding, class_count(cond)),
            class_count(cond),
            self._alpha_bar(),
            self.prediction,
            self.variance,
            self.clip,
            self.sampler,
            self.sampling_steps,
            self.eta,
            self.guidance_scale,
            self.bound_terms,
        )

    def _alpha_bar(self) -> Tensor:
        if self.schedule == "linear":
            return schedules.linear_alpha_bar(self.timesteps)
        return schedules.cosine_alpha_bar(self.timesteps, self.cosine_offset)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Model)

        def denoising(batch: Batch, noise: Noise, _: Clock) -> Loss:
            x0 = tensor(batch["x"])
            label = labels_or_null(batch.get("cond"), model.classes, len(x0))
            label = hide_labels(label, model.classes, self.label_dropout, noise)
            return Loss({self.prediction: model.denoising_error(x0, label, noise).mean()})

        optimiser = Optimiser(self.lr, schedule="cosine", warmup=0.05, clip=1.0)
        objective = Objective(
            {"denoiser": Group(model, optimiser)}, [Phase("denoise", ("denoiser",), denoising)], Average()
        )
        return [Stage("diffusion", objective, self.batch_size)]


class ResidualMLP(nn.Module):
    """Maps vectors, or any shape of D scalars flattened, and an embedding (B, E) to the same shape."""

    def __init__(self, dim: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(DenseBlock(hidden, embedding) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, dim))
        silence(self.head[2])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h, embedding = self.inputs(x.flatten(1)), F.silu(embedding)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(h).view(x.shape)


class DenseBlock(nn.Module):
    """Two dense layers, scaled and shifted by the embedding, and added. It starts as the identity."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        silence(self.modulation, self.second)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        return x + self.second(F.silu(self.first(torch.addcmul(shift, self.norm(x), 1 + scale))))


def mixture(abar: Tensor) -> Mixture:
    """Return what is seen at times of these abar. Ho et al. 2020, equation 4."""
    return Mixture(abar.sqrt(), (1 - abar).sqrt())


class Model(nn.Module, Sampler, Denoiser, Likelihood):
    """A network that removes noise, the chain that samples with it, and the bound that scores with it."""

    alpha_bar: Tensor

    def __init__(
        self,
        leaf: Leaf,
        network: nn.Module,
        embedding: nn.Module,
        classes: int,
        alpha_bar: Tensor,
        predicted: PredictionName,
        variance: Variance,
        clip: bool,
        sampler: SamplerName,
        sampling_steps: int,
        eta: float,
        guidance_scale: float,
        bound_terms: int,
    ) -> None:
        super().__init__()
        self.leaf, self.classes = leaf, classes
        self.network, self.embedding = network, embedding
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)
        self.timesteps = len(alpha_bar) - 1
        self.predicted, self.variance, self.clip = predicted, variance, clip
        self.sampler, self.sampling_steps, self.eta = sampler, sampling_steps, eta
        self.guidance_scale, self.bound_terms = guidance_scale, bound_terms

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return the network's output, what it predicts, (B, *S), at times (B,) in 1..T."""
        embedding = self.embedding((time / self.timesteps).to(x.dtype), label)
        return self.network(x, embedding).to(x.dtype)

    def guided(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return (1 - g) times the prediction without label plus g times that with it.

        Source: Ho & Salimans 2022, equation 6, with g = w + 1; all predictions are affine in epsilon.
        """
        null = torch.full_like(label, self.classes)
        if self.guidance_scale == 1 or not self.classes:
            return self.predict(x, time, label)
        if self.guidance_scale == 0:
            return self.predict(x, time, null)
        both = self.predict(x.repeat(2, *(1,) * (x.dim() - 1)), time.repeat(2), torch.cat([null, label]))
        without, given = both.chunk(2)
        return torch.lerp(without, given, self.guidance_scale)

    def estimate(self, x: Tensor, output: Tensor, abar: Tensor) -> Tensor:
        """Return the estimate of x_0 that an output of the network implies."""
        seen = mixture(abar)
        x0, _ = separate(seen, x, prediction(self.predicted, seen), output)
        kind = self.leaf.kind
        return x0.clamp(kind.lo, kind.hi) if self.clip and isinstance(kind, Bounded) else x0

    def abar(self, time: Tensor) -> Tensor:
        """Return abar of each time (B,), shaped to broadcast against a batch."""
        return self.alpha_bar[time].view(-1, *(1,) * len(self.leaf.extents))

    def denoising_error(self, x0: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return the mean squared error of the network at one random time for each item, (B,).

        Source: Ho et al. 2020, equations 4 and 14; for v, Salimans & Ho 2022, section 4.
        """
        time = noise.integers(self.timesteps) + 1
        eps = noise.normal(*self.leaf.extents).to(x0.dtype)
        seen = mixture(self.abar(time))
        x = seen.of(x0, eps).to(x0.dtype)
        target = prediction(self.predicted, seen).of(x0, eps).to(x0.dtype)
        return (self.predict(x, time, label) - target).square().flatten(1).mean(1)

    def denoise(self, x: Tensor, time: Tensor, cond: Value | None = None) -> Tensor:
        """Return the estimate of E[x_0 | x_t = x], with whole times (B,) in 1..T."""
        output = self.predict(x, time, labels_or_null(cond, self.classes, len(x)))
        return self.estimate(x, output, self.abar(time)).to(x.dtype)

    @torch.no_grad()
    def sample(self, noise: Noise, cond: Value | None = None) -> Value:
        """Walk from noise to data; where the event has levels, return the nearest ones."""
        x = noise.normal(*self.leaf.extents).to(next(self.parameters()).dtype)
        label = labels_or_null(cond, self.classes, len(x))
        moves = -(-self.sampling_steps // 2) if self.sampler == "heun" else self.sampling_steps
        times = schedules.spaced_times(self.timesteps, moves)
        abar = self.alpha_bar[times]
        seen = mixture(abar)

        def denoise(x: Tensor, place: int) -> Tensor:
            time = torch.full((len(x),), times[place], device=x.device)
            return self.estimate(x, self.guided(x, time, label), abar[place])

        def draw() -> Tensor:
            return noise.normal(*self.leaf.extents).to(x)

        x = self._solver()(denoise, x, Grid(seen.data, seen.noise), draw).to(x.dtype)
        return nearest_level(x, self.leaf.kind)

    def _solver(self) -> Callable[..., Tensor]:
        """Return the chosen way from noise to data with its settings."""
        settings: dict[str, dict[str, Any]] = {"ddpm": {"variance": self.variance}, "ddim": {"eta": self.eta}}
        return partial(SOLVERS[self.sampler], **settings.get(self.sampler, {}))

    def _variance(self, abar: Tensor, earlier: Tensor) -> Tensor:
        """Return the variance of p(x_s | x_t) (Ho et al. 2020, section 3.2)."""
        choose = schedules.posterior_variance if self.variance == "posterior" else schedules.forward_variance
        return choose(abar, earlier)

    @torch.no_grad()
    def log_prob(self, x: Value, cond: Value | None = None, *, noise: Noise) -> LogProb:
        """Return an unbiased Monte-Carlo estimate of the variational lower bound, in nats.

        All T terms would cost T network calls. Instead the times 2..T are cut into ``bound_terms`` strata,
        each of which gives one random time, weighted by the size of its stratum; the prior's and the
        decoder's terms are always included. The expectation over ``noise`` is the bound itself, and so below
        log p; a single figure strays from it by Monte-Carlo error.

        Source: Ho et al. 2020, equation 5.
        """
        x = items(x, self.leaf.extents)
        label = labels_or_null(cond, self.classes, len(x))
        ranges = schedules.strata(2, self.timesteps, self.bound_terms)
        times = schedules.draw_times(ranges, noise.uniform(len(ranges.count)))
        bound = self._decoder_term(x, label, noise) - self._prior_term(x)
        for j, count in enumerate(ranges.count.tolist()):
            bound = bound - count * self._transition_term(x, times[:, j], label, noise)
        return LogProb(bound.to(x.dtype), Bound.LOWER, given(cond))

    def _noisy_and_estimate(
        self, x0: Tensor, time: Tensor, label: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw x_t given x_0, and estimate x_0 from it."""
        eps = noise.normal(*self.leaf.extents).to(x0)
        x = mixture(self.abar(time)).of(x0, eps).to(x0.dtype)
        return x, self.estimate(x, self.predict(x, time, label), self.abar(time))

    def _prior_term(self, x0: Tensor) -> Tensor:
        """Return L_T = KL(q(x_T | x_0) || N(0, I)), (B,)."""
        abar = self.alpha_bar[-1]
        zero = torch.zeros_like(abar)
        return schedules.gaussian_kl(abar.sqrt() * x0, 1 - abar, zero, zero + 1).flatten(1).sum(1)

    def _transition_term(self, x0: Tensor, time: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) at times (B,) >= 2, (B,)."""
        abar, earlier = self.abar(time), self.abar(time - 1)
        x, guess = self._noisy_and_estimate(x0, time, label, noise)
        mean, guessed = (schedules.posterior_mean(x, at, abar, earlier) for at in (x0, guess))
        true = schedules.posterior_variance(abar, earlier)
        kl = schedules.gaussian_kl(mean, true, guessed, self._variance(abar, earlier))
        return kl.flatten(1).sum(1)

    def _decoder_term(self, x0: Tensor, label: Tensor, noise: Noise) -> Tensor:
        """Return log p(x_0 | x_1), (B,): the mass of levels (equation 13), else a Gaussian density.

        Its variance is beta_1; the mean of the reverse step to time 0 is the estimate of x_0 itself.
        """
        time = torch.ones(len(x0), dtype=torch.int64, device=x0.device)
        _, mean = self._noisy_and_estimate(x0, time, label, noise)
        variance, kind = 1 - self.alpha_bar[1], self.leaf.kind
        if isinstance(kind, Bounded) and kind.levels is not None:
            log_p = schedules.discretised_gaussian(x0, mean, variance, kind.lo, kind.hi, kind.levels)
        else:
            log_p = schedules.gaussian_log_density(x0, mean, variance)
        return log_p.flatten(1).sum(1)


CARD = card.Card(
    name="diffusion.ddpm",
    title="Denoising diffusion model",
    summary="Learns to remove noise of every strength; draws by removing it from pure noise step by step.",
    events=(graded_image, real),
    references=(
        card.Reference("Ho et al.", 2020, "Denoising diffusion probabilistic models", "arXiv:2006.11239"),
        card.Reference("Nichol & Dhariwal", 2021, "Improved DDPM", "arXiv:2102.09672"),
        card.Reference("Song et al.", 2021, "Denoising diffusion implicit models", "arXiv:2010.02502"),
        card.Reference("Salimans & Ho", 2022, "Progressive distillation", "arXiv:2202.00512"),
        card.Reference("Ho & Salimans", 2022, "Classifier-free diffusion guidance", "arXiv:2207.12598"),
    ),
    good_at=("Samples close to the data and covering it.", "Trains steadily, with one squared error."),
    bad_at=(
        "Sampling takes tens of network calls.",
        "Its likelihood bound is noisy and looser than a flow's.",
    ),
    likelihood=Bound.LOWER,
    conditions="class",
    autocast=True,
)
