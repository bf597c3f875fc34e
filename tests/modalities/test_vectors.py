"""Rows of numbers: the standardised view, its volume, files and pictures."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch.distributions import Normal

from genloom.core.errors import DataError
from genloom.core.events import Leaf, Real, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.randomness import SampleNoise
from genloom.modalities.datasets import from_json
from genloom.modalities.tables import read_text
from genloom.modalities.vectors import Vectors

SCALE = torch.tensor([1e-3, 1.0, 40.0], dtype=torch.float64)
SHIFT = torch.tensor([5.0, -2.0, 1e9], dtype=torch.float64)


@pytest.fixture
def rows() -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randn(50, 3, generator=source, dtype=torch.float64) * SCALE + SHIFT


def test_likelihood_equals_the_density_in_the_columns_own_units(rows: torch.Tensor) -> None:
    view = Vectors.fit(rows, ("a", "b", "c")).views()[0]
    mean, sd = rows.mean(0), rows.std(0, correction=0)
    expected = Normal(mean, sd).log_prob(rows).sum(1)
    x = (rows - mean) / sd
    for kind in Bound:
        scored = view.to_data(LogProb(Normal(0.0, 1.0).log_prob(x).sum(1), kind), x)
        torch.testing.assert_close(scored.value, expected, rtol=0, atol=1e-9)
        assert scored.kind is kind


def test_the_view_has_mean_zero_and_deviation_one_and_decodes(rows: torch.Tensor) -> None:
    view = Vectors.fit(rows, ("a", "b", "c")).views()[0]
    assert view.event == Leaf((3,), Real())
    x = tensor(view.perturb(view.encode(rows), SampleNoise(0, torch.arange(50))))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-6)
    assert ((view.decode(x) - rows).abs() <= 1e-6 * SCALE).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_a_constant_column_is_named(rows: torch.Tensor, value: float) -> None:
    rows[:, 1] = value
    with pytest.raises(DataError, match="column 'b' is constant"):
        Vectors.fit(rows, ("a", "b", "c"))


def test_a_modality_is_rebuilt_from_json(rows: torch.Tensor) -> None:
    vectors = Vectors.fit(rows, ("a", "b", "c"))
    again = from_json(json.loads(json.dumps(vectors.describe())))
    assert again.describe() == vectors.describe()
    assert torch.equal(tensor(again.views()[0].encode(rows)), tensor(vectors.views()[0].encode(rows)))


def test_units_and_features(rows: torch.Tensor) -> None:
    vectors = Vectors.fit(rows, ("a", "b", "c"))
    assert (vectors.units, vectors.count_units(torch.zeros(2, 3)).tolist()) == ("values", [3, 3])
    assert torch.equal(vectors.features(rows), rows)


@pytest.mark.parametrize("labelled", [False, True])
def test_rows_written_are_read_back_exactly(rows: torch.Tensor, tmp_path: Path, labelled: bool) -> None:
    labels = torch.arange(50) % 3 if labelled else None
    names = None if labels is None else [str(i) for i in labels.tolist()]
    (path,) = Vectors.fit(rows, ("a", "b, b", "c")).write(rows, names, tmp_path / "new" / "folder")
    reading = read_text([path], "label" if labelled else None)
    assert reading.columns == ("a", "b, b", "c")
    assert torch.equal(reading.parts["all"].items, rows)
    if labels is not None:
        assert reading.parts["all"].labels is not None
        assert torch.equal(reading.parts["all"].labels, labels)


@pytest.mark.parametrize("columns", [("x",), ("x", "y<z"), ("a", "b", "c")])
def test_the_picture_is_svg_with_both_clouds(rows: torch.Tensor, columns: tuple[str, ...]) -> None:
    data = rows[:, : len(columns)]
    vectors = Vectors.fit(data, columns)
    media, picture = vectors.draw(data + 0.1 * data.std(0), reference=data)
    assert media == "image/svg+xml"
    root = ElementTree.fromstring(picture)
    paths = root.findall("{http://www.w3.org/2000/svg}path")
    assert [path.get("d", "").count("M") for path in paths] == [50, 50]
    words = [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")]
    assert {"samples", "data"} <= set(words)
    assert columns[0] in words or len(columns) == 3
    assert len(ElementTree.fromstring(vectors.draw(data)[1])) < len(root)


def test_points_outside_the_axes_are_counted(rows: torch.Tensor) -> None:
    data = rows[:, :2]
    far = torch.cat([data[:5], data[:2] * 1e3, torch.full((1, 2), torch.nan)])
    _, picture = Vectors.fit(data, ("x", "y")).draw(far, reference=data)
    assert b"samples (3 outside)" in picture
