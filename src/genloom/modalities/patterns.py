"""What a text may be while it is written: a regular expression that it will match, and where it stops."""

import codecs
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genloom.core.errors import ConfigError, DataError, MissingExtra
from genloom.nn.decoding import Constraint

PATIENCE = 2.0
"""Seconds that one test of a text against an expression may take."""


class Written:
    """Texts in the making.

    ``texts`` are they, without a character that is not whole yet.

    Args:
        spelled: the UTF-8 that each symbol stands for.
    """

    def __init__(self, spelled: Sequence[bytes], rows: int) -> None:
        self.spelled, self.texts, self.before = spelled, [""] * rows, [0] * rows
        self.decoders = [codecs.getincrementaldecoder("utf-8")("ignore") for _ in range(rows)]

    def add(self, symbols: Tensor, active: Tensor) -> None:
        """Add a symbol to each text that is active, an end none."""
        self.before = [len(text) for text in self.texts]
        for row, (symbol, goes_on) in enumerate(zip(symbols.tolist(), active.tolist(), strict=True)):
            if goes_on and symbol < len(self.spelled):
                self.texts[row] += self.decoders[row].decode(self.spelled[symbol])

    def completed(self, strings: Sequence[str]) -> list[bool]:
        """Tell of each text whether what was added last completed one of some strings."""
        found = zip(self.texts, self.before, strict=True)
        return [any(s in text[max(0, n - len(s) + 1) :] for s in strings) for text, n in found]


class StopAt(Constraint):
    """A text is over as soon as it holds one of some strings.

    Args:
        outputs: V, what can come next.
    """

    def __init__(self, stops: Sequence[str], spelled: Sequence[bytes], outputs: int, rows: int) -> None:
        self.stops, self.written, self.outputs = stops, Written(spelled, rows), outputs

    def allowed(self, active: Tensor) -> Tensor:
        return torch.ones(len(active), self.outputs, dtype=torch.bool)

    def take(self, symbols: Tensor, active: Tensor) -> Tensor:
        self.written.add(symbols, active)
        return torch.tensor(self.written.completed(self.stops))


class Matches(Constraint):
    """A text matches a regular expression from its first to its last character.

    It ends where it matches and the model ends it; where a model's texts have no ends, at the first match.
    Symbols that are only parts of a character cannot come.
    """

    def __init__(self, pattern: str, spelled: Sequence[bytes], outputs: int, rows: int) -> None:
        self.pattern = expression(pattern)
        self.written, self.outputs = Written(spelled, rows), outputs
        self.whole = [whole_characters(part) for part in spelled]
        self.ends = outputs > len(spelled)
        self.masks: dict[str, Tensor] = {}

    def allowed(self, active: Tensor) -> Tensor:
        anything = torch.ones(self.outputs, dtype=torch.bool)
        rows = list(zip(self.written.texts, active.tolist(), strict=True))
        may = torch.stack([self._mask(text) if goes_on else anything for text, goes_on in rows])
        if not may.any():
            wanted = self.pattern.pattern
            raise DataError(f"after {rows[0][0]!r} this model can write nothing that leads to {wanted!r}")
        return may

    def take(self, symbols: Tensor, active: Tensor) -> Tensor:
        self.written.add(symbols, active)
        return torch.tensor([not self.ends and self.matched(text) for text in self.written.texts])

    def matched(self, text: str) -> bool:
        """Tell whether a text matches as it is."""
        found = self._match(text)
        return bool(found) and not found.partial

    def _mask(self, text: str) -> Tensor:
        """Return which symbols may follow a text, (V,)."""
        if text not in self.masks:
            may = [part is not None and bool(self._match(text + part)) for part in self.whole]
            mask = torch.tensor(may + [self.matched(text)] * self.ends)
            self.masks[text] = mask
        return self.masks[text]

    def _match(self, text: str) -> Any:
        """Return regex's match of a text that is whole or may become so, None if it cannot."""
        return matched(self.pattern, text, partial=True)


def matched(pattern: Any, text: str, partial: bool = False) -> Any:
    """Return regex's match of a whole text, or of one that may become whole; None if there is none.

    Raises:
        ConfigError: it takes too long.
    """
    try:
        return pattern.fullmatch(text, partial=partial, timeout=PATIENCE)
    except TimeoutError as error:
        raise ConfigError(f"matching {pattern.pattern!r} takes too long: simplify it") from error


def expression(pattern: str) -> Any:
    """Return a regular expression.

    Raises:
        ConfigError: it is none.
        MissingExtra: the package regex is not installed.
    """
    try:
        import regex
    except ImportError as error:
        raise MissingExtra("regex", "text") from error
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{pattern[:80]!r} is no regular expression: {error}") from error


def whole_characters(part: bytes) -> str | None:
    """Return the characters that UTF-8 stands for, None where there are none or not only whole ones."""
    try:
        return part.decode("utf-8") or None
    except UnicodeDecodeError:
        return None
