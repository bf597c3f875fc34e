"""Text encoders of the package transformers, tiny and never trained, that read what images are given."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import genloom
from genloom.core.errors import ConfigError, DataError
from genloom.core.events import Padded
from genloom.nn.text_encoders import Known, StateReader, digest_of, load_encoder

transformers = pytest.importorskip("transformers", reason="the extra pipelines is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra text is not installed")

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = {"vocab_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path) -> Path:
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    transformers.CLIPTokenizer(*files, model_max_length=40).save_pretrained(folder)
    ends = {"bos_token_id": 52, "eos_token_id": 53, "max_position_embeddings": 40}
    config = transformers.CLIPTextConfig(**SIZES, **ends, hidden_size=16, intermediate_size=32)
    transformers.CLIPTextModel(config).save_pretrained(folder)
    return folder


def t5(folder: Path) -> Path:
    tokens = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *LETTERS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(tokens, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    words.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    config = transformers.T5Config(vocab_size=56, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[clip, t5])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return request.param(tmp_path_factory.mktemp("encoder") / request.param.__name__)


SMALL = {
    "widths": [8, 16],
    "depths": [1, 1],
    "embedding": 32,
    "lr": 0.1,
    "bound_terms": 2,
    "sampling_steps": 2,
    "guidance_scale": 4.0,
}


def told(encoder: Path, out: Path, **settings: object) -> genloom.Trained:
    model = {**SMALL, "text_encoder": str(encoder), "batch_size": 16, **settings}
    data = {"captions": "templates", "limit": 60}
    return genloom.fit("diffusion.ddpm", "digits", out=out, model=model, train={"steps": 8}, data=data)


def test_states_are_those_of_transformers(encoder: Path) -> None:
    """A text is read by itself, as by the package with a mask among others."""
    read = load_encoder(encoder, digest_of(encoder))
    texts = ["a red truck", "", "an ape on a lawn"]
    tokens = transformers.AutoTokenizer.from_pretrained(encoder)(texts, padding=True, return_tensors="pt")
    kind = transformers.CLIPTextModel if encoder.name == "clip" else transformers.T5EncoderModel
    with torch.no_grad():
        expected = kind.from_pretrained(encoder).eval()(**tokens).last_hidden_state
    for found, states, mask in zip(Known(read.read)(texts), expected, tokens.attention_mask, strict=True):
        torch.testing.assert_close(found, states[: int(mask.sum())])


def test_models_are_told_by_an_encoder(encoder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(encoder, tmp_path / "copy")
    made = told(copy, tmp_path / "run")
    names = list(made.run.load().state_dict())
    assert "embedding.reader.map.weight" in names
    assert not any("encoder" in name or "blocks.0.attention" in name for name in names if "reader" in name)
    seven, two = (made.sample(2, prompt=f"a handwritten {word}") for word in ("seven", "two"))
    assert not torch.equal(seven, two)
    assert torch.equal(
        seven[:1], genloom.load(tmp_path / "run", sampling_steps=2).sample(1, prompt="a handwritten seven")
    )
    assert made.sample(1).shape == (1, 1, 8, 8)
    other = changed(encoder, tmp_path / "unlike")
    with pytest.raises(ConfigError, match="a start has its own text_encoder: leave it out"):
        told(other, tmp_path / "other", start=str(tmp_path / "run"))
    settings = {"start": str(tmp_path / "run"), "bound_terms": 2, "tuning_lr": 1e-12}
    settings["text_encoder"] = str(encoder)
    data = {"captions": "templates", "limit": 60}
    on = genloom.fit(
        "diffusion.ddpm", "digits", out=tmp_path / "on", model=settings, train={"steps": 1}, data=data
    )
    adapted = {"start": str(tmp_path / "run"), "lora_rank": 2, "bound_terms": 2, "sampling_steps": 2}
    low = genloom.fit(
        "diffusion.ddpm", "digits", out=tmp_path / "low", model=adapted, train={"steps": 1}, data=data
    )
    assert low.sample(1, prompt="a handwritten seven").shape == (1, 1, 8, 8)
    old = made.model.state_dict()
    assert all(torch.allclose(weight, old[name], atol=1e-6) for name, weight in on.model.state_dict().items())
    moved = shutil.copytree(copy, tmp_path / "moved")
    settings = {"text_encoder": str(moved), "sampling_steps": 2}
    (copy / "README.md").write_text("a file that says nothing of texts")
    assert torch.equal(genloom.load(tmp_path / "run", **settings).sample(2, prompt="a handwritten two"), two)
    assert on.run.config.model_dump()["text_encoder"] == str(encoder)
    with pytest.raises(DataError, match="is not what read the texts of this run"):
        genloom.load(tmp_path / "run", text_encoder=str(other))
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(DataError, match="is not what read the texts of this run"):
        made.run.load()
    shutil.rmtree(copy)
    with pytest.raises(DataError, match="it reads the texts of this run"):
        made.run.load()


def changed(encoder: Path, folder: Path) -> Path:
    """Return a copy of an encoder with one weight of another value."""
    copy = shutil.copytree(encoder, folder)
    weights = load_file(copy / "model.safetensors")
    weights[max(weights)] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def as_bytes(texts: list[str]) -> Padded:
    rows = [list(text.encode()) for text in texts]
    values = torch.tensor([row + [0] * (40 - len(row)) for row in rows], dtype=torch.uint8)
    return Padded(values, torch.tensor([len(row) for row in rows]))


def test_words_do_not_depend_on_neighbours(encoder: Path) -> None:
    reader = StateReader(8, load_encoder(encoder, digest_of(encoder)))
    alone, among = reader(as_bytes(["an ape"])), reader(as_bytes(["a truck", "an ape", ""]))
    assert torch.equal(alone.present[0], among.present[1])
    torch.testing.assert_close(alone.values[0], among.values[1])
    assert among.present[2].any(), "an empty text has its end at least"


def test_other_encoders_are_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        told(tmp_path / "none", tmp_path / "run")
    other = shutil.copytree(encoder, tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "model_type": "bert"}))
    with pytest.raises(ConfigError, match="holds 'bert', and only text encoders of CLIP or T5"):
        told(other, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"fit with --data\.captions"):
        genloom.fit("diffusion.ddpm", "digits", out=tmp_path / "run", model={"text_encoder": str(encoder)})
    genloom.fit("diffusion.ddpm", "digits", out=tmp_path / "run", model=SMALL, train={"steps": 1})
    with pytest.raises(ConfigError, match="text_encoder would change text_encoder_sha256"):
        genloom.load(tmp_path / "run", text_encoder=str(encoder))


def test_an_encoder_cannot_be_left_out_afterwards(encoder: Path, tmp_path: Path) -> None:
    told(encoder, tmp_path / "run")
    with pytest.raises(ConfigError, match="text_encoder would change text_encoder_sha256"):
        genloom.load(tmp_path / "run", text_encoder=None)


def test_pickles_are_not_read(encoder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(encoder, tmp_path / "other")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors, and pickles, \*\.bin, are not read"):
        told(other, tmp_path / "run")


def test_lacking_parts_are_missed(encoder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(encoder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    del weights[max(weights)]
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="lacks weights"):
        told(other, tmp_path / "run")
    for name in ("tokenizer.json", "vocab.json"):
        (other / name).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        told(other, tmp_path / "run")


def test_tokenizers_of_more_tokens_are_refused(encoder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(encoder, tmp_path / "other")
    tokens = transformers.AutoTokenizer.from_pretrained(other)
    tokens.add_tokens([f"token{i}" for i in range(60)])
    tokens.save_pretrained(other)
    with pytest.raises(DataError, match="a tokenizer of more tokens than the encoder knows"):
        told(other, tmp_path / "run")


def test_nothing_is_printed_before_a_refusal(
    encoder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(encoder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    del weights[max(weights)]
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="lacks weights"):
        load_encoder(other, digest_of(other))
    assert capfd.readouterr() == ("", "")


def test_the_latest_texts_are_kept() -> None:
    read = []

    def state(text: str) -> torch.Tensor:
        read.append(text)
        return torch.zeros(2)

    known = Known(state, most_bytes=16)
    for texts in (["a", "b"], ["a"], ["c"], ["a"], ["b"]):
        known(texts)
    assert read == ["a", "b", "c", "b"]


def test_a_text_is_read_once() -> None:
    read = []

    def state(text: str) -> torch.Tensor:
        read.append(text)
        return torch.zeros(len(text), 2)

    known = Known(state)
    assert [len(one) for one in known(["ape", "a", "ape"])] == [3, 1, 3]
    assert len(known(["a"])[0]) == 1
    assert read == ["ape", "a"]
