"""Pipelines of the package diffusers, of the class of Stable Diffusion, as parts of a latent diffusion model.

Their networks are asked at angles between data and noise, as any of ours, and so drawn by any sampler.
B batch, C channels, H W size of an image, L tokens, D width of text states.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genloom.core.errors import DataError, MissingExtra
from genloom.core.events import Value
from genloom.core.serial import fingerprint_of, json_object
from genloom.math.mixtures import PredictionName
from genloom.math.paths import PathName
from genloom.nn.text_encoders import MOST_BYTES, Known, files_read, quietly, texts_of
from genloom.nn.unet import Words

MARK = "model_index.json"
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}
"""What the parts must be."""

PATHS_OF: Mapping[tuple[str, float, float], PathName] = {
    ("linear", 0.0001, 0.02): "vp",
    ("scaled_linear", 0.00085, 0.012): "scaled_linear",
}
"""By the schedule and its first and last beta."""

PREDICTIONS: Mapping[str, PredictionName] = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class Facts:
    """What a pipeline's files of settings say.

    Args:
        side: of the images that it was made for.
        halvings: of an image into a map of codes.
    """

    path: PathName
    prediction: PredictionName
    side: int
    halvings: int
    latent_channels: int


@dataclass(frozen=True)
class Parts:
    """A pipeline's networks: encoder (B, 3, H, W) to means and log deviations of codes, decoder back."""

    encoder: nn.Module
    decoder: nn.Module
    network: nn.Module
    embedding: nn.Module


def holds_pipeline(folder: Path) -> bool:
    """Tell whether a folder holds a pipeline of the package diffusers."""
    return (folder / MARK).is_file()


def facts_of(folder: Path) -> Facts:
    """Read what a pipeline is, without loading it.

    Raises:
        ValueError: it is damaged, or not of the class of Stable Diffusion.
    """
    index = _settings(folder / MARK)
    for part, name in CLASSES.items():
        found = index.get(part)
        if not isinstance(found, list) or found[-1] != name:
            held = found[-1] if isinstance(found, list) and found[-1] else "none"
            raise ValueError(f"{folder} has {held} as {part}, and only pipelines with {name} can be read")
    if isinstance(index.get("text_encoder_2"), list) and index["text_encoder_2"][-1]:
        raise ValueError(f"{folder} has two text encoders, and only pipelines with one can be read")
    files = [folder / part / "config.json" for part in ("unet", "vae")]
    files.append(folder / "scheduler" / "scheduler_config.json")
    unet, vae, scheduler = map(_settings, files)
    try:
        halvings = len(vae["block_out_channels"]) - 1
        beta = (scheduler["beta_schedule"], scheduler["beta_start"], scheduler["beta_end"])
        said = scheduler.get("prediction_type", "epsilon")
        channels, side = int(vae["latent_channels"]), int(unet["sample_size"]) << halvings
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} lacks {error} in its settings: restore it") from error
    steps = scheduler.get("num_train_timesteps", 1000) == 1000 and scheduler.get("trained_betas") is None
    if not steps or scheduler.get("rescale_betas_zero_snr"):
        raise ValueError(f"{folder} has a schedule of its own, and only the usual 1,000 steps are known here")
    if beta not in PATHS_OF or said not in PREDICTIONS or unet["in_channels"] != channels:
        raise ValueError(
            f"{folder} has a schedule, prediction or input that is not known here: {beta}, {said}"
        )
    return Facts(PATHS_OF[beta], PREDICTIONS[said], side, halvings, channels)


def pipeline_digest(folder: Path) -> str:
    """Return a hash of the files of a pipeline that are read.

    Raises:
        ValueError: one cannot be read.
    """
    files = (path for part in (*CLASSES, "scheduler") for path in files_read(folder / part))
    return fingerprint_of(folder, files)


def _settings(path: Path) -> dict[str, Any]:
    return json_object(path, MOST_BYTES)


