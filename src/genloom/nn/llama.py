"""Language models from disk in the layout of the package transformers: Llama and models built like it.

A folder holds ``config.json``, weights as safetensors in one file or several, and ``tokenizer.json``.
Touvron et al. 2023, arXiv:2302.13971.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genloom.core.errors import DataError, complaint
from genloom.core.serial import json_object
from genloom.nn.lora import plain
from genloom.nn.transformer import Block, CausalTransformer, Sizes

MOST_BYTES = 1 << 28
"""Of a file of settings or tokens."""

KINDS = ("llama", "mistral")
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
}
"""Settings of which only these values are known here; the first where one is absent."""


def read_sizes(folder: Path) -> Sizes:
    """Return what the model in a folder is made of.

    Raises:
        DataError: there is none, or it is built in a way that is not known here.
    """
    facts = _json(folder / "config.json")
    kind = facts.get("model_type")
    if kind not in KINDS:
        raise DataError(f"{folder} holds a model of type {kind!r}: known are {' and '.join(KINDS)}")
    for name, known in PLAIN.items():
        if facts.get(name, known[0]) not in known:
            raise DataError(f"{folder}: {name} is {facts[name]!r}, which is not known here")
    try:
        return _sizes(facts)
    except ValidationError as error:
        raise DataError(f"{folder / 'config.json'}: {complaint(error.errors())}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{folder / 'config.json'}: {error}") from error


def _sizes(facts: Mapping[str, Any]) -> Sizes:
    rotary = facts.get("rope_parameters") or {}
    if rotary.get("rope_type", "default") != "default":
        raise ValueError(f"rotary positions of type {rotary['rope_type']!r} are not known here")
    heads, width = (facts.get(name) or 0 for name in ("num_attention_heads", "hidden_size"))
    return Sizes(
        width=width,
        layers=facts.get("num_hidden_layers") or 0,
        heads=heads,
        groups=facts.get("num_key_value_heads") or heads,
        size=facts.get("head_dim") or width // max(heads, 1),
        hidden=facts.get("intermediate_size") or 0,
        base=rotary.get("rope_theta") or facts.get("rope_theta") or 10_000.0,
        eps=facts.get("rms_norm_eps", 1e-6),
        tied=False,
        positions=facts.get("max_position_embeddings"),
    )


def ordinary_ids(tokenizer: Mapping[str, Any]) -> list[int]:
    """Return the numbers of a tokenizer's tokens that stand for text, from its description."""
    added = tokenizer.get("added_tokens") or []
    special = {token["id"] for token in added if token.get("special")}
    known = {*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added)}
    return sorted(known - special)


def start_from(network: CausalTransformer, folder: Path) -> None:
    """Fill a network with the weights in a folder.

    Its symbols are the tokens that stand for text, its end and its start the model's own. Tokens that stand
    for none of these are left out, as if they could not come. Scales of norms become part of the maps behind
    them.

    Raises:
        DataError: the weights are missing, damaged, or of other sizes, or its tokens are not the data's.
    """
    facts = _json(folder / "config.json")
    ids, end = _ids(folder / "tokenizer.json"), _first(facts.get("eos_token_id"))
    start = _first(facts.get("bos_token_id"))
    if end is None:
        raise DataError(f"{folder}: config.json names no eos_token_id")
    if network.outputs - len(ids) not in (0, 1):
        raise DataError(
            f"the model in {folder} has {len(ids):,} tokens of text, and the data {network.outputs - 1:,}: "
            f"read them with --data.tokenizer {folder / 'tokenizer.json'}"
        )
    outputs = ids + [end] * (network.outputs - len(ids))
    missing = network.embedding.num_embeddings - len(outputs)
    inputs = [*outputs, *[end if start is None else start] * missing]
    try:
        fill(network, Weights(folder), torch.tensor(inputs), torch.tensor(outputs))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:160]
        raise DataError(f"the weights in {folder} cannot be used: {why}") from error


def _ids(path: Path) -> list[int]:
    try:
        return ordinary_ids(_json(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no tokenizer of the package tokenizers") from error


@torch.no_grad()
def fill(network: CausalTransformer, weights: "Weights", inputs: Tensor, outputs: Tensor) -> None:
    """Copy weights into a network whose symbols are these tokens, those that can come next among them."""
    assert network.head is not None
    width = network.sizes.width
    tied = "lm_head.weight" not in weights
    embedding = weights.rows("model.embed_tokens.weight", inputs, width)
    head = weights.rows("model.embed_tokens.weight" if tied else "lm_head.weight", outputs, width)
    network.embedding.weight.copy_(embedding)
    plain(network.head).weight.copy_(head * weights.shaped("model.norm.weight", width))
    for layer, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        _fill_block(block, weights, f"model.layers.{layer}.", network.sizes)


def _fill_block(block: Block, weights: "Weights", prefix: str, sizes: Sizes) -> None:
    width, hidden, asked = sizes.width, sizes.hidden, sizes.heads * sizes.size

    def part(name: str, *shape: int) -> Tensor:
        return weights.shaped(f"{prefix}{name}.weight", *shape)

    heads = {"q": asked, "k": sizes.groups * sizes.size, "v": sizes.groups * sizes.size}
    attention = torch.cat([part(f"self_attn.{name}_proj", rows, width) for name, rows in heads.items()])
    gated = torch.cat([part(f"mlp.{name}_proj", hidden, width) for name in ("gate", "up")])
    plain(block.attention.enter).weight.copy_(attention * part("input_layernorm", width))
    plain(block.attention.leave).weight.copy_(part("self_attn.o_proj", width, asked))
    plain(block.gated.enter).weight.copy_(gated * part("post_attention_layernorm", width))
    plain(block.gated.leave).weight.copy_(part("mlp.down_proj", width, hidden))


class Weights:
    """The tensors of one file or of several, by name, read as they are asked for."""

    def __init__(self, folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        if index.is_file():
            shards = {folder / Path(name).name for name in _json(index)["weight_map"].values()}
        elif single.is_file():
            shards = {single}
        else:
            raise DataError(f"{folder} holds no model.safetensors: other forms of weights are never read")
        self._files: dict[str, Any] = {}
        for shard in sorted(shards):
            file = safe_open(shard, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shaped(self, name: str, *shape: int) -> Tensor:
        """Return a tensor that must have this shape, in float32."""
        found: Tensor = self._files[name].get_tensor(name).float()
        if tuple(found.shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(found.shape)}, not {shape}")
        if not bool(found.isfinite().all()):
            raise ValueError(f"{name} is not finite")
        return found

    def rows(self, name: str, index: Tensor, width: int) -> Tensor:
        """Return rows of a table of tokens."""
        count = self._files[name].get_slice(name).get_shape()[0]
        if int(index.min()) < 0 or int(index.max()) >= count:
            raise ValueError(f"{name} has {count:,} rows, and no token {int(index.max()):,}")
        return self.shaped(name, count, width)[index]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json_object(path, MOST_BYTES)
    except ValueError as error:
        raise DataError(str(error)) from error


def _first(value: Any) -> int | None:
    """Return a number, or the first of several; None for anything else."""
    first = value[0] if isinstance(value, list) and value else value
    return first if type(first) is int else None
