"""Draws of data of which more is known than their denoiser is told, by particles and their weights.

B items, K particles of each, S event shape.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from genloom.core.randomness import invert_shares
from genloom.math.solvers import Draw, Grid, redrawing

Look = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""Returns for x (B, K, *S) at a place the denoiser's estimate of x_0, one that minds what is known, and a
twist (B, K): about the log density of what is known given x, up to a constant of the place."""


def twisted(look: Look, x: Tensor, grid: Grid, draw: Draw, uniform: Draw) -> Tensor:
    """Walk by ancestral sampling from estimates that mind what is known, and return a particle of each item.

    Weights make up for what such moves and twists miss. The law of what is returned becomes exact with the
    number of particles and places, as far as the last twist is the density of what is known. Particles are
    drawn anew where they count for fewer than half.

    Args:
        x: where particles begin, (B, K, *S).
        draw: returns standard normals (B, K, *S).
        uniform: returns uniforms (B,).

    Source: Wu et al. 2023, arXiv:2306.17775, algorithm 1.
    """
    free, led, twist = look(x, 0)
    weight = twist = sound(twist)
    for i in range(grid.moves - 1):
        kept, moved, spread = redrawing(grid, i, i + 1)
        off, noise = moved * (led - free) / spread, draw()
        x = kept * x + moved * led + spread * noise
        free, led, now = look(x, i + 1)
        now = sound(now)
        passed = (off * (off / 2 + noise)).flatten(2).sum(2)
        chosen, weight = resampled(weight + now - twist - passed, uniform())
        x, free, led, twist = (pick(part, chosen) for part in (x, free, led, now))
    return pick(led, invert_shares(weight.softmax(1), uniform())[:, None])[:, 0]


def sound(twist: Tensor) -> Tensor:
    """Return twists (B, K) with the least of their item in place of those that are not finite."""
    finite = twist.isfinite()
    least = twist.masked_fill(~finite, torch.inf).amin(1, keepdim=True)
    return twist.where(finite, least.nan_to_num(posinf=0))


def resampled(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return which particles go on, (B, K), and their weights, by one uniform (B,) an item.

    Where they count for at least half of K, all do. Source: Kitagawa 1996, JCGS 5, appendix (systematic).

    Args:
        weight: logarithms (B, K).
    """
    shares, count = weight.softmax(1), weight.shape[1]
    all_of_them = torch.arange(count).expand_as(weight)
    places = (u[:, None] + torch.arange(count)) / count
    chosen = torch.searchsorted(shares.cumsum(1), places.to(shares)).clamp_max(count - 1)
    few = shares.square().sum(1, keepdim=True) * count > 2
    return torch.where(few, chosen, all_of_them), weight.masked_fill(few, 0)


def pick(particles: Tensor, index: Tensor) -> Tensor:
    """Return particles (B, K', ...) of these numbers (B, K') among (B, K, ...)."""
    return particles[torch.arange(len(particles))[:, None], index]
