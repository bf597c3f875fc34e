"""Items that are completed, restored and drawn anew, as it is typed and in Python."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_kit import Cli
from PIL import Image

import genloom
from genloom.core.errors import DataError
from genloom.recipes import walking
from genloom.recipes.runs import open_run

FIT = ("fit", "ar.pixelcnn", "digits", "--data.limit", 60, "--steps", 2, "--out", "run")
SMALL = ("--model.widths", "[16, 16]", "--model.bound-terms", 1, "--model.embedding", 16)
NOISED = ("fit", "diffusion.ddpm", "digits", "--data.limit", 60, "--steps", 2, "--out", "noised", *SMALL)
FEW = ("--model.sampling-steps", 4, "--model.revisits", 2)


@pytest.fixture
def run(cli: Cli) -> None:
    assert cli(*FIT).code == 0


@pytest.mark.usefixtures("run")
def test_the_first_part_is_kept_and_the_rest_drawn(cli: Cli) -> None:
    assert cli("infill", "run", "-n", 5, "--draws", 4).code == 0
    told = cli("infill", "run", "-n", 3, "--draws", 4, "--keep", 0.25, "--json").json
    assert (told["n"], told["draws"], told["keep"]) == (3, 4, 0.25)
    assert len(list(Path("run/infills").glob("0*.png"))) == 12
    assert json.loads(Path("run/infills/walk.json").read_text())["family"] == "ar.pixelcnn"
    with Image.open(told["picture"]) as picture:
        assert picture.size == (6 * 9 + 1, 3 * 9 + 1)
        rows = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(28, 55)
    cells = rows[1:, 1:].unfold(0, 8, 9).unfold(1, 8, 9)
    assert torch.equal(cells[:, :, :2], cells[:, -1:, :2].expand(-1, 6, -1, -1)), "two rows of eight are kept"
    assert not torch.equal(cells[:, 1, 2:], cells[:, 2, 2:]), "draws differ"


@pytest.mark.usefixtures("run")
def test_known_places_anywhere_in_python() -> None:
    trained = genloom.load("run")
    items = genloom.open_data("digits").test.items[:5]
    known = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    filled = trained.infill(items, known, seed=1)
    assert filled.dtype == items.dtype
    assert torch.equal(filled[..., known], items[..., known])
    assert torch.equal(filled, trained.infill(items, known, seed=1))
    with pytest.raises(DataError, match="must be booleans"):
        trained.infill(items, known.float())


@pytest.fixture
def noised(cli: Cli) -> None:
    assert cli(*NOISED).code == 0


@pytest.mark.usefixtures("noised")
def test_a_square_in_the_middle_is_drawn_anew_and_measured(cli: Cli) -> None:
    options = ("--hide", "centre", "--keep", 0.75, "--label", "none", "-n", 5, "--draws", 2, "--measure")
    told = cli("infill", "noised", *options, *FEW, "--json").json
    assert told["settings"] == {"sampling_steps": 4, "revisits": 2}
    assert set(told["class_kept"]) == {"drawn", "before", "real"}
    filled = torch.stack([_pixels(path) for path in sorted(Path("noised/infills").glob("0*.png"))])
    middle = torch.zeros(8, 8, dtype=torch.bool)
    middle[2:6, 2:6] = True
    pairs = filled.unflatten(0, (5, 2))
    assert torch.equal(pairs[:, 0][:, ~middle], pairs[:, 1][:, ~middle]), "what is around is kept"
    assert not torch.equal(pairs[:, 0][:, middle], pairs[:, 1][:, middle]), "draws differ"


@pytest.mark.usefixtures("noised")
def test_the_most_typical_of_several_draws_is_told(cli: Cli) -> None:
    options = ("--hide", "centre", "--label", "none", "-n", 4, "--draws", 5, "--measure")
    told = cli("infill", "noised", *options, *FEW, "--json").json
    draws = torch.stack([_pixels(path) for path in sorted(Path("noised/infills").glob("0*.png"))])
    draws = draws.unflatten(0, (4, 5)).flatten(2).double()
    apart = (draws[:, :, None] - draws[:, None]).square().sum((2, 3))
    assert told["most_typical"] == apart.argmin(1).tolist()
    assert set(told["psnr"]) == {"drawn", "typical", "before"}
    assert told["psnr"]["typical"] >= told["psnr"]["drawn"] - 0.5


def _pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).view(8, 8)


@pytest.mark.parametrize("restoring", ["projection", "repaint", "posterior"])
@pytest.mark.usefixtures("noised")
def test_small_images_are_restored(cli: Cli, restoring: str) -> None:
    options = ("--factor", 2, "-n", 4, "--draws", 1, "--measure", "--model.restoring", restoring)
    few = FEW if restoring == "repaint" else FEW[:2]
    told = cli("restore", "noised", *options, *few, "--json").json
    assert told["known_kept"] > 0.9
    assert told["psnr"]["before"] > 5


@pytest.mark.usefixtures("noised")
def test_images_are_restored_and_redrawn_in_python() -> None:
    trained = genloom.load("noised", sampling_steps=4, revisits=2)
    items = genloom.open_data("digits").test.items[:5]
    small = torch.nn.functional.avg_pool2d(items.double(), 2)
    whole = trained.restore(small, label=3, seed=1)
    assert whole.dtype == items.dtype
    assert float((torch.nn.functional.avg_pool2d(whole.double(), 2) - small).abs().max()) < 3
    assert torch.equal(whole, trained.restore(small, label=3, seed=1))
    with pytest.raises(DataError, match=r"small images of this run are \(1, 8, 8\), not \(3, 8, 8\)"):
        trained.restore(items.expand(-1, 3, -1, -1))
    with pytest.raises(DataError, match="pixels from 0 to 16"):
        trained.restore(small + 100)
    for nothing in (small[:0], small[0]):
        with pytest.raises(DataError, match="must be images"):
            trained.restore(nothing)
    near, far = trained.redraw(items, 0.25), trained.redraw(items, 1.0)
    gaps = [(x.double() - items.double()).square().mean() for x in (near, far)]
    assert gaps[0] < gaps[1]


@pytest.mark.usefixtures("noised")
def test_samples_follow_a_reward_in_python() -> None:
    trained = genloom.load("noised", sampling_steps=4)
    plain = trained.sample_towards(lambda x: 0 * x.flatten(1).sum(1), 5)
    bright = trained.sample_towards(lambda x: 3 * x.flatten(1).sum(1), 5)
    assert bright.dtype == plain.dtype
    assert bright.double().mean() > plain.double().mean()


@pytest.mark.usefixtures("noised")
def test_what_cannot_be_restored_is_refused(refused: Callable[..., str]) -> None:
    assert refused("restore", "noised", "--factor", 3) == "squares of side 3 do not divide the sides 8 and 8"
    grey = "grey is for images of 3 colours, and these have 1"
    assert refused("restore", "noised", "--given", "grey") == grey
    assert "blur must be above 0" in refused("restore", "noised", "--blur", 0)
    assert refused("redraw", "noised", "--strength", 0) == "strength must be above 0 and at most 1, not 0.0"
    assert "no class 'x'" in refused("redraw", "noised", "--label", "x")
    idle = "particles is for restoring particles: set that too, or leave it out"
    assert idle in refused("restore", "noised", "--factor", 2, "--model.particles", 4)


def test_refusals(cli: Cli, refused: Callable[..., str]) -> None:
    assert refused("infill", "run", "--keep", 1) == "--keep must be a share above 0 and below 1, not 1.0"
    assert cli("fit", "ar.made", "two_moons", "--steps", 2, "--out", "moons").code == 0
    assert cli("fit", "baseline.gmm", "two_moons", "--out", "gmm").code == 0
    assert "infill needs a model that offers Infill" in refused("infill", "gmm")
    assert "restore needs a model that offers Restorer" in refused("restore", "gmm")
    assert "redraw needs a model that offers Redrawer" in refused("redraw", "gmm")
    assert cli("fit", "diffusion.discrete", "sums", "--steps", 1, "--out", "sums", *FEW[:2]).code == 0
    assert "genloom continue goes on with texts" in refused("infill", "sums")
    assert "--hide centre is for images" in refused("infill", "moons", "--hide", "centre")


TOLD = ("fit", "diffusion.latent", "digits", "--data.captions", "templates", "--data.limit", 60, *SMALL)


def test_texts_say_what_is_drawn(cli: Cli) -> None:
    assert cli(*TOLD, "--steps", 4, "--out", "told").code == 0
    few = ("--model.sampling-steps", 3)
    seven = ("sample", "told", "--prompt", "a handwritten seven", "-n", 3)
    told = cli(*seven, *few, "--model.guidance-scale", 2, "--json").json
    assert len(told["files"]) == 3
    assert "prompt=a handwritten seven" in told["picture"]
    assert len(cli("sample", "told", "-n", 3, *few, "--json").json["files"]) == 3
    told = cli("redraw", "told", "--prompt", "a handwritten one", "-n", 2, "--draws", 2, *few, "--json").json
    assert (told["prompt"], len(told["files"])) == ("a handwritten one", 4)
    assert cli("infill", "told", "-n", 2, "--draws", 1, "--hide", "right", *few, "--json").json["n"] == 2
    split = walking.items_of(open_run("told"), None)[0]
    assert split.captions is not None
    drawn = genloom.load("told", sampling_steps=3).sample(2, prompt="a handwritten two")
    assert drawn.shape == (2, 1, 8, 8)
    lines = cli("sample", "told", "--prompt", "one\n../two", "-n", 1, *few, "--json").json
    assert "prompt=one-..-two-" in lines["picture"]
    assert Path(lines["picture"]).parent.parent == Path("told/samples")
    for more in (("--prompt", "x" * 200), ("--prompt", "one", "--label", "1"), ("--label", "1")):
        for verb in ("sample", "redraw"):
            refused = cli(verb, "told", *more)
            assert (refused.code, refused.err.count("\n")) == (2, 1)
    refused = cli(*TOLD, "--conditional", "no", "--out", "untold")
    assert "leave --data.captions or --conditional out" in refused.err
    refused = cli("fit", "vae.gaussian", "digits", "--data.captions", "templates", "--out", "untold")
    assert "cannot be given captions: leave --data.captions out" in refused.err


@pytest.mark.usefixtures("noised")
def test_a_model_without_texts_takes_no_prompt(cli: Cli) -> None:
    refused = cli("sample", "noised", "--prompt", "a seven")
    assert refused.code == 2
    assert "is not given texts: leave --prompt out" in refused.err
