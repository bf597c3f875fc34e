"""Texts: lines, or blocks of a long text.

B batch, L characters of the longest item. Items are int32 code points (B, L), 0 after an item's end.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Categorical, Event, Leaf, Length, Padded, Value, rows, tensor
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise
from genloom.modalities.base import Form, Modality, View
from genloom.modalities.drawing import page

CODE_POINTS = 0x110000
"""Characters there are, by Unicode: code points below this number."""

UNKNOWN = 0xFFFD
"""What an unknown character is written as."""

FEATURES = 512
"""Places that runs of up to three characters are counted in."""


def to_items(texts: Sequence[str]) -> Tensor:
    """Return the code points of texts, (n, L) int32, 0 after each one's end.

    Raises:
        DataError: a text holds the character 0.
    """
    rows = [np.array([ord(c) for c in text], dtype=np.int32) for text in texts]
    items = np.zeros((len(rows), max(map(len, rows), default=0)), dtype=np.int32)
    for item, row in zip(items, rows, strict=True):
        if not row.all():
            raise DataError("a text holds the character 0, which marks the end here: remove it")
        item[: len(row)] = row
    return torch.from_numpy(items)


def to_texts(items: Tensor) -> list[str]:
    """Return the texts of items."""
    return ["".join(map(chr, row[: int(n)])) for row, n in zip(items.tolist(), lengths(items), strict=True)]


def lengths(items: Tensor) -> Tensor:
    """Return the numbers of characters (B,) int64."""
    return (items != 0).sum(1)


class TextView(View):
    """A view whose values are symbols that spell texts."""

    @abstractmethod
    def spell(self) -> list[str]:
        """Return what each symbol stands for; ``UNKNOWN`` for one that stands for nothing."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> Padded:
        """Return the symbols of texts of any length.

        Raises:
            DataError: a text holds what no symbol stands for.
        """


class CharacterView(TextView):
    """Each character a category of those that the training texts hold, or the unknown one: exact.

    An unknown character counts as any of the others that Unicode could have, all equally likely. Blocks are
    consecutive: in training, each is cut anew from itself and its neighbour, at a random place.
    """

    name = "characters"

    def __init__(self, alphabet: str, longest: int, form: Form) -> None:
        self._known = torch.tensor(sorted(map(ord, alphabet)), dtype=torch.int32)
        self._longest, self._form = longest, form
        shape = (longest,) if form == "blocks" else (Length(longest),)
        self.event: Event = Leaf(shape, Categorical(len(alphabet) + 1))

    def encode(self, items: Tensor) -> Value:
        """Return the places of characters in the alphabet, one past its end for an unknown one."""
        place = torch.searchsorted(self._known, items.contiguous()).clamp_max(len(self._known) - 1)
        place = torch.where(self._known[place] == items, place, len(self._known))
        codes = torch.where(items == 0, 0, place).to(torch.int32)
        return codes if self._form == "blocks" else Padded(codes, lengths(items))

    def stretch(self, encoded: Value) -> Value:
        if isinstance(encoded, Padded) or rows(encoded) < 2:
            return encoded
        first = torch.arange(rows(encoded)).clamp_max(rows(encoded) - 2)
        return torch.cat((tensor(encoded)[first], tensor(encoded)[first + 1]), 1)

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        if isinstance(encoded, Padded):
            return Padded(encoded.values.long(), encoded.lengths)
        codes = tensor(encoded).long()
        if codes.shape[1] == self._longest:
            return codes
        start = noise.integers(codes.shape[1] - self._longest, 1)
        return codes.gather(1, start + torch.arange(self._longest))

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        values = x.values if isinstance(x, Padded) else x
        assert isinstance(values, Tensor)
        unknown = (values == len(self._known)).sum(1) * math.log(CODE_POINTS - len(self._known))
        return replace(log_prob, value=log_prob.value.double() - unknown)

    def spell(self) -> list[str]:
        return [*map(chr, self._known.tolist()), chr(UNKNOWN)]

    def read(self, texts: Sequence[str]) -> Padded:
        known = set(self.spell()[:-1])
        if strange := [c for text in texts for c in text if c not in known]:
            raise DataError(f"the training text has no {strange[0]!r}: leave it out of the prompt")
        items = to_items(texts)
        return Padded(torch.searchsorted(self._known, items).clamp_max(len(known) - 1), lengths(items))

    def decode(self, x: Value) -> Tensor:
        values = x.values if isinstance(x, Padded) else x
        assert isinstance(values, Tensor)
        letters = torch.cat([self._known, torch.tensor([UNKNOWN], dtype=torch.int32)])[values]
        if not isinstance(x, Padded):
            return letters
        return letters.masked_fill(torch.arange(letters.shape[1]) >= x.lengths[:, None], 0)


class Texts(Modality):
    """Lines, each with its end, or blocks of equally many characters of a long text.

    Args:
        alphabet: the characters that the training texts hold, each once.
        longest: characters of the longest item, or of a block.
    """

    name = "texts"
    units = "characters"

    def __init__(self, alphabet: str, longest: int, form: Form) -> None:
        self.alphabet, self.longest, self.form = "".join(sorted(alphabet)), longest, form

    @classmethod
    def fit(cls, train: Tensor, longest: int, form: Form) -> Self:
        """Collect the alphabet of the training items."""
        return cls("".join(map(chr, train.unique().tolist())).replace("\0", ""), longest, form)

    def views(self) -> tuple[View, ...]:
        return (CharacterView(self.alphabet, self.longest, self.form),)

    def count_units(self, items: Tensor) -> Tensor:
        """Return the numbers of characters (B,), the end of a line as one."""
        return lengths(items) + (1 if self.form == "lines" else 0)

    def check(self, items: Tensor) -> None:
        if items.dtype != torch.int32 or items.dim() != 2 or len(items) == 0:
            raise DataError("texts are needed: code points of type int32, (n, characters)")
        if items.shape[1] > self.longest:
            raise DataError(f"texts have up to {items.shape[1]:,} characters, not up to {self.longest:,}")

    def features(self, items: Tensor) -> Tensor:
        """Return how often runs of one to three characters occur, hashed to ``FEATURES`` places, (B, D)."""
        found = torch.zeros(len(items), FEATURES, dtype=torch.float64)
        for order in (1, 2, 3):
            if items.shape[1] < order:
                break
            runs = items.long().unfold(1, order, 1)
            code = torch.zeros_like(runs[..., 0]) + order
            for place in range(order):
                code = (code * 1_000_003 + runs[..., place]) % 2_147_483_647
            present = (runs != 0).all(-1).double()
            found.scatter_add_(1, code % FEATURES, present)
        return found

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write ``items.txt``, a line each, or a file for each block; classes go before a tab."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = to_texts(items)
        if self.form == "blocks":
            paths = [folder / f"{i:05}.txt" for i in range(len(texts))]
            for path, text in zip(paths, texts, strict=True):
                path.write_text(text, encoding="utf-8", newline="")
            return paths
        lines = texts if classes is None else [f"{c}\t{t}" for c, t in zip(classes, texts, strict=True)]
        path = folder / "items.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
        return [path]

    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:
        """Return an SVG of the texts, beside the reference's if given."""
        parts = [("samples", items)] + ([] if reference is None else [("data", reference)])
        return "image/svg+xml", page([(title, to_texts(part[: 4 * columns])) for title, part in parts])

    def describe(self) -> dict[str, Any]:
        return {
            "modality": self.name,
            "alphabet": self.alphabet,
            "longest": self.longest,
            "form": self.form,
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        return cls(description["alphabet"], description["longest"], description["form"])
