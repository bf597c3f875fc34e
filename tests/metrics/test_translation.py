"""BLEU and chrF: known corpora, what counts as a word, and the interval."""

import itertools
import math

import pytest

from genloom.metrics import translation_figures
from genloom.metrics.translation import split

WORDS = itertools.product(("old", "new"), "xyz", ("saw", "left"))
SENTENCES = [f"the {a} {b} {c} the small house" for a, b, c in WORDS]


def test_equal_texts_score_a_hundred() -> None:
    for figure in translation_figures(SENTENCES, SENTENCES, data="toy").values():
        assert figure.value == pytest.approx(100.0)
        assert figure.lo == pytest.approx(figure.hi)
        assert figure.n == len(SENTENCES)


def test_bleu_is_what_its_definition_gives() -> None:
    """Six words of which five are right: precisions 5/6, 4/5, 3/4, 2/3, no penalty of brevity."""
    found, expected = ["a b c d e x"] * 20, ["a b c d e f"] * 20
    figures = translation_figures(found, expected, data="toy")
    precisions = [5 / 6, 4 / 5, 3 / 4, 2 / 3]
    geometric = 100 * math.prod(precisions) ** 0.25
    assert figures["bleu"].value == pytest.approx(geometric)
    assert figures["bleu_words"].value == pytest.approx(geometric)
    shorter = translation_figures(["a b c d e"] * 20, expected, data="toy")["bleu"].value
    assert shorter == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_words_and_signs_are_split_alike() -> None:
    assert split("a t-shirt, don't!") == "a t - shirt , don ' t !"
    found, expected = ["a t-shirt is red and blue"] * 12, ["a t - shirt is red and blue"] * 12
    figures = translation_figures(found, expected, data="toy")
    assert figures["bleu_words"].value == pytest.approx(100.0)
    assert figures["bleu"].value < 90


def test_the_interval_covers_the_value_and_narrows_with_more_texts() -> None:
    wrong = [text.replace("small", "large") if i % 3 else text for i, text in enumerate(SENTENCES)]
    few = translation_figures(wrong, SENTENCES, data="toy")
    many = translation_figures(wrong * 16, SENTENCES * 16, data="toy")
    for name, figure in few.items():
        assert figure.lo < figure.value < figure.hi
        narrower = many[name].hi - many[name].lo
        assert narrower < 0.5 * (figure.hi - figure.lo)
    assert few["bleu"].fingerprint.digest != few["chrf"].fingerprint.digest
