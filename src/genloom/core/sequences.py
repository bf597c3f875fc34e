"""Sequences of symbols: their numbers, and what reads them from left to right.

Shapes: B sequences, T symbols read at once, K kinds of symbols, V what can come next: the symbols, and the
end where items vary in length.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from genloom.core.events import Value, tensor


@dataclass(frozen=True)
class Alphabet:
    """Numbers of symbols: 0..K-1, the end if items have one, and a start for each class and for none."""

    symbols: int
    ends: bool
    classes: int = 0

    @property
    def outputs(self) -> int:
        """V, the number of what can come next."""
        return self.symbols + self.ends

    @property
    def inputs(self) -> int:
        """The number of all."""
        return self.outputs + self.classes + 1

    @property
    def nameless(self) -> int:
        """The start of a sequence of no class."""
        return self.inputs - 1

    def hide(self, symbols: Tensor) -> Tensor:
        """Return symbols (B, T) of which only starts can still be seen."""
        return symbols.masked_fill(symbols < self.outputs, self.nameless)

    def starts(self, cond: Value | None, rows: int) -> Tensor:
        """Return the starts (B,) of sequences of these classes, the number of classes standing for none."""
        if cond is None or not self.classes:
            return torch.full((rows,), self.nameless)
        return self.outputs + tensor(cond)


class Reader(ABC):
    """Something that reads sequences from left to right and keeps what it has computed."""

    @abstractmethod
    def read(self, symbols: Tensor, counts: Tensor | None = None) -> Tensor:
        """Take the next symbols of each sequence; return the logits of what follows each, (B, T, V).

        Args:
            symbols: (B, T) int64, the first ever a start.
            counts: (B,) how many of each row are to be read, all if None; logits past them mean nothing.
        """

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Go on with these sequences, in this order; one may be taken more than once."""

    @abstractmethod
    def rewind(self, counts: Tensor) -> None:
        """Forget the last symbols of each sequence, so many (B,)."""
