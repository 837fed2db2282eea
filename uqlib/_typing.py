"""Array aliases and the protocols by which the families meet."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ArrayLike",
    "BoolArray",
    "FloatArray",
    "FoldFitter",
    "IntervalPredictor",
    "NonconformityScore",
    "QuantilePredictor",
    "Scorer",
]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]
Scorer = Callable[..., float]


@runtime_checkable
class QuantilePredictor(Protocol):
    """Anything that gives a quantile matrix of shape (n_samples, n_quantiles)."""

    def predict_quantiles(self, X: Any) -> FloatArray:
        """Return the quantile matrix."""


@runtime_checkable
class IntervalPredictor(Protocol):
    """Anything that gives intervals of shape (n_samples, 2): lower, upper."""

    def predict_interval(self, X: Any) -> FloatArray:
        """Return the intervals."""


@runtime_checkable
class FoldFitter(Protocol):
    """An estimator that shares work between the fits of several folds.

    Each model equals a clone of the estimator fitted on the training rows of its split;
    the estimator itself stays unfitted.
    """

    def fit_folds(
        self, X: Any, y: Any, splits: list[tuple[Any, Any]], sample_weight: Any = None
    ) -> list[Any]:
        """Return one fitted estimator for each (train, test) split, in their order."""


@runtime_checkable
class NonconformityScore(Protocol):
    """A nonconformity score and its inverse; larger is stranger.

    For every threshold t: ``score(y, y_pred) <= t`` implies ``lower <= y <= upper``
    with ``lower, upper = inverse(y_pred, t).T``, and in exact arithmetic the converse.

    Optional methods: ``fit(estimator, X, y)`` learns from training rows;
    ``predict(estimator, X, confidence_level)`` gives what stands for y_pred, always at
    the level of calibration, unless ``predict_levels`` gives all levels at once;
    ``affine(y_pred)`` tells cross-conformal methods how the ends move.
    """

    def score(self, y: FloatArray, y_pred: FloatArray) -> FloatArray:
        """Return the scores, shape (n_samples,)."""

    def inverse(self, y_pred: FloatArray, threshold: float) -> FloatArray:
        """Return the interval {y: score <= threshold}, shape (n_samples, 2)."""
