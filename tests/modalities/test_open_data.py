"""Opening data by name or by path."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from genloom.core.errors import DataError
from genloom.modalities.base import Dataset
from genloom.modalities.datasets import DataOptions, names, open_data
from genloom.modalities.images import Images
from genloom.modalities.vectors import Vectors

HERE = os.environ.get("GENLOOM_DATA")


def rows(dataset: Dataset) -> list[set[bytes]]:
    return [
        {row.tobytes() for row in part.items.numpy()} for part in (dataset.train, dataset.valid, dataset.test)
    ]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_data("digits")


def test_digits(digits: Dataset) -> None:
    assert digits.description == "1,797 grey images 8x8, 17 levels, 10 classes from scikit-learn"
    assert (digits.name, digits.classes, digits.notes) == ("digits", tuple("0123456789"), ())
    assert isinstance(digits.modality, Images)
    assert (digits.modality.shape, digits.modality.levels) == ((1, 8, 8), 17)
    assert (len(digits.train) + len(digits.valid), len(digits.test)) == (1_438, 359)
    assert len(digits.valid) == round(1_797 * DataOptions().valid_fraction)
    for part in (digits.train, digits.valid, digits.test):
        assert part.items.dtype == torch.uint8
        assert part.items.max() == 16
        assert part.labels is not None
        shares = part.labels.bincount() / len(part)
        assert (shares - 0.1).abs().max() < 0.01
    train, valid, test = rows(digits)
    assert not train & (valid | test)
    assert not valid & test


def test_opening_is_repeatable_and_the_seed_splits_anew(digits: Dataset) -> None:
    again, other = open_data("digits"), open_data("digits", DataOptions(seed=1))
    assert again.fingerprint == digits.fingerprint
    assert torch.equal(again.test.items, digits.test.items)
    assert other.fingerprint != digits.fingerprint
    assert open_data("digits", DataOptions(alpha=0.01)).fingerprint == digits.fingerprint


def test_binarised_data_is_other_data_with_a_fixed_draw(digits: Dataset) -> None:
    options = DataOptions(binarise="dynamic")
    drawn, again = open_data("digits", options), open_data("digits", options)
    assert drawn.name == "digits-binarised"
    assert "dynamically binarised" in drawn.description
    assert drawn.fingerprint == again.fingerprint != digits.fingerprint
    assert torch.equal(drawn.train.items, digits.train.items)
    for part, grey in ((drawn.valid, digits.valid), (drawn.test, digits.test)):
        assert set(part.items.unique().tolist()) == {0, 16}
        assert (part.items[grey.items == 16] == 16).all()
        assert (part.items[grey.items == 0] == 0).all()
        assert abs(float(part.items.double().mean() - grey.items.double().mean())) < 0.2
    assert [view.name for view in drawn.modality.views()] == ["binary", "scaled", "unit", "logit"]


def test_limit_takes_training_items_only(digits: Dataset) -> None:
    few = open_data("digits", DataOptions(limit=100))
    assert torch.equal(few.test.items, digits.test.items)
    assert few.train.labels is not None
    assert few.train.labels.bincount().tolist() == pytest.approx([10] * 10, abs=1)
    assert rows(few)[0] <= rows(digits)[0]
    assert len(open_data("digits", DataOptions(limit=10**6)).train) == len(digits.train)


def test_size_scales_images_within_their_levels() -> None:
    small = open_data("digits", DataOptions(size=4))
    assert small.train.items.shape[1:] == (1, 4, 4)
    assert small.train.items.max() <= 16
    assert "4x4, 17 levels" in small.description


@pytest.mark.parametrize(
    ("name", "description", "notes"),
    [
        ("iris", "150 rows of 4 columns, 3 classes from scikit-learn", 1),
        ("wine", "178 rows of 13 columns, 3 classes from scikit-learn", 0),
        ("breast_cancer", "569 rows of 30 columns, 2 classes from scikit-learn", 0),
        ("diabetes", "442 rows of 11 columns from scikit-learn", 0),
        ("rings", "10,000 rows of 2 columns, 4 classes from a formula", 0),
        ("checkerboard", "10,000 rows of 2 columns from a formula", 0),
    ],
)
def test_tables_by_name(name: str, description: str, notes: int) -> None:
    table = open_data(name)
    assert table.description == description
    assert len(table.notes) == notes
    assert isinstance(table.modality, Vectors)
    assert (
        table.train.items.shape[1]
        == int(table.modality.count_units(table.test.items)[0])
        == len(table.modality.columns)
    )
    torch.testing.assert_close(table.modality.mean, table.train.items.mean(0))
    assert (table.train.labels is None) == (table.classes == ())


def test_points_of_toys() -> None:
    assert open_data("rings", DataOptions(points=100)).description.startswith("100 rows")
    one, other = (open_data("rings", DataOptions(points=100, seed=s)).fingerprint for s in (0, 1))
    assert one != other


def test_paths(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    pictures = open_data(str(image_folder("a", "b", count=20)))
    assert pictures.name == "pictures"
    assert pictures.description == "40 grey images 6x4, 256 levels, 2 classes from image files"
    assert pictures.classes == ("a", "b")
    path = tmp_path / "points.csv"
    path.write_text("x,y,kind\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in range(30)))
    table = open_data(str(path), DataOptions(label="kind"))
    assert (table.name, table.classes) == ("points", ("0", "1"))
    assert open_data(str(path)).modality.count_units(torch.zeros(1, 3)).tolist() == [3]


def test_given_splits_are_described(image_folder: Callable[..., Path]) -> None:
    folder = image_folder("train/a", "train/b", "test/a", "test/b", count=20)
    dataset = open_data(str(folder), DataOptions(valid_fraction=0.1))
    expected = "40 + 40 test grey images 6x4, 256 levels, 2 classes from image files"
    assert dataset.description == expected
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (36, 4, 40)


def test_shapes_must_agree_across_splits(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "a.npz", x_train=np.zeros((9, 4, 4), np.uint8), x_test=np.zeros((9, 5, 5), np.uint8))
    with pytest.raises(DataError, match=r"shapes \[\(1, 4, 4\), \(1, 5, 5\)\]"):
        open_data(str(tmp_path / "a.npz"))


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'digit' .* did you mean digits\?"):
        open_data("digit")
    with pytest.raises(DataError, match="no file or folder is there"):
        open_data("/no/such/folder")
    assert {"digits", "mnist", "cifar10", "cifar10-jpeg", "iris", "two_moons"} <= set(names())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iris", {"binarise": "dynamic"}, "binarise is for images"),
        ("iris", {"size": 8}, "size is for images"),
        ("digits", {"label": "x"}, "no columns to take labels from"),
    ],
)
def test_options_without_effect_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(name, DataOptions.model_validate(options))


@pytest.mark.parametrize(
    "options", [{"sise": 3}, {"alpha": 0.5}, {"test_fraction": 0.6, "valid_fraction": 0.4}, {"limit": 0}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataOptions.model_validate(options)


@pytest.mark.skipif(not (HERE and Path(HERE, "mnist").is_dir()), reason="no mnist folder in $GENLOOM_DATA")
def test_mnist() -> None:
    mnist = open_data("mnist")
    expected = "60,000 + 10,000 test grey images 28x28, 256 levels, 10 classes from idx files"
    assert mnist.description == expected
    assert (len(mnist.train), len(mnist.valid), len(mnist.test)) == (55_000, 5_000, 10_000)
    assert mnist.test.labels is not None
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert mnist.notes == ()


@pytest.mark.skipif(
    not (HERE and Path(HERE, "cifar10-jpeg").is_dir()), reason="no cifar10-jpeg folder in $GENLOOM_DATA"
)
def test_real_parquet_of_images() -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    cifar = open_data(f"{HERE}/cifar10-jpeg/test.parquet", DataOptions(valid_fraction=0.1, limit=1_000))
    expected = "10,000 colour images 32x32, 256 levels, 10 classes from Parquet"
    assert cifar.description == expected
    assert (len(cifar.train), len(cifar.valid), len(cifar.test)) == (1_000, 1_000, 2_000)
    assert cifar.classes[0] == "airplane"
    assert cifar.test.labels is not None
    assert cifar.test.labels.bincount().tolist() == [200] * 10


def test_numbers_too_large_are_refused(tmp_path: Path) -> None:
    rows = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)) * 1.0
    (tmp_path / "huge.csv").write_text("\n".join(f"{a}e300,{b}" for a, b in rows.tolist()))
    with pytest.raises(DataError, match="numbers too large to work with"):
        open_data(str(tmp_path / "huge.csv"))
