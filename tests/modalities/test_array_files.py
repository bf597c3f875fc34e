"""idx, NumPy and CIFAR-10 files, whole and broken."""

import gzip
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from genloom.core.errors import DataError
from genloom.modalities import pictures
from genloom.modalities.arrays import CIFAR_BATCHES, CIFAR_CLASSES
from genloom.modalities.readers import read_path

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 5, 4), np.uint8)
LABELS = (np.arange(30) % 3).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, packed: bool = True, dot: str = "-") -> Path:
    for stem, part in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        for kind, array, axes in (("images", IMAGES[part], 3), ("labels", LABELS[part], 1)):
            path = folder / f"{stem}-{kind}{dot}idx{axes}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return folder


@pytest.mark.parametrize(("packed", "dot"), [(True, "-"), (False, "-"), (False, ".")])
def test_the_four_files_of_mnist(tmp_path: Path, packed: bool, dot: str) -> None:
    reading = read_path(write_mnist(tmp_path, packed, dot), None, None)
    assert reading.classes == ("0", "1", "2")
    assert (reading.parts["train"].items[:, 0].numpy() == IMAGES[:20]).all()
    assert (reading.parts["test"].items[:, 0].numpy() == IMAGES[20:]).all()
    assert reading.parts["test"].labels is not None
    assert reading.parts["test"].labels.tolist() == LABELS[20:].tolist()


def test_one_idx_file_finds_its_labels(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    whole = read_path(folder / "train-images-idx3-ubyte.gz", None, None).parts["all"]
    assert whole.labels is not None
    assert len(whole) == 20
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    assert read_path(folder / "train-images-idx3-ubyte.gz", None, None).parts["all"].labels is None
    assert read_path(folder, None, None).classes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:-1], "does not hold the 600 values"),
        (idx(IMAGES) + b"x", "does not hold the 600 values"),
        (b"\0\0\x0d\x03" + idx(IMAGES)[4:], "not an idx file of bytes"),
        (b"\0", "is damaged"),
        (idx(LABELS), "1 axes, not images"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "more than the 4 GiB"),
    ],
)
def test_damaged_idx(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_path(path, None, None)


def test_damaged_gzip_and_unequal_numbers(tmp_path: Path) -> None:
    folder = write_mnist(tmp_path)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(LABELS)))
    with pytest.raises(DataError, match=r"10 images .* 30 labels"):
        read_path(folder, None, None)
    labels.write_bytes(labels.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"t10k-labels.* is damaged"):
        read_path(folder, None, None)


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (IMAGES, (30, 1, 5, 4)),
        (IMAGES[:, None], (30, 1, 5, 4)),
        (IMAGES[..., None].repeat(3, 3), (30, 3, 5, 4)),
        (IMAGES[:, None].repeat(3, 1), (30, 3, 5, 4)),
        (RNG.normal(size=(9, 2)), (9, 2)),
    ],
)
def test_npy(tmp_path: Path, array: np.ndarray, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", array)
    reading = read_path(tmp_path / "a.npy", None, None)
    items = reading.parts["all"].items
    assert items.shape == shape
    assert items.double().sum() == pytest.approx(array.astype(float).sum())
    assert reading.columns == (("column 1", "column 2") if array.ndim == 2 else ())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{"a": 1}], dtype=object), "never read"),
        (IMAGES.astype(np.float32), "holds float32 of shape"),
        (IMAGES[:, None].repeat(2, 1), "one axis must be 1"),
        (np.array([[1.0, 2.0], [3.0, np.nan]]), "row 2, column 2 is not a finite number"),
        (np.array([["a", "b"]]), "holds <U1"),
    ],
)
def test_npy_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        read_path(tmp_path / "a.npy", None, None)


