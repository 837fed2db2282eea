"""The frame of a batch calibrator: split the rows, fit, keep what batches need."""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.checks import check_sample_weight
from uqlib._core.group_ranks import check_groups, group_codes, list_labels
from uqlib._core.levels import check_confidence_level
from uqlib._core.weighted_ranks import check_weights
from uqlib._fitting import (
    clone_and_fit,
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
from uqlib.batch._scores import check_range, finite_points, fitted_score, score_rows
from uqlib.batch._shapes import check_training, is_train


class Rows(NamedTuple):
    """Group labels of rows, and the chance that each is kept; None where not given."""

    labels: NDArray[Any] | None
    keep: FloatArray | None

    def take(self, rows: Any) -> "Rows":
        """Return the conditions of some of the rows."""
        return Rows(*(None if values is None else values[rows] for values in self))


class BaseBatchCalibrator(RegressorMixin, MetaEstimatorMixin, BaseEstimator):
    """Train on one part of the rows and calibrate on the other.

    A subclass checks its parameters in `_check_parameters`.
    """

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
        max_ratio: float | None = None,
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
            Label of the group of each row: a batch of a group is then bounded by the
            calibration rows of that group alone.
        likelihood_ratio : array-like of shape (n_samples,), default=None
            Density of the new rows over that of these rows at each row, up to a
            factor; at least 0 and at most `max_ratio`. A calibration row is kept with
            probability likelihood_ratio / max_ratio. Not used in training.
        max_ratio : float, default=None
            The largest value that the ratio takes anywhere, not only at these rows;
            needed with `likelihood_ratio`.

        Returns
        -------
        self : object
            Fitted and calibrated.
        """
        X, y = check_X_y(self, X, y, reset=True)
        self._check_parameters()
        weight = check_sample_weight(sample_weight, _num_samples(X))
        conditions = _conditions(X, mondrian_groups, likelihood_ratio, max_ratio)
        rng = check_random_state(self.random_state)
        if is_frozen(self.estimator):
            warn_if_rows_seen(self.estimator, X)
            score = fitted_score(self.nonconformity, self.estimator, None, None)
            return self._calibrate(self.estimator, score, None, X, y, conditions, rng)
        warn_if_fitted(self.estimator, self)
        train, held_out = split_rows(_num_samples(X), self.calibration_size, rng)
        X_train, y_train = _safe_indexing(X, train), y[train]
        train_weight = None if weight is None else weight[train]
        model = clone_and_fit(self.estimator, X_train, y_train, train_weight)
        score = fitted_score(self.nonconformity, model, X_train, y_train)
        shape = self._training_scores(model, score, X_train, y_train)
        X_held, y_held = _safe_indexing(X, held_out), y[held_out]
        held = conditions.take(held_out)
        return self._calibrate(model, score, shape, X_held, y_held, held, rng)

    def calibrate(
        self,
        X: Any,
        y: Any,
        *,
        mondrian_groups: Any = None,
        likelihood_ratio: Any = None,
        max_ratio: float | None = None,
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
        max_ratio : float, default=None
            The largest value that the ratio takes anywhere.

        Returns
        -------
        self : object
            The estimator and the score are as they were; the calibration is new.
        """
        check_is_fitted(self, "scores_")
        X, y = check_X_y(self, X, y, reset=False)
        self._check_parameters()
        warn_if_rows_seen(self.estimator_, X)
        return self._calibrate(
            self.estimator_,
            self.nonconformity_,
            self._shape_scores,
            X,
            y,
            _conditions(X, mondrian_groups, likelihood_ratio, max_ratio),
            check_random_state(self.random_state),
        )

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

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _check_parameters(self) -> None:
        raise NotImplementedError("abstract: refuses parameters out of their range")

    def _training_scores(self, model: Any, score: Any, X: Any, y: Any) -> Any:
        """Return the sorted training scores, whose shape phi="train" takes."""
        if not is_train(self.phi):
            return None
        return np.sort(score_rows(score, model, X, y, predict_point(model, X)))

    def _calibrate(
        self,
        model: Any,
        score: Any,
        shape: Any,
        X: Any,
        y: FloatArray,
        conditions: Rows,
        rng: Any,
    ) -> Any:
        """Compute everything first, so that an error changes nothing."""
        check_training(self.phi, shape)
        labels = conditions.labels
        if conditions.keep is not None:
            kept = _thinned(conditions.keep, rng)
            X, y = _safe_indexing(X, kept), y[kept]
            labels = None if labels is None else labels[kept]
        points = predict_point(model, X).copy()  # a frozen model may hand out its own
        scores = score_rows(score, model, X, y, points)
        bounds = check_range(self.score_bounds, scores)
        order = rng.permutation(y.size)
        for name in ("groups_", "event_probability_", "gap_", "rank_"):
            vars(self).pop(name, None)
        self.estimator_, self.nonconformity_ = model, score
        self.scores_, self.n_calibration_ = scores, y.size
        self._bounds, self._order, self._shape_scores = bounds, order, shape
        self._targets, self._points, self._codes = y.copy(), points, None
        if labels is not None:
            self.groups_, self._codes = group_codes(labels, y.size, "mondrian_groups")
        return self

    def _batch_rows(self, X: Any, mondrian_groups: Any) -> tuple[Any, NDArray[np.intp]]:
        """Return checked rows and the calibration group of each."""
        check_is_fitted(self, "scores_")
        self._check_parameters()
        X = check_X(self, X, reset=False)
        if _num_samples(X) == 0:
            raise ValueError("X has 0 rows: the batch is empty. Pass at least one row.")
        return X, self._cells(mondrian_groups, _num_samples(X))

    def _level(self, n_statements: int = 1) -> Fraction:
        alpha = 1 - check_confidence_level(self.confidence_level)
        return 1 - alpha / n_statements

    def _finite_points(self, X: Any) -> FloatArray:
        return finite_points(self.estimator_, X)

    def _members(self, cell: int) -> Any:
        """Return an index of the calibration rows of a group, in their random order."""
        if self._codes is None:
            return self._order
        return self._order[self._codes[self._order] == cell]

    def _cells(self, mondrian_groups: Any, n_rows: int) -> NDArray[np.intp]:
        """Return the number of each new row's group; 0 without groups."""
        if self._codes is None:
            if mondrian_groups is not None:
                raise ValueError(
                    "mondrian_groups was given, but the calibration was without it. "
                    "Pass it to fit or calibrate too."
                )
            return np.zeros(n_rows, dtype=np.intp)
        if mondrian_groups is None:
            raise ValueError(
                "mondrian_groups is needed for these rows, as it was given at "
                "calibration. Pass mondrian_groups here too."
            )
        labels = check_groups(mondrian_groups, n_rows, "mondrian_groups")
        numbers = {label: i for i, label in enumerate(self.groups_.tolist())}
        unknown = np.array([label not in numbers for label in labels.tolist()])
        if unknown.any():
            raise ValueError(
                "mondrian_groups has groups without calibration rows: "
                f"{list_labels(np.unique(labels[unknown]))}. Calibrate with rows of "
                f"these groups; there are {list_labels(self.groups_)}."
            )
        return np.array([numbers[label] for label in labels.tolist()], dtype=np.intp)


def batch_members(groups: Any, n_rows: int) -> list[NDArray[np.intp]]:
    """Return the rows of each batch, in the order of the sorted labels."""
    if groups is None:
        return [np.arange(n_rows)]
    labels, codes = group_codes(groups, n_rows, "groups")
    starts = np.cumsum(np.bincount(codes, minlength=labels.size))[:-1]
    return np.split(np.argsort(codes, kind="stable"), starts)


def one_cell(cells: NDArray[np.intp]) -> int:
    """Return the group of a batch, which must be one group."""
    if cells.min() != cells.max():
        raise ValueError(
            "The rows of one batch lie in different mondrian_groups, so that no one "
            "group's calibration rows are exchangeable with them. Ask for the groups "
            "one after the other, or pass groups= that divide the batch along them."
        )
    return int(cells[0])


def _conditions(
    X: Any, mondrian_groups: Any, likelihood_ratio: Any, max_ratio: Any
) -> Rows:
    n_rows = _num_samples(X)
    labels = keep = None
    if mondrian_groups is not None:
        labels = check_groups(mondrian_groups, n_rows, "mondrian_groups")
    if (likelihood_ratio is None) != (max_ratio is None):
        raise ValueError(
            "likelihood_ratio and max_ratio belong together, got only one of them. "
            "The largest ratio among the rows cannot stand for max_ratio: that must "
            "hold wherever a row may lie."
        )
    if likelihood_ratio is not None:
        keep = _keep_probability(likelihood_ratio, max_ratio, n_rows)
    return Rows(labels, keep)


def _keep_probability(ratio: Any, max_ratio: Any, n_rows: int) -> FloatArray:
    values = check_weights(ratio, n_rows, "likelihood_ratio")
    if not 0 < max_ratio < np.inf or values.max() > max_ratio:
        raise ValueError(
            f"max_ratio={max_ratio!r} must be positive, finite and at least every "
            f"likelihood_ratio, which reach {values.max():g}. Pass a bound of the "
            "ratio that holds wherever a row may lie."
        )
    return values / max_ratio


# Rows drawn independently from a density f and kept with probability w / max w, where
# w = g / f up to a factor, are independent draws from g (rejection sampling). Given how
# many are left, they and the new rows, drawn from g as well, are exchangeable.
def _thinned(keep: FloatArray, rng: Any) -> Any:
    kept = np.flatnonzero(rng.uniform(size=keep.size) < keep)
    if kept.size == 0:
        raise ValueError(
            f"None of {keep.size} calibration rows was kept: likelihood_ratio is too "
            "small against max_ratio. Pass more calibration rows or a smaller bound, "
            "if it holds."
        )
    return kept