def load_parts(folder: Path) -> Parts:
    """Load a pipeline's networks, from safetensors only.

    Raises:
        MissingExtra: diffusers or transformers is not installed.
        DataError: a part is missing, damaged, or kept as a pickle.
    """
    try:
        from diffusers import AutoencoderKL, UNet2DConditionModel
    except ImportError as error:
        raise MissingExtra("diffusers", "pipelines") from error
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise MissingExtra("transformers", "pipelines") from error
    left = torch.tensor(_alphas_left(_settings(folder / "scheduler" / "scheduler_config.json")))
    local: dict[str, Any] = {"local_files_only": True}
    safe = {**local, "use_safetensors": True, "low_cpu_mem_usage": False, "torch_dtype": torch.float32}
    try:
        with quietly():
            unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **safe)
            vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", **safe)
            text = CLIPTextModel.from_pretrained(folder / "text_encoder", use_safetensors=True, **local)
            tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer", **local)
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        raise DataError(f"{folder} cannot be loaded: {why}") from error
    scale = float(vae.config.scaling_factor)
    return Parts(
        Encoder(vae.encoder, vae.quant_conv, scale),
        Decoder(vae.decoder, vae.post_quant_conv, scale),
        Network(unet),
        TimeText(text.float(), _tokenized(tokens, int(text.config.max_position_embeddings)), left),
    )


def _alphas_left(scheduler: Mapping[str, Any]) -> list[float]:
    """Return what is left of the squared data after each of 1,000 steps, falling."""
    power = 0.5 if scheduler["beta_schedule"] == "scaled_linear" else 1.0
    low, high = (float(scheduler[name]) ** power for name in ("beta_start", "beta_end"))
    betas = torch.linspace(low, high, 1000, dtype=torch.float64) ** (1 / power)
    return (1 - betas).cumprod(0).tolist()


def _tokenized(tokens: Any, longest: int) -> Callable[[list[str]], Tensor]:
    """Return a function from texts to tokens (B, L), cut and filled up to L."""

    def read(texts: list[str]) -> Tensor:
        found = tokens(texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        ids: Tensor = found.input_ids
        return ids

    return read


class Encoder(nn.Module):
    """Images in [-1, 1] to mean and log deviation of scaled codes."""

    def __init__(self, encoder: nn.Module, last: nn.Module | None, scale: float) -> None:
        super().__init__()
        self.encoder, self.last, self.scale = encoder, last or nn.Identity(), scale

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.last(self.encoder(x)).chunk(2, 1)
        return torch.cat((mean * self.scale, log_variance / 2 + math.log(self.scale)), 1)


class Decoder(nn.Module):
    """Scaled codes to locations and scales of images, (B, 2 C, H, W), a scale after each location.

    The scale is one for all pixels, as the decoder was not trained to say any.
    """

    def __init__(self, decoder: nn.Module, first: nn.Module | None, scale: float) -> None:
        super().__init__()
        self.decoder, self.first, self.scale = decoder, first or nn.Identity(), scale

    def forward(self, z: Tensor) -> Tensor:
        y = self.decoder(self.first(z / self.scale))
        return torch.stack((y, torch.full_like(y, -1)), 2).flatten(1, 2)


class Network(nn.Module):
    """The network that says the noise, or v, of noisy codes at steps, given the states of a text."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, step: Tensor, words: Words) -> Tensor:
        said: Tensor = self.unet(x, step, encoder_hidden_states=words.values, return_dict=False)[0]
        return said


class TimeText(nn.Module):
    """Angles in [0, 1], in right angles, to steps, and texts as bytes to the states of their tokens.

    The network of texts stays as it is, however the rest is tuned.

    Args:
        read: texts to tokens.
        left: what is left of the squared data after each step.
    """

    angles: Tensor

    def __init__(self, text: nn.Module, read: Callable[[list[str]], Tensor], left: Tensor) -> None:
        super().__init__()
        self.text = text.requires_grad_(False)
        right = ((1 - left) / left).sqrt().atan() / (math.pi / 2)
        self.register_buffer("angles", right, persistent=False)

        def states(one: str) -> Tensor:
            found: Tensor = text.eval()(read([one]))[0][0]
            return found

        self.states = Known(states)

    def forward(self, time: Tensor, told: Value) -> tuple[Tensor, Words]:
        states = torch.stack(self.states(texts_of(told)))
        return self.step(time), Words(states, torch.ones(states.shape[:2], dtype=torch.bool))

    def step(self, time: Tensor) -> Tensor:
        """Return the steps, whole or not, at which the angle between data and noise is as given."""
        angles = self.angles.double()
        after = torch.searchsorted(angles, time.double().contiguous()).clamp(1, len(angles) - 1)
        low, high = angles[after - 1], angles[after]
        return (after - 1 + ((time.double() - low) / (high - low)).clamp(0, 1)).to(time)
