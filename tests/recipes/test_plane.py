"""Families on points in the plane: the picture and the gaps to the truth."""

import json

import pytest
from PIL import Image

from genloom.core.errors import ConfigError
from genloom.recipes.plane import TOYS, draw_plane, takers
from genloom.train.config import TrainConfig


def test_a_picture_with_a_row_for_each_family(tmp_path) -> None:
    train, names = TrainConfig(steps=2), ["baseline.gmm", "vae.gaussian", "gan.wgan_gp"]
    gaps = draw_plane(tmp_path, train, families=names, points=2_000, progress=False, say=lambda _: None)
    assert list(gaps) == names
    assert 0 < gaps["baseline.gmm"]["two_moons"] < 0.1
    assert gaps["vae.gaussian"]["rings"] > gaps["baseline.gmm"]["rings"]
    assert set(gaps["gan.wgan_gp"].values()) == {None}
    assert gaps["baseline.gmm"]["pinwheel"] is None
    with Image.open(tmp_path / "toys.png") as picture:
        width, height = picture.size
        assert len(picture.getcolors(width * height)) > 100
        assert width > 4 * 110
        assert height > 4 * 110
    assert json.loads((tmp_path / "toys.json").read_text())["gaps"] == gaps
    assert len(list((tmp_path / "runs").iterdir())) == len(names) * len(TOYS)


def test_who_takes_points(tmp_path) -> None:
    assert {"flow.nsf", "baseline.kde", "diffusion.ddpm"} <= set(takers())
    assert "ar.pixelcnn" not in takers()
    with pytest.raises(ConfigError, match=r"ar\.pixelcnn cannot be drawn"):
        draw_plane(tmp_path, TrainConfig(steps=1), families=["ar.pixelcnn"])
