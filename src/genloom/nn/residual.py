"""A residual network of vectors.  B batch, D scalars, E embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.nn.unet import silence


class ResidualMLP(nn.Module):
    """Maps vectors, or any shape of D scalars flattened, and an embedding (B, E) to the same shape.

    Args:
        outputs: scalars of what it maps to, D if none: the first axis is as much shorter or longer.
    """

    def __init__(
        self, dim: int, embedding: int, hidden: int, layers: int, outputs: int | None = None
    ) -> None:
        super().__init__()
        self.inputs = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(DenseBlock(hidden, embedding) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, outputs or dim))
        silence(self.head[2])

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h, embedding = self.inputs(x.flatten(1)), F.silu(embedding)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(h).view(len(x), -1, *x.shape[2:])


class DenseBlock(nn.Module):
    """Two dense layers, scaled and shifted by the embedding, and added. It starts as the identity."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        silence(self.modulation, self.second)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        return x + self.second(F.silu(self.first(torch.addcmul(shift, self.norm(x), 1 + scale))))
