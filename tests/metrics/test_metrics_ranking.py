"""The area under the curve, against scikit-learn and the law of two normals."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from genloom.core.errors import DataError
from genloom.core.randomness import generator
from genloom.metrics import auroc


def test_as_scikit_learn_with_ties() -> None:
    source = generator("auroc")
    low, high = (torch.randint(0, 12, (n,), generator=source) + shift for n, shift in ((80, 0), (50, 3)))
    labels = [0] * 80 + [1] * 50
    expected = roc_auc_score(labels, torch.cat([low, high]).numpy())
    assert auroc(low, high)[0] == pytest.approx(expected, abs=1e-12)


def test_the_interval_covers_the_truth() -> None:
    """Two normals one deviation apart: the area is Phi(1 / sqrt 2), and most intervals hold it."""
    source, truth, held = generator("cover"), 0.5 * (1 + math.erf(0.5)), 0
    for _ in range(200):
        low, high = torch.randn(60, generator=source), 1 + torch.randn(90, generator=source)
        _, lo, hi = auroc(low, high)
        held += lo <= truth <= hi
    assert 180 <= held <= 199


def test_groups_too_small() -> None:
    with pytest.raises(DataError, match="two scores"):
        auroc(torch.zeros(1), torch.zeros(5))
