"""Models from disk: the figures of transformers, refusals, and fine-tuning whole and by small changes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from llamas import CONFIG, write
from safetensors.torch import load_file, save_file
from torch import nn

import genloom
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Categorical, Leaf, Length
from genloom.families.seq_gpt import Config
from genloom.modalities.tokens import PairView, read_tokenizer
from genloom.nn.llama import read_sizes
from genloom.nn.lora import Adapted, adapt, learnt
from genloom.nn.sequences import SequenceModel

TEXT = "one of the three, thereon"
LAST = [0.600277, -0.598221, 0.553912, -0.470479, 0.353816, -0.212162, 0.055523, 0.105038, -0.25818, 0.393086]
"""Logits of tokens 1 to 10 after the text, by transformers 5.23.0 in float64 with ``llamas.tensors``."""

NATS = [5.202051, 6.210337, 5.540328, 5.20896, 6.102779, 5.757811, 5.424113, 6.276403, 5.969116, 5.337612]
"""Of the first ten tokens of the text, by the same."""


BYTE_LEVEL = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
BROKEN = ("{}", '{"model": {"vocab": [1]}}', '{"model": {"vocab": {}}, "added_tokens": 3}')


def opened(folder: Path, **settings: object) -> tuple[SequenceModel, PairView]:
    view = PairView(read_tokenizer(folder / "tokenizer.json"), 64, "lines")
    config = Config(start=str(folder), **settings)  # type: ignore[arg-type]
    model = config.build(view.event, None)
    config.stages(model)
    return model.eval(), view


@torch.no_grad()
def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    model, view = opened(write(tmp_path))
    read = view.read([TEXT]).values[:, :15]
    symbols = torch.cat((torch.tensor([[model.alphabet.nameless]]), read), 1)
    logits = model.double().network(symbols)[0]
    assert logits[-1, model.alphabet.symbols].item() == pytest.approx(LAST[0], abs=1e-5)
    assert logits[-1, :9].tolist() == pytest.approx(LAST[1:], abs=1e-5)
    for place, nats in enumerate(NATS):
        row = logits[place]
        expected = torch.logaddexp(row.logsumexp(0), missing(model, symbols[:, : place + 1], tmp_path))
        assert float(expected - row[read[0, place]]) == pytest.approx(nats, abs=1e-5)


def missing(model: SequenceModel, symbols: torch.Tensor, folder: Path) -> torch.Tensor:
    """Return the logit of the start, which transformers counts and genloom leaves out."""
    head = model.network.head
    assert isinstance(head, nn.Linear)
    weights = load_file(folder / "model.safetensors")
    kept = head.weight.detach().clone()
    row = weights["lm_head.weight"][0] * weights["model.norm.weight"]
    head.weight[0] = row.double()
    found = model.network(symbols)[0, -1, 0]
    head.weight.copy_(kept)
    return found


@torch.no_grad()
def test_cached_reading_equals_reading_at_once(tmp_path: Path) -> None:
    model, view = opened(write(tmp_path))
    model.double()
    symbols = view.read([TEXT]).values[:, :15]
    reader = model.reader(1, 20)
    parts = [reader.read(part) for part in symbols.split([4, 1, 10], 1)]
    assert torch.allclose(torch.cat(parts, 1), model.network(symbols), atol=1e-10, rtol=0)


@torch.no_grad()
def test_weights_may_lie_in_several_files(tmp_path: Path) -> None:
    whole, _ = opened(write(tmp_path / "one"))
    folder = write(tmp_path / "two")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": list(weights)[:7], "b.safetensors": list(weights)[7:]}
    for name, held in parts.items():
        save_file({key: weights[key] for key in held}, folder / name)
    index = {"weight_map": {key: name for name, held in parts.items() for key in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    other, _ = opened(folder)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_tied_weights_are_read_once(tmp_path: Path) -> None:
    folder = write(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors")
    model, _ = opened(folder)
    head = model.network.head
    assert isinstance(head, nn.Linear)
    expected = weights["model.embed_tokens.weight"][2:] * weights["model.norm.weight"]
    assert torch.equal(head.weight[:-1], expected)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_type": "gpt2"}, "type 'gpt2': known are llama and mistral"),
        ({"rope_scaling": {"factor": 8.0}}, "rope_scaling is"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rotary positions of type 'yarn'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_size": None}, "config.json"),
        ({"num_attention_heads": "4"}, "config.json"),
        ({"rope_parameters": [1]}, "config.json"),
        ({"max_position_embeddings": 10**12}, "config.json"),
        ({"eos_token_id": 99_999}, "no token 99,999"),
        ({"eos_token_id": "a"}, "names no eos_token_id"),
        ({"bos_token_id": -1}, "cannot be used"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"eos_token_id": None}, "names no eos_token_id"),
        ({"num_hidden_layers": 3}, "cannot be used"),
        ({"intermediate_size": 64}, "cannot be used"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    folder = write(tmp_path, **change)
    with pytest.raises(DataError, match=text):
        opened(folder)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path)
    config = Config(start=str(folder))
    with pytest.raises(DataError, match=r"the data 9: read them with --data\.tokenizer"):
        config.stages(config.build(Leaf((Length(9),), Categorical(9)), None))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"holds no model.safetensors"):
        opened(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(DataError, match="no JSON object"):
        read_sizes(folder)
    with pytest.raises(DataError, match="cannot be read"):
        Config(start=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="lora_rank is for a model that has a start"):
        Config(lora_rank=2)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.o_proj.weight"])
@pytest.mark.parametrize("fault", ["shape", "nan"])
def test_weights_of_another_shape_are_never_stretched(tmp_path: Path, name: str, fault: str) -> None:
    folder = write(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name][:1].contiguous() if fault == "shape" else weights[name] * float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(DataError, match=f"{name} (has the shape|is not finite)"):
        opened(folder)


@pytest.mark.parametrize(
    "text", ["{}", '{"model": {"vocab": [1]}}', '{"model": {"vocab": {}}, "added_tokens": 3}']
)
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path)
    config = Config(start=str(folder))
    model = config.build(Leaf((Length(9),), Categorical(9)), None)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="is no tokenizer"):
        config.stages(model)


def test_settings_that_a_start_replaces_are_refused(tmp_path: Path) -> None:
    folder = str(write(tmp_path))
    for setting in ({"lr": 0.5}, {"layers": 2}, {"matrix_decay": 0.2}, {"width": 128, "layers": 6}):
        with pytest.raises(ValueError, match="leave width, layers"):
            Config(start=folder, **setting)
    with pytest.raises(ConfigError, match="know no classes"):
        Config(start=folder, lora_rank=2).build(Leaf((Length(9),), Categorical(9)), Leaf((), Categorical(2)))


def test_cut_texts_of_a_tokenizer_are_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path) / "tokenizer.json"
    cut = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "truncation": cut}))
    view = PairView(read_tokenizer(path), 64, "lines")
    assert view.texts(view.read([TEXT])) == [TEXT]
    with pytest.raises(DataError, match="half a character"):
        view.read(["a\udcff"])


def test_tokens_that_are_no_text_cannot_be_written(tmp_path: Path) -> None:
    view = PairView(read_tokenizer(write(tmp_path) / "tokenizer.json"), 64, "lines")
    assert len(view.spell()) == CONFIG["vocab_size"] - 2
    texts = ["<s> the end </s>", "théone 漢"]
    assert view.texts(view.read(texts)) == texts


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "only byte-level pair encodings"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "only byte-level pair encodings"),
        ({"model": {"type": "BPE", "vocab": 3}}, "cannot be read as a tokenizer"),
        ({"model": None}, "cannot be read as a tokenizer"),
        ({"normalizer": {"type": "Lowercase"}}, "changes what it reads"),
        (
            {"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}},
            "changes what",
        ),
    ],
)
def test_other_tokenizers_are_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    path = write(tmp_path) / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=text):
        read_tokenizer(path)


def test_a_change_of_low_rank_is_what_the_paper_says() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(6, 4)
    network = nn.Sequential(plain)
    x = torch.randn(3, 6)
    before = network(x)
    adapt(network, 2, 8.0)
    (adapted,) = network
    assert isinstance(adapted, Adapted)
    assert torch.equal(network(x), before)
    nn.init.normal_(adapted.up.weight)
    changed = plain.weight + 4.0 * adapted.up.weight @ adapted.down.weight
    assert torch.allclose(network(x), x @ changed.T + plain.bias, atol=1e-6)
    network(x).sum().backward()
    assert plain.weight.grad is None
    assert all(p.grad is not None for p in learnt(network).parameters())


@pytest.mark.parametrize("rank", [0, 2])
def test_a_model_is_tuned_and_then_stands_alone(tmp_path: Path, rank: int) -> None:
    folder = write(tmp_path / "model")
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"the {'one' if i % 2 else 'three'} of {i}\n" for i in range(60)))
    trained = genloom.fit(
        "seq.gpt",
        path,
        out=tmp_path / "run",
        model={"start": str(folder), "lora_rank": rank, "tuning_lr": 1e-2, "batch_size": 16},
        data={"tokenizer": str(folder / "tokenizer.json")},
        train={"steps": 30},
    )
    start = write(tmp_path / "again")
    untouched, _ = opened(start, lora_rank=rank)
    same = {
        name: torch.equal(value, untouched.state_dict()[name])
        for name, value in trained.model.state_dict().items()
        if "turn" not in name
    }
    assert same == {name: bool(rank) and ".up." not in name and ".down." not in name for name in same}
    items = genloom.open_data(str(path)).test.items
    scored = trained.log_prob(items)
    shutil.rmtree(folder)
    again = genloom.load(tmp_path / "run")
    assert torch.equal(again.log_prob(items).value, scored.value)
    assert len(again.continue_texts(["the "], length=8)[0].text) > 0


def test_a_tokenizer_is_for_texts_and_has_its_vocabulary(tmp_path: Path) -> None:
    tokenizer = str(write(tmp_path) / "tokenizer.json")
    with pytest.raises(DataError, match=r"leave --data\.tokenizer out"):
        genloom.fit("seq.gpt", "digits", out=tmp_path / "a", data={"tokenizer": tokenizer})
    data = {"tokenizer": tokenizer, "vocabulary": 300}
    with pytest.raises(ConfigError, match=r"leave --data\.vocabulary out"):
        genloom.fit("seq.gpt", "sums", out=tmp_path / "b", data=data)
