"""Texts as Unicode code points, and seen as characters.

B batch, L characters of the longest item. Items are int32 code points (B, L), 0 after an item's end.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from genloom.core.errors import DataError
from genloom.core.events import Categorical, Event, Leaf, Length, Padded, Value, tensor
from genloom.core.likelihood import LogProb
from genloom.core.randomness import Noise
from genloom.modalities.base import Form, View

CODE_POINTS = 0x110000
"""Characters there are, by Unicode: code points below this number."""

UNKNOWN = 0xFFFD
"""What an unknown character is written as."""


FEATURES = 512
"""Places that runs of up to three characters are counted in."""

AT_ONCE = 4096
"""Texts whose runs are counted at a time."""

BLANKS = torch.tensor([*range(9, 14), 32, 0x85, 0xA0, 0x2028, 0x2029, 0x3000], dtype=torch.int32)
"""Characters between words."""

CELLS = 2**30
"""Characters of all items together, each taking as much as the longest, at most."""


def tidy(text: str) -> str:
    """Return a text with single blanks between its words and nothing around them."""
    return " ".join(text.split())


def utf8(text: str) -> bytes:
    """Return a text's bytes.

    Raises:
        DataError: it has half a character of UTF-16, which is none of Unicode.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 10) : error.start + 1])
        raise DataError(f"{shown} ends in half a character, as text that is no UTF-8 has: mend it") from error


def to_items(texts: Sequence[str]) -> Tensor:
    """Return the code points of texts, (n, L) int32, 0 after each one's end.

    Raises:
        DataError: a text holds the character 0, or they need too much memory.
    """
    longest = max(map(len, texts), default=0)
    if longest * len(texts) > CELLS:
        raise DataError(
            f"these are {len(texts):,} texts, one of {longest:,} characters, and each takes as much as that: "
            "cut the longest into pieces"
        )
    items = np.zeros((len(texts), longest), dtype=np.int32)
    for item, text in zip(items, texts, strict=True):
        utf8(text)
        item[: len(text)] = np.frombuffer(text.encode("utf-32-le"), dtype=np.int32)
        if "\0" in text:
            raise DataError(f"{text[:40]!r} holds the character 0, which marks the end here: remove it")
    return torch.from_numpy(items)


def to_texts(items: Tensor) -> list[str]:
    """Return the texts of items."""
    rows = zip(items.to(torch.int32).numpy(), lengths(items).tolist(), strict=True)
    return [row[:n].tobytes().decode("utf-32-le", "surrogatepass") for row, n in rows]


def lengths(items: Tensor) -> Tensor:
    """Return the numbers of characters (B,) int64."""
    return (items != 0).sum(1)


def byte_counts(items: Tensor) -> Tensor:
    """Return how many bytes of UTF-8 texts have, (B,)."""
    return sum(
        ((items >= least).sum(1) for least in (0x1, 0x80, 0x800, 0x10000)), torch.zeros(len(items)).long()
    )


def word_counts(items: Tensor, ends: bool) -> Tensor:
    """Return how many words end in each text (B,); the end of a text ends one where it is an end."""
    filled = (items != 0) & ~torch.isin(items, BLANKS)
    after = torch.nn.functional.pad(items, (0, 1))[:, 1:]
    over = torch.isin(after, BLANKS) | ((after == 0) & ends)
    return (filled & over).sum(1)


def run_counts(items: Tensor) -> Tensor:
    """Return how often runs of one to three characters occur, hashed to ``FEATURES`` places, (B, D)."""
    return torch.cat([_run_counts(part) for part in items.split(AT_ONCE)])


def _run_counts(items: Tensor) -> Tensor:
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


def neighbours(blocks: Tensor) -> Tensor:
    """Return each block (n, L) but the last with the one after it, (n - 1, 2 L), in the same memory."""
    return blocks if len(blocks) < 2 else blocks.flatten().unfold(0, 2 * blocks.shape[1], blocks.shape[1])


def cut_anew(rows: Tensor, longest: int, noise: Noise) -> Tensor:
    """Return a part of rows at a random place each, (n, longest); rows that are no longer as they are."""
    if rows.shape[1] <= longest:
        return rows
    start = noise.integers(rows.shape[1] - longest + 1, 1)
    return rows.gather(1, start + torch.arange(longest))


class TextView(View):
    """A view whose values are symbols that spell texts."""

    @abstractmethod
    def spell(self) -> list[bytes]:
        """Return the UTF-8 that each symbol stands for, perhaps part of a character; nothing if unknown."""

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
        return (
            items if self._form == "blocks" else Padded(self._places(items).to(torch.int32), lengths(items))
        )

    def _places(self, items: Tensor) -> Tensor:
        """Return the places of characters in the alphabet, one past its end for an unknown one."""
        place = torch.searchsorted(self._known, items.contiguous()).clamp_max(len(self._known) - 1)
        place = torch.where(self._known[place] == items, place, len(self._known))
        return torch.where(items == 0, 0, place)

    def stretch(self, encoded: Value) -> Value:
        return encoded if isinstance(encoded, Padded) else neighbours(tensor(encoded))

    def perturb(self, encoded: Value, noise: Noise) -> Value:
        if isinstance(encoded, Padded):
            return Padded(encoded.values.long(), encoded.lengths)
        return self._places(cut_anew(tensor(encoded), self._longest, noise))

    def to_data(self, log_prob: LogProb, x: Value) -> LogProb:
        values = x.values if isinstance(x, Padded) else x
        assert isinstance(values, Tensor)
        unknown = (values == len(self._known)).sum(1) * math.log(CODE_POINTS - len(self._known))
        return replace(log_prob, value=log_prob.value.double() - unknown)

    def spell(self) -> list[bytes]:
        return [*(chr(c).encode() for c in self._known.tolist()), b""]

    def read(self, texts: Sequence[str]) -> Padded:
        known = set(map(chr, self._known.tolist()))
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
