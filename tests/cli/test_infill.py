"""Items whose first part is kept, as they are typed and in Python."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_kit import Cli
from PIL import Image

import genloom
from genloom.core.errors import DataError

FIT = ("fit", "ar.pixelcnn", "digits", "--data.limit", 60, "--steps", 2, "--out", "run")


@pytest.fixture
def run(cli: Cli) -> None:
    assert cli(*FIT).code == 0


@pytest.mark.usefixtures("run")
def test_the_first_part_is_kept_and_the_rest_drawn(cli: Cli) -> None:
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


def test_refusals(cli: Cli, refused: Callable[..., str]) -> None:
    assert refused("infill", "run", "--keep", 1) == "--keep must be a share above 0 and below 1, not 1.0"
    assert cli("fit", "baseline.gmm", "two_moons", "--out", "gmm").code == 0
    assert "infill needs a model that offers Infill" in refused("infill", "gmm")
