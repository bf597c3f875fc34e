"""Settings that diffusion models share: each family is a point among them."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator
from torch import Tensor, nn

from genloom.core import card
from genloom.core.errors import ConfigError
from genloom.core.events import Batch, Bounded, Event, Real, Value, describe, flat_leaf, tensor
from genloom.core.objective import Average, Clock, Group, Loss, Objective, Optimiser, Phase, Stage
from genloom.core.randomness import Noise
from genloom.math.coupling import Coupling
from genloom.math.mixtures import PredictionName
from genloom.math.paths import PathName
from genloom.math.solvers import SamplerName, Variance
from genloom.nn.courses import Course, Weighting
from genloom.nn.denoising import Diffusion, Scoring, spread
from genloom.nn.filling import draw_known, with_parts
from genloom.nn.lora import adapt, learnt
from genloom.nn.networks import Networks, Parts, asked_in, found_encoder, unet_for
from genloom.nn.prompts import prompts_for
from genloom.nn.starts import of_codes, relabelled, settings_of, start_from, weights_of, with_more_inputs
from genloom.nn.unet import TimeLabelEmbedding
from genloom.nn.walks import Drawing, GridName, Restoring

PathSetting = Annotated[PathName, Field(description="from data to noise")]
Prediction = Annotated[
    PredictionName, Field(description="what the network says; v keeps its meaning at both ends of a path")
]
DataStd = Annotated[
    float, Field(gt=0, description="deviation of data, which scales what the network sees and says")
]
Ratios = Annotated[
    tuple[Annotated[float, Field(ge=-10, le=10)], Annotated[float, Field(gt=0, le=10)]] | None,
    Field(
        description="mean and deviation of the logarithm of noise to data in training; even in time if none"
    ),
]
Sampler = card.Free[
    Annotated[
        SamplerName,
        Field(description="orders: ddpm, ddim 1; heun, churn, dpm_solver_2m 2; adams, unipc more"),
    ]
]
Steps = card.Free[Annotated[int, Field(ge=1, le=100_000, description="network calls for one sample (NFE)")]]
Places = card.Free[
    Annotated[GridName, Field(description="where the calls are: even in time, or in powers of noise to data")]
]


ADOPTED = ("path", "prediction", "data_std", *Networks.model_fields)
"""Settings that say what a network's weights mean."""

LATENT = ("latent_channels", "pipeline")
"""Settings that tell models of codes from others."""