def test_npz_names_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "keras.npz", x_train=IMAGES[:20], y_train=LABELS[:20], x_test=IMAGES[20:])
    np.savez(
        tmp_path / "medical.npz",
        train_images=IMAGES[:20],
        train_labels=LABELS[:20, None],
        val_images=IMAGES[20:25],
        val_labels=LABELS[20:25, None],
        test_images=IMAGES[25:],
        test_labels=LABELS[25:, None],
    )
    assert read_path(tmp_path / "one.npz", None, None).classes == ("0", "1", "2")
    keras = read_path(tmp_path / "keras.npz", None, None)
    assert (keras.classes, keras.parts["train"].labels) == ((), None)
    medical = read_path(tmp_path / "medical.npz", None, None)
    assert {name: len(part) for name, part in medical.parts.items()} == {"train": 20, "valid": 5, "test": 5}
    assert medical.parts["valid"].labels is not None
    assert medical.parts["valid"].labels.tolist() == LABELS[20:25].tolist()


def test_npz_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=np.array([None] * 30, dtype=object))
    with pytest.raises(DataError, match="objects are never read"):
        read_path(path, None, None)
    np.savez(path, pixels=IMAGES)
    with pytest.raises(DataError, match="has arrays pixels"):
        read_path(path, None, None)
    np.savez(path, images=IMAGES, labels=LABELS + 0.5)
    with pytest.raises(DataError, match="labels must be 30 whole numbers"):
        read_path(path, None, None)
    path.write_bytes(b"PK rubbish")
    with pytest.raises(DataError, match="not an archive of plain"):
        read_path(path, None, None)
    np.savez_compressed(path, images=np.zeros((100, 30, 30), np.uint8))
    monkeypatch.setattr(pictures, "MAX_BYTES", 80_000)
    with pytest.raises(DataError, match="more than"):
        read_path(path, None, None)


def write_cifar(folder: Path) -> torch.Tensor:
    records = RNG.integers(0, 10, (12, 3073), np.uint8)
    for i, name in enumerate((*CIFAR_BATCHES, "test_batch.bin")):
        (folder / name).write_bytes(records[2 * i : 2 * i + 2].tobytes())
    return torch.from_numpy(records)


@pytest.mark.parametrize("packed", [False, True])
def test_binary_cifar(tmp_path: Path, packed: bool) -> None:
    inner = tmp_path / "cifar-10-batches-bin"
    inner.mkdir()
    records = write_cifar(inner)
    folder = inner
    if packed:
        folder = tmp_path / "packed"
        folder.mkdir()
        with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
            tar.add(inner, inner.name)
    reading = read_path(folder, None, None)
    assert reading.classes == CIFAR_CLASSES
    train, test = reading.parts["train"], reading.parts["test"]
    assert torch.equal(train.items.flatten(1), records[:10, 1:])
    assert train.items.shape == (10, 3, 32, 32)
    assert test.labels is not None
    assert torch.equal(test.labels, records[10:, 0].long())


def test_damaged_cifar(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"data_batch_3\.bin is not a batch"):
        read_path(tmp_path, None, None)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing"):
        read_path(tmp_path, None, None)
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(b"rubbish"))
    with pytest.raises(DataError, match="is damaged"):
        read_path(packed, None, None)


def test_labels_far_apart_are_numbered_in_order(tmp_path: Path) -> None:
    labels = np.array([7, 10**6, 7, 10**9] * 10)
    np.savez(tmp_path / "far.npz", x=np.zeros((40, 8, 8), np.uint8), y=labels)
    reading = read_path(tmp_path / "far.npz", None, None)
    assert reading.classes == ("7", "1000000", "1000000000")
    found = reading.parts["all"].labels
    assert found is not None
    assert found[:4].tolist() == [0, 1, 0, 2]


def test_as_many_labels_as_items_are_no_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", x=np.zeros((2000, 4, 4), np.uint8), y=np.arange(2000))
    with pytest.raises(DataError, match="2,000 different labels, at most 1,000 are classes"):
        read_path(tmp_path / "many.npz", None, None)
