"""A U-Net for small images that is fast on a CPU.  B batch, C channels, E embedding, W width of a level.

Everything stays channels-last, where convolutions are fastest. There, PyTorch's GroupNorm is fast only
if each group holds 16 channels or more (its vector loop runs inside a group), so groups hold 16. Skips
are added, not concatenated, which halves the work of each first convolution of the decoder.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.attention import shares

GROUP_WIDTH = 16

HUSHED = 0.3
"""Of the usual weights, with which branches begin."""


def time_features(time: Tensor, width: int) -> Tensor:
    """Return sines and cosines of a time in [0, 1] at geometric frequencies 1..1000, (B,) to (B, width).

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5, with other frequencies.
    """
    octaves = torch.linspace(0, math.log(1000), width // 2, dtype=time.dtype, device=time.device)
    angle = time[:, None] * octaves.exp()
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class TimeLabelEmbedding(nn.Module):
    """Embeds a time in [0, 1] and a label in 0..classes, where ``classes`` means no label, as (B, E)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.features = width // 2
        self.time = nn.Sequential(nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)

    def forward(self, time: Tensor, label: Tensor) -> Tensor:
        return self.time(time_features(time, self.features)) + self.label(label)


def group_norm(width: int) -> nn.GroupNorm:
    """Return a GroupNorm with 16 channels a group, or a single group if 16 does not divide the width."""
    return nn.GroupNorm(width // GROUP_WIDTH if width % GROUP_WIDTH == 0 else 1, width)


class Words(NamedTuple):
    """Words to look at, (B, L, E), and which of them there are, (B, L)."""

    values: Tensor
    present: Tensor


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the embedding scales and shifts between them. It starts near the identity.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, section 3 (scale-shift norm), without dropout.
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = group_norm(width)
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.norm_out = group_norm(width)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        silence(self.modulation)
        hush(self.conv_out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        return x + self.conv_out(F.silu(torch.addcmul(shift, h, 1 + scale)))


def heads_of(width: int, head_width: int) -> int:
    """Return the number of heads, of this width or somewhat wider, that divides a width."""
    return next(h for h in range(max(1, width // head_width), 0, -1) if width % h == 0)


class PixelAttention(nn.Module):
    """Self-attention between the pixels of a small map, added to it. It starts as the identity.

    Written out: for maps this small, PyTorch's fused kernel takes ten times as long in bfloat16 on a CPU.
    """

    def __init__(self, width: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = heads_of(width, head_width)
        self.norm = group_norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        silence(self.out)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        q, k, v = self.qkv(flat).view(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        mixed = (weight.to(v.dtype) @ v).transpose(1, 2).reshape(b, h * w, c)
        return x + self.out(mixed).view(b, h, w, c).permute(0, 3, 1, 2)


class WordAttention(nn.Module):
    """Each place of a sequence (B, N, W) looks at words; what it finds is to be added. It starts as zero.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 3.3.
    """

    def __init__(self, width: int, embedding: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = heads_of(width, head_width)
        self.ask = nn.Linear(width, width)
        self.show = nn.Linear(embedding, 2 * width)
        self.out = nn.Linear(width, width)
        silence(self.out)

    def forward(self, x: Tensor, words: Words) -> Tensor:
        query = self.ask(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key, value = self.show(words.values).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = shares(query, key, words.present[:, None, None]) @ value
        return self.out(found.transpose(1, 2).flatten(2))


class Chain(nn.Module):
    """Residual blocks in sequence."""

    def __init__(self, width: int, embedding: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(depth))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return x


def doubled(x: Tensor) -> Tensor:
    """Repeat each pixel of maps (B, C, H, W) in both directions, channels last.

    Written out: compiled by torch 2.13 for a CPU in bfloat16, ``interpolate`` passed no gradient here.
    """
    b, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None]
    return pixels.expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """Maps images (B, C, H, W) of any size and an embedding (B, E) to images of the same size.

    Args:
        outputs: their channels, C if none.
        widths: channels of each level, finest first; each level halves the size.
        depths: residual blocks of each level, on the way down and again on the way up.
        patch: side of the squares that are folded into channels first, so that all levels are smaller.
        reads: the coarsest level looks at words.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; attention at the coarsest level only. Sizes that
    the levels do not divide are padded with zeros and cropped.
    """

    def __init__(
        self,
        channels: int,
        embedding: int,
        widths: Sequence[int],
        depths: Sequence[int],
        patch: int = 1,
        outputs: int | None = None,
        reads: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.multiple = patch, patch * 2 ** (len(widths) - 1)
        folded, pairs = channels * patch**2, list(itertools.pairwise(widths))
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.downs = nn.ModuleList(Chain(w, embedding, d) for w, d in zip(widths, depths, strict=True))
        self.shrinks = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.attention = PixelAttention(widths[-1])
        self.reading = WordAttention(widths[-1], embedding) if reads else None
        self.ups = nn.ModuleList(Chain(w, embedding, d) for w, d in zip(widths, depths, strict=True))
        self.grows = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.norm = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], (outputs or channels) * patch**2, 3, padding=1)
        silence(self.head)

    def forward(self, x: Tensor, embedding: Tensor, words: Words | None = None) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        x = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        h = self._levels(self.stem(x), F.silu(embedding), words)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.patch)[..., :height, :width]

    def _levels(self, h: Tensor, embedding: Tensor, words: Words | None) -> Tensor:
        """Run down to the coarsest level and up again."""
        skips = []
        for down, shrink in zip(self.downs, self.shrinks, strict=False):
            skips.append(down(h, embedding))
            h = shrink(skips[-1])
        h = self._read(self.attention(self.downs[-1](h, embedding)), words)
        h = self.ups[-1](h, embedding)
        for up, grow, skip in zip(self.ups[-2::-1], self.grows[::-1], skips[::-1], strict=True):
            h = up(doubled(grow(h)) + skip, embedding)
        return h

    def _read(self, h: Tensor, words: Words | None) -> Tensor:
        """Let the pixels of maps (B, W, H, W) look at words."""
        if self.reading is None or words is None:
            return h
        b, c, height, width = h.shape
        found = self.reading(h.permute(0, 2, 3, 1).reshape(b, height * width, c), words)
        return h + found.view(b, height, width, c).permute(0, 3, 1, 2)


def hush(layer: nn.Module) -> None:
    """Make weights and biases smaller, so that a branch that ends in this layer starts low."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(HUSHED)


def silence(*layers: nn.Module) -> None:
    """Set all weights and biases to zero, so that the branches that end in these layers start silent."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
