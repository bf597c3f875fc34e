"""The classifier two-sample test: how well a classifier tells fake rows from real ones."""

import math

import torch
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.core.randomness import generator
from genloom.metrics._rows import pair, squared_distances

_LANDMARKS = 150
_PENALTIES = torch.logspace(-3, 5, 17, dtype=torch.float64)


def c2st(real: Tensor, fake: Tensor, *, seed: int = 0, folds: int = 5) -> float:
    """Return the cross-validated accuracy of a classifier between real and fake rows.

    The classes are cut to equal size. The classifier is ridge regression on the features, their squares and
    Gaussian kernels of three widths around landmark rows; scales, landmarks, widths and penalty (by the
    exact leave-one-out error) come from the training folds alone.

    Args:
        real: (n, d).
        fake: (m, d).
        seed: keys the cut, the folds and the landmarks.
        folds: number of folds, each predicted by a classifier trained on the others.

    Returns:
        Accuracy in [0, 1]: 1/2 means indistinguishable by this classifier, 1 always told apart.

    Source: Lopez-Paz & Oquab 2017, section 3, with cross-validation in place of one split. Leave-one-out
    residuals: Hastie, Tibshirani & Friedman 2009, equation 7.64.
    """
    real, fake = pair(real, fake)
    size = min(len(real), len(fake))
    if not 2 <= folds <= size // 2:
        raise ConfigError(
            f"c2st with {folds} folds needs at least {2 * folds} rows on either side, not {size}"
        )
    source = generator("c2st", seed)
    real, fake = (side[torch.randperm(len(side), generator=source)[:size]] for side in (real, fake))
    rows = torch.cat([real, fake])
    sign = torch.ones(2 * size, dtype=torch.float64)
    sign[size:] = -1
    fold = torch.arange(size).repeat(2) % folds
    correct = 0.0
    for f in range(folds):
        train, test = _features(rows[fold != f], rows[fold == f], source)
        margin = sign[fold == f] * (test @ _ridge(train, sign[fold != f]))
        correct += (margin > 0).sum().item() + 0.5 * (margin == 0).sum().item()
    return correct / (2 * size)


def _features(train: Tensor, test: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Map rows to a constant, themselves, their squares and kernels around training rows, on unit scales."""
    train, test = _standard(train, test)
    picks = torch.randperm(len(train), generator=source)[: 3 * _LANDMARKS]
    apart = squared_distances(train, train[picks])
    width = math.sqrt(apart[apart > 0].median().item()) if (apart > 0).any() else 1.0
    factors = torch.tensor([0.4, 0.7, 1.2], dtype=torch.float64).repeat(_LANDMARKS)[: len(picks)]
    scale = -0.5 / (factors * width).square()
    kernels = torch.exp(apart * scale), torch.exp(squared_distances(test, train[picks]) * scale)
    left = torch.cat([train, train.square(), kernels[0]], 1)
    right = torch.cat([test, test.square(), kernels[1]], 1)
    left, right = _standard(left, right)
    return _with_constant(left), _with_constant(right)


def _standard(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Scale both by the training rows' means and deviations; constant columns become 0."""
    mean, std = train.mean(0), train.std(0)
    scale = torch.where(std > 1e-9 * (1 + mean.abs()), 1 / std, 0.0)
    return (train - mean) * scale, (test - mean) * scale


def _with_constant(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def _ridge(x: Tensor, y: Tensor) -> Tensor:
    """Return ridge weights (p,) with the penalty of least squared leave-one-out error."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    turned = x @ vectors
    target = turned.T @ y
    shrink = 1 / (values.clamp_min(0)[:, None] + _PENALTIES)
    residual = y[:, None] - turned @ (target[:, None] * shrink)
    leverage = turned.square() @ shrink
    error = (residual / (1 - leverage).clamp_min(1e-9)).square().sum(0)
    return vectors @ (target * shrink[:, error.argmin()])
