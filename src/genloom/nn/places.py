"""Networks that say of every place of an item, given all, which symbol belongs there.

B batch, D places, K kinds of symbols that are said, E embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genloom.nn.attention import Step, angles, everywhere
from genloom.nn.dropout import identity
from genloom.nn.norms import rms_norm
from genloom.nn.transformer import Block, usual_sizes
from genloom.nn.unet import TimeLabelEmbedding, UNet


class ImagePlaces(nn.Module):
    """A U-Net between an embedding of the symbols of images and logits.

    Args:
        inputs: kinds of symbols that are seen.
        outputs: K.
    """

    def __init__(
        self,
        extents: tuple[int, int, int],
        inputs: int,
        outputs: int,
        classes: int,
        shade: int,
        embedding: int,
        widths: Sequence[int],
        depths: Sequence[int],
        patch: int,
    ) -> None:
        super().__init__()
        self.extents, self.outputs = extents, outputs
        self.shade = nn.Embedding(inputs, shade)
        self.given = TimeLabelEmbedding(embedding, classes)
        channels = extents[0]
        self.unet = UNet(channels * shade, embedding, widths, depths, patch, channels * outputs)

    def forward(self, symbols: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Map symbols (B, D), times (B,) in [0, 1] and labels (B,) to logits (B, D, K)."""
        channels, height, width = self.extents
        seen = self.shade(symbols.view(-1, *self.extents)).permute(0, 1, 4, 2, 3).flatten(1, 2)
        found = self.unet(seen, self.given(time, label)).view(-1, channels, self.outputs, height, width)
        return found.permute(0, 1, 3, 4, 2).flatten(1, 3)


class SequencePlaces(nn.Module):
    """A transformer whose places look at all others.

    Args:
        inputs: kinds of symbols that are seen.
        outputs: K.
    """

    turn: Tensor

    def __init__(
        self, places: int, inputs: int, outputs: int, classes: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        sizes = usual_sizes(width, layers, heads, heads)
        self.symbols = nn.Embedding(inputs, width)
        self.given = TimeLabelEmbedding(width, classes)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(layers))
        self.head = nn.Linear(width, outputs)
        self.register_buffer("turn", angles(places, sizes.size), persistent=False)
        nn.init.normal_(self.symbols.weight, std=0.5)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, symbols: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Map symbols (B, D), times (B,) in [0, 1] and labels (B,) to logits (B, D, K)."""
        x = self.symbols(symbols) + self.given(time, label)[:, None]
        seen = torch.ones(1, 1, 1, symbols.shape[1], dtype=torch.bool)
        step = Step(self.turn.to(x.dtype), everywhere(seen))
        for layer, block in enumerate(self.blocks):
            x = block(x, step, layer, identity)
        return self.head(rms_norm(x))
