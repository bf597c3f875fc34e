"""Settings of the networks that diffusion models are made of.  E embedding."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator
from torch import nn

from genloom.core import card
from genloom.core.errors import ConfigError
from genloom.core.events import Event, Leaf
from genloom.nn.dit import DiT
from genloom.nn.prompts import ByteReader, Prompts, TimeTextEmbedding, text_leaf
from genloom.nn.residual import ResidualMLP
from genloom.nn.text_encoders import StateReader, digest_of, load_encoder
from genloom.nn.unet import TimeLabelEmbedding, UNet

Parts = Mapping[str, tuple[str, Sequence[str]]]
"""Settings, each with another and the values of that for which it counts."""


def asked_in(info: ValidationInfo) -> Collection[str]:
    """Return which settings a user asked for, by name."""
    found: Collection[str] = (info.context or {}).get("asked", ())
    return found


def found_encoder(given: Any) -> Any:
    """Return settings with the whole path of their encoder of texts, if they have one, and its hash.

    Raises:
        ValueError: it is none that is known here.
    """
    if not isinstance(given, dict):
        return given
    if not isinstance(given.get("text_encoder"), str):
        return {**given, "text_encoder_sha256": None}
    folder = Path(os.path.expanduser(given["text_encoder"])).resolve()
    sha256 = given.get("text_encoder_sha256") or digest_of(folder)
    return {**given, "text_encoder": str(folder), "text_encoder_sha256": sha256}


def unet_for(event: Leaf) -> dict[str, Any]:
    """Return the sizes of a U-Net that suit images: it begins at their pixels, unless there are too many."""
    side = max(event.extents[-2:])
    if side <= 16:
        return {"widths": (32, 64), "depths": (1, 2), "patch": 1}
    return {"widths": (32, 64, 128), "depths": (2, 1, 2), "patch": 1 if side <= 32 else 2}


class Networks(card.Config):
    """Settings of a network of images or vectors, and of what it is told besides.

    ``parts`` are settings that count for some values of another only.
    """

    parts: ClassVar[Parts] = {"patch": ("network", ("unet",)), "dit_patch": ("network", ("dit",))}

    network: Literal["unet", "dit"] = Field(
        "unet", description="of images: convolutions, or a transformer of patches"
    )
    widths: card.Widths = Field((64, 128), description="U-Net channels, finest level first")
    depths: card.Widths = Field((1, 2), description="residual blocks of each level and way")
    patch: int = Field(1, ge=1, description="side of the squares that the U-Net folds into channels first")
    dit_patch: int = Field(2, ge=1, description="side of the squares that are the transformer's places")
    dit_width: int = Field(192, ge=4, description="values of a patch in the transformer")
    dit_layers: int = Field(6, ge=1, description="its blocks")
    dit_heads: int = Field(3, ge=1, description="of its attention")
    hidden: int = Field(256, ge=1, description="width of the network of vectors")
    layers: int = Field(3, ge=1, description="residual blocks of the network of vectors")
    embedding: int = Field(128, ge=4, multiple_of=4, description="E")
    text_layers: int = Field(2, ge=1, description="of the transformer that reads texts, where there are any")
    text_encoder: card.Free[str | None] = Field(
        None, description="folder of CLIP or T5, which then reads texts as it is, in place of a transformer"
    )
    text_encoder_sha256: str | None = Field(None, description="of that folder; found by itself")

    @model_validator(mode="before")
    @classmethod
    def _encoder_is_known(cls, given: Any, info: ValidationInfo) -> Any:
        given = found_encoder(given)
        if isinstance(given, dict) and given.get("text_encoder") and "text_layers" in asked_in(info):
            raise ValueError("nothing goes by text_layers where there is a text_encoder: leave it out")
        return given

    @model_validator(mode="after")
    def _asks_for_nothing_idle(self, info: ValidationInfo) -> Self:
        for name in sorted(self.parts.keys() & asked_in(info)):
            of, ways = self.parts[name]
            default = type(self).model_fields[name].default
            if getattr(self, of) not in ways and getattr(self, name) != default:
                raise ValueError(f"{name} is for {of} {' or '.join(ways)}: set that too, or leave it out")
        return self

    @model_validator(mode="after")
    def _levels_and_heads_fit(self) -> Self:
        if len(self.widths) != len(self.depths):
            raise ValueError("widths and depths must name the same number of levels")
        if self.dit_width % (4 * self.dit_heads):
            raise ValueError("dit_width must be four times a multiple of dit_heads")
        return self

    def embedding_for(self, prompts: Prompts, cond: Event | None) -> nn.Module:
        """Return a network from times and conditions to embeddings.

        Raises:
            ConfigError: there is an encoder of texts, and there are none.
            DataError: it is damaged, is gone, or has changed.
        """
        width = self.embedding
        if self.text_encoder is None:
            if not prompts.longest:
                return TimeLabelEmbedding(width, prompts.classes)
            return TimeTextEmbedding(width, ByteReader(width, text_leaf(cond), self.text_layers))
        if not prompts.longest:
            raise ConfigError("a text_encoder is for models that are told texts: fit with --data.captions")
        encoder = load_encoder(Path(self.text_encoder), str(self.text_encoder_sha256))
        return TimeTextEmbedding(width, StateReader(width, encoder))

    def network_for(self, leaf: Leaf, reads: bool, fills: bool) -> nn.Module:
        """Return a network from items and embeddings to items.

        Args:
            reads: it looks at words.
            fills: it is also shown which values are known, beside the items.
        """
        seen = 2 if fills else 1
        if len(leaf.extents) != 3:
            return ResidualMLP(seen * leaf.dim, self.embedding, self.hidden, self.layers, leaf.dim)
        channels = leaf.extents[0]
        given = seen * channels, self.embedding
        if self.network == "dit":
            sizes = self.dit_width, self.dit_layers, self.dit_heads
            return DiT(*given, *sizes, self.dit_patch, reads, channels)
        return UNet(*given, self.widths, self.depths, self.patch, channels, reads)
