"""DINOv2's vision transformers ViT-S/14, B/14 and L/14. Oquab et al. 2023, arXiv:2304.07193.

Registers: Darcet et al. 2023, arXiv:2309.16588. B batch, T tokens, D width, P patches of a side.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.core.errors import DataError

SIDE = 224
PATCH = 14
HEAD = 64
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NAMES = {(384, 12): "vits14", (768, 12): "vitb14", (1024, 24): "vitl14"}


class Sizes(NamedTuple):
    """What tells one network from another.

    Args:
        width: D, a multiple of 64: every head has 64 numbers.
        depth: the blocks.
        registers: extra tokens without a position, 4 in the published networks that have them.
        grid: P of the images it was trained on, 37 in the published networks.
    """

    width: int
    depth: int
    registers: int = 0
    grid: int = 37


class Dinov2(nn.Module):
    """A vision transformer whose weights carry the names of DINOv2's published checkpoints."""

    PREPROCESSING = f"resized to {SIDE}x{SIDE} bicubic with antialiasing, ImageNet's mean and deviation"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.grid = sizes.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, sizes.registers, width)) if sizes.registers else None
        )
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(width) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def features(self, images: Tensor) -> Tensor:
        """Return the normalised class token of images (B, 3, H, W) in [0, 1], (B, D)."""
        out: Tensor = self(prepare(images))
        return out

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the normalised class token of standardised pixels (B, 3, 14 P, 14 P'), (B, D)."""
        patches = self.patch_embed["proj"](pixels)
        x = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).mT], 1)
        x = x + self.positions(patches.shape[2], patches.shape[3])
        if self.register_tokens is not None:
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(pixels), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x[:, 0])
        return out

    def positions(self, high: int, wide: int) -> Tensor:
        """Return the positional embedding of the class token and a grid of patches, (1, 1 + high wide, D).

        The trained grid is interpolated bicubic: with antialiasing in networks with registers, else as if the
        new grid were 0.1 patches larger, for so the published networks were trained and evaluated.
        """
        if (high, wide) == (self.grid, self.grid):
            return self.pos_embed
        trained = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        if self.register_tokens is not None:
            new = F.interpolate(trained, (high, wide), mode="bicubic", antialias=True)
        else:
            scale = ((high + 0.1) / self.grid, (wide + 0.1) / self.grid)
            new = F.interpolate(trained, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], new.flatten(2).mT], 1)


def prepare(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) in [0, 1] as the network takes them, (B, 3, 224, 224) standardised.

    Bicubic as in Pillow, clamped to [0, 1], the aspect not kept (Stein et al. 2023, arXiv:2306.04675).
    """
    resized = F.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (resized - mean) / std


class Block(nn.Module):
    """Attention and a perceptron, each normalised before, scaled after and added. Tokens (B, T, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.ls1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width)
        self.ls2 = Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, D)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return x


class Attention(nn.Module):
    """Self-attention with heads of 64 numbers. Vaswani et al. 2017, arXiv:1706.03762, equation 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, D)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out


class Perceptron(nn.Module):
    """Two layers, the hidden one four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, D)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Scale(nn.Module):
    """One factor a channel. Touvron et al. 2021, arXiv:2103.17239, equation 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, T, D)."""
        return x * self.gamma


def sizes_of(shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Return the sizes of the network that weights of these names and shapes belong to.

    Raises:
        DataError: they are of no network known here.
    """
    try:
        width, tokens = shapes["cls_token"][-1], shapes["pos_embed"][1]
        registers = shapes["register_tokens"][1] if "register_tokens" in shapes else 0
    except (KeyError, IndexError) as error:
        raise DataError("the weights lack DINOv2's cls_token or pos_embed of a legal shape") from error
    depth = sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in shapes)
    grid = math.isqrt(max(tokens - 1, 0))
    if (width, depth) not in NAMES or grid == 0 or grid**2 != tokens - 1:
        raise DataError(
            f"the weights are of a transformer {width} wide with {depth} blocks and {tokens} positions: "
            f"genloom knows DINOv2's {', '.join(NAMES.values())}, with or without registers"
        )
    return Sizes(width, depth, registers, grid)
