"""Linear probes: what separates is named rightly, what says nothing is a guess."""

import pytest
import torch

from genloom.core.errors import DataError
from genloom.core.randomness import generator
from genloom.metrics import probe_accuracy

LABELS = torch.arange(600) % 3


def noise() -> torch.Tensor:
    return torch.randn(600, 4, generator=generator("codes"), dtype=torch.float64)


def test_separate_classes_are_named_whatever_the_scale() -> None:
    codes = noise() + 20 * torch.nn.functional.one_hot(LABELS, 4)
    scaled = codes * torch.tensor([1e-4, 1.0, 1e4, 1.0])
    assert probe_accuracy(scaled[:300], LABELS[:300], scaled[300:], LABELS[300:])[0] == 1


def test_codes_that_say_nothing_are_a_guess() -> None:
    codes = noise()
    value, lo, hi = probe_accuracy(codes[:300], LABELS[:300], codes[300:], LABELS[300:])
    assert lo < value < hi
    assert lo < 1 / 3 < hi


def test_refusals() -> None:
    codes = noise()
    with pytest.raises(DataError, match="at least two classes"):
        probe_accuracy(codes, torch.zeros(600).long(), codes, LABELS)
    with pytest.raises(DataError, match="not finite"):
        probe_accuracy(codes * float("nan"), LABELS, codes, LABELS)
