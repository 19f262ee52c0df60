"""Measures of click prediction, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs ordered rightly, ties counted half.

    By ranks (Mann-Whitney U); NaN without both classes.
    """
    positive = np.asarray(labels) > 0.5
    _, at, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return float("nan")
    return float((ranks[at][positive].sum() - n * (n + 1) / 2) / (n * m))


def log_loss(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Mean binary cross-entropy in nats, from logits."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    return float(np.mean(np.logaddexp(0, z) - y * z))


def calibration(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Mean predicted probability over the mean label: 1 where they agree; NaN without a positive."""
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    predicted = np.exp(-np.logaddexp(0, -z))
    return float(predicted.mean() / y.mean()) if y.any() else float("nan")
