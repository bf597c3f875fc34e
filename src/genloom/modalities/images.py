"""Images of whole-numbered levels, and the views a model can have of them.

B batch, C channels, H height, W width, D = C H W, k levels. Items are uint8 (B, C, H, W) in 0..k-1.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from genloom.core.errors import DataError
from genloom.core.events import Binary, Bounded, Categorical, Leaf, Real, Value, tensor
from genloom.core.likelihood import Bound, LogProb, weaken
from genloom.core.randomness import Noise, SampleNoise, key
from genloom.modalities.base import Modality, View, check_shape
from genloom.modalities.drawing import grid, png_bytes
from genloom.modalities.prompts import PromptedView

Binarise = Literal["none", "dynamic"]
Shape = tuple[int, int, int]

DEFAULT_ALPHA = 0.05
"""Keeps the logit finite; the value RealNVP used for CIFAR-10 (Dinh et al. 2017, section 4.1).
MAF used 1e-6 for MNIST (Papamakarios et al. 2017, section 4.2)."""


@dataclass(frozen=True)
class Levels:
    """The levels as they are stored."""

    count: int

    def draw(self, items: Tensor, noise: Noise) -> Tensor:  # noqa: ARG002
        """Return the items unchanged."""
        return items

    def restore(self, levels: Tensor) -> Tensor:
        """Return levels as items."""
        return levels.to(torch.uint8)


@dataclass(frozen=True)
class Coins:
    """Two levels, drawn anew each time: 1 with probability v / (k - 1) (dynamic binarisation)."""

    native: int
    count: int = 2

    def draw(self, items: Tensor, noise: Noise) -> Tensor:
        """Toss a coin for each pixel; items of extremes 0 and k - 1 always fall the same way."""
        return noise.bernoulli(items.float() / (self.native - 1)).to(torch.uint8)

    def restore(self, levels: Tensor) -> Tensor:
        """Return levels 0 and 1 as items of extremes 0 and k - 1."""
        return (levels * (self.native - 1)).to(torch.uint8)


class LevelView(View):
    """Each level a category: probability mass, exact."""

    name = "levels"

    def __init__(self, shape: Shape, levels: int) -> None:
        self.event = Leaf(shape, Categorical(levels, ordered=True))
        self._top = levels - 1

    def encode(self, items: Tensor) -> Value:
        return items

    def perturb(self, encoded: Value, noise: Noise) -> Value:  # noqa: ARG002
        return tensor(encoded).long()

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        return log_prob

    def decode(self, x: Value) -> Tensor:
        return tensor(x).clamp(0, self._top).to(torch.uint8)


class BinaryView(View):
    """Tossed coins as 0 and 1: probability mass, exact."""

    name = "binary"

    def __init__(self, shape: Shape, coins: Coins) -> None:
        self.event = Leaf(shape, Binary())
        self._coins = coins

    def encode(self, items: Tensor) -> Value:
        return items

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        return self._coins.draw(tensor(encoded), noise).long()

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        return log_prob

    def decode(self, x: Value) -> Tensor:
        return self._coins.restore(tensor(x).round().clamp(0, 1))


class ScaledView(View):
    """Levels as equally spaced numbers 2 v / (k - 1) - 1: probability mass, exact."""

    name = "scaled"

    def __init__(self, shape: Shape, source: Levels | Coins) -> None:
        self.event = Leaf(shape, Bounded(-1.0, 1.0, levels=source.count))
        self._source = source

    def encode(self, items: Tensor) -> Value:
        return items

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        levels = self._source.draw(tensor(encoded), noise)
        return levels.float() * (2 / (self._source.count - 1)) - 1

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        return log_prob

    def decode(self, x: Value) -> Tensor:
        top = self._source.count - 1
        return self._source.restore(((tensor(x) + 1) * (top / 2)).round().clamp(0, top))


class UnitView(View):
    """Uniformly dequantised levels (v + u) / k in (0, 1): a lower bound on the mass of the levels.

    Source: Theis, van den Oord & Bethge 2016, arXiv:1511.01844, section 3.1: log P(v) >= E_u log q - D log k.
    """

    name = "unit"

    def __init__(self, shape: Shape, source: Levels | Coins) -> None:
        self.event = Leaf(shape, Bounded(0.0, 1.0))
        self._source = source

    def encode(self, items: Tensor) -> Value:
        return items

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        levels = self._source.draw(tensor(encoded), noise)
        return dequantise(levels, self._source.count, noise)

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        pixels = tensor(x)[0].numel()
        return _bound(log_prob, torch.tensor(-pixels * math.log(self._source.count), dtype=torch.float64))

    def decode(self, x: Value) -> Tensor:
        return self._source.restore(quantise(tensor(x), self._source.count))


class LogitView(View):
    """Dequantised levels y on the real line, x = logit(alpha + (1 - 2 alpha) y): a lower bound.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803, section 4.1, with y in (0, 1) stretched to
    (alpha, 1 - alpha) symmetrically.
    """

    name = "logit"

    def __init__(self, shape: Shape, source: Levels | Coins, alpha: float) -> None:
        self.event = Leaf(shape, Real())
        self._source, self._alpha = source, alpha

    def encode(self, items: Tensor) -> Value:
        return items

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        levels = self._source.draw(tensor(encoded), noise)
        unit = dequantise(levels, self._source.count, noise)
        return torch.logit(self._alpha + (1 - 2 * self._alpha) * unit.double()).float()

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        real = tensor(x).double().flatten(1)
        slope = math.log(1 - 2 * self._alpha) - logsigmoid(real) - logsigmoid(-real)
        return _bound(log_prob, (slope - math.log(self._source.count)).sum(1))

    def decode(self, x: Value) -> Tensor:
        unit = (torch.sigmoid(tensor(x).double()) - self._alpha) / (1 - 2 * self._alpha)
        return self._source.restore(quantise(unit, self._source.count))


def _folder_name(name: str) -> str:
    """Return a class's name without what means something in a path."""
    plain = re.sub(r"[^\w .+-]", "_", name).strip()
    return plain if plain.strip(".") else f"class {plain}"


