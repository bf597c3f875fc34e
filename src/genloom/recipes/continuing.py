"""Going on with texts: drawn as they are shown, several at once, searched for, or with a helper's guesses."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from genloom.core.capabilities import NextSymbol, need
from genloom.core.errors import ConfigError, DataError, Unsupported
from genloom.core.events import Padded, Value
from genloom.core.randomness import SampleNoise
from genloom.modalities.characters import CharacterView, TextView, utf8
from genloom.modalities.patterns import Matches, StopAt, Written, expression, matched
from genloom.nn.decoding import Choice, Constraint, Drawn, Together, collect, stream
from genloom.nn.readers import Muted
from genloom.nn.searching import beam_search
from genloom.nn.speculating import AHEAD, speculate
from genloom.nn.transformer import compile_reading
from genloom.recipes.runs import Run, labels_for
from genloom.tasks.sampling import MICRO_BATCH


@dataclass(frozen=True)
class Wish:
    """What is wanted of continuations.

    Args:
        length: symbols of each at most.
        stop: a text is cut before the first of these strings.
        pattern: a regular expression that each continuation matches.
        label: a class by name or number, for a conditional model; none if absent.
    """

    length: int = 200
    choice: Choice = field(default_factory=Choice)
    stop: tuple[str, ...] = ()
    pattern: str | None = None
    label: str | int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Continuation:
    """A text that goes on from a prompt.

    ``nats`` is -log p of what was drawn, by the model as it was guided and as if unknown characters could not
    come. ``ended`` says that the text is whole: it ended by itself or at a stop, and matches the pattern.
    """

    prompt: str
    text: str
    nats: float
    ended: bool


Precision = Literal["fp32", "bf16"]
"""What models are computed in; probabilities by bf16 are off by a hundredth of themselves on average."""


class Writer:
    """Goes on with texts by one run, perhaps with the guesses of another.

    Args:
        compiled: make drawing faster, once compilation is over.
    """

    def __init__(
        self, run: Run, helper: Run | None = None, precision: Precision = "fp32", compiled: bool = False
    ) -> None:
        view = run.view
        if not isinstance(view, TextView):
            raise Unsupported(f"{run.folder} is a model of {run.modality.name}: only texts can be continued")
        self.run, self.view, self.spelled = run, view, view.spell()
        if precision == "bf16" and not run.card.autocast:
            raise ConfigError(f"{run.family} does not run in bfloat16: leave --precision out")
        at_once = 1 if helper is None else AHEAD + 1
        self.model = self._opened(run, precision, at_once if compiled else None)
        self.helper = None if helper is None else self._opened(helper, precision, None)
        if helper is not None and helper.modality.describe() != run.modality.describe():
            raise ConfigError(f"{helper.folder} was fitted to other texts than {run.folder}: it cannot help")

    def _opened(self, run: Run, precision: Precision, compiled: int | None) -> NextSymbol:
        silent, model = [i for i, part in enumerate(self.spelled) if not part], run.load().eval()
        if precision == "bf16" and run.card.autocast:
            model = model.bfloat16()
        if compiled is not None:
            compile_reading(model, compiled)
        return Muted(need(model, NextSymbol, "continue"), silent)

    def notice(self, prompt: str, length: int) -> str:
        """Say what of a text the model will not see; nothing if it sees all."""
        context = self.model.context
        if context is None or self.model.alphabet.ends or self._symbols(prompt) + length <= context:
            return ""
        return (
            f"prompt and continuation are longer than the model's context of {context:,} symbols: "
            f"whenever it is full, the model goes on from the last {context // 2:,}"
        )

    @property
    def longest(self) -> int | None:
        """The symbols of the longest text, or of the context where texts go on; None for any number."""
        return self.model.longest if self.model.alphabet.ends else self.model.context

    def room(self, prompt: str) -> float:
        """Return how many symbols fit behind a prompt."""
        return math.inf if self.longest is None else self.longest - self._symbols(prompt)

    def _symbols(self, text: str) -> int:
        return int(self.view.read([text]).lengths[0])

    def pieces(self, prompt: str, wish: Wish) -> Iterator[str]:
        """Yield one continuation piece by piece, as it is drawn; what may belong to a stop is held back.

        Raises:
            DataError, ConfigError: the prompt cannot be read, or the pattern cannot be met.
        """
        written, shown, held = Written(self.spelled, 1), 0, max(map(len, wish.stop), default=1) - 1
        for drawn in self._drawn([prompt], [0], wish):
            written.add(drawn.symbols, drawn.active)
            (text,) = written.texts
            if any(written.completed(wish.stop)):
                break
            ready = max(shown, len(text) - held)
            if ready > shown:
                yield text[shown:ready]
            shown = ready
        yield cut(written.texts[0], wish.stop)[shown:]

    def write(self, prompts: Sequence[str], wish: Wish) -> list[Continuation]:
        """Return a continuation of each prompt; number i depends on its prompt and the seed alone.

        Where some texts cannot go on to match the pattern, they stop there, and are not ``ended``.

        Raises:
            DataError, ConfigError: a prompt cannot be read, or no text can match the pattern.
        """
        parts = (range(a, min(a + MICRO_BATCH, len(prompts))) for a in range(0, len(prompts), MICRO_BATCH))
        return [one for part in parts for one in self._written([prompts[i] for i in part], part, wish)]

    def _written(self, prompts: Sequence[str], numbers: Sequence[int], wish: Wish) -> list[Continuation]:
        drawn = self._drawn(prompts, numbers, wish)
        found = collect(self.model.alphabet, drawn, len(prompts))
        rows = zip(found.values.values.tolist(), found.values.lengths.tolist(), strict=True)
        texts = [cut(spelt(self.spelled, row[:n]), wish.stop) for row, n in rows]
        ended = found.ended.tolist()
        if wish.pattern is not None:
            pattern = expression(wish.pattern)
            ended = [e and bool(matched(pattern, t)) for e, t in zip(ended, texts, strict=True)]
        parts = zip(prompts, texts, (-found.log_probs).tolist(), ended, strict=True)
        return [Continuation(*part) for part in parts]

    def search(self, prompt: str, width: int, alpha: float, wish: Wish) -> list[Continuation]:
        """Return the likeliest continuations that a beam of this width finds, the best first.

        Raises:
            DataError, ConfigError: the prompt cannot be read, or the wish is for what a search does not do.
        """
        if wish.stop or wish.pattern or wish.choice != Choice() or self.helper is not None:
            raise ConfigError(
                "a beam looks for the likeliest texts: leave stops, patterns, cuts and helpers out"
            )
        cond = self._condition(1, wish)
        found = beam_search(self.model, self._read([prompt]), width, wish.length, alpha, cond)
        lengths, nats = found.lengths[0].tolist(), (-found.log_probs[0]).tolist()
        rows = zip(found.values[0].tolist(), lengths, nats, strict=True)
        ends = self.model.alphabet.ends
        kept = [(spelt(self.spelled, row[:n]), cost, n) for row, n, cost in rows if cost < float("inf")]
        return [Continuation(prompt, text, cost, ends and n < wish.length) for text, cost, n in kept]

    def _writes(self, text: bytes) -> bool:
        """Tell whether the symbols can spell a text, as those of bytes can any."""
        if not isinstance(self.view, CharacterView):
            return True
        return all(letter.encode() in self.spelled for letter in text.decode())

    def _condition(self, rows: int, wish: Wish) -> Value | None:
        """Return the class that was asked for, for so many texts."""
        if wish.label is not None:
            return labels_for(self.run, wish.label, rows, wish.seed)
        if wish.choice.guidance_scale != 1:
            raise ConfigError("guidance is towards a class: give one with --label, or leave the scale out")
        return None

    def _read(self, prompts: Sequence[str]) -> Padded:
        read = self.view.read(prompts)
        width, longest = int(read.lengths.max()), self.model.longest
        if self.model.alphabet.ends and width > longest:
            raise DataError(f"texts of this model have up to {longest:,} symbols, the prompt {width:,}")
        return Padded(read.values[:, :width], read.lengths)

    def _drawn(self, prompts: Sequence[str], numbers: Sequence[int], wish: Wish) -> Iterator[Drawn]:
        if "" in wish.stop:
            raise ConfigError("every text holds the empty stop: leave it out")
        if strange := [stop for stop in wish.stop if not self._writes(utf8(stop))]:
            raise ConfigError(f"this model never writes {strange[0]!r}: leave that stop out")
        read, cond = self._read(prompts), self._condition(len(prompts), wish)
        noise = SampleNoise(wish.seed, torch.tensor(numbers))
        if self.helper is not None:
            if wish.stop or wish.pattern:
                raise ConfigError("a helper cannot guess under stops or a pattern: leave one of them out")
            return speculate(self.model, self.helper, read, noise, wish.length, wish.choice, cond)
        return self._streamed(read, noise, wish, cond)

    def _streamed(self, read: Padded, noise: SampleNoise, wish: Wish, cond: Value | None) -> Iterator[Drawn]:
        outputs, rows = self.model.alphabet.outputs, len(read.lengths)
        parts: list[Constraint] = []
        if wish.stop:
            parts.append(StopAt(wish.stop, self.spelled, outputs, rows))
        if wish.pattern is not None:
            parts.append(Matches(wish.pattern, self.spelled, outputs, rows))
        together = Together(parts) if parts else None
        return stream(self.model, read, noise, wish.length, wish.choice, cond, together)


def spelt(spelled: Sequence[bytes], symbols: Sequence[int]) -> str:
    """Return the text of symbols."""
    return b"".join(spelled[s] for s in symbols).decode("utf-8", "ignore")


def cut(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stops."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]
