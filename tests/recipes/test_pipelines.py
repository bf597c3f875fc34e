"""Pipelines of the package diffusers, tiny and never trained, drawn and edited by our own samplers."""

import json
import shutil
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import genloom
from genloom.core.errors import ConfigError, DataError, RunError
from genloom.core.events import Padded
from genloom.families.diffusion_latent import Model
from genloom.math.paths import PATHS
from genloom.math.solvers import SOLVERS, Grid
from genloom.modalities.prompts import PromptedView
from genloom.recipes.runs import open_run

diffusers = pytest.importorskip("diffusers", reason="the extra pipelines is not installed")
transformers = pytest.importorskip("transformers", reason="the extra pipelines is not installed")

FEW = MappingProxyType({"sampling_steps": 3, "restoring": "projection"})


def tokenizer(folder: Path) -> object:
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return transformers.CLIPTokenizer(*files, model_max_length=12)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pipeline")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=54,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=12,
            projection_dim=16,
            bos_token_id=52,
            eos_token_id=53,
        )
    )
    made = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer(folder / "letters"),
        unet=unet,
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            timestep_spacing="trailing",
            set_alpha_to_one=True,
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def model(pipeline: Path) -> Model:
    found = open_run(pipeline).load()
    assert isinstance(found, Model)
    return found


def told(pipeline: Path, texts: list[str]) -> Padded:
    view = open_run(pipeline).view
    assert isinstance(view, PromptedView)
    return view.read(texts)