def dequantise(levels: Tensor, count: int, noise: Noise) -> Tensor:
    """Return (v + u) / k with uniform u, float32 strictly inside (0, 1).

    u stops k 2^-24 short of 1, so that v + u is below v + 1 in float32.
    """
    u = noise.uniform(*levels.shape[1:]).to(levels.device).clamp_max(1 - count * 2**-24)
    return (levels.float() + u) / count


def quantise(unit: Tensor, count: int) -> Tensor:
    """Return the level, 0..k-1, whose bin of the unit interval holds each number."""
    return (unit * count).floor().clamp(0, count - 1)


def _bound(log_prob: LogProb, correction: Tensor) -> LogProb:
    value = log_prob.value.double() + correction.to(log_prob.value.device)
    return replace(log_prob, value=value, kind=weaken(log_prob.kind, Bound.LOWER))


def fixed_draw(items: Tensor, levels: int, split: str) -> Tensor:
    """Binarise items once and for all: the draw depends on the split's name and the item's number only.

    Returns:
        uint8 items of extremes 0 and levels - 1.
    """
    coins, seed = Coins(levels), key("binarise", split)
    chunks = torch.arange(len(items)).split(1_000)
    drawn = [coins.restore(coins.draw(items[index], SampleNoise(seed, index))) for index in chunks]
    return torch.cat(drawn) if drawn else items


class Images(Modality):
    """Grey or colour images of one size.

    Args:
        shape: (C, H, W) with C 1 or 3.
        levels: the number k of values a pixel can take, 2..256.
        binarise: ``dynamic`` draws white with probability v / (k - 1): other data than ``none``.
        alpha: margin of the logit view, in (0, 0.5).
        longest_prompt: bytes that a caption may have, 0 for images without captions.

    Raises:
        DataError: another number of channels.
    """

    name = "images"
    units = "pixels"

    def __init__(
        self,
        shape: Shape,
        levels: int = 256,
        binarise: Binarise = "none",
        alpha: float = DEFAULT_ALPHA,
        longest_prompt: int = 0,
    ) -> None:
        if shape[0] not in (1, 3):
            raise DataError(f"images need 1 (grey) or 3 (colour) channels, not {shape[0]}")
        self.shape, self.levels, self.binarise, self.alpha = shape, levels, binarise, alpha
        self.longest_prompt = longest_prompt

    def views(self) -> tuple[View, ...]:
        source: Levels | Coins
        first: View
        if self.binarise == "dynamic":
            source = Coins(self.levels)
            first = BinaryView(self.shape, source)
        else:
            source = Levels(self.levels)
            first = LevelView(self.shape, self.levels)
        found = (
            first,
            ScaledView(self.shape, source),
            UnitView(self.shape, source),
            LogitView(self.shape, source, self.alpha),
        )
        return (
            tuple(PromptedView(view, self.longest_prompt) for view in found) if self.longest_prompt else found
        )

    def count_units(self, items: Tensor) -> Tensor:
        return torch.full((len(items),), math.prod(self.shape))

    def check(self, items: Tensor) -> None:
        check_shape(items, self.shape)
        if items.is_floating_point() or int(items.min()) < 0 or int(items.max()) >= self.levels:
            raise DataError(f"images are whole numbers from 0 to {self.levels - 1}, as uint8")

    def features(self, items: Tensor) -> Tensor:
        """Return the levels as numbers, (B, D) float32."""
        return items.flatten(1).float()

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write one PNG an item, stretched to 0..255, in a sub-folder for each class if there are classes."""
        paths = []
        for number, pixels in enumerate(self._grey(items)):
            home = folder if classes is None else folder / _folder_name(classes[number])
            home.mkdir(parents=True, exist_ok=True)
            paths.append(home / f"{number:06d}.png")
            paths[-1].write_bytes(png_bytes(pixels.numpy()))
        return paths

    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:
        """Return a PNG grid at native size with lines of one pixel; reference images stand below."""
        sheets = [grid(self._grey(part).numpy(), columns) for part in (items, reference) if part is not None]
        width = max(sheet.shape[2] for sheet in sheets)
        padded = [torch.nn.functional.pad(torch.from_numpy(s), (0, width - s.shape[2])) for s in sheets]
        return "image/png", png_bytes(torch.cat(padded, 1).numpy())

    def describe(self) -> dict[str, Any]:
        return {
            "modality": self.name,
            "shape": list(self.shape),
            "levels": self.levels,
            "binarise": self.binarise,
            "alpha": self.alpha,
            "longest_prompt": self.longest_prompt,
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        channels, height, width = description["shape"]
        levels, binarise, alpha = (description[name] for name in ("levels", "binarise", "alpha"))
        return cls((channels, height, width), levels, binarise, alpha, description.get("longest_prompt", 0))

    def _grey(self, items: Tensor) -> Tensor:
        """Stretch levels to 0..255."""
        return (items.float() * (255 / (self.levels - 1))).round().to(torch.uint8).cpu()
