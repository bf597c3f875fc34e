"""Fixtures: no network, and small image files made on the fly."""

import io
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is off in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def noise_image() -> Callable[..., Image.Image]:
    def make(seed: int, size: tuple[int, int] = (6, 4), mode: str = "L") -> Image.Image:
        width, height = size
        shape = (height, width) if mode == "L" else (height, width, len(mode))
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)

    return make


@pytest.fixture
def encoded(noise_image: Callable[..., Image.Image]) -> Callable[..., bytes]:
    def make(seed: int, kind: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        noise_image(seed, **options).save(buffer, kind)
        return buffer.getvalue()

    return make


@pytest.fixture
def image_folder(tmp_path: Path, noise_image: Callable[..., Image.Image]) -> Write:
    """Return a function that fills sub-folders with PNG files, ``count`` in each."""

    def fill(*homes: str, count: int = 10, **options: object) -> Path:
        for h, home in enumerate(homes):
            folder = tmp_path / "pictures" / home
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise_image(1_000 * h + i, **options).save(folder / f"{i:03d}.png")
        return tmp_path / "pictures"

    return fill
