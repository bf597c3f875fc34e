"""A conversation with a model of conversations, turn by turn."""

from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field

from genloom.core.errors import DataError
from genloom.modalities.chats import STOP, opening, turn
from genloom.nn.decoding import Choice
from genloom.recipes.continuing import Wish, Writer


class Lively(Choice):
    """A little likelier than by chance."""

    temperature: float = Field(
        0.7, ge=0, description="divides logits; 0 takes the likeliest symbol each time"
    )


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
        self._answers = 0

    def answer(self, text: str) -> Iterator[str]:
        """Yield the answer to a turn of the user piece by piece, as it is drawn.

        Raises:
            DataError: the text holds what the model cannot read, or is longer than its texts.
        """
        asked, said = turn("user", text), ""
        kept = self._fitting(asked)
        prompt = self.system + "".join(kept) + asked + opening("assistant")
        wish = replace(self.wish, seed=self.wish.seed + self._answers)
        for piece in self.writer.pieces(prompt, wish):
            shown = len(said.rstrip("\n"))
            said += piece
            yield said.rstrip("\n")[shown:]
        self.turns = [*kept, asked, turn("assistant", said)]
        self._answers += 1

    def _fitting(self, asked: str) -> list[str]:
        """Return the last turns that leave room for an answer, half of the longest text at most."""
        longest = self.writer.longest
        wanted = self.wish.length if longest is None else min(self.wish.length, longest // 2)
        for first in range(0, len(self.turns) + 1, 2):
            prompt = self.system + "".join(self.turns[first:]) + asked + opening("assistant")
            if self.writer.room(prompt) >= wanted:
                return self.turns[first:]
        raise DataError(f"no answer fits behind this: texts of this model have {longest:,} symbols")
