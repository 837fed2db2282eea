"""The frame of split calibration: split the rows, fit, calibrate, predict."""

from fractions import Fraction
from typing import Any

from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import check_confidence_level, exact_level
from uqlib._fitting import clone_and_fit, is_frozen, warn_if_fitted
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray
from uqlib._validation import (
    check_calibration_size,
    check_X,
    check_X_y,
    with_input_tags,
)


class BaseSplitCalibrator(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """Train on one part of the rows and calibrate on the other.

    A subclass stores what it needs of the calibration rows in `_set_calibration` and
    turns a level into intervals in `_interval`.
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
        X, y = check_X_y(self, X, y, reset=True)
        check_confidence_level(self.confidence_level)
        weight = check_sample_weight(sample_weight, y.size)
        if is_frozen(self.estimator):
            return self._calibrate(self.estimator, X, y)
        warn_if_fitted(self.estimator, self)
        n_calibration = check_calibration_size(self.calibration_size, y.size)
        train, held_out = train_test_split(
            range(_num_samples(X)),
            test_size=n_calibration,
            random_state=self.random_state,
        )
        model = clone_and_fit(
            self.estimator,
            _safe_indexing(X, train),
            y[train],
            None if weight is None else weight[train],
        )
        return self._calibrate(model, _safe_indexing(X, held_out), y[held_out])

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
            The estimator is as it was; the threshold is new.
        """
        check_is_fitted(self, "threshold_")
        X, y = check_X_y(self, X, y, reset=False)
        return self._calibrate(self.estimator_, X, y)

    def predict(self, X: Any) -> FloatArray:
        """Predict the point, as the wrapped estimator does.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.

        Returns
        -------
        ndarray of shape (n_samples,)
            Point predictions; the median of a model that gives quantiles alone.
        """
        check_is_fitted(self, "threshold_")
        return predict_point(self.estimator_, check_X(self, X, reset=False))

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
            Lower and upper bounds, infinite where the calibration rows are too few.
        """
        check_is_fitted(self, "threshold_")
        X = check_X(self, X, reset=False)
        if confidence_level is None:
            return self._interval(
                X, exact_level(self.confidence_level_), self.threshold_
            )
        level = check_confidence_level(confidence_level)
        return self._interval(X, level, self._threshold(level))

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _calibrate(self, model: Any, X: Any, y: FloatArray) -> Any:
        before = vars(self).copy()
        try:
            self.estimator_ = model
            level = exact_level(self.confidence_level)
            self.confidence_level_ = float(level)
            self.n_calibration_ = int(y.size)
            self._set_calibration(X, y)
            self.threshold_ = self._threshold(level)
        except Exception:
            # Half a calibration would give intervals that nothing stands behind.
            vars(self).clear()
            vars(self).update(before)
            raise
        return self

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        raise NotImplementedError("abstract: stores scores_ of the calibration rows")

    def _threshold(self, level: Fraction) -> Any:
        raise NotImplementedError("abstract: the threshold at an exact level")

    def _interval(self, X: Any, level: Fraction, threshold: Any) -> FloatArray:
        raise NotImplementedError("abstract: the intervals at a threshold")
