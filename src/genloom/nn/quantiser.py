"""A codebook of vectors that follows what is assigned to it by moving averages.

van den Oord et al. 2017, arXiv:1711.00937.  N vectors, E numbers of each, K codes.
"""

import torch
from torch import Tensor, nn

from genloom.core.randomness import Noise


class Quantiser(nn.Module):
    """K vectors; a vector's code is the number of the nearest.

    Args:
        decay: of the moving averages.
        dead: a code that is assigned fewer vectors than this a batch, on average, starts anew.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, dim: int, decay: float, dead: float) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))

    def nearest(self, z: Tensor) -> Tensor:
        """Return the code of each vector: (..., E) -> (...) int64."""
        flat = z.reshape(-1, z.shape[-1])
        distance = self.codebook.square().sum(1) - 2 * flat @ self.codebook.t()
        return distance.argmin(1).view(z.shape[:-1])

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes: (...) -> (..., E)."""
        return self.codebook[codes]

    @torch.no_grad()
    def follow(self, z: Tensor, noise: Noise) -> None:
        """Move the codebook towards vectors (N, E), and put dead codes on some of them, in place.

        Source: van den Oord et al. 2017, appendix A.1, equations 6 to 8; restarts as in Dhariwal et al. 2020,
            arXiv:2005.00341, section 3.1. All codes are dead at first, so the first batch sets them.
        """
        z, codes = z.to(self.sums), self.nearest(z)
        counts = torch.bincount(codes, minlength=len(self.codebook)).to(z)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add(0, codes, z), 1 - self.decay)
        dead = self.counts < self.dead
        chosen = z[(noise.uniform(len(dead))[0] * len(z)).long().clamp_max(len(z) - 1)]
        level = self.counts.new_full((), max(self.dead, 1.0))
        self.counts.copy_(torch.where(dead, level, self.counts))
        self.sums.copy_(torch.where(dead[:, None], level * chosen, self.sums))
        self.codebook.copy_(self.sums / self.counts[:, None])


def perplexity(codes: Tensor, count: int) -> Tensor:
    """Return how many of ``count`` codes are in use: exp of the entropy of their frequencies."""
    share = torch.bincount(codes.flatten(), minlength=count).float() / codes.numel()
    return torch.special.entr(share).sum().exp()


def to_bits(codes: Tensor, width: int) -> Tensor:
    """Write codes (B, H, W) as binary digits (B, width, H, W), the lowest first."""
    return torch.stack([codes >> i & 1 for i in range(width)], 1)


def from_bits(digits: Tensor) -> Tensor:
    """Undo ``to_bits``."""
    return sum((part << i for i, part in enumerate(digits.unbind(1))), torch.zeros_like(digits[:, 0]))
