"""A conversation with a model of conversations, turn by turn."""

import math
from collections.abc import Iterator
from dataclasses import replace

from genloom.core.errors import DataError
from genloom.modalities.chats import STOP, opening, turn
from genloom.recipes.continuing import Wish, Writer


class Chat:
    """A conversation; when it becomes longer than the model's texts, its first turns are forgotten.

    Args:
        wish: of each answer; its ``length`` is that of the longest.
        system: what is said before the first turn, never forgotten.
    """

    def __init__(self, writer: Writer, wish: Wish, system: str = "") -> None:
        self.writer, self.wish = writer, replace(wish, stop=(STOP,))
        self.system = turn("system", system) if system.strip() else ""
        self.turns: list[str] = []

    def answer(self, text: str) -> Iterator[str]:
        """Yield the answer to a turn of the user piece by piece, as it is drawn.

        Raises:
            DataError: the text holds what the model cannot read, or is longer than its texts.
        """
        asked, said = turn("user", text), ""
        kept = self._fitting(asked)
        prompt = self.system + "".join(kept) + asked + opening("assistant")
        for piece in self.writer.pieces(prompt, replace(self.wish, seed=self.wish.seed + len(self.turns))):
            shown = len(said.rstrip("\n"))
            said += piece
            yield said.rstrip("\n")[shown:]
        self.turns = [*kept, asked, turn("assistant", said)]

    def _fitting(self, asked: str) -> list[str]:
        """Return the last turns that leave room for an answer, half of the longest text at most."""
        wanted = min(self.wish.length, (self.writer.longest or math.inf) // 2)
        for first in range(0, len(self.turns) + 1, 2):
            prompt = self.system + "".join(self.turns[first:]) + asked + opening("assistant")
            if self.writer.room(prompt) >= wanted:
                return self.turns[first:]
        raise DataError(
            f"no answer fits behind this: texts of this model have {self.writer.longest:,} symbols"
        )
