"""Texts: lines, or blocks of a long text.

B batch, L characters of the longest item. Items are int32 code points (B, L), 0 after an item's end.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError
from genloom.modalities.base import Form, Modality, Split, View
from genloom.modalities.characters import (
    CharacterView,
    byte_counts,
    lengths,
    run_counts,
    to_texts,
    word_counts,
)
from genloom.modalities.drawing import page
from genloom.modalities.tokens import ByteView, PairView, learn_pairs, read_tokenizer

ROWS = 2**14
"""Items whose characters are collected at a time."""

LEARNT_FROM = 2**17
"""Items that a byte-pair encoding is learnt from at most."""


class Texts(Modality):
    """Lines or documents, each with its end, or blocks of equally many characters of a long text.

    Args:
        alphabet: the characters that the training texts hold, each once.
        longest: characters of the longest item, or of a block.
        pairs: a byte-pair encoding as JSON, where there is one.
    """

    name = "texts"
    units = "characters"

    def __init__(self, alphabet: str, longest: int, form: Form, pairs: str | None = None) -> None:
        self.alphabet, self.longest, self.form = "".join(sorted(alphabet)), longest, form
        self.pairs = pairs

    @classmethod
    def fit(
        cls,
        train: Tensor,
        longest: int,
        form: Form,
        vocabulary: int | None = None,
        tokenizer: str | None = None,
    ) -> Self:
        """Collect the alphabet of the training items, and take or learn a byte-pair encoding.

        Args:
            vocabulary: tokens to learn.
            tokenizer: a file of the package tokenizers to take instead.
        """
        if tokenizer is not None and vocabulary is not None:
            raise ConfigError("a tokenizer has its vocabulary: leave --data.vocabulary out")
        held = torch.cat([part.unique() for part in train.split(ROWS)]).unique()
        alphabet = "".join(map(chr, held.tolist())).replace("\0", "")
        pairs = None if tokenizer is None else read_tokenizer(Path(tokenizer).expanduser())
        if vocabulary is not None:
            pairs = learn_pairs(to_texts(Split(train).at_most(LEARNT_FROM).items), vocabulary)
        return cls(alphabet, longest, form, pairs)

    def views(self) -> tuple[View, ...]:
        """Return pairs of bytes first where they were asked for, characters, and bytes."""
        size = self.longest, self.form
        pairs = () if self.pairs is None else (PairView(self.pairs, *size),)
        return (*pairs, CharacterView(self.alphabet, *size), ByteView(*size))

    def count_units(self, items: Tensor) -> Tensor:
        """Return the numbers of characters (B,), the end as one where items have ends."""
        return lengths(items) + (0 if self.form == "blocks" else 1)

    def other_units(self, items: Tensor) -> Mapping[str, Tensor]:
        """Return the numbers of bytes and of words (B,), an end as one of either where items have ends."""
        ends = self.form != "blocks"
        return {"bytes": byte_counts(items) + ends, "words": word_counts(items, ends) + ends}

    def check(self, items: Tensor) -> None:
        if items.dtype != torch.int32 or items.dim() != 2 or len(items) == 0:
            raise DataError("texts are needed: code points of type int32, (n, characters)")
        if items.shape[1] > self.longest:
            raise DataError(f"texts have up to {items.shape[1]:,} characters, not up to {self.longest:,}")

    def features(self, items: Tensor) -> Tensor:
        """Return how often runs of one to three characters occur, (B, D)."""
        return run_counts(items)

    def write(self, items: Tensor, classes: Sequence[str] | None, folder: Path) -> list[Path]:
        """Write ``items.txt``, a line each, or a file for each text of several; classes go before a tab."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = to_texts(items)
        if self.form != "lines":
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
            "pairs": self.pairs,
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> Self:
        names = ("alphabet", "longest", "form", "pairs")
        return cls(*(description[name] for name in names))
