"""Pairs of texts, the first of which is given: a sentence and its translation.

B batch, L characters of the longest text. Items are int32 code points (B, 2, L), 0 after a text's end.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Categorical, Event, Leaf, Length, Padded, Value
from genloom.core.likelihood import Bound, LogProb, weaken
from genloom.core.randomness import Noise
from genloom.modalities.base import Modality, Split, View
from genloom.modalities.characters import (
    byte_counts,
    lengths,
    run_counts,
    tidy,
    to_items,
    to_texts,
    word_counts,
)
from genloom.modalities.drawing import page
from genloom.modalities.tokens import PairView, learn_pairs

VOCABULARY = 8_000
"""Tokens that are learnt of each side at most, unless told otherwise."""


class TranslationView(View):
    """The second text as tokens, given the first as others. Byte pairs spell every text.

    A text can be spelt in more ways than the one that is scored, so that likelihoods are lower bounds.

    Args:
        source, target: byte-pair encodings as JSON.
        longest: characters of the longest text.
        symbols: tokens of the longest text of either side.
        lower: capital letters are read as small ones.
    """

    name = "bpe"

    def __init__(self, source: str, target: str, longest: int, symbols: int, lower: bool) -> None:
        self.source, self.target = (PairView(side, longest, "lines") for side in (source, target))
        self.longest, self.symbols, self.lower = longest, symbols, lower
        events = [Leaf((Length(symbols),), Categorical(len(s.spell()))) for s in (self.source, self.target)]
        self.given: Event = events[0]
        self.event: Event = events[1]

    def encode(self, items: Tensor) -> Value:
        return self.answer(to_texts(items[:, 1]))

    def perturb(self, encoded: Value, noise: Noise) -> Value:  # noqa: ARG002
        assert isinstance(encoded, Padded)
        return Padded(encoded.values.long(), encoded.lengths)

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:  # noqa: ARG002
        kind = weaken(log_prob.kind, Bound.LOWER)
        return replace(log_prob, value=log_prob.value.double(), kind=kind)

    def decode(self, x: Value) -> Tensor:
        """Return the second texts, (B, L), with single blanks as all texts of pairs have."""
        assert isinstance(x, Padded)
        texts = [tidy(text.replace("\0", "\ufffd"))[: self.longest] for text in self.target.texts(x)]
        items = to_items(texts)
        return torch.nn.functional.pad(items, (0, self.longest - items.shape[1]))

    def conditions(self, split: Split) -> Value:
        return self.read(to_texts(split.items[:, 0]))

    def join(self, items: Tensor, conditions: Value | None) -> Tensor:
        assert conditions is not None
        return torch.stack((self.source.decode(conditions), items), 1)

    def read(self, texts: Sequence[str]) -> Padded:
        """Return the tokens of first texts.

        Raises:
            DataError: one has more tokens than any text that was known when the view was made.
        """
        return self._fitting(self.source.read([tidy(t.lower() if self.lower else t) for t in texts]))

    def answer(self, texts: Sequence[str]) -> Padded:
        """Return the tokens of second texts.

        Raises:
            DataError: one has more tokens than any text that was known when the view was made.
        """
        return self._fitting(self.target.read([tidy(text) for text in texts]))

    def _fitting(self, read: Padded) -> Padded:
        most = int(read.lengths.max())
        if most > self.symbols:
            raise DataError(f"a text has {most:,} tokens, the longest known one {self.symbols:,}: shorten it")
        return Padded(read.values[:, : self.symbols].int(), read.lengths)


class Pairs(Modality):
    """Pairs of texts without line breaks.

    Args:
        names: of the two sides, such as ``de`` and ``en``.
        codes: a byte-pair encoding of each side as JSON.
    """

    name = "pairs"
    units = "characters"

    def __init__(
        self, names: tuple[str, str], codes: tuple[str, str], longest: int, symbols: int, lower: bool
    ) -> None:
        self.names, self.codes, self.longest, self.symbols, self.lower = names, codes, longest, symbols, lower

    @classmethod
    def fit(
        cls,
        train: Tensor,
        others: Sequence[Tensor],
        names: tuple[str, str],
        vocabulary: int | None,
        lower: bool,
    ) -> Self:
        """Learn an encoding of each side from the training items, and measure all items by it."""
        size = VOCABULARY if vocabulary is None else vocabulary
        codes = (learn_pairs(to_texts(train[:, 0]), size), learn_pairs(to_texts(train[:, 1]), size))
        longest = train.shape[2]
        views = [PairView(code, longest, "lines") for code in codes]
        found = (
            int(view.read(to_texts(part[:, side])).lengths.max())
            for part in (train, *others)
            for side, view in enumerate(views)
        )
        return cls(names, codes, longest, max(found), lower)

    def views(self) -> tuple[View, ...]:
        return (TranslationView(*self.codes, self.longest, self.symbols, self.lower),)

    def count_units(self, items: Tensor) -> Tensor:
        """Return the numbers of characters of the second texts and their ends, (B,)."""
        return lengths(items[:, 1]) + 1

    def other_units(self, items: Tensor) -> Mapping[str, Tensor]:
        """Return the numbers of bytes and of words of the second texts, and their ends, (B,)."""
        return {"bytes": byte_counts(items[:, 1]) + 1, "words": word_counts(items[:, 1], True) + 1}

    def check(self, items: Tensor) -> None:
        if items.dtype != torch.int32 or items.dim() != 3 or items.shape[1] != 2 or len(items) == 0:
            raise DataError("pairs of texts are needed: code points of type int32, (n, 2, characters)")
        if items.shape[2] > self.longest:
            raise DataError(f"texts have up to {items.shape[2]:,} characters, not up to {self.longest:,}")

    def features(self, items: Tensor) -> Tensor:
        """Return how often runs of one to three characters occur in each side, (B, D)."""
        return torch.cat([run_counts(side) for side in items.unbind(1)], 1)

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:  # noqa: ARG002
        """Write ``items.tsv``, a pair a line, with the names of the sides above."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "items.tsv"
        rows = [self.names, *zip(*map(to_texts, items.unbind(1)), strict=True)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)
        return [path]

    def draw(self, items: Tensor, columns: int = 8, reference: Tensor | None = None) -> tuple[str, bytes]:
        """Return an SVG of pairs, each text on a line of its own, after it the reference's if given."""
        sides = [to_texts(side) for side in items[: 2 * columns].unbind(1)]
        if reference is not None:
            sides.append(to_texts(reference[: 2 * columns, 1]))
        title = " / ".join(self.names) + (" / data" if reference is not None else "")
        return "image/svg+xml", page([(title, ["\n".join(texts) for texts in zip(*sides, strict=True)])])

    def describe(self) -> dict[str, Any]:
        return {
            "modality": self.name,
            "names": list(self.names),
            "codes": list(self.codes),
            "longest": self.longest,
            "symbols": self.symbols,
            "lower": self.lower,
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        names, codes = (tuple(description[name]) for name in ("names", "codes"))
        return cls(names, codes, *(description[name] for name in ("longest", "symbols", "lower")))
