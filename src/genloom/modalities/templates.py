"""Captions of labelled images by templates: "a photo of a red truck", "a handwritten seven".

B batch, C H W the shape of images.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.randomness import SampleNoise, key
from genloom.modalities.base import Split
from genloom.modalities.characters import to_items

COLOURS = ("black", "grey", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple")

SECTORS = (("red", 18), ("orange", 42), ("yellow", 70), ("green", 165), ("blue", 260), ("purple", 330))
"""Colours by the hue, in degrees, below which they lie; red again from the last."""

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

FRAMES = ("a photo of {}", "a picture of {}", "an image of {}", "{}", "this is {}", "a small photo of {}")
"""Of captions to learn from."""

NEW_FRAMES = ("a photograph of {}", "a small picture of {}", "this is a photo of {}", "here is {}")
"""Of captions of test items."""

PLAIN = 0.3
"""Share of captions to learn from that name no colour."""


def with_captions(split: Split, classes: Sequence[str], levels: int, name: str) -> Split:
    """Return a split with a caption of each item, by its class and, of colour images, the middle's colour.

    Test items have frames that no other has, and always their colour.

    Args:
        name: of the split, by which frames are drawn.

    Raises:
        DataError: there are no classes.
    """
    if split.labels is None:
        raise DataError("captions by templates need class labels: name a column of texts instead")
    frames = NEW_FRAMES if name == "test" else FRAMES
    noise = SampleNoise(key("captions", name), torch.arange(len(split)))
    chosen, plain = noise.integers(len(frames)).tolist(), (noise.uniform() < PLAIN).tolist()
    drawn = split.items.shape[1] == 1 and tuple(classes) == tuple("0123456789")
    colours = named_colours(split.items, levels) if split.items.shape[1] == 3 else None
    texts = []
    for i, label in enumerate(split.labels.tolist()):
        hue = "" if colours is None or (plain[i] and name != "test") else COLOURS[int(colours[i])]
        texts.append(frames[chosen[i]].format(noun_phrase(classes[label], hue, drawn)))
    return replace(split, captions=to_items(texts))


def noun_phrase(label: str, colour: str, drawn: bool) -> str:
    """Return what an image shows: "a red truck", or "a handwritten seven" of drawn digits."""
    noun = f"handwritten {NUMERALS[int(label)]}" if drawn else label.replace("_", " ").strip() or label
    words = f"{colour} {noun}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def named_colours(items: Tensor, levels: int) -> Tensor:
    """Return the number in ``COLOURS`` of the mean colour of the middle of images (B, 3, H, W), (B,).

    Hues are named by sectors; what has little colour is black, grey or white, and dark orange is brown.
    """
    height, width = items.shape[2:]
    middle = items[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4]
    red, green, blue = rgb = (middle.float().mean((2, 3)) / (levels - 1)).unbind(1)
    low, high = torch.stack(rgb).aminmax(dim=0)
    chroma = (high - low).clamp_min(1e-6)
    turn = torch.where(high == red, (green - blue) / chroma % 6, 2 + (blue - red) / chroma)
    hue = 60 * torch.where((high == blue) & (high != red) & (high != green), 4 + (red - green) / chroma, turn)
    found = torch.full_like(hue, COLOURS.index("red")).long()
    for name, end in reversed(SECTORS):
        found[hue < end] = COLOURS.index(name)
    found[((hue < 50) | (hue >= 345)) & (high < 0.68) & (chroma < 0.42)] = COLOURS.index("brown")
    grey = (chroma < 0.09) | (chroma < 0.15 * high)
    found[grey] = COLOURS.index("grey")
    found[grey & (high > 0.72)] = COLOURS.index("white")
    found[high < 0.25] = COLOURS.index("black")
    return found
