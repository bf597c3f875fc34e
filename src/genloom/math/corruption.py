"""Corruption of symbols, and the way back: each is kept with probability alpha_t, else drawn anew from pi.

With pi all on a symbol of its own ("mask") it is absorbing, else uniform. Austin et al. 2021,
arXiv:2107.03006, appendix A.  B batch, D symbols of an item, K kinds of symbols.
"""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def corrupted(x: Tensor, kept: Tensor, fresh: Tensor, chance: Tensor) -> Tensor:
    """Return symbols x (B, D) of which each is kept with a probability (B,), and fresh ones (B, D) else.

    Args:
        chance: uniform on [0, 1), (B, D).
    """
    return torch.where(chance < kept[:, None].to(chance), x, fresh)


def stepped_back(x: Tensor, told: Tensor, pi: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Return p(x_s | x_t) of each symbol by what is told of its clean one, (B, D, K).

    That is the sum over x_0 of q(x_s | x_t, x_0) told(x_0), with no sum over pairs: q(x_s | x_0) is
    alpha_s where both are the same and (1 - alpha_s) pi(x_s) besides.

    Args:
        x: symbols at t, (B, D).
        told: probabilities of each clean symbol, (B, D, K), 0 for those that cannot lead to x.
        pi: (K,).
        near, far: alpha_s and alpha_t, (B,), of which the first is larger.

    Source: Austin et al. 2021, equations 3 and 4.
    """
    near, far = near.to(told)[:, None, None], far.to(told)[:, None, None]
    same, fresh = one_hot(x, len(pi)).to(told), pi.to(told)[x][..., None]
    reached = far * same + (1 - far) * fresh
    share = torch.where(told > 0, told / reached.clamp_min(torch.finfo(told.dtype).tiny), 0)
    before = near * share + (1 - near) * pi.to(told) * share.sum(-1, keepdim=True)
    kept = far / near
    return (kept * same + (1 - kept) * fresh) * before


def divergence(true: Tensor, own: Tensor) -> Tensor:
    """Return KL(true || own) of probabilities (B, D, K), summed over symbols, (B,) nats."""
    log = own.clamp_min(torch.finfo(own.dtype).tiny).log()
    nats: Tensor = torch.special.xlogy(true, true) - true * log
    return nats.sum((1, 2))


def drawn(probabilities: Tensor, chance: Tensor) -> Tensor:
    """Draw symbols (B, D) by probabilities (B, D, K) up to a factor.

    Args:
        chance: uniform on [0, 1), (B, D).
    """
    heights = probabilities.double().cumsum(-1)
    below = heights <= chance.double()[..., None] * heights[..., -1:]
    return below.sum(-1).clamp_max(probabilities.shape[-1] - 1)
