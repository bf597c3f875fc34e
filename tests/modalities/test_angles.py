"""Rows of angles: units, the view's volume, options that make no sense, and files."""

import json
import math
from pathlib import Path

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.events import Circular, Leaf, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.randomness import SampleNoise
from genloom.modalities.angles import Angles, in_one_turn
from genloom.modalities.datasets import DataOptions, from_json, open_data


@pytest.fixture
def table(tmp_path: Path) -> str:
    rows = 360 * torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) - 180
    path = tmp_path / "torsions.csv"
    path.write_text("phi,psi\n" + "".join(f"{a},{b}\n" for a, b in rows.tolist()))
    return str(path)


@pytest.mark.parametrize(("unit", "turn"), [("degrees", 360.0), ("radians", 2 * math.pi)])
def test_angles_are_read_into_one_turn(unit, turn: float) -> None:
    items = torch.tensor([[-turn / 4, turn, -1e-18, 5.25 * turn]], dtype=torch.float64)
    expected = torch.tensor([[0.75 * turn, 0.0, 0.0, 0.25 * turn]], dtype=torch.float64)
    torch.testing.assert_close(in_one_turn(items, unit), expected)


def test_uniform_angles_have_the_density_of_one_turn_in_degrees() -> None:
    view = Angles(("a", "b"), "degrees").views()[0]
    assert view.event == Leaf((2,), Circular())
    items = torch.tensor([[90.0, 359.0]], dtype=torch.float64)
    x = view.encode(items)
    torch.testing.assert_close(tensor(x).double(), items * math.pi / 180, atol=1e-6, rtol=0)
    torch.testing.assert_close(view.decode(x), items, atol=1e-4, rtol=0)
    assert view.perturb(x, SampleNoise(0, torch.arange(1))) is x
    uniform = LogProb(torch.tensor([-2 * math.log(2 * math.pi)]), Bound.EXACT)
    assert float(view.to_data(uniform, x).value) == pytest.approx(-2 * math.log(360.0))


def test_a_table_of_angles_is_opened_rebuilt_and_written(table: str, tmp_path: Path) -> None:
    dataset = open_data(table, DataOptions(angles="degrees"))
    assert isinstance(dataset.modality, Angles)
    assert bool(((dataset.train.items >= 0) & (dataset.train.items < 360)).all())
    again = from_json(json.loads(json.dumps(dataset.modality.describe())))
    assert again.describe() == dataset.modality.describe()
    (written,) = dataset.modality.write(dataset.test.items, None, tmp_path)
    assert written.read_text().startswith("phi,psi\n")
    kind, picture = dataset.modality.draw(dataset.test.items[:, :2])
    assert kind == "image/svg+xml"
    assert b"<svg" in picture


def test_angles_out_of_a_turn_are_refused() -> None:
    with pytest.raises(DataError, match="angles from 0 to below 360 degrees are needed"):
        Angles(("a",), "degrees").check(torch.tensor([[360.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    "options", [DataOptions(angles="degrees", given="phi"), DataOptions(angles="radians")]
)
def test_angles_of_other_data_are_refused(options: DataOptions, table: str) -> None:
    source = table if options.given else "digits"
    with pytest.raises(DataError, match=r"leave --data\.angles out"):
        open_data(source, options)
