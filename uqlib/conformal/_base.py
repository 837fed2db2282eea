"""The frame of split calibration: split the rows, fit, calibrate, predict."""

from fractions import Fraction
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.levels import (
    central_pair,
    check_confidence_level,
    exact_level,
    level_indices,
)
from uqlib._fitting import (
    all_or_nothing,
    clone_and_fit,
    fit_score,
    is_frozen,
    split_rows,
    warn_if_fitted,
    warn_if_rows_seen,
)
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray
from uqlib._validation import (
    check_X,
    check_X_y,
    with_input_tags,
)
from uqlib.conformal._conditions import (
    Conditions,
    Thresholds,
    group_labels,
    likelihood_weights,
)
from uqlib.conformal._scores import check_scores, invert_score, predict_for_score


class BaseSplitCalibrator(MetaEstimatorMixin, BaseEstimator):
    """Train on one part of the rows and calibrate on the other.

    A subclass says how rows are checked (`_check_rows`) and split (`_split_rows`),
    what beside the estimator learns from the training rows (`_learn`), what the
    calibration rows leave behind (`_set_calibration`, which sets `scores_`) and the
    scores at another level (`_scores_at`). It asks `_row_thresholds` for the threshold
    of new rows. Parameters `group_by` and `weight_estimator` are used if it has them.
    """

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> Any:
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
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row: every group is calibrated by its own rows.
        likelihood_ratio : array-like of shape (n_samples,), default=None
            Density of the new rows over that of these rows at each row, up to a
            factor; finite, at least 0. Used in calibration, not in training.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        X, y = self._check_rows(X, y, reset=True)
        check_confidence_level(self.confidence_level)
        weight = check_sample_weight(sample_weight, _num_samples(X))
        conditions = self._conditions(X, mondrian_groups, likelihood_ratio)
        if is_frozen(self.estimator):
            warn_if_rows_seen(self.estimator, X)
            learned = self._learn(self.estimator, None, None)
            return self._calibrate(self.estimator, learned, X, y, conditions)
        warn_if_fitted(self.estimator, self)
        train, held_out = self._split_rows(X, y)
        X_train, y_train = _safe_indexing(X, train), y[train]
        model = clone_and_fit(
            self.estimator,
            X_train,
            y_train,
            None if weight is None else weight[train],
        )
        learned = self._learn(model, X_train, y_train)
        return self._calibrate(
            model,
            learned,
            _safe_indexing(X, held_out),
            y[held_out],
            conditions.take(held_out),
        )

    def calibrate(
        self,
        X: Any,
        y: Any,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> Any:
        """Calibrate anew on rows that the estimator was not trained on.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_calibration, n_features)
            Calibration rows.
        y : array-like of shape (n_calibration,)
            Their target, finite.
        mondrian_groups : array-like of shape (n_calibration,), default=None
            Label of the group of each row.
        likelihood_ratio : array-like of shape (n_calibration,), default=None
            Likelihood ratio of each row.

        Returns
        -------
        self : object
            The estimator is as it was; the threshold is new.
        """
        check_is_fitted(self, "scores_")
        X, y = self._check_rows(X, y, reset=False)
        warn_if_rows_seen(self.estimator_, X)
        conditions = self._conditions(X, mondrian_groups, likelihood_ratio)
        return self._calibrate(self.estimator_, self._relearn(), X, y, conditions)

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _check_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        return check_X_y(self, X, y, reset=reset)

    def _split_rows(self, X: Any, y: Any) -> Any:
        """Return the row numbers of training and calibration."""
        return split_rows(_num_samples(X), self.calibration_size, self.random_state)

    def _learn(self, model: Any, X: Any, y: Any) -> Any:
        """Return what the training rows teach beside the model; X is None if none."""
        return None

    def _relearn(self) -> Any:
        """Return what a new calibration uses beside the model that is there."""
        return self._learned

    def _conditions(
        self, X: Any, mondrian_groups: Any, likelihood_ratio: Any
    ) -> Conditions:
        return _conditions_from(self._sources(), X, mondrian_groups, likelihood_ratio)

    def _new_conditions(
        self, X: Any, mondrian_groups: Any, likelihood_ratio: Any = None
    ) -> Conditions:
        """Return the conditions of new rows, from where calibration had its own."""
        sources = self._calibration_sources
        return _conditions_from(sources, X, mondrian_groups, likelihood_ratio)

    def _sources(self) -> tuple[Any, Any]:
        return getattr(self, "group_by", None), getattr(self, "weight_estimator", None)

    def _calibrate(
        self, model: Any, learned: Any, X: Any, y: Any, conditions: Conditions
    ) -> Any:
        # Half a calibration would give intervals that nothing stands behind.
        with all_or_nothing(self):
            self.estimator_, self._learned = model, learned
            self._calibration_sources = self._sources()
            level = exact_level(self.confidence_level)
            self.confidence_level_ = float(level)
            self.n_calibration_ = _num_samples(X)
            self._thresholds = Thresholds(conditions)
            self._set_calibration(X, y)
            self._set_threshold(level)
        return self

    def _set_threshold(self, level: Fraction) -> None:
        for name in ("threshold_", "groups_"):
            vars(self).pop(name, None)
        if self._thresholds.labels is not None:
            self.groups_ = self._thresholds.labels
        table = self._thresholds.table(self.scores_, level)
        if table is not None:  # with likelihood ratios every row has its own
            self.threshold_ = table

    def _row_thresholds(
        self,
        X: Any,
        confidence_level: Any,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> tuple[Fraction, Any]:
        """Return the exact level and the threshold of the rows at it."""
        new = self._new_conditions(X, mondrian_groups, likelihood_ratio)
        if confidence_level is None:
            level = exact_level(self.confidence_level_)
            scores, table = self.scores_, getattr(self, "threshold_", None)
        else:
            level = check_confidence_level(confidence_level)
            scores = self._scores_at(level)
            table = self._thresholds.table(scores, level)
        return level, self._thresholds.rows(scores, level, table, new)

    def _set_calibration(self, X: Any, y: Any) -> None:
        raise NotImplementedError("abstract: stores scores_ of the calibration rows")

    def _scores_at(self, level: Fraction) -> FloatArray:
        return self.scores_


def _conditions_from(
    sources: tuple[Any, Any], X: Any, mondrian_groups: Any, likelihood_ratio: Any
) -> Conditions:
    group_by, weight_estimator = sources
    return Conditions(
        group_labels(group_by, mondrian_groups, X),
        likelihood_weights(weight_estimator, likelihood_ratio, X),
    )


class BaseSplitRegressor(RegressorMixin, BaseSplitCalibrator):
    """Split calibration of a regressor: points and intervals.

    A subclass turns thresholds into intervals in `_interval`.
    """

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
        check_is_fitted(self, "scores_")
        return predict_point(self.estimator_, check_X(self, X, reset=False))

    def predict_interval(
        self,
        X: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
    ) -> FloatArray:
        """Predict intervals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            Coverage asked for, strictly between 0 and 1; None takes that of the last
            calibration.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the calibration had groups.
        likelihood_ratio : array-like of shape (n_samples,), default=None
            Likelihood ratio of each row, if the calibration had them.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the calibration rows are too few.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        level, threshold = self._row_thresholds(
            X, confidence_level, mondrian_groups, likelihood_ratio
        )
        return self._interval(X, level, threshold)

    def _interval(self, X: Any, level: Fraction, threshold: Any) -> FloatArray:
        raise NotImplementedError("abstract: the intervals at a threshold")


class BaseScoreRegressor(BaseSplitRegressor):
    """Split calibration of a regressor with a nonconformity score.

    A subclass names the score in `_unfitted_score`.
    """

    def _learn(self, model: Any, X: Any, y: Any) -> Any:
        return fit_score(self._unfitted_score(), model, X, y)

    def _relearn(self) -> Any:
        score = self._unfitted_score()
        if not hasattr(score, "fit"):
            return score
        if type(score) is not type(self._learned):
            raise ValueError(
                f"nonconformity was changed to {type(score).__name__}, which learns "
                "from training rows. Call fit, which has them, before calibrate."
            )
        return self._learned

    def _set_calibration(self, X: Any, y: FloatArray) -> None:
        score = self.nonconformity_ = self._learned
        level = self.confidence_level_
        # Whoever has a score for every level can be asked for intervals at any.
        for name in ("quantiles_", "_calibration_y", "_calibration_values"):
            vars(self).pop(name, None)
        if hasattr(score, "predict_levels"):
            # Copies: a frozen model may hand out its own arrays, and y is the user's.
            values, self.quantiles_ = score.predict_levels(self.estimator_, X, level)
            self._calibration_y, self._calibration_values = y.copy(), values.copy()
            self.scores_ = self._scores_at(exact_level(level))
        else:
            prediction = predict_for_score(score, self.estimator_, X, level)
            self.scores_ = check_scores(score.score(y, prediction), y.size)

    def _scores_at(self, level: Fraction) -> FloatArray:
        if not hasattr(self, "_calibration_values"):
            return self.scores_
        columns = level_indices(self.quantiles_, np.array(central_pair(level)))
        prediction = self._calibration_values[:, columns]
        return self.nonconformity_.score(self._calibration_y, prediction)

    def _interval(self, X: Any, level: Fraction, threshold: Any) -> FloatArray:
        score = self.nonconformity_
        # Without scores at other levels the threshold is of those that there are.
        known = hasattr(score, "predict_levels")
        at = float(level) if known else self.confidence_level_
        prediction = predict_for_score(score, self.estimator_, X, at)
        return invert_score(score, prediction, threshold)

    def _unfitted_score(self) -> Any:
        raise NotImplementedError("abstract: the nonconformity score")