class Basics(Networks):
    """Settings of a network, of what it learns along a path, and of its training and samples."""

    adopted: ClassVar[tuple[str, ...]] = ADOPTED

    path: PathSetting = "cosine"
    prediction: Prediction = "v"
    data_std: DataStd = 1.0
    ratios: Ratios = None
    weighting: Weighting = Field(
        "own", description="of errors: as the network says them, or by another prediction"
    )
    coupling: Coupling = Field(
        "independent",
        description="of noise and data; optimal pairs near ones in each batch, for straight ways",
    )
    dequantise: bool = Field(
        False, description="train on data spread evenly within their levels, for densities"
    )
    fills: bool = Field(
        False, description="also learn to draw parts of items, told the rest: infill then takes one walk"
    )
    sampling_steps: Steps = 50
    grid: Places = "time"
    clip: card.Free[bool] = Field(True, description="keep estimates of bounded data inside their bounds")
    precision: card.Free[Literal["fp32", "bf16"]] = Field(
        "fp32", description="of the network as it draws; bf16 is faster where the machine knows it"
    )
    label_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of labels or texts hidden, to learn to do without"
    )
    lr: float = Field(2e-3, gt=0, description="peak rate of Adam, decayed by a cosine")
    batch_size: int = Field(128, ge=1)

    start: str | None = Field(
        None,
        description="folder of a run of a diffusion model to go on from; it sets the path and the network",
    )
    start_sha256: str | None = Field(None, description="of that run's weights; found by itself")
    tuning_lr: float = Field(3e-4, gt=0, description="peak rate of Adam where there is such a start")

    @classmethod
    def suited(
        cls, event: Event, vectors: Mapping[str, Any], small: Mapping[str, Any] = MappingProxyType({})
    ) -> Self:
        """Take smaller, faster steps on small images.

        Args:
            vectors: what suits data without bounds.
            small: what suits small images besides.
        """
        leaf = flat_leaf(event)
        if not isinstance(leaf.kind, Bounded):
            return cls(batch_size=256, **vectors)
        if max(leaf.extents[-2:]) <= 16:
            return cls(**unet_for(leaf), dit_patch=1, lr=4e-3, batch_size=64, **small)
        return cls(**unet_for(leaf))

    @classmethod
    def settings_of_start(cls, folder: Path) -> dict[str, Any]:
        """Return the settings that a start sets.

        Raises:
            ValueError: the folder holds no start.
        """
        found = settings_of(folder, {*cls.adopted, *LATENT, "fills"})
        if not found.get("fills"):
            found.pop("fills", None)
        if found.pop("pipeline", False):
            raise ValueError(f"{folder} began with a pipeline: start with that pipeline itself")
        if ("latent_channels" in found) != ("latent_channels" in cls.adopted):
            raise ValueError(f"{folder} cannot be a start here: diffusion.latent starts from its like alone")
        return found

    @classmethod
    def idle(cls, found: Mapping[str, Any]) -> Collection[str]:  # noqa: ARG003
        """Return settings that nothing goes by where there is a start, which sets what was found."""
        return ("lr",)

    @model_validator(mode="before")
    @classmethod
    def _as_started(cls, given: Any, info: ValidationInfo) -> Any:
        if not (isinstance(given, dict) and isinstance(given.get("start"), str)) or given.get("start_sha256"):
            return given
        folder, asked = Path(os.path.expanduser(given["start"])).resolve(), asked_in(info)
        found, given = cls.settings_of_start(folder), found_encoder(given)
        if given.get("text_encoder_sha256") == found.get("text_encoder_sha256"):
            found.pop("text_encoder", None)
        if other := [name for name in found if name in asked and given[name] != found[name]]:
            raise ValueError(f"a start has its own {other[0]}: leave it out")
        if unused := [name for name in cls.idle(found) if name in asked]:
            raise ValueError(f"nothing goes by {unused[0]} where there is a start: leave it out")
        return {**given, "start": str(folder), **found}

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Self:
        if self.prediction == "velocity" and self.path == "ve":
            raise ValueError("along ve the velocity is the noise: predict epsilon, or v")
        if self.fills and self.coupling == "optimal":
            raise ValueError("fills goes with noise and data coupled independently: leave coupling out")
        return self

    def diffusion(self, event: Event, cond: Event | None, drawing: Drawing, scoring: Scoring) -> Diffusion:
        """Return an untrained model.

        Raises:
            ConfigError: the event has other values than real or scaled ones, or there are texts that these
                settings cannot go with.
        """
        leaf, prompts = flat_leaf(event), prompts_for(cond)
        if not isinstance(leaf.kind, Bounded | Real):
            raise ConfigError(f"diffusion needs real or scaled values, not {describe(event)}")
        if prompts.longest and (len(leaf.extents) != 3 or self.coupling == "optimal"):
            raise ConfigError("texts are for images, with noise and data coupled independently")
        network = self.network_for(leaf, bool(prompts.longest), self.fills)
        embedding = self.embedding_for(prompts, cond)
        return Diffusion(leaf, network, embedding, prompts, self.course(), drawing, scoring, self.fills)

    def course(self) -> Course:
        """Return what a network learns, and where."""
        return Course(self.path, self.prediction, self.data_std, self.ratios, self.weighting, self.coupling)

    def seen(self, model: Diffusion, batch: Batch, noise: Noise) -> tuple[Tensor, Value]:
        """Return the data of a batch (B, *S) and what is told of them: prompts, hidden of some, and parts."""
        x0 = tensor(batch["x"])
        x0 = spread(x0, model.leaf, noise)[0] if self.dequantise else x0
        told = model.prompts.complete(batch.get("cond"), len(x0))
        told = model.prompts.hidden(told, self.label_dropout, noise)
        return x0, with_parts(told, x0, draw_known(model.leaf.extents, noise)) if self.fills else told

    def trained_part(self, model: Diffusion) -> nn.Module:
        """Return what training changes."""
        return model

    def error(self, model: Diffusion) -> Callable[[Batch, Noise], Tensor]:
        """Return what is learnt from, an error of each item (B,)."""

        def apart(batch: Batch, noise: Noise) -> Tensor:
            return model.denoising_error(*self.seen(model, batch, noise), noise)

        return apart

    def start_weights(self) -> dict[str, Tensor]:
        """Return the weights of the start.

        Raises:
            DataError: they are gone or have changed.
        """
        assert self.start is not None
        assert self.start_sha256 is not None
        return weights_of(Path(self.start), self.start_sha256)

    def fitted(self, weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """Return weights of a start for a model that may be told parts, which the start was not."""
        return with_more_inputs(weights, model) if self.fills else weights

    def denoising(self, model: Diffusion, budget_share: float = 1.0) -> Stage:
        """Return the stage in which a model learns to tell data from noise."""

        error = self.error(model)

        def loss(batch: Batch, noise: Noise, _: Clock) -> Loss:
            return Loss({self.prediction: error(batch, noise).mean()})

        lr = self.lr if self.start is None else self.tuning_lr
        optimiser = Optimiser(lr, schedule="cosine", warmup=0.05, clip=1.0)
        objective = Objective(
            {"denoiser": Group(self.trained_part(model), optimiser)},
            [Phase("denoise", ("denoiser",), loss)],
            Average(),
            couples=self.coupling == "optimal",
        )
        return Stage("diffusion", objective, self.batch_size, budget_share)


class Settings(Basics):
    """Settings of a diffusion model: besides the basics, how it draws and scores."""

    parts: ClassVar[Parts] = {
        **Networks.parts,
        "eta": ("sampler", ("ddim",)),
        "churn": ("sampler", ("churn",)),
        "revisits": ("restoring", ("auto", "repaint")),
        "iterations": ("restoring", ("posterior", "particles")),
        "particles": ("restoring", ("particles",)),
    }

    sampler: Sampler = "dpm_solver_2m"
    eta: card.Free[float] = Field(0.0, ge=0, le=1, description="noise of ddim: 0 none, 1 as much as ddpm")
    churn: card.Free[float] = Field(
        20.0, ge=0, le=1000, description="noise put in by the sampler of that name: S_churn"
    )
    variance: card.Free[Variance] = Field(
        "posterior",
        description="of ddpm and the bound: posterior suits discrete data, forward smooth densities",
    )
    guidance_scale: card.Free[float] = Field(
        1.0, ge=0, le=100, description="0 ignores the label or text, 1 follows it, more exaggerates it"
    )
    guidance_interval: card.Free[tuple[float, float]] = Field(
        (0, 1e9), description="ratios of noise to data between which labels are exaggerated"
    )
    guide: card.Free[str | None] = Field(
        None, description="folder of a run of a weaker model, from which guidance leads away"
    )
    restoring: card.Free[Literal["auto", Restoring]] = Field(
        "auto",
        description="what makes samples agree with known parts; auto: the network if it fills, else repaint",
    )
    revisits: card.Free[int] = Field(
        5, ge=1, le=1000, description="how often repaint walks each move, if it is asked"
    )
    iterations: card.Free[int] = Field(
        2, ge=1, le=100, description="of conjugate gradients, by posterior and particles at each call"
    )
    particles: card.Free[int] = Field(
        16, ge=1, le=10_000, description="of an item, where it is restored by them"
    )
    likelihood: card.Free[Literal["bound", "ode"]] = Field(
        "bound", description="of scores: the variational bound, or the density by the probability-flow ODE"
    )
    timesteps: card.Free[int] = Field(1000, ge=2, le=100_000, description="T of the variational bound")
    bound_terms: card.Free[int] = Field(
        32, ge=1, le=100_000, description="strata and network calls of the bound"
    )
    tolerance: card.Free[float] = Field(
        1e-4, ge=1e-9, lt=0.1, description="of the solver of densities and codes"
    )
    lora_rank: int = Field(0, ge=0, description="of the changes of a start's maps; 0 trains all of it")
    lora_alpha: float = Field(16, gt=0, description="weight of the changes, times their rank")
    probes: card.Free[int] = Field(1, ge=1, le=1000, description="signs for traces of over 64 values")

    @classmethod
    def suited(
        cls, event: Event, vectors: Mapping[str, Any], small: Mapping[str, Any] = MappingProxyType({})
    ) -> Self:
        return super().suited(event, vectors, {"bound_terms": 16, **small})

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.prediction == "x0" and self.likelihood == "ode":
            raise ValueError("next to the data x0 says nothing of the noise: predict v for densities by ode")
        if self.guidance_interval[0] >= self.guidance_interval[1]:
            raise ValueError("guidance_interval must rise from one ratio of noise to data to another")
        if self.lora_rank and self.start is None:
            raise ValueError("lora_rank is for a model that has a start")
        return self

    def build(self, event: Event, cond: Event | None) -> nn.Module:
        return self.denoiser(event, cond)

    def denoiser(self, event: Event, cond: Event | None) -> Diffusion:
        """Return an untrained model with its ways of drawing and scoring.

        Raises:
            ConfigError: what it is to model, or to be told, does not go with these settings.
        """
        model = self.diffusion(event, cond, *self.ways(cond))
        if self.lora_rank:
            adapt(model, self.lora_rank, self.lora_alpha)
        if self.guide is not None:
            model.guides = (self._weaker(event, cond, Path(os.path.expanduser(self.guide))),)
        return model

    def ways(self, cond: Event | None) -> tuple[Drawing, Scoring]:
        """Return how a model draws and scores.

        Raises:
            ConfigError: guidance has nothing to go by.
        """
        if self.guidance_scale != 1 and not prompts_for(cond) and self.guide is None:
            raise ConfigError(
                "a guidance_scale is for models with labels or texts, or for those that have a guide"
            )
        drawing = Drawing(
            sampler=self.sampler,
            calls=self.sampling_steps,
            grid=self.grid,
            clip=self.clip,
            bf16=self.precision == "bf16",
            restoring="repaint" if self.restoring == "auto" else self.restoring,
            fills=self.fills and self.restoring == "auto",
            revisits=self.revisits,
            eta=self.eta,
            variance=self.variance,
            guidance_scale=self.guidance_scale,
            guided=self.guidance_interval,
            iterations=self.iterations,
            particles=self.particles,
            churn=self.churn,
        )
        by_ode = self.likelihood == "ode"
        return drawing, Scoring(self.timesteps, self.bound_terms, by_ode, self.tolerance, self.probes)

    def _weaker(self, event: Event, cond: Event | None, folder: Path) -> Diffusion:
        """Return the model in a folder, to be led away from.

        Raises:
            ConfigError, DataError: there is none, or not along the same path, or of other data.
        """
        try:
            settings = settings_of(folder, {*ADOPTED, "fills"})
        except ValueError as error:
            raise ConfigError(str(error)) from error
        digest = settings.pop("start_sha256")
        if settings["path"] != self.path:
            raise ConfigError(f"the guide {folder} goes along {settings['path']}, not {self.path}")
        if self.fills and not settings.get("fills"):
            raise ConfigError(f"the guide {folder} did not learn to fill: name one that did, as this model")
        model = type(self)(**settings).denoiser(event, cond)
        start_from(model, of_codes(weights_of(folder, digest)))
        return model.eval().requires_grad_(False)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, Diffusion)
        self.begin(model)
        return [self.denoising(model)]

    def begin(self, model: nn.Module) -> None:
        """Fill a model with its start, if it has one.

        Raises:
            ConfigError: a guide is asked for, which is not for training.
            DataError: the start is gone, has changed, or does not fit the data.
        """
        if self.guide is not None:
            raise ConfigError("a guide is chosen when samples are drawn: leave it out of the fit")
        if self.start is not None:
            start_from(model, relabelled(self.fitted(self.start_weights(), model), model))

    def trained_part(self, model: Diffusion) -> nn.Module:
        """Return all, or of changes of low rank these and the classes, which may be new."""
        if not self.lora_rank:
            return model
        labels = [model.embedding.label] if isinstance(model.embedding, TimeLabelEmbedding) else []
        return nn.ModuleList([learnt(model), *(label.requires_grad_() for label in labels)])
