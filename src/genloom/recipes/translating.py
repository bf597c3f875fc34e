"""Turning texts into others by a run on pairs of texts: as texts, figures, and a picture of attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from genloom.core.capabilities import Aligner, NextSymbol, need
from genloom.core.errors import ConfigError, DataError, Unsupported
from genloom.core.events import Padded
from genloom.core.randomness import SampleNoise
from genloom.metrics import Figure, translation_figures
from genloom.modalities.base import Dataset
from genloom.modalities.characters import tidy, to_texts
from genloom.modalities.pairs import TranslationView
from genloom.modalities.tokens import PairView
from genloom.nn.decoding import Choice, Greedy, collect, no_prompts, stream
from genloom.nn.searching import beam_search
from genloom.recipes.runs import Run
from genloom.report.attention import draw_attention
from genloom.tasks.sampling import MICRO_BATCH

GREEDY = Greedy()
END = "end"
"""How the end of a text is shown."""


@dataclass(frozen=True)
class Translation:
    """A text and what became of it; ``nats`` is -log p of that given the text."""

    source: str
    text: str
    nats: float


@dataclass(frozen=True)
class Search:
    """A search for the likeliest text: hypotheses, and what favours longer ones."""

    width: int = 5
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 1000 and 0 <= self.length_penalty <= 10):
            raise ConfigError("a beam is from 1 to 1,000 wide, and its length penalty from 0 to 10")


class Translator:
    """Turns texts into others by one run."""

    def __init__(self, run: Run) -> None:
        view = run.view
        if not isinstance(view, TranslationView):
            raise Unsupported(f"{run.folder} is a model of {run.modality.name}, not of pairs of texts")
        self.view, self.network = view, run.load().eval()
        self.model = need(self.network, NextSymbol, "translate")

    def translate(
        self, texts: Sequence[str], choice: Choice = GREEDY, search: Search | None = None, seed: int = 0
    ) -> list[Translation]:
        """Return what becomes of each text; number i depends on the text, its number and the seed alone.

        Args:
            choice: how symbols are drawn, the likeliest each time unless told otherwise.
            search: look for the likeliest text instead.

        Raises:
            ConfigError: choices are made for a search.
            DataError: a text is empty or too long.
        """
        if choice.guidance_scale != 1:
            raise ConfigError("guidance is towards a class, which a translation has not: leave it out")
        if search is not None and choice != GREEDY:
            raise ConfigError("a search looks for the likeliest text: leave temperature and cuts out")
        if empty := [number for number, text in enumerate(texts, 1) if not text.split()]:
            raise DataError(f"text {empty[0]} of {len(texts)} is empty: leave it out")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: dict[int, Translation] = {}
        size = MICRO_BATCH if search is None else max(1, MICRO_BATCH // search.width)
        for first in range(0, len(order), size):
            part = order[first : first + size]
            found |= zip(part, self._some([texts[i] for i in part], part, choice, search, seed), strict=True)
        return [found[i] for i in range(len(texts))]

    def _some(
        self, texts: Sequence[str], numbers: Sequence[int], choice: Choice, search: Search | None, seed: int
    ) -> list[Translation]:
        source, empty = self.view.read(texts), no_prompts(len(texts))
        if search is None:
            noise = SampleNoise(seed, torch.tensor(numbers))
            drawn = stream(self.model, empty, noise, self.model.longest, choice, source)
            text = collect(self.model.alphabet, drawn, len(texts))
            values, nats = text.values, -text.log_probs
        else:
            width, alpha = search.width, search.length_penalty
            best = beam_search(self.model, empty, width, self.model.longest, alpha, source)
            values, nats = Padded(best.values[:, 0], best.lengths[:, 0]), -best.log_probs[:, 0]
        written = [tidy(text) for text in self.view.target.texts(values)]
        return [Translation(*row) for row in zip(texts, written, nats.tolist(), strict=True)]

    def attention(self, text: str, translation: str) -> bytes:
        """Return a picture, as SVG, of which parts of a text each part of its translation looks at."""
        source, target = self.view.read([text]), self.view.answer([translation])
        shares = need(self.network, Aligner, "a picture of attention").align(target, source)[0]
        columns, rows = parts(self.view.source, source), parts(self.view.target, target)
        return draw_attention(shares[: len(rows), : len(columns)].tolist(), columns, rows)


def parts(view: PairView, read: Padded) -> list[str]:
    """Return how the symbols of the first text are shown, and its end."""
    spelled = view.spell()
    symbols = read.values[0, : int(read.lengths[0])].tolist()
    return [*(spelled[s].decode("utf-8", "replace").strip() for s in symbols), END]


def measured(run: Run, dataset: Dataset, limit: int, search: Search | None = None) -> dict[str, Figure]:
    """Return how near a run's translations of test items come to those of people.

    Args:
        limit: at most this many test items are used.
    """
    test = dataset.test.some(min(limit, len(dataset.test)))
    given, expected = (to_texts(side) for side in test.items.unbind(1))
    found = [one.text for one in Translator(run).translate(given, search=search)]
    return translation_figures(found, expected, data=f"{dataset.fingerprint}:test[{len(test)}]")