def test_ddim_is_that_of_diffusers(pipeline: Path, model: Model) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    start, texts = torch.randn(2, 4, 8, 8), ["a red truck", "an ape"]
    common = {"num_inference_steps": 5, "guidance_scale": 4.0, "latents": start}
    expected = theirs(texts, output_type="latent", **common).images
    left = theirs.scheduler.alphas_cumprod[theirs.scheduler.timesteps].double()
    data = torch.cat((left.sqrt(), torch.ones(1).double()))
    grid, path = Grid(data, (1 - data.square()).sqrt()), PATHS["scaled_linear"]
    given = told(pipeline, texts)

    @torch.no_grad()
    def denoise(x: torch.Tensor, place: int) -> torch.Tensor:
        time = path.time(grid.ratio[place]).expand(2)
        return model.prior.separated(x, time, model.prior.guided(x, time, given, 4.0))[0]

    found = SOLVERS["ddim"](denoise, start, grid, lambda: torch.zeros_like(start), eta=0.0)
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)
    images = theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample
    drawn = model.likelihood_parameters(expected)[..., 0]
    torch.testing.assert_close(drawn, images, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_estimates_are_those_of_the_network(pipeline: Path, tmp_path: Path, predicted: str) -> None:
    """At the angle of a step, our estimate of the data follows from what the network says."""
    shutil.copytree(pipeline, tmp_path / "copy")
    settings = tmp_path / "copy" / "scheduler" / "scheduler_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "prediction_type": predicted}))
    model = open_run(tmp_path / "copy").load()
    assert isinstance(model, Model)
    unet = diffusers.UNet2DConditionModel.from_pretrained(pipeline, subfolder="unet")
    left = diffusers.DDIMScheduler.from_pretrained(pipeline, subfolder="scheduler").alphas_cumprod
    text = transformers.CLIPTextModel.from_pretrained(pipeline / "text_encoder")
    ids = transformers.CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    tokens = ids(["an ape"], padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    x, path = torch.randn(1, 4, 8, 8), PATHS["scaled_linear"]
    for step in (0, 1, 500, 990):
        alpha, sigma = float(left[step]) ** 0.5, (1 - float(left[step])) ** 0.5
        time = path.time(torch.tensor([sigma / alpha], dtype=torch.float64))
        with torch.no_grad():
            said = unet(x, step, text(tokens.input_ids)[0]).sample
            found = model.prior.denoise(x, time, told(pipeline, ["An  Ape"]))
        expected = (x - sigma * said) / alpha if predicted == "epsilon" else alpha * x - sigma * said
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_pipelines_draw_and_edit(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = genloom.load(pipeline, **FEW, guidance_scale=3.0)
    ape, truck = (made.sample(2, prompt=text) for text in ("an ape", "a truck"))
    assert ape.shape == (2, 3, 16, 16)
    assert not torch.equal(ape, truck)
    assert torch.equal(ape[:1], made.sample(1, prompt="an ape"))
    known = torch.ones(16, 16, dtype=torch.bool)
    known[4:12, 4:12] = False
    filled = made.infill(ape, known, prompt="a truck")
    assert torch.equal(filled[..., known], ape[..., known])
    assert not torch.equal(filled, ape)
    assert made.redraw(ape, 0.3, prompt="a truck").shape == ape.shape
    assert made.reconstruct(ape).shape == ape.shape
    assert made.sample(1).shape == (1, 3, 16, 16)
    with pytest.raises(DataError, match="came without data"):
        genloom.recipes.evaluating.data_of(made.run)


@pytest.mark.parametrize("rank", [0, 2])
def test_pipelines_are_tuned(pipeline: Path, tmp_path: Path, rank: int) -> None:
    images = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)
    np.savez(tmp_path / "noise.npz", images=images.numpy(), labels=np.arange(60) % 2)
    tuned = genloom.fit(
        "diffusion.latent",
        str(tmp_path / "noise.npz"),
        out=tmp_path / "run",
        model={
            "start": str(pipeline),
            "lora_rank": rank,
            "batch_size": 4,
            "bound_terms": 2,
            "sampling_steps": 2,
        },
        train={"steps": 2},
        data={"captions": "templates"},
    )
    plain = open_run(pipeline).load().state_dict()
    changed = set()
    for name, weight in tuned.model.state_dict().items():
        if not torch.equal(weight, plain.get(name.replace(".base.", "."), torch.zeros_like(weight))):
            changed.add(".".join(name.split(".")[:3]) if not rank else name.rsplit(".", 2)[1])
    assert changed == ({"up", "down"} if rank else {"prior.network.unet"})
    assert tuned.sample(2, prompt="a photo of a red 1").shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("widths", [8, 8], "nothing goes by widths"),
        ("data_std", 0.5, "nothing goes by data_std"),
        ("beta", 0.5, "nothing goes by beta"),
        ("text_encoder", "PIPELINE/text_encoder", "has an encoder of texts: leave text_encoder out"),
    ],
)
def test_settings_that_a_pipeline_makes_idle_are_refused(
    pipeline: Path, tmp_path: Path, name: str, value: object, text: str
) -> None:
    other = shutil.copytree(pipeline, tmp_path / "other")
    shutil.copytree(other / "tokenizer", other / "text_encoder", dirs_exist_ok=True)
    given = value.replace("PIPELINE", str(other)) if isinstance(value, str) else value
    model = {"start": str(other), name: given}
    data = {"captions": "templates"}
    with pytest.raises(ConfigError, match=text):
        genloom.fit("diffusion.latent", "digits", out=tmp_path / "run", model=model, data=data)


@pytest.mark.parametrize(
    ("file", "change", "text"),
    [
        ("model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "has T5EncoderModel"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "two text encoders"),
        ("scheduler/scheduler_config.json", {"beta_start": 0.5}, "not known here"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "schedule of its own"),
        ("unet/config.json", {"sample_size": None}, "lacks"),
    ],
)
def test_other_pipelines_are_refused(
    pipeline: Path, tmp_path: Path, file: str, change: dict[str, object], text: str
) -> None:
    shutil.copytree(pipeline, tmp_path / "other")
    path = tmp_path / "other" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=text):
        open_run(tmp_path / "other")


def test_pickles_are_not_read(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path / "other")
    weights = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(DataError, match="cannot be loaded"):
        open_run(tmp_path / "other").load()


def test_other_weights_of_the_same_sizes_are_noticed(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path / "other")
    run = open_run(tmp_path / "other")
    path = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight + 1 for name, weight in load_file(path).items()}, path)
    with pytest.raises(DataError, match="has changed since this run began"):
        run.load()


def test_a_run_says_that_its_pipeline_is_gone(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path / "other")
    run = open_run(tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(DataError, match="this run began with it"):
        run.load()
