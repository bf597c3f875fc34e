"""Language models from disk in the layout of the package transformers: Llama and models built like it.

A folder holds ``config.json``, weights as safetensors in one file or several, and ``tokenizer.json``.
Touvron et al. 2023, arXiv:2302.13971.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genloom.core.errors import DataError, complaint
from genloom.nn.transformer import Block, CausalTransformer, Sizes

KINDS = ("llama", "mistral")
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling": (None,),
    "sliding_window": (None,),
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
    rotary = facts.get("rope_parameters") or {}
    if rotary.get("rope_type", "default") != "default":
        raise DataError(f"{folder}: rotary positions of type {rotary['rope_type']!r} are not known here")
    heads, width = (facts.get(name) or 0 for name in ("num_attention_heads", "hidden_size"))
    try:
        return Sizes(
            width=width,
            layers=facts.get("num_hidden_layers"),
            heads=heads,
            groups=facts.get("num_key_value_heads") or heads,
            size=facts.get("head_dim") or width // max(heads, 1),
            hidden=facts.get("intermediate_size"),
            base=rotary.get("rope_theta") or facts.get("rope_theta") or 10_000.0,
            eps=facts.get("rms_norm_eps", 1e-6),
            tied=False,
            positions=facts.get("max_position_embeddings"),
        )
    except ValidationError as error:
        raise DataError(f"{folder / 'config.json'}: {complaint(error.errors())}") from error


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
    ids, end = ordinary_ids(_json(folder / "tokenizer.json")), _first(facts.get("eos_token_id"))
    start = _first(facts.get("bos_token_id"))
    if end is None:
        raise DataError(f"{folder}: config.json names no eos_token_id")
    outputs = ids + [end] * (network.outputs - len(ids))
    if network.outputs - len(ids) not in (0, 1):
        raise DataError(
            f"the model in {folder} has {len(ids):,} tokens of text, and the data {network.outputs - 1:,}: "
            f"read them with --data.tokenizer {folder / 'tokenizer.json'}"
        )
    missing = network.embedding.num_embeddings - len(outputs)
    inputs = [*outputs, *[end if start is None else start] * missing]
    try:
        _fill(network, _Weights(folder), torch.tensor(inputs), torch.tensor(outputs))
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        why = " ".join(str(error).split())[:160]
        raise DataError(f"the weights in {folder} cannot be used: {why}") from error


def _fill(network: CausalTransformer, weights: "_Weights", inputs: Tensor, outputs: Tensor) -> None:
    assert network.head is not None
    embedding = weights["model.embed_tokens.weight"]
    head = weights["lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"]
    with torch.no_grad():
        network.embedding.weight.copy_(embedding[inputs])
        network.head.weight.copy_(head[outputs] * weights["model.norm.weight"])
        for layer, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            _fill_block(block, weights, f"model.layers.{layer}.")


def _fill_block(block: Block, weights: "_Weights", prefix: str) -> None:
    before = weights[f"{prefix}input_layernorm.weight"]
    between = weights[f"{prefix}post_attention_layernorm.weight"]
    asked = [weights[f"{prefix}self_attn.{part}_proj.weight"] for part in "qkv"]
    opened = [weights[f"{prefix}mlp.{part}_proj.weight"] for part in ("gate", "up")]
    block.attention.enter.weight.copy_(torch.cat(asked) * before)
    block.attention.leave.weight.copy_(weights[f"{prefix}self_attn.o_proj.weight"])
    block.gated.enter.weight.copy_(torch.cat(opened) * between)
    block.gated.leave.weight.copy_(weights[f"{prefix}mlp.down_proj.weight"])


class _Weights:
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

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._files[name].get_tensor(name)
        return found.float()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is no JSON object")
    return found


def _first(value: Any) -> int | None:
    """Return a number, or the first of several."""
    return value[0] if isinstance(value, list) and value else value
