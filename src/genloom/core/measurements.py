"""What may be known of items: linear parts of them.  B batch, S event shape, Y shape of what is known."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """A linear map A of items, and how what is known is spread over an item.

    Args:
        measure: A, items (B, *S) to what is known of them (B, *Y).
        spread: its pseudo-inverse, to the smallest items of which that is known.
    """

    measure: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tensor]

    def agreeing(self, x: Tensor, known: Tensor) -> Tensor:
        """Return the nearest items to x (B, *S) of which that is known (B, *Y)."""
        return x + self.spread(known - self.measure(x))
