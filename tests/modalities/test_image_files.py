"""Folders of images: every format, every way to be broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genloom.core.errors import DataError
from genloom.modalities import pictures
from genloom.modalities.readers import read_path

Make = Callable[..., Path]


def test_classes_are_sub_folders_in_natural_order(image_folder: Make) -> None:
    reading = read_path(image_folder("10", "9", "a", count=3), None, None)
    whole = reading.parts["all"]
    assert reading.classes == ("9", "10", "a")
    assert whole.items.shape == (9, 1, 4, 6)
    assert whole.items.dtype == torch.uint8
    assert whole.labels is not None
    assert whole.labels.tolist() == [1] * 3 + [0] * 3 + [2] * 3
    assert (reading.levels, reading.notes) == (256, ())


def test_pixels_are_those_of_the_files(image_folder: Make) -> None:
    folder = image_folder("", count=3)
    reading = read_path(folder, None, None)
    assert reading.classes == ()
    assert reading.parts["all"].labels is None
    for i in range(3):
        expected = np.asarray(Image.open(folder / f"{i:03d}.png"))
        assert (reading.parts["all"].items[i, 0].numpy() == expected).all()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.webp", "a.tiff", "a.pgm", "A.JPG"])
def test_formats(tmp_path: Path, name: str, noise_image: Callable[..., Image.Image]) -> None:
    noise_image(1).save(tmp_path / name)
    reading = read_path(tmp_path, None, None)
    assert reading.parts["all"].items.shape == (1, 1, 4, 6)
    if name.lower().endswith((".png", ".bmp", ".gif", ".tiff", ".pgm")):
        assert (reading.parts["all"].items[0, 0].numpy() == np.asarray(noise_image(1))).all()


def test_one_colour_image_makes_all_colour_and_hidden_files_are_passed_over(
    image_folder: Make, noise_image: Callable[..., Image.Image]
) -> None:
    folder = image_folder("", count=3)
    noise_image(9, mode="RGB").save(folder / "colour.png")
    (folder / "._000.png").write_bytes(b"rubbish")
    (folder / "readme.md").write_text("words")
    items = read_path(folder, None, None).parts["all"].items
    assert items.shape == (4, 3, 4, 6)
    assert torch.equal(items[0, 0], items[0, 2])
    assert (items[3].numpy() == np.moveaxis(np.asarray(noise_image(9, mode="RGB")), 2, 0)).all()


def test_grey_stored_as_colour_is_grey(tmp_path: Path, noise_image: Callable[..., Image.Image]) -> None:
    for i in range(3):
        noise_image(i).convert("RGB").save(tmp_path / f"{i}.png")
    items = read_path(tmp_path, None, None).parts["all"].items
    assert (items[1].numpy() == np.asarray(noise_image(1))).all()
    assert items.shape[1] == 1


def test_transparency_turns_white_and_sixteen_bits_eight(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (10, 10, 10, 255)
    Image.fromarray(clear, "RGBA").save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 0x1234, np.uint16)).save(tmp_path / "b.png")
    reading = read_path(tmp_path, None, None)
    items = reading.parts["all"].items
    assert items[0, 0, :, 0].tolist() == [10, 10, 255, 255]
    assert (items[1] == 0x12).all()
    assert reading.notes == (
        "1 images of 16 bits were reduced to 8",
        "transparent parts of 1 images were made white",
    )


def test_exif_turns_pictures_upright(tmp_path: Path, noise_image: Callable[..., Image.Image]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise_image(0, size=(4, 6)).save(tmp_path / "turned.png", exif=exif)
    noise_image(1, size=(6, 4)).save(tmp_path / "upright.png")
    items = read_path(tmp_path, None, None).parts["all"].items
    assert items.shape == (2, 1, 4, 6)
    assert (items[0, 0].numpy() == np.rot90(np.asarray(noise_image(0, size=(4, 6))), -1)).all()


def test_mixed_sizes_are_listed_and_can_be_made_equal(
    image_folder: Make, noise_image: Callable[..., Image.Image]
) -> None:
    folder = image_folder("", count=4)
    noise_image(7, size=(9, 5)).save(folder / "other.png")
    with pytest.raises(DataError, match=r"2 sizes, 6x4 \(4\), 9x5 \(1\): .*--data\.size 64"):
        read_path(folder, None, None)
    items = read_path(folder, 3, None).parts["all"].items
    assert items.shape == (5, 1, 3, 3)


def test_size_cuts_the_middle_square(tmp_path: Path) -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_path(tmp_path, 4, None).parts["all"].items == 200).all()


def test_a_few_broken_files_are_skipped_and_named(image_folder: Make) -> None:
    folder = image_folder("a", "b", count=20)
    (folder / "a" / "000.png").write_bytes(b"not an image")
    whole = (folder / "b" / "007.png").read_bytes()
    (folder / "b" / "007.png").write_bytes(whole[: len(whole) - 30])
    reading = read_path(folder, None, None)
    assert reading.notes == ("skipped 2 of 40 images that cannot be read: a/000.png, b/007.png",)
    labels = reading.parts["all"].labels
    assert labels is not None
    assert labels.tolist() == [0] * 19 + [1] * 19
    assert len(reading.parts["all"]) == 38
    expected = np.asarray(Image.open(folder / "b" / "008.png"))
    assert (reading.parts["all"].items[26, 0].numpy() == expected).all()


def test_many_broken_files_stop(image_folder: Make) -> None:
    folder = image_folder("", count=10)
    (folder / "003.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 10 images cannot be read, 003\.png"):
        read_path(folder, None, None)


def test_split_folders_are_splits(image_folder: Make) -> None:
    reading = read_path(image_folder("train/x", "train/y", "test/x", "test/y", count=4), None, None)
    assert {name: len(part) for name, part in reading.parts.items()} == {"train": 8, "test": 8}
    assert reading.classes == ("x", "y")
    assert reading.parts["test"].labels is not None
    assert reading.parts["test"].labels.tolist() == [0] * 4 + [1] * 4


def test_a_validation_folder_alone_becomes_the_test_split(image_folder: Make) -> None:
    reading = read_path(image_folder("train", "val", count=4), None, None)
    assert set(reading.parts) == {"train", "test"}
    assert reading.notes == ("the validation folder is taken as the test split",)


def test_a_single_inner_folder_is_entered(image_folder: Make) -> None:
    assert read_path(image_folder("in/a", "in/b", count=2), None, None).classes == ("a", "b")


def test_memory_is_checked_before_pixels_are_decoded(
    image_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder("", count=10)
    monkeypatch.setattr(pictures, "MAX_BYTES", 239)
    monkeypatch.setattr(pictures, "_pixels", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"need .* GiB, more than"):
        read_path(folder, None, None)


def test_a_picture_of_too_many_pixels_is_refused(image_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = image_folder("", count=1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"000\.png has more than the 20 pixels"):
        read_path(folder, None, None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"000\.png has more than the 10 pixels"):
        read_path(folder, None, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pkl", "may run code"),
        ("all.zip", "unpack it"),
        ("one.png", "single image"),
        ("sound.wav", "is not a folder of images"),
    ],
)
def test_other_files_are_refused_with_advice(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=message):
        read_path(tmp_path / name, None, None)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        read_path(tmp_path, None, None)
