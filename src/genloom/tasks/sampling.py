"""Draw samples so that sample i of seed s is the same whatever the number asked for."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Sampler, Steerable, need
from genloom.core.events import Event, Leaf, Value, stack, take
from genloom.core.randomness import Noise, SampleNoise
from genloom.core.watching import counted

MICRO_BATCH = 64
"""Rows computed together; fixed and recorded, since a matrix product's last bits depend on it."""


LARGE = 3 * 256 * 256
"""Values of an item from which few are computed together."""

FEW = 4


def rows_together(event: Event) -> int:
    """Return how many items of an event are computed together."""
    return FEW if isinstance(event, Leaf) and event.dim >= LARGE else MICRO_BATCH


@torch.no_grad()
def sample(
    model: nn.Module,
    n: int,
    *,
    seed: int = 0,
    cond: Value | None = None,
    micro_batch: int = MICRO_BATCH,
) -> Value:
    """Draw n samples.

    Args:
        cond: n conditions, None for unconditional.
        micro_batch: rows a pass; the last pass is filled up and its surplus dropped.

    Returns:
        A value of the model's event with n items.

    Raises:
        Unsupported: the model cannot sample.
    """
    sampler = need(model, Sampler, "sample")
    model.eval()

    return in_passes(n, seed, micro_batch, cond, lambda _, noise, given: sampler.sample(noise, given))


@torch.no_grad()
def sample_towards(
    model: nn.Module,
    n: int,
    reward: Callable[[Tensor], Tensor],
    *,
    seed: int = 0,
    cond: Value | None = None,
    micro_batch: int = MICRO_BATCH,
) -> Value:
    """Draw n samples, those of more reward more often, as ``Steerable`` says.

    Raises:
        Unsupported: the model cannot be steered.
    """
    steerable = need(model, Steerable, "sample towards")
    model.eval()

    def draw(_: Tensor, noise: Noise, given: Value | None) -> Value:
        return steerable.sample_towards(reward, noise, given)

    return in_passes(n, seed, micro_batch, cond, draw)


def in_passes(
    n: int,
    seed: int,
    size: int,
    cond: Value | None,
    draw: Callable[[Tensor, Noise, Value | None], Value],
) -> Value:
    """Return n items that are drawn ``size`` at a time; the last pass is filled up and its surplus dropped.

    Args:
        cond: n conditions, None for unconditional.
        draw: draws items given their numbers below n, the last one repeated, noise of their own, and their
            conditions.
    """
    parts = []
    for start in counted("drawing", range(0, n, size)):
        index = torch.arange(start, start + size)
        rows = index.clamp_max(n - 1)
        drawn = draw(rows, SampleNoise(seed, index), None if cond is None else take(cond, rows))
        parts.append(take(drawn, slice(0, n - start)))
    return stack(parts)


def balanced_labels(n: int, classes: int) -> Tensor:
    """Return (n,) labels that cycle through the classes."""
    return torch.arange(n) % classes


def drawn_labels(n: int, counts: Tensor, seed: int) -> Tensor:
    """Return (n,) labels drawn with frequencies proportional to ``counts`` (classes,)."""
    noise = SampleNoise(seed, torch.arange(n) + (1 << 40))
    return noise.categorical(counts.double().log().expand(n, -1))
