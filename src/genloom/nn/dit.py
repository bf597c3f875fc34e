"""A transformer of image patches.

B batch, C channels, H height, W width, E embedding, D width, L patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.attention import Attention, Gated, Step, everywhere, gated_width
from genloom.nn.norms import rms_norm
from genloom.nn.unet import WordAttention, Words, silence

BASE = 100.0
"""Of the wavelengths of rows and columns, of which images have few."""


def grid_angles(rows: int, columns: int, size: int) -> Tensor:
    """Return the rotations of places (2, rows * columns, size), half of the pairs by row, half by column.

    Source: Heo et al. 2024, arXiv:2403.13298, section 3.2 (axial rotary positions).
    """
    rates = BASE ** (-torch.arange(0, size, 4, dtype=torch.float64) / size)
    down = torch.arange(rows, dtype=torch.float64).repeat_interleave(columns)[:, None] * rates
    across = torch.arange(columns, dtype=torch.float64).repeat(rows)[:, None] * rates
    turned = torch.cat((down, across), 1)
    cos, sin = turned.cos(), turned.sin()
    return torch.stack((torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1))).float()


class ModulatedBlock(nn.Module):
    """Attention and a gated unit, each added to what it reads; the embedding scales, shifts and weighs both.

    Source: Peebles & Xie 2023, arXiv:2212.09748, section 3.2 (adaLN-Zero); here what is added starts at zero
    and its weight at one.
    """

    def __init__(self, width: int, heads: int, embedding: int, reads: bool) -> None:
        super().__init__()
        self.attention = Attention(width, heads, heads, width // heads)
        self.reading = WordAttention(width, embedding) if reads else None
        self.gated = Gated(width, gated_width(width))
        self.modulation = nn.Linear(embedding, 6 * width)
        silence(self.modulation)

    def forward(self, x: Tensor, embedding: Tensor, words: Words | None, step: Step, layer: int) -> Tensor:
        """Map (B, L, D) to (B, L, D)."""
        first, second = self.modulation(embedding)[:, None].chunk(2, 2)
        scale, shift, weight = first.chunk(3, 2)
        found = self.attention(torch.addcmul(shift, rms_norm(x), 1 + scale), step, layer)
        x = torch.addcmul(x, found, 1 + weight)
        if self.reading is not None and words is not None:
            x = x + self.reading(rms_norm(x), words)
        scale, shift, weight = second.chunk(3, 2)
        return torch.addcmul(x, self.gated(torch.addcmul(shift, rms_norm(x), 1 + scale)), 1 + weight)


class DiT(nn.Module):
    """Maps images (B, C, H, W) of any size and an embedding (B, E) to images of the same shape.

    Args:
        patch: side of the squares that are places of the transformer; sizes that it does not divide are
            padded with zeros and cropped.
        reads: each block looks at words.
        outputs: channels of what it maps to, C if none.
    """

    def __init__(
        self,
        channels: int,
        embedding: int,
        width: int,
        layers: int,
        heads: int,
        patch: int,
        reads: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.size = patch, width // heads
        self.enter = nn.Linear(channels * patch**2, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width, heads, embedding, reads) for _ in range(layers))
        self.modulation = nn.Linear(embedding, 2 * width)
        self.leave = nn.Linear(width, (outputs or channels) * patch**2)
        silence(self.modulation, self.leave)

    def forward(self, x: Tensor, embedding: Tensor, words: Words | None = None) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pixel_unshuffle(F.pad(x, (0, -width % self.patch, 0, -height % self.patch)), self.patch)
        rows, columns = x.shape[-2:]
        seen, embedding = torch.ones(1, 1, 1, rows * columns, dtype=torch.bool), F.silu(embedding)
        step = Step(grid_angles(rows, columns, self.size).to(x), everywhere(seen))
        h = self.enter(x.flatten(2).transpose(1, 2))
        for layer, block in enumerate(self.blocks):
            h = block(h, embedding, words, step, layer)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, 2)
        h = self.leave(torch.addcmul(shift, rms_norm(h), 1 + scale))
        whole = F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (rows, columns)), self.patch)
        return whole[..., :height, :width]
