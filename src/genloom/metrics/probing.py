"""How much a code tells of an item's class: the accuracy of a linear classifier."""

import warnings

from torch import Tensor

from genloom.core.errors import DataError
from genloom.metrics.figures import wilson


def probe_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor
) -> tuple[float, float, float]:
    """Return the share of test codes whose class a logistic regression names, with a Wilson interval.

    Args:
        train, test: codes (n, Z), standardised here by those of ``train``.
        train_labels, test_labels: classes (n,) int64.

    Raises:
        DataError: the training codes are all of one class, or are not finite.

    Source: Alain & Bengio 2016, arXiv:1610.01644.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not (train.isfinite().all() and test.isfinite().all()):
        raise DataError("codes that are not finite tell nothing of a class")
    if len(train_labels.unique()) < 2:
        raise DataError("a probe needs codes of at least two classes")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train.double().numpy(), train_labels.numpy())
    share = float(classifier.score(test.double().numpy(), test_labels.numpy()))
    return share, *wilson(share, len(test))
