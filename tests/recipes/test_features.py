"""Features: the same for the same data, another name for other data, and kept between commands."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genloom.core.errors import DataError
from genloom.modalities.base import Dataset
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes import features
from genloom.recipes.evaluating import class_accuracy_figure
from genloom.recipes.features import export, features_for


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "genloom" / "features"


def digits(**options: object) -> Dataset:
    return open_data("digits", DataOptions(**({"limit": 200} | options)))  # type: ignore[arg-type]


def test_a_classifier_is_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = digits()
    first = features_for(data)
    assert [p.suffix for p in cache.iterdir()] == [".safetensors"]
    monkeypatch.setattr(features, "_train", pytest.fail)
    again = features_for(data)
    assert first.name == again.name
    assert torch.equal(first.extract(data.test.items), again.extract(data.test.items))


def test_images_are_seen_by_convolutions(cache: Path) -> None:
    features_for(digits())
    (weights,) = cache.iterdir()
    assert any(weight.dim() == 4 for weight in load_file(weights).values())


def test_a_classifier_is_the_same_everywhere(cache: Path) -> None:
    data = digits()
    first = features_for(data).name
    (weights,) = cache.iterdir()
    weights.unlink()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert features_for(data).name == first
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_classifier_returns() -> None:
    data = digits()
    found = features_for(data)
    rows = found.extract(data.test.items[:7])
    assert (rows.dtype, rows.shape[0], rows.isfinite().all()) == (torch.float64, 7, True)
    assert found.probs is not None
    probs = found.probs(data.test.items[:7])
    assert torch.allclose(probs.sum(1), torch.ones(7, dtype=torch.float64))
    guess = features_for(data).probs(data.valid.items).argmax(1)  # type: ignore[misc]
    assert found.accuracy == pytest.approx((guess == data.valid.labels).double().mean().item())


def test_a_classifier_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "STEPS", {"small": 120, "large": 120})
    found = features_for(digits(limit=None))
    assert found.accuracy is not None
    assert found.accuracy > 0.8


@pytest.mark.parametrize("source", ["two_moons", "checkerboard"])
def test_other_data_have_other_names(source: str) -> None:
    names = {
        features_for(open_data(source, DataOptions(points=points))).name  # type: ignore[call-arg]
        for points in (200, 201, 200)
    }
    assert len(names) == 2


def test_principal_components_without_labels(cache: Path) -> None:
    data = open_data("diabetes")
    found = features_for(data)
    width = data.train.items.shape[1]
    assert found.name.startswith(f"pca{width}:")
    assert (found.probs, found.accuracy, cache.exists()) == (None, None, False)
    rows = found.extract(data.train.items)
    assert torch.allclose(rows.mean(0), torch.zeros(width, dtype=torch.float64), atol=1e-5)
    covariance = rows.T @ rows
    assert torch.allclose(covariance, covariance.diag().diag(), atol=1e-4)
    assert (covariance.diag().diff() <= 0).all(), "the leading components come first"


def test_weights_travel_with_a_comparison(tmp_path: Path) -> None:
    data, other = digits(), digits(limit=150)
    name = features_for(data).name
    export(data, tmp_path)
    file = tmp_path / "features.safetensors"
    assert features_for(other).name != name
    assert features_for(other, file).name == name
    with pytest.raises(DataError, match="do not fit iris data"):
        features_for(open_data("iris"), file)
    with pytest.raises(DataError, match="no feature weights at"):
        features_for(data, tmp_path / "none")
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match="is damaged"):
        features_for(data, file)


def test_nothing_is_exported_without_a_classifier(tmp_path: Path) -> None:
    data = open_data("diabetes")
    features_for(data)
    export(data, tmp_path)
    assert not (tmp_path / "features.safetensors").exists()


def test_samples_are_of_the_class_they_were_drawn_for() -> None:
    data = digits()
    found = features_for(data)
    assert data.valid.labels is not None
    figure, turned = (
        class_accuracy_figure(data.valid.items, labels, data, found)
        for labels in (data.valid.labels, (data.valid.labels + 1) % 10)
    )
    assert figure.value == pytest.approx(found.accuracy)
    assert figure.note == f"{found.accuracy:.1%} of real items"
    assert turned.hi < figure.lo
    assert turned.value <= 1 - figure.value


def test_texts_of_classes_have_a_classifier(tmp_path: Path) -> None:
    rows = "".join(
        f"{'good' if i % 2 else 'dull'},{'what fun' if i % 2 else 'so slow'} {i}\n" for i in range(200)
    )
    (tmp_path / "films.csv").write_text(f"mood,text\n{rows}")
    data = open_data(str(tmp_path / "films.csv"), DataOptions(column="text", label="mood"))
    found = features_for(data)
    assert found.accuracy is not None
    assert found.accuracy > 0.9
    assert found.probs is not None
    assert found.probs(data.test.items).shape == (len(data.test), 2)
