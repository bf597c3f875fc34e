"""A tiny language model on disk in the layout of transformers, its weights given by a formula."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("o", "n"), ("on", "e")]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000.0,
    "tie_word_embeddings": False,
    "vocab_size": 2 + len(LETTERS) + len(MERGES),
}


def tensors() -> dict[str, torch.Tensor]:
    """Return the weights by the names of transformers: sines, and norms around 1."""
    width, hidden, words = 32, 48, CONFIG["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (words, width), "lm_head": (words, width)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj": (width, width),
            f"{prefix}.self_attn.k_proj": (16, width),
            f"{prefix}.self_attn.v_proj": (16, width),
            f"{prefix}.self_attn.o_proj": (width, width),
            f"{prefix}.mlp.gate_proj": (hidden, width),
            f"{prefix}.mlp.up_proj": (hidden, width),
            f"{prefix}.mlp.down_proj": (width, hidden),
            f"{prefix}.input_layernorm": (width,),
            f"{prefix}.post_attention_layernorm": (width,),
        }
    shapes["model.norm"] = (width,)
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        count = torch.Size(shape).numel()
        waves = torch.sin(torch.arange(count, dtype=torch.float64) * (1.7 + 0.37 * number) + number)
        values = 1 + 0.3 * waves if len(shape) == 1 else 0.4 * waves
        found[f"{name}.weight"] = values.view(shape).float()
    return found


def write(folder: Path, **changes: object) -> Path:
    """Write the model and its tokenizer; ``changes`` are to its config."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["<s>", "</s>", *LETTERS, *("".join(pair) for pair in MERGES)]
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<s>", "</s>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(tensors(), folder / "model.safetensors")
    return folder
