"""What is known of an item while the rest of it is drawn, as networks are told it.  B batch, S event shape.

What a model is told of items is a prompt, or this mapping: the prompt, the values that are known and where.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from genloom.core.events import Value, tensor
from genloom.core.randomness import Noise


def with_parts(prompt: Value, x: Tensor, known: Tensor) -> Value:
    """Return a prompt with what is known of items (B, *S), booleans of that shape."""
    return {"prompt": prompt, "values": x.where(known, 0), "known": known}


def prompt_of(told: Value) -> Value:
    """Return the prompt alone."""
    return told["prompt"] if isinstance(told, Mapping) else told


def with_prompt(told: Value, prompt: Value) -> Value:
    """Return the same with another prompt."""
    return {**told, "prompt": prompt} if isinstance(told, Mapping) else prompt


def counted(x: Tensor, told: Value) -> Tensor:
    """Return 0 for what is known of items and 1 for the rest, in their shape and kind."""
    return (~tensor(told["known"])).to(x) if isinstance(told, Mapping) else torch.ones_like(x)


def shown(x: Tensor, told: Value, scale: float) -> Tensor:
    """Return what a network that fills is shown, (B, 2 * S_1, ...): items, and 1 where they are known.

    Known values stand, times a scale, in the place of what noise leaves of them: see Tashiro et al. 2021,
    arXiv:2107.03502, section 4, and Saharia et al. 2022, arXiv:2111.05826, section 3.
    """
    if not isinstance(told, Mapping):
        return torch.cat((x, torch.zeros_like(x)), 1)
    known = tensor(told["known"])
    return torch.cat((x.where(~known, scale * tensor(told["values"]).to(x)), known.to(x)), 1)


def draw_known(extents: tuple[int, ...], noise: Noise) -> Tensor:
    """Draw what is known in training, booleans (B, *extents): nothing of a quarter, else scattered values.

    Of images, whose channels are known together, as often what is inside a box or outside of one.
    """
    image, each = len(extents) == 3, (1,) * len(extents)
    way, share = noise.integers(4, *each), noise.uniform(*each)
    rank = noise.uniform(*((1, *extents[1:]) if image else extents))
    scattered = (rank < share.minimum(rank.flatten(1).amax(1).view_as(share))) & (way > 0)
    if not image:
        return scattered
    box = _stretch(noise, extents[1])[:, None, :, None] & _stretch(noise, extents[2])[:, None, None, :]
    return torch.where(way == 1, box, torch.where(way == 2, ~box, scattered)).expand(-1, *extents)


def _stretch(noise: Noise, count: int) -> Tensor:
    """Draw a stretch of places in a row, of any length above 0 alike, as booleans (B, count)."""
    length = 1 + noise.integers(count, 1)
    first = (noise.uniform(1) * (count - length + 1)).long()
    place = torch.arange(count)
    return (first <= place) & (place < first + length)
