"""How near translations come to those of people: BLEU and chrF.

By the package sacrebleu: Post 2018, arXiv:1804.08771.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from genloom.core.errors import MissingExtra
from genloom.metrics.figures import Figure, Fingerprint

BOOTSTRAPS = 1000


def translation_figures(found: Sequence[str], expected: Sequence[str], *, data: str) -> dict[str, Figure]:
    """Return the figures of translations, 0 to 100, higher is better.

    ``bleu`` is BLEU (Papineni et al. 2002) as sacrebleu splits words (13a), ``bleu_words`` as it is where
    words and signs are split alike on both sides, and ``chrf`` is chrF2 (Popovic 2015).

    Args:
        found: translations.
        expected: one of each by a person.

    Raises:
        MissingExtra: the package sacrebleu is not installed.
    """
    package = _sacrebleu()
    words = package.BLEU(tokenize="none", force=True)
    figure = partial(_figure, data=data)
    return {
        "bleu": figure("bleu", package.BLEU(), found, expected),
        "bleu_words": figure("bleu_words", words, [*map(split, found)], [*map(split, expected)]),
        "chrf": figure("chrf", package.CHRF(), found, expected),
    }


def split(text: str) -> str:
    """Return a text with blanks between words and signs, a hyphen being a sign."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def _figure(name: str, scorer: Any, found: Sequence[str], expected: Sequence[str], *, data: str) -> Figure:
    """Return a corpus's score with its 95% interval by the bootstrap over sentences (Koehn 2004)."""
    score = scorer.corpus_score(found, [expected], n_bootstrap=BOOTSTRAPS)
    value, reach = min(100.0, float(score.score)), float(score._ci)
    mark = Fingerprint(str(scorer.get_signature()), 1, "texts", "pairs", data)
    return Figure(name, value, max(0.0, value - reach), min(100.0, value + reach), len(found), mark)


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError as error:
        raise MissingExtra("sacrebleu", "text") from error
    return sacrebleu
