"""Grids of images: native size, separators, exact pixels; and files that hold them."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genloom.modalities.drawing import SEPARATOR, animation
from genloom.modalities.images import Images
from genloom.modalities.readers import read_path


def items(count: int, channels: int = 1, levels: int = 256) -> torch.Tensor:
    source = torch.Generator().manual_seed(count)
    return torch.randint(0, levels, (count, channels, 4, 6), generator=source, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_has_native_pixels_and_separators_of_one_pixel(channels: int) -> None:
    images = items(5, channels)
    media, picture = Images((channels, 4, 6)).draw(images, columns=3)
    assert media == "image/png"
    opened = Image.open(io.BytesIO(picture))
    assert opened.mode == ("L" if channels == 1 else "RGB")
    assert opened.size == (3 * 7 + 1, 2 * 5 + 1)
    pixels = np.asarray(opened).reshape(11, 22, channels)
    assert (pixels[[0, 5, 10]] == SEPARATOR).all()
    assert (pixels[:, [0, 7, 14, 21]] == SEPARATOR).all()
    assert (pixels[6:10, 8:14] == images[4].movedim(0, 2).numpy()).all()
    assert (pixels[6:10, 15:21] == SEPARATOR).all()


def test_few_levels_are_stretched_to_black_and_white() -> None:
    images = torch.tensor([0, 8, 16], dtype=torch.uint8).reshape(1, 1, 1, 3)
    pixels = np.asarray(Image.open(io.BytesIO(Images((1, 1, 3), 17).draw(images)[1])))
    assert pixels[1, 1:4].tolist() == [0, 128, 255]


def test_reference_images_stand_below() -> None:
    modality, images = Images((1, 4, 6)), items(4)
    both = np.asarray(Image.open(io.BytesIO(modality.draw(images, 2, images[:1])[1])))
    alone = np.asarray(Image.open(io.BytesIO(modality.draw(images, 2)[1])))
    assert (both[: len(alone)] == alone).all()
    assert (both[len(alone) :, :8] == alone[:6, :8]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_files_written_are_read_back_exactly(channels: int, tmp_path: Path) -> None:
    images, labels = items(12, channels), torch.arange(12) // 4
    names = [("ant", "bee 2", "c+")[i] for i in labels.tolist()]
    paths = Images((channels, 4, 6)).write(images, names, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in paths][3:5] == [
        "ant/000003.png",
        "bee 2/000004.png",
    ]
    found = read_path(tmp_path / "out", None, None)
    assert torch.equal(found.parts["all"].items, images)
    assert found.parts["all"].labels is not None
    assert torch.equal(found.parts["all"].labels, labels)
    assert found.classes == ("ant", "bee 2", "c+")


def test_class_names_are_no_paths(tmp_path: Path) -> None:
    paths = Images((1, 4, 6)).write(items(3), ["../up", "..", "a/b"], tmp_path / "out")
    assert [path.parent.name for path in paths] == [".._up", "class ..", "a_b"]
    assert all(path.parent.parent == tmp_path / "out" for path in paths)


def test_without_labels_files_lie_side_by_side(tmp_path: Path) -> None:
    paths = Images((1, 4, 6)).write(items(2), None, tmp_path)
    assert [path.name for path in paths] == ["000000.png", "000001.png"]


def test_an_animation_plays_forth_and_back() -> None:
    frames = [Images((1, 4, 6)).draw(items(3).roll(n, 0))[1] for n in range(3)]
    with Image.open(io.BytesIO(animation(frames))) as moving:
        assert (moving.format, moving.n_frames) == ("PNG", 4)
        shown = []
        for number in range(4):
            moving.seek(number)
            shown.append(np.asarray(moving.convert("L")))
    still = [np.asarray(Image.open(io.BytesIO(frame))) for frame in frames]
    assert [next(i for i, s in enumerate(still) if np.array_equal(s, p)) for p in shown] == [0, 1, 2, 1]
