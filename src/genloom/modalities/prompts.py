"""Views of items with captions: what the model is given are the bytes of the captions.

B batch, L bytes of the longest text.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Categorical, Event, Leaf, Length, Padded, Value
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise
from genloom.modalities.base import Split, View
from genloom.modalities.characters import byte_counts, tidy, to_texts, utf8

ROOM = 2
"""Prompts may be so many times as long as the longest caption."""

MOST_BYTES = 512
"""Of a caption."""


def longest_prompt_of(splits: Iterable[Split]) -> int:
    """Return how many bytes a prompt may have, 0 where there are no captions.

    Raises:
        DataError: a caption is too long.
    """
    longest = max((int(byte_counts(s.captions).max()) for s in splits if s.captions is not None), default=0)
    if longest > MOST_BYTES:
        raise DataError(f"a caption has {longest:,} bytes, more than {MOST_BYTES}: shorten it")
    return ROOM * longest


class PromptedView(View):
    """Another view of the items, given their captions.

    Args:
        longest_prompt: L.
    """

    def __init__(self, inner: View, longest_prompt: int) -> None:
        self.inner, self.longest_prompt = inner, longest_prompt
        self.name, self.event = inner.name, inner.event
        self.given: Event = Leaf((Length(longest_prompt),), Categorical(256))

    def encode(self, items: Tensor) -> Value:
        return self.inner.encode(items)

    def stretch(self, encoded: Value) -> Value:
        return self.inner.stretch(encoded)

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        return self.inner.perturb(encoded, noise)

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        return self.inner.to_data(log_prob, x)

    def decode(self, x: Value) -> Tensor:
        return self.inner.decode(x)

    def conditions(self, split: Split) -> Value | None:
        return None if split.captions is None else self.read(to_texts(split.captions))

    def read(self, texts: Sequence[str]) -> Padded:
        """Return the bytes of texts, (B, L) uint8, in small letters.

        Raises:
            DataError: one is too long.
        """
        rows = [utf8(tidy(text).lower()) for text in texts]
        most = max(map(len, rows))
        if most > self.longest_prompt:
            raise DataError(
                f"a prompt has {most:,} bytes, and at most {self.longest_prompt:,} can be read: shorten it"
            )
        values = torch.zeros(len(rows), self.longest_prompt, dtype=torch.uint8)
        for value, row in zip(values, rows, strict=True):
            value[: len(row)] = torch.tensor(list(row), dtype=torch.uint8)
        return Padded(values, torch.tensor([len(row) for row in rows]))
