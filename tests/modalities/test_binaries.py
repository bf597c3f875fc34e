"""Tables of zeros and ones."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genloom.core.events import Binary, Leaf
from genloom.core.randomness import SampleNoise
from genloom.modalities.base import Dataset
from genloom.modalities.binaries import Binaries
from genloom.modalities.datasets import from_json, open_data


@pytest.fixture
def survey(tmp_path: Path) -> Dataset:
    """Return a table of three files, one a split, with a constant column and rows that repeat."""
    generator = np.random.default_rng(0)
    for split, rows in (("train", 80), ("valid", 20), ("test", 30)):
        answers = generator.integers(0, 2, (rows, 4))
        answers[:, 3] = 1
        np.savetxt(tmp_path / f"survey.{split}.csv", answers, fmt="%d", delimiter=",")
    return open_data(str(tmp_path))


def test_rows_of_bits_stay_as_they_are(survey: Dataset) -> None:
    assert isinstance(survey.modality, Binaries)
    assert [len(part) for part in (survey.train, survey.valid, survey.test)] == [80, 20, 30]
    (view,) = survey.modality.views()
    assert view.event == Leaf((4,), Binary())
    encoded = view.encode(survey.test.items)
    assert isinstance(encoded, torch.Tensor)
    assert encoded.element_size() == 1, "a training set is kept in as little memory as it needs"
    seen = view.perturb(encoded, SampleNoise(0, torch.arange(30)))
    assert isinstance(seen, torch.Tensor)
    assert seen.dtype == torch.int64
    assert torch.equal(view.decode(seen), survey.test.items)


def test_bits_are_written_and_read_back(survey: Dataset, tmp_path: Path) -> None:
    labels = ["yes"] * 30
    (path,) = survey.modality.write(survey.test.items, labels, tmp_path / "out")
    lines = path.read_text().splitlines()
    assert lines[0] == "column 1,column 2,column 3,column 4,label"
    assert lines[1] == ",".join(str(int(bit)) for bit in survey.test.items[0]) + ",yes"
    assert from_json(survey.modality.describe()).describe() == survey.modality.describe()


def test_a_picture_has_a_line_for_each_row(survey: Dataset) -> None:
    media, picture = survey.modality.draw(survey.test.items[:7], reference=survey.train.items)
    assert media == "image/png"
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    assert pixels.shape == (7 * 4 + 2, 2 * (4 * 4 + 1) + 1)
    assert pixels[3, 3] == 255 * (1 - survey.test.items[0, 0])
    assert pixels[3, 15] == 0, "the constant column is all ones"
