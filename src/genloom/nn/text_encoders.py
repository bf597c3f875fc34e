"""Text encoders of the package transformers, CLIP's and T5's, which are read as they are.

B batch, L tokens of a text, D width of states, E embedding.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core.errors import DataError, MissingExtra
from genloom.core.events import Padded, Value, rows
from genloom.core.serial import fingerprint_of, json_object
from genloom.nn.norms import rms_norm
from genloom.nn.unet import Words

MOST_BYTES = 1 << 22
"""Of a file of settings."""

CLASSES: Mapping[str, str] = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "t5": "T5EncoderModel",
}
"""By the type of model that a folder holds."""

MOST_TOKENS = 128
"""Of a text, if the encoder does not say fewer."""

READ = re.compile(
    r"(config|scheduler_config|special_tokens_map|added_tokens|tokenizer|tokenizer_config|vocab)\.json"
    r"|merges\.txt|spiece\.model|(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
)
"""Names of files that say what a network or a tokenizer is."""

VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
"""One of which must be there, as transformers does without any."""

KEPT_BYTES = 1 << 29
"""Of states of texts."""


@contextmanager
def quietly() -> Iterator[None]:
    """Let transformers load what it loads without a word."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class Known:
    """States of texts, each text read by itself, and kept while there is room, the latest ones.

    What reads them stays as it is, and so copies share it.

    Args:
        read: turns a text into states (L, D).
        most_bytes: of what is kept.
    """

    def __init__(self, read: Callable[[str], Tensor], most_bytes: int = KEPT_BYTES) -> None:
        self._read, self._states, self._most = read, dict[str, Tensor](), most_bytes

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[Tensor]:
        found = {text: self._state(text) for text in dict.fromkeys(texts)}
        self._states |= found
        self._forget()
        return [found[text] for text in texts]

    def _state(self, text: str) -> Tensor:
        known = self._states.pop(text, None)
        if known is not None:
            return known
        with torch.autocast("cpu", enabled=False):
            return self._read(text)

    def _forget(self) -> None:
        held = sum(state.nbytes for state in self._states.values())
        while held > self._most:
            held -= self._states.pop(next(iter(self._states))).nbytes

    def __deepcopy__(self, memo: dict[int, Any]) -> "Known":
        return self


@dataclass(frozen=True)
class Encoder:
    """What reads texts.

    Args:
        width: D.
        longest: the most tokens of a text.
        read: turns a text into states (L, D).
    """

    width: int
    longest: int
    read: Callable[[str], Tensor]


def files_read(folder: Path) -> list[Path]:
    """Return the files of a network's or a tokenizer's folder that are read."""
    return [path for path in folder.glob("*") if READ.fullmatch(path.name)]


def digest_of(folder: Path) -> str:
    """Return a hash of the files of a text encoder.

    Raises:
        ValueError: the folder holds none that is known here.
    """
    settings = json_object(folder / "config.json", MOST_BYTES)
    if (kind := settings.get("model_type")) not in CLASSES:
        raise ValueError(f"{folder} holds {kind!r}, and only text encoders of CLIP or T5 can be read")
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ValueError(f"{folder} holds no tokenizer: put that of the encoder there")
    if not any(path.suffix == ".safetensors" for path in files_read(folder)):
        raise ValueError(f"{folder} holds no model.safetensors, and pickles, *.bin, are not read")
    return fingerprint_of(folder, files_read(folder))


def load_encoder(folder: Path, sha256: str) -> Encoder:
    """Load a text encoder, from safetensors only.

    Raises:
        MissingExtra: transformers is not installed.
        DataError: it is damaged or kept as a pickle, is gone, or has changed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "pipelines") from error
    try:
        now = digest_of(folder)
    except ValueError as error:
        raise DataError(f"{error}; it reads the texts of this run") from error
    if now != sha256:
        raise DataError(
            f"{folder} is not what read the texts of this run, or has changed: name that by text_encoder"
        )
    kind = getattr(transformers, CLASSES[json_object(folder / "config.json", MOST_BYTES)["model_type"]])
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    whole: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
    try:
        with quietly():
            model, found = kind.from_pretrained(folder, **whole, **local)
            tokens = transformers.AutoTokenizer.from_pretrained(folder, **local)
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        raise DataError(f"{folder} cannot be loaded: {why}") from error
    if found["missing_keys"]:
        raise DataError(f"{folder} lacks weights, {min(found['missing_keys'])} among them: restore it")
    if not tokens([""]).input_ids[0]:
        raise DataError(f"{folder} has a tokenizer that says nothing of an empty text: put its own there")
    if len(tokens) > model.get_input_embeddings().num_embeddings:
        raise DataError(f"{folder} has a tokenizer of more tokens than the encoder knows: put its own there")
    model.float().eval().requires_grad_(False)
    longest = min(MOST_TOKENS, getattr(model.config, "max_position_embeddings", MOST_TOKENS))

    def read(text: str) -> Tensor:
        ids = tokens([text], max_length=longest, truncation=True, return_tensors="pt").input_ids
        states: Tensor = model(input_ids=ids).last_hidden_state[0]
        return states

    return Encoder(int(model.config.hidden_size), longest, read)


class StateReader(nn.Module):
    """Turns what an encoder says of texts into words (B, L, E).

    The encoder is no part of the weights: it stays in its folder.
    """

    def __init__(self, width: int, encoder: Encoder) -> None:
        super().__init__()
        self.states, self.longest = Known(encoder.read), encoder.longest
        self.map = nn.Linear(encoder.width, width)

    def forward(self, told: Padded) -> Words:
        states = self.states(texts_of(told))
        filled = torch.stack([F.pad(one, (0, 0, 0, self.longest - len(one))) for one in states])
        present = torch.arange(self.longest) < torch.tensor([len(one) for one in states])[:, None]
        return Words(self.map(rms_norm(filled).to(next(self.map.parameters()))), present)


def texts_of(told: Value) -> list[str]:
    """Return the texts that bytes spell; nothing where there are none."""
    if not isinstance(told, Padded):
        return [""] * rows(told)
    parts = zip(told.values.tolist(), told.lengths.tolist(), strict=True)
    return [bytes(row[:count]).decode("utf-8", "replace") for row, count in parts]
