"""Codes, reconstructions and walks, as they are typed; and a family that draws no samples."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_kit import SMALL, Cli
from PIL import Image
from safetensors.torch import load_file

import genloom

Fitted = Callable[..., Path]
MOONS = ("--data.points", 400, "--model.layers", 2, "--model.hidden", "[8]", "--steps", 2)
AE = ("--model.hidden", "8", "--model.latent_dim", "2", "--steps", "2")


def rows_of(path: str) -> list[list[str]]:
    with Path(path).open(newline="") as file:
        return list(csv.reader(file))


def fit(cli: Cli, family: str, source: str, *settings: object) -> None:
    outcome = cli("fit", family, source, *settings, "--out", "run")
    assert outcome.code == 0, outcome


def test_codes_as_text_and_as_tensors(cli: Cli, fitted: Fitted) -> None:
    fitted()
    told = cli("encode", "run", "--split", "all", "--json").json
    head, *body = rows_of("run/codes.csv")
    assert told == {"codes": "run/codes.csv", "shape": [len(body), 2]}
    assert head == ["z0", "z1", "label"]
    assert cli("encode", "run", "--split", "all", "--out", "new/codes.safetensors").code == 0
    stored = load_file("new/codes.safetensors")
    assert torch.equal(stored["codes"], torch.tensor([[float(v) for v in row[:2]] for row in body]))
    assert [str(label) for label in stored["labels"].tolist()] == [row[2] for row in body]


def test_reconstructions_have_the_errors_they_say(cli: Cli) -> None:
    fit(cli, "ae.plain", "digits", *SMALL, *AE)
    told = cli("reconstruct", "run", "-n", 5, "--json", "--out", "r").json
    assert Path(told["picture"]).read_bytes().startswith(b"\x89PNG")
    trained, options = genloom.load("run"), genloom.DataOptions(limit=120, valid_fraction=0.05)
    items = genloom.open_data("digits", options).test.some(5).items
    gap = trained.reconstruct(items).double() - items.double()
    errors = gap.square().flatten(1).mean(1)
    assert [float(row[0]) for row in rows_of("r/errors.csv")[1:]] == pytest.approx(errors.tolist())
    assert told["mean_squared_error"] == pytest.approx(float(errors.mean()))
    assert len(list(Path("r/originals").iterdir())) == 5
    assert cli("reconstruct", "run", "-n", 2, "--out", "r").code == 0
    assert [len(list(Path(folder).glob("0*"))) for folder in ("r", "r/originals")] == [2, 2]
    marked = json.loads(Path("r/walk.json").read_text())
    Path("kept.png").write_bytes(b"not ours")
    marked["files"] += ["../kept.png", "gone.png", "a\0b", "originals", "0" * 300]
    Path("r/walk.json").write_text(json.dumps(marked))
    assert cli("interpolate", "run", "--pairs", 1, "--steps", 3, "--out", "r").code == 0
    assert sorted(p.name for p in Path("r").rglob("*") if p.is_file()) == [
        "000000.png",
        "000001.png",
        "000002.png",
        "all.png",
        "moving.png",
        "walk.json",
    ]
    assert Path("kept.png").read_bytes() == b"not ours"


def test_a_flow_gives_back_what_it_took(cli: Cli) -> None:
    fit(cli, "flow.nsf", "two_moons", *MOONS)
    assert cli("reconstruct", "run", "two_moons", "--json").json["mean_squared_error"] < 1e-8
    told = cli("interpolate", "run", "--pairs", 3, "--steps", 5, "--path", "linear", "--json").json
    assert (told["pairs"], told["picture"]) == (3, "run/interpolations/all.svg")
    way = torch.tensor([[float(v) for v in row] for row in rows_of("run/interpolations/items.csv")[1:]])
    items = genloom.open_data("two_moons", genloom.DataOptions(points=400)).test.some(6).items
    torch.testing.assert_close(way.double()[::5], items[:3], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(way.double()[4::5], items[3:], rtol=1e-3, atol=1e-3)


def test_edits_start_at_the_items_and_move(cli: Cli) -> None:
    fit(cli, "flow.nsf", "two_moons", *MOONS, "--conditional", "no")
    told = cli("edit", "run", "--from", 0, "--to", 1, "-n", 3, "--steps", 4, "--json").json
    assert (told["n"], told["picture"]) == (3, "run/edits/all.svg")
    way = torch.tensor([[float(v) for v in row] for row in rows_of("run/edits/items.csv")[1:]])
    test = genloom.open_data("two_moons", genloom.DataOptions(points=400)).test
    torch.testing.assert_close(way.double()[::4], test.items[test.labels == 0][:3], rtol=1e-3, atol=1e-3)
    assert (way[3::4] - way[::4]).norm(dim=1).min() > 0.1


def test_walks_of_images_move(cli: Cli, fitted: Fitted) -> None:
    fitted()
    told = cli("edit", "run", "--from", 3, "--to", 8, "-n", 2, "--steps", 5, "--json").json
    assert "run/edits/moving.png" in told["files"]
    with Image.open("run/edits/moving.png") as moving, Image.open(told["picture"]) as all_steps:
        assert moving.size[1] < all_steps.size[1], "both items side by side, the steps one after another"


def test_traversals(cli: Cli, fitted: Fitted) -> None:
    fitted()
    shown = cli("traverse", "run", "--item", 3, "--coordinates", 9, "--steps", 4)
    assert shown.out == "run/traversals/all.png: 2 coordinates, 4 values each\n"
    assert len(list(Path("run/traversals").glob("0*.png"))) == 8
    facts = json.loads(Path("run/traversals/walk.json").read_text())
    assert sorted(facts["coordinates"]) == [0, 1]


def test_refusals(cli: Cli, fitted: Fitted, refused: Callable[..., str]) -> None:
    fitted()
    Path("full").mkdir()
    Path("full/x").touch()
    Path("old.csv").touch()
    assert refused("reconstruct", "run", "--out", "full") == "full holds something else: choose another --out"
    assert refused("encode", "run", "--out", "old.csv") == "old.csv exists: choose another --out"
    assert "written as .csv or .safetensors" in refused("encode", "run", "--out", "codes.npy")
    assert refused("reconstruct", "run", "-n", 0) == "-n must be at least 1, not 0"
    assert refused("interpolate", "run", "--steps", 1) == "--steps must be at least 2, not 1"
    assert "no class is called 'x' (there are 0, 1" in refused("edit", "run", "--from", "x", "--to", 1)
    assert "--item must be from 0 to" in refused("traverse", "run", "--item", 5000)
    assert "two_moons does not have the form of the run's own data" in refused("encode", "run", "two_moons")
    assert cli("fit", "baseline.gmm", "two_moons", "--out", "gmm").code == 0
    line = "encode needs a model that offers Latent; this one offers Sampler, Likelihood, ClosedForm"
    assert refused("encode", "gmm") == line


def test_a_family_without_samples_is_measured_and_not_ranked(cli: Cli, refused: Callable[..., str]) -> None:
    fit(cli, "ae.plain", "digits", *SMALL, *AE)
    assert list(Path("run/samples").glob("*.png")), "previews show reconstructions"
    figures = cli("evaluate", "run", "--limit", 40, "--json").json["figures"]
    assert list(figures) == ["reconstruction", "probe_accuracy"]
    assert figures["reconstruction"]["lo"] < figures["reconstruction"]["value"]
    assert refused("sample", "run") == "sample needs a model that offers Sampler; this one offers Latent"
    plan = cli("compare", "digits", "--families", "all", "--dry-run", "--json").json
    assert plan["skipped"]["ae.plain"].startswith("draws no samples")
    assert "ae.plain draws no samples" in refused("compare", "digits", "--families", "ae.plain")
