"""Thresholds that follow features of a row: the features, and the frame that has them.

Whoever calibrates conditionally on features, or near them, takes them in the same
forms and from the same rows.
"""

from fractions import Fraction
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._fitting import is_frozen
from uqlib._typing import FloatArray
from uqlib._validation import check_X
from uqlib.conformal._base import BaseScoreRegressor


class _Learned(NamedTuple):
    """What the training rows taught: the score, and the features of rows."""

    score: Any
    features: Any


class BaseFeatureRegressor(BaseScoreRegressor):
    """Split calibration with a threshold that is a function of features of the row.

    A subclass has the parameters `nonconformity`, `features`, `randomized` and
    `random_state`. It learns from the features of the training rows in
    `_learn_features` and gives thresholds in `_feature_thresholds`.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Split the rows, fit the estimator on one part, calibrate on the other.

        With a `FrozenEstimator` nothing is trained and all rows calibrate.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        y : array-like of shape (n_samples,)
            Target, finite.
        sample_weight : array-like of shape (n_samples,), default=None
            One weight a row, handed to the estimator's training. Calibration counts
            each of its rows once, as the guarantee needs.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        return super().fit(X, y, sample_weight)

    def calibrate(self, X: Any, y: Any) -> Any:
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,)
            Their target, finite.

        Returns
        -------
        self : object
            The estimator is as it was; the scores are new.
        """
        return super().calibrate(X, y)

    def predict_interval(
        self, X: Any, confidence_level: float | None = None
    ) -> FloatArray:
        """Predict intervals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the calibration rows are too few or
            too unlike the row.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        if confidence_level is None:
            level, scores = exact_level(self.confidence_level_), self.scores_
        else:
            level = check_confidence_level(confidence_level)
            scores = self._scores_at(level)
        return self._interval(X, level, self._thresholds_of(X, scores, level))

    def _learn(self, model: Any, X: Any, y: Any) -> Any:
        return _Learned(super()._learn(model, X, y), self._learn_features(X))

    def _relearn(self) -> Any:
        return _Learned(super()._relearn(), self._features)

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        self._learned, self._features = self._learned
        super()._set_calibration(X, y)
        self._calibration_features = self._features(X)

    def _set_threshold(self, level: Fraction) -> None:
        """Set none: every row has a threshold of its own."""

    def _thresholds_of(self, X: Any, scores: FloatArray, level: Fraction) -> FloatArray:
        """Return one threshold a row, or one a row and end."""
        new, rng = self._features(X), self._generator()
        if scores.ndim == 1:
            return self._feature_thresholds(scores, new, level, rng)
        sided = 1 - (1 - level) / 2
        columns = [self._feature_thresholds(s, new, sided, rng) for s in scores.T]
        return np.column_stack(columns)

    def _generator(self) -> np.random.Generator | None:
        """Return what draws for new rows; None without randomization."""
        if not self.randomized:
            return None
        random_state = check_random_state(self.random_state)
        return np.random.default_rng(random_state.randint(2**31 - 1))

    def _learn_features(self, X: Any) -> Any:
        return RowFeatures(self.features, X)

    def _feature_thresholds(
        self, scores: FloatArray, new: FloatArray, level: Fraction, rng: Any
    ) -> FloatArray:
        raise NotImplementedError("abstract: the thresholds at features")


class RowFeatures:
    """Numeric features of rows: columns, a function, or a transformer.

    Parameters
    ----------
    features : None, callable, transformer, str, int or list
        As the estimators take it; None stands for all columns.
    X : {array-like, dataframe} of shape (n_samples, n_features) or None
        Training rows, that a transformer is fitted on; None if there are none.
    """

    def __init__(self, features: Any, X: Any) -> None:
        self.features = features
        if hasattr(features, "transform") and not isinstance(features, type):
            self.features = _fitted_transformer(features, X)

    def __call__(self, X: Any) -> FloatArray:
        """Return the features, shape (n_samples, n_columns), finite."""
        return self._as_matrix(self._raw(X), _num_samples(X))

    def _raw(self, X: Any) -> Any:
        if self.features is None:
            return X
        if hasattr(self.features, "transform"):
            return self.features.transform(X)
        if callable(self.features):
            return self.features(X)
        rows, keys = X if hasattr(X, "shape") else np.asarray(X), self.features
        try:
            keys = [keys] if isinstance(keys, str | Integral) else list(keys)
            return _safe_indexing(rows, keys, axis=1)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"features={self.features!r} are no columns of X: {error}. Pass names "
                "of columns of a dataframe, or column numbers."
            ) from error

    def _as_matrix(self, values: Any, n_samples: int) -> FloatArray:
        if sparse.issparse(values):
            values = values.toarray()
        try:
            matrix = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"features={self.features!r} must be numbers: {error}. Name numeric "
                "columns, or pass a function or transformer that makes numbers of X."
            ) from error
        matrix = matrix.reshape(-1, 1) if matrix.ndim == 1 else matrix
        if matrix.ndim != 2 or len(matrix) != n_samples or matrix.shape[1] == 0:
            raise ValueError(
                f"features={self.features!r} must give one row for each of the "
                f"{n_samples} rows and at least one column, got shape {matrix.shape}."
            )
        if not np.isfinite(matrix).all():
            raise ValueError(
                f"features={self.features!r} contain NaN or infinity. Impute them in a "
                "transformer, or name columns without missing values."
            )
        return matrix


def _fitted_transformer(features: Any, X: Any) -> Any:
    if is_frozen(features):
        return features
    if X is None and get_tags(features).requires_fit:
        raise ValueError(
            "The estimator is frozen, so there are no training rows to fit features="
            f"{features!r} on. Fit it on other rows and pass it in FrozenEstimator."
        )
    copy = clone(features)
    return copy if X is None else copy.fit(X)
