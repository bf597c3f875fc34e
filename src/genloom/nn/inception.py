"""Inception-v3, and its variant in the literature of the Fréchet inception distance.

Szegedy et al. 2015, arXiv:1512.00567; the distance: Heusel et al. 2017, arXiv:1706.08500.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kernel = int | tuple[int, int]
Layer = tuple[tuple[int, Kernel], ...]
Branches = Mapping[str, Sequence[Layer]]
Variant = Literal["fid", "torchvision"]

CLASSES: Mapping[Variant, int] = {"fid": 1008, "torchvision": 1000}
SIDE = 299


class InceptionV3(nn.Module):
    """Inception-v3 without its auxiliary head; its weights carry torchvision's names.

    Args:
        variant: ``fid`` is the network of the TensorFlow graph inception-2015-12-05, whose average pooling
            leaves padding out, whose last block takes the maximum, and which has 1008 outputs;
            ``torchvision`` is the network of the paper with 1000 outputs.
    """

    PREPROCESSING = f"resized to {SIDE}x{SIDE} bilinear without antialiasing, scaled to [-1, 1]"

    def __init__(self, variant: Variant = "fid") -> None:
        super().__init__()
        average = partial(
            F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=variant == "torchvision"
        )
        largest = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2, padding=0)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3, padding=0)
        self.Mixed_5b = Mixed(192, SQUARES, average, 32)
        self.Mixed_5c = Mixed(256, SQUARES, average, 64)
        self.Mixed_5d = Mixed(288, SQUARES, average, 64)
        self.Mixed_6a = Reduction(288, SQUARES_HALVED)
        self.Mixed_6b = Mixed(768, _factorised(128), average, 192)
        self.Mixed_6c = Mixed(768, _factorised(160), average, 192)
        self.Mixed_6d = Mixed(768, _factorised(160), average, 192)
        self.Mixed_6e = Mixed(768, _factorised(192), average, 192)
        self.Mixed_7a = Reduction(768, FACTORISED_HALVED)
        self.Mixed_7b = Mixed(1280, EXPANDED, average, 192)
        self.Mixed_7c = Mixed(2048, EXPANDED, largest if variant == "fid" else average, 192)
        self.fc = nn.Linear(2048, CLASSES[variant])

    def features(self, images: Tensor) -> Tensor:
        """Return the average over positions of the last block (``pool3``), (B, 2048).

        Args:
            images: (B, 3, H, W) float in [0, 1].
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(prepare(images))))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images (B, 3, H, W) in [0, 1], (B, classes)."""
        out: Tensor = self.fc(self.features(images))
        return out


def prepare(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] as the network takes them, (B, 3, 299, 299) in [-1, 1].

    Deviation: the TensorFlow graph samples at pixel corners and scales levels by (level - 128) / 128; this
    samples at centres and reaches 1, as its ports to PyTorch do.
    """
    return 2 * F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def unused(name: str) -> bool:
    """Whether features need no such weight: the auxiliary head's, and counters of training batches."""
    return name.startswith("AuxLogits.") or name.endswith(".num_batches_tracked")


class Unit(nn.Module):
    """A convolution that keeps the size by default, batch normalisation and a rectifier."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        border = (high // 2, wide // 2) if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, (high, wide), stride, border, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps (B, outputs, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side over the same maps, the last of them pooled before one convolution."""

    def __init__(
        self, inputs: int, branches: Branches, pool: Callable[[Tensor], Tensor], pooled: int
    ) -> None:
        super().__init__()
        self.paths = [_grow(self, inputs, name, layers, last_stride=1) for name, layers in branches.items()]
        self.pool = pool
        self.branch_pool = Unit(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps in their order, the pooled ones last."""
        return torch.cat(
            [*(_follow(self, path, x) for path in self.paths), self.branch_pool(self.pool(x))], 1
        )


class Reduction(nn.Module):
    """Branches side by side that halve the maps, beside the maps themselves, pooled."""

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__()
        self.paths = [_grow(self, inputs, name, layers, last_stride=2) for name, layers in branches.items()]

    def forward(self, x: Tensor) -> Tensor:
        """Return the branches' maps in their order, the pooled ones last."""
        return torch.cat([*(_follow(self, path, x) for path in self.paths), F.max_pool2d(x, 3, 2)], 1)


def _grow(
    block: nn.Module, inputs: int, name: str, layers: Sequence[Layer], last_stride: int
) -> list[list[str]]:
    """Give the block the units of one branch, and return their names layer by layer."""
    path = []
    for number, layer in enumerate(layers, 1):
        stride = last_stride if number == len(layers) else 1
        names = _names(name if len(layers) == 1 else f"{name}_{number}", layer)
        for unit, (outputs, kernel) in zip(names, layer, strict=True):
            block.add_module(unit, Unit(inputs, outputs, kernel, stride, None if stride == 1 else 0))
        path.append(names)
        inputs = sum(outputs for outputs, _ in layer)
    return path


def _names(stem: str, layer: Layer) -> list[str]:
    return [stem] if len(layer) == 1 else [f"{stem}{letter}" for letter, _ in zip("ab", layer, strict=True)]


def _follow(block: nn.Module, path: list[list[str]], x: Tensor) -> Tensor:
    for names in path:
        x = torch.cat([block.get_submodule(name)(x) for name in names], 1)
    return x


def _one(outputs: int, kernel: Kernel) -> Layer:
    return ((outputs, kernel),)


def _factorised(width: int) -> Branches:
    """Return the branches of figure 6, n = 7."""
    row, column = _one(width, (1, 7)), _one(width, (7, 1))
    return {
        "branch1x1": [_one(192, 1)],
        "branch7x7": [_one(width, 1), row, _one(192, (7, 1))],
        "branch7x7dbl": [_one(width, 1), column, row, column, _one(192, (1, 7))],
    }


# Figure 5 of the paper, and how it halves (figure 10).
SQUARES: Branches = {
    "branch1x1": [_one(64, 1)],
    "branch5x5": [_one(48, 1), _one(64, 5)],
    "branch3x3dbl": [_one(64, 1), _one(96, 3), _one(96, 3)],
}
SQUARES_HALVED: Branches = {
    "branch3x3": [_one(384, 3)],
    "branch3x3dbl": [_one(64, 1), _one(96, 3), _one(96, 3)],
}
FACTORISED_HALVED: Branches = {
    "branch3x3": [_one(192, 1), _one(320, 3)],
    "branch7x7x3": [_one(192, 1), _one(192, (1, 7)), _one(192, (7, 1)), _one(192, 3)],
}
# Figure 7: each longer branch ends in a row and a column side by side.
FORK: Layer = ((384, (1, 3)), (384, (3, 1)))
EXPANDED: Branches = {
    "branch1x1": [_one(320, 1)],
    "branch3x3": [_one(384, 1), FORK],
    "branch3x3dbl": [_one(448, 1), _one(384, 3), FORK],
}
