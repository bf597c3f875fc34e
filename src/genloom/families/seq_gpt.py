"""A transformer that reads from left to right. Radford et al. 2018; blocks as in Touvron et al. 2023."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from genloom.core import card
from genloom.core.card import Card, Reference
from genloom.core.errors import ConfigError
from genloom.core.events import Event, Leaf
from genloom.core.likelihood import Bound
from genloom.core.objective import Objective, Optimiser, Stage
from genloom.core.sequences import Alphabet
from genloom.nn.llama import read_sizes, start_from
from genloom.nn.lora import adapt, learnt
from genloom.nn.sequences import SHORT, SequenceModel, maximum_likelihood, sequence_model
from genloom.nn.transformer import CausalTransformer, Sizes, usual_sizes

SMALL: Mapping[str, Any] = {"width": 128, "layers": 4, "matrix_lr": 5e-3, "batch_size": 128}
"""What suits short texts."""

MATRICES: Mapping[str, Optimiser] = {
    "muon": Optimiser(1e-2, "muon", (0.95, 0.95), 1.0, schedule="linear", warmup=0.02),
    "adamw": Optimiser(1e-3, "adamw", (0.9, 0.95), 0.1, schedule="linear", warmup=0.02),
}
"""How the blocks' matrices are moved by each; texts are read often, so that Muon decays them strongly."""

REPLACED = ("width", "layers", "heads", "groups", "lr", "optimiser", "matrix_lr", "matrix_decay")
"""Settings that a model to start from has no use for."""


class Config(card.Config):
    """Settings of a transformer and of its training."""

    width: int = Field(256, gt=0, description="values a place between blocks")
    layers: int = Field(6, gt=0, description="blocks, each of attention and a gated unit")
    heads: int = Field(4, gt=0, description="of attention: 64 values each keep a CPU's products large")
    groups: int = Field(4, gt=0, description="heads that keys and values have: fewer make the cache smaller")
    dropout: float = Field(0.1, ge=0, lt=1, description="of values, in steps of 1/256")
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for unconditional use")
    optimiser: Literal["muon", "adamw"] = Field("muon", description="of the blocks' matrices")
    matrix_lr: float | None = Field(
        None, gt=0, description="peak rate of the blocks' matrices: 1e-2 by Muon, 1e-3 by AdamW if not given"
    )
    lr: float = Field(3e-3, gt=0, description="peak rate of AdamW, which moves the embedding")
    matrix_decay: float | None = Field(
        None, ge=0, description="of the matrices, times the rate: 1 by Muon, 0.1 by AdamW if not given"
    )
    weight_decay: float = Field(0.01, ge=0, description="of the embedding, times the rate")
    batch_size: int = Field(16, gt=0, description="small, as steps count more than noise in short training")
    start: str | None = Field(
        None, description="folder of a model in the layout of transformers to start from; it sets the sizes"
    )
    sizes: Sizes | None = Field(None, description="of that model; read from its folder")
    tuning_lr: float = Field(2e-4, gt=0, description="peak rate of AdamW where there is such a start")
    lora_rank: int = Field(0, ge=0, description="of the changes of such a model's maps; 0 trains all of it")
    lora_alpha: float = Field(16, gt=0, description="weight of the changes, times their rank")

    @classmethod
    def preset(cls, event: Event) -> Self:
        small = isinstance(event, Leaf) and event.extents[0] <= SHORT
        return cls.model_validate(SMALL) if small else cls()

    @model_validator(mode="before")
    @classmethod
    def _as_started(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("start"), str) or given.get("sizes"):
            return given
        presets = [cls.model_construct(**preset) for preset in ({}, SMALL)]
        if not any(all(given.get(n, getattr(p, n)) == getattr(p, n) for n in REPLACED) for p in presets):
            raise ValueError(f"a start has its own sizes and rate: leave {', '.join(REPLACED)} out")
        folder = Path(os.path.expanduser(given["start"])).resolve()
        return {**given, "start": str(folder), "sizes": read_sizes(folder)}

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.width % (2 * self.heads) or self.heads % self.groups:
            raise ValueError("width must be an even multiple of heads, and heads a multiple of groups")
        if self.lora_rank and self.start is None:
            raise ValueError("lora_rank is for a model that has a start")
        return self

    def build(self, event: Event, cond: Event | None) -> SequenceModel:
        if self.lora_rank and cond is not None:
            raise ConfigError("changes of low rank know no classes: add --conditional no, or drop lora_rank")

        def network(alphabet: Alphabet, longest: int) -> CausalTransformer:
            sizes = self.sizes or usual_sizes(self.width, self.layers, self.heads, self.groups)
            made = CausalTransformer(alphabet.inputs, alphabet.outputs, longest, sizes, self.dropout)
            if self.lora_rank:
                adapt(made, self.lora_rank, self.lora_alpha)
            return made

        return sequence_model("seq.gpt", event, cond, network)

    def stages(self, model: nn.Module) -> list[Stage]:
        assert isinstance(model, SequenceModel)
        network = model.network
        assert isinstance(network, CausalTransformer)
        if self.start is not None:
            start_from(network, Path(self.start))
            return [Stage("tune", self._tuning(model, network), self.batch_size, alike=model.uneven)]
        moved = Optimiser(self.lr, "adamw", (0.9, 0.95), self.weight_decay, schedule="linear", warmup=0.02)
        optimisers = {
            "blocks": (network.blocks, self._matrices()),
            "embedding": (network.embedding, moved),
        }
        return [
            Stage(
                "fit",
                maximum_likelihood(model, optimisers, self.label_dropout),
                self.batch_size,
                alike=model.uneven,
            )
        ]

    def _matrices(self) -> Optimiser:
        """Return how the blocks' matrices are moved."""
        usual = MATRICES[self.optimiser]
        lr = usual.lr if self.matrix_lr is None else self.matrix_lr
        decay = usual.weight_decay if self.matrix_decay is None else self.matrix_decay
        return replace(usual, lr=lr, weight_decay=decay)

    def _tuning(self, model: SequenceModel, network: CausalTransformer) -> Objective:
        """Return how a model that is trained already goes on, whole or by changes of low rank."""
        moved = Optimiser(
            self.tuning_lr, "adamw", (0.9, 0.95), self.weight_decay, "linear", warmup=0.05, clip=1.0
        )
        part = learnt(network) if self.lora_rank else network
        return maximum_likelihood(model, {"network": (part, moved)}, self.label_dropout)


CARD = Card(
    name="seq.gpt",
    title="Transformer",
    summary="Predicts the next symbol by attention to all before it.",
    events=(card.symbol_sequence,),
    likelihood=Bound.EXACT,
    conditions="class",
    autocast=True,
    references=(
        Reference(
            "Radford et al.",
            2018,
            "Improving language understanding by generative pre-training",
            "OpenAI",
        ),
        Reference(
            "Touvron et al.", 2023, "LLaMA: open and efficient foundation language models", "arXiv:2302.13971"
        ),
        Reference(
            "Jordan et al.",
            2024,
            "Muon: an optimizer for hidden layers in neural networks",
            "https://kellerjordan.github.io/posts/muon/",
        ),
    ),
    good_at=("Long texts, where what matters may stand far back.",),
    bad_at=("Small sets, which it learns by heart; each symbol drawn costs more the longer the text is.",),
)
