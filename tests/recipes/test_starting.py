"""Runs of diffusion models as a start: of consistency models, and of others on other data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import genloom
from genloom.core.errors import ConfigError, DataError

SMALL = {"hidden": 8, "layers": 1, "embedding": 8}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "run"
    settings = {**SMALL, "path": "ve", "prediction": "epsilon"}
    genloom.fit("diffusion.ddpm", "two_moons", out=out, model=settings, train={"steps": 3})
    return out


def tuned(start: Path, out: Path, steps: int = 1) -> genloom.Trained:
    model = {"start": str(start), "tuning_lr": 1e-12}
    return genloom.fit("diffusion.consistency", "two_moons", out=out, model=model, train={"steps": steps})


def test_path_network_and_weights_are_those_of_the_start(start: Path, tmp_path: Path) -> None:
    run = tuned(start, tmp_path / "tuned").run
    config = json.loads((run.folder / "run.json").read_text())["config"]
    assert (config["path"], config["prediction"], config["hidden"]) == ("ve", "epsilon", 8)
    assert list(run.facts["stages"]) == ["consistency"]
    old, new = genloom.load(start).model.state_dict(), run.load().state_dict()
    assert all(torch.allclose(new[f"diffusion.{name}"], weight, atol=1e-6) for name, weight in old.items())


def test_a_finished_run_does_without_its_start(start: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(start, copy)
    first = tuned(copy, tmp_path / "tuned").sample(4)
    shutil.rmtree(copy)
    assert torch.equal(genloom.load(tmp_path / "tuned").sample(4), first)


def test_without_a_start_diffusion_comes_first(tmp_path: Path) -> None:
    out = tmp_path / "both"
    genloom.fit("diffusion.consistency", "two_moons", out=out, model=SMALL, train={"steps": 10})
    stages = json.loads((out / "run.json").read_text())["stages"]
    assert {name: stage["steps"] for name, stage in stages.items()} == {"diffusion": 6, "consistency": 4}


def test_other_starts_are_refused(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        tuned(tmp_path / "none", tmp_path / "out")
    other = tmp_path / "other"
    genloom.fit("baseline.gmm", "two_moons", out=other)
    with pytest.raises(ConfigError, match=r"is a run of baseline.gmm: name one of diffusion.ddpm"):
        tuned(other, tmp_path / "out")
    with pytest.raises(ConfigError, match="a start has its own hidden: leave it out"):
        genloom.fit(
            "diffusion.consistency",
            "two_moons",
            out=tmp_path / "out",
            model={"start": str(start), "hidden": 9},
        )
    changed = tmp_path / "changed"
    shutil.copytree(start, changed)
    (changed / "model.safetensors").write_bytes(b"else")
    with pytest.raises(DataError, match="is not what this fit began with"):
        tuned(changed, tmp_path / "out")
    with pytest.raises(DataError, match="does not fit these data"):
        genloom.fit("diffusion.consistency", "digits", out=tmp_path / "out", model={"start": str(start)})


@pytest.mark.parametrize(
    ("family", "name", "value", "text"),
    [
        ("diffusion.ddpm", "lr", 1e-3, "nothing goes by lr where there is a start"),
        ("diffusion.consistency", "ratios", (0, 1), "nothing goes by ratios"),
        ("diffusion.flow_matching", "coupling", "optimal", "leave coupling and dequantise out"),
    ],
)
def test_settings_that_a_start_makes_idle_are_refused(
    start: Path, tmp_path: Path, family: str, name: str, value: object, text: str
) -> None:
    model = {"start": str(start), name: value}
    if family == "diffusion.flow_matching":
        model["reflow"] = 2
    with pytest.raises(ConfigError, match=text):
        genloom.fit(family, "two_moons", out=tmp_path / "out", model=model)


def test_a_start_may_lack_settings_that_came_later(start: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(start, older)
    facts = json.loads((older / "run.json").read_text())
    del facts["config"]["network"]
    (older / "run.json").write_text(json.dumps(facts))
    assert tuned(older, tmp_path / "tuned").run.config.model_dump()["network"] == "unet"


def test_what_cannot_be_fitted_leaves_nothing(start: Path, tmp_path: Path) -> None:
    model = {**SMALL, "coupling": "optimal"}
    train = {"steps": 1, "accumulate": 2}
    with pytest.raises(ConfigError, match="cannot be split"):
        genloom.fit("diffusion.flow_matching", "two_moons", out=tmp_path / "run", model=model, train=train)
    with pytest.raises(ConfigError, match="chosen when samples are drawn"):
        genloom.fit(
            "diffusion.ddpm", "two_moons", out=tmp_path / "run", model={"guide": str(start), "path": "ve"}
        )
    assert not (tmp_path / "run").exists()


IMAGES = {"widths": (16, 16), "depths": (1, 1), "embedding": 16, "sampling_steps": 3, "bound_terms": 2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "run"
    genloom.fit("diffusion.ddpm", "digits", out=out, model=IMAGES, train={"steps": 8})
    return out


def shades(folder: Path) -> str:
    """Write images of two classes, dark and light ones of one size with the digits'."""
    images = torch.randint(0, 17, (80, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    np.savez(folder / "shades.npz", images=images.numpy(), labels=np.arange(80) % 2)
    return str(folder / "shades.npz")


def adapted(start: Path, source: str, out: Path, **more: object) -> genloom.Trained:
    model = {"start": str(start), "lora_rank": 2, "tuning_lr": 2e-3, "sampling_steps": 3, "bound_terms": 2}
    return genloom.fit("diffusion.ddpm", source, out=out, model={**model, **more}, train={"steps": 5})


def test_a_model_goes_on_from_another(digits: Path, tmp_path: Path) -> None:
    model = {"start": str(digits), "tuning_lr": 1e-12, "sampling_steps": 3, "bound_terms": 2}
    again = genloom.fit("diffusion.ddpm", "digits", out=tmp_path / "on", model=model, train={"steps": 1})
    old = genloom.load(digits)
    weights = old.model.state_dict()
    assert all(torch.allclose(w, weights[n], atol=1e-6) for n, w in again.model.state_dict().items())
    assert torch.equal(again.sample(4, label=3), old.sample(4, label=3))


def test_changes_of_low_rank_leave_the_start_as_it_is(digits: Path, tmp_path: Path) -> None:
    tuned = adapted(digits, "digits", tmp_path / "tuned")
    old, new = genloom.load(digits).model.state_dict(), tuned.model.state_dict()
    bases = {name: weight for name, weight in new.items() if ".base." in name}
    assert len(bases) > 20
    assert all(torch.equal(weight, old[name.replace(".base.", ".")]) for name, weight in bases.items())
    assert any(bool(weight.any()) for name, weight in new.items() if name.endswith(".up.weight"))
    assert torch.equal(genloom.load(tmp_path / "tuned").sample(4, label=3), tuned.sample(4, label=3))


def test_changes_are_merged_where_they_are_a_start(digits: Path, tmp_path: Path) -> None:
    tuned = adapted(digits, "digits", tmp_path / "tuned")
    model = {"start": str(tmp_path / "tuned"), "tuning_lr": 1e-12, "sampling_steps": 3, "bound_terms": 2}
    whole = genloom.fit("diffusion.ddpm", "digits", out=tmp_path / "whole", model=model, train={"steps": 1})
    items = genloom.open_data("digits").test.items[:8]
    scores = [trained.log_prob(items, label=3).value for trained in (tuned, whole)]
    assert torch.allclose(*scores, rtol=1e-4)


def test_new_classes_begin_as_no_class(digits: Path, tmp_path: Path) -> None:
    source = shades(tmp_path)
    tuned = adapted(digits, source, tmp_path / "tuned", tuning_lr=1e-12)
    table = tuned.model.state_dict()["embedding.label.weight"]
    nothing = genloom.load(digits).model.state_dict()["embedding.label.weight"][-1]
    assert torch.allclose(table, nothing.expand(3, -1), atol=1e-6)
    moved = adapted(digits, source, tmp_path / "moved")
    table = moved.model.state_dict()["embedding.label.weight"]
    assert not torch.equal(table[0], table[1])
    assert moved.sample(2, label=1).shape == (2, 1, 8, 8)


def test_latent_models_keep_the_autoencoder_of_their_start(tmp_path: Path) -> None:
    small = {**IMAGES, "channels": 8, "blocks": 0, "latent_channels": 3}
    first = genloom.fit("diffusion.latent", "digits", out=tmp_path / "a", model=small, train={"steps": 4})
    model = {"start": str(tmp_path / "a"), "lora_rank": 2, "sampling_steps": 3, "bound_terms": 2}
    second = genloom.fit("diffusion.latent", "digits", out=tmp_path / "b", model=model, train={"steps": 2})
    assert second.run.facts["config"]["latent_channels"] == 3
    assert list(second.run.facts["stages"]) == ["prior-diffusion"]
    items = genloom.open_data("digits").test.items[:4]
    assert torch.equal(first.encode(items), second.encode(items))


def test_changes_need_a_start_of_the_same_sort_of_condition(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lora_rank is for a model that has a start"):
        genloom.fit("diffusion.ddpm", "digits", out=tmp_path / "out", model={"lora_rank": 2})
    with pytest.raises(DataError, match="its network or its condition is another"):
        genloom.fit(
            "diffusion.ddpm",
            "digits",
            out=tmp_path / "out",
            model={"start": str(digits)},
            data={"captions": "templates"},
        )
