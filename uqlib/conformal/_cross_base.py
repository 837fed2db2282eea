"""The frame of cross-conformal regression: models that each left rows out."""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples, check_is_fitted

from uqlib._core.cross_intervals import FoldScores, everything
from uqlib._core.levels import (
    central_pair,
    check_confidence_level,
    exact_level,
    level_indices,
)
from uqlib._typing import FloatArray
from uqlib._validation import check_X, with_input_tags
from uqlib.conformal._conditions import Conditions, Thresholds, group_labels
from uqlib.conformal._cross_ends import intervals_of, is_affine, score_of
from uqlib.conformal._scores import check_scores

# New rows are taken in chunks that hold at most so many predictions of the models.
_CHUNK = 2**19


class LeftOut(NamedTuple):
    """What was predicted for each training row by models without it.

    `values` is (n_samples,) or (n_samples, n_outputs), a quantile matrix if `quantiles`
    are given; `fold` is the column that a row's model has among the `n_models` columns
    of the predictions; the score of a row that all models have `seen` is +inf.
    """

    values: FloatArray
    quantiles: FloatArray | None
    fold: NDArray[np.intp]
    models: Any
    n_models: int
    seen: NDArray[np.bool_] | None = None

    def scores_at(self, y: FloatArray, level: Fraction) -> FloatArray:
        """Return the scores of the training rows."""
        scores = self._scores_of_values(y, level)
        if self.seen is not None:
            scores[self.seen] = np.inf
        return scores

    def _scores_of_values(self, y: FloatArray, level: Fraction) -> FloatArray:
        values, scores = self.values, self.models.scores
        if self.quantiles is not None:
            pair = np.array(central_pair(level))
            values = values[:, level_indices(self.quantiles, pair)]
        if len(scores) == 1:
            return check_scores(scores[0].score(y, values), y.size)
        order = np.argsort(self.fold, kind="stable")
        cuts = np.flatnonzero(np.diff(self.fold[order])) + 1
        parts = [
            check_scores(
                score_of(scores, self.fold[rows[0]]).score(y[rows], values[rows]),
                rows.size,
            )
            for rows in np.split(order, cuts)
        ]
        result: FloatArray = np.concatenate(parts)[np.argsort(order)]
        return result


class BaseCrossRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """Intervals from the models that left each training row out.

    A subclass fits and calls `_set_calibration`. It has the parameters `method` and
    `group_by`, or leaves them as they are here.
    """

    method: Any = "plus"
    group_by: Any = None

    def predict_interval(
        self,
        X: Any,
        confidence_level: float | None = None,
        *,
        mondrian_groups: Any = None,
    ) -> FloatArray:
        """Predict intervals.

        Parameters
        ----------
        X : {array-like, dataframe} of shape (n_samples, n_features)
            Rows, as the estimator takes them.
        confidence_level : float, default=None
            The level p, strictly between 0 and 1; with scores of quantiles one whose
            pair of levels is among `quantiles_`. None takes that of the last fit.
        mondrian_groups : array-like of shape (n_samples,), default=None
            Label of the group of each row, if the fit had groups.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds, infinite where the rows are too few.
        """
        check_is_fitted(self, "scores_")
        X = check_X(self, X, reset=False)
        level, scores = exact_level(self.confidence_level_), self.scores_
        if confidence_level is not None:
            level = check_confidence_level(confidence_level)
            scores = self._left_out.scores_at(self._calibration_y, level)
            self._thresholds.table(scores, level)  # warns, as fit did of its own level
            self._warn_more(scores, level)
        groups = self._group_numbers(X, mondrian_groups)
        calibrations = self._calibrations(scores, level)
        if all(group.rank > group.n for group in calibrations):
            return everything(_num_samples(X))
        return np.concatenate(
            [
                self._chunk_interval(chunk, numbers, calibrations, level)
                for chunk, numbers in self._chunks(X, groups)
            ]
        )

    def __sklearn_tags__(self) -> Any:
        return with_input_tags(super().__sklearn_tags__(), [self.estimator])

    def _warn_more(self, scores: FloatArray, level: Fraction) -> None:
        """Warn where a bound is infinite though the rows are enough."""

    def _conditions(self, X: Any, mondrian_groups: Any) -> Conditions:
        return Conditions(group_labels(self.group_by, mondrian_groups, X), None)

    def _new_conditions(self, X: Any, mondrian_groups: Any) -> Conditions:
        labels = group_labels(self._fitted_group_by, mondrian_groups, X)
        return Conditions(labels, None)

    def _set_calibration(
        self,
        y: FloatArray,
        left_out: LeftOut,
        base: Any,
        conditions: Conditions,
        level: Fraction,
    ) -> None:
        """Score the rows; `base` gives the predictions of the one model of all rows."""
        scores, thresholds = left_out.scores_at(y, level), Thresholds(conditions)
        thresholds.table(scores, level)  # warns of rows that are too few
        # From here on nothing can fail: a fit that raised has left the last one alone.
        for name in ("quantiles_", "groups_"):
            vars(self).pop(name, None)
        if left_out.quantiles is not None:
            self.quantiles_ = left_out.quantiles
        if thresholds.labels is not None:
            self.groups_ = thresholds.labels
        self.scores_, self.n_calibration_ = scores, int(y.size)
        self.confidence_level_ = float(level)
        self._left_out, self._base, self._thresholds = left_out, base, thresholds
        # A copy, as y is the user's. Other levels are scored when they are asked for.
        self._calibration_y = y.copy()
        self._fitted_method, self._fitted_group_by = self.method, self.group_by
        self._warn_more(scores, level)

    def _group_numbers(self, X: Any, mondrian_groups: Any) -> Any:
        """Return the number of each row's group: 0 without groups, +inf for a new one.

        What `Thresholds` looks up for a row is here the number itself.
        """
        labels = self._thresholds.labels
        table = None if labels is None else np.arange(labels.size, dtype=np.float64)
        new = self._new_conditions(X, mondrian_groups)
        level = exact_level(self.confidence_level_)
        numbers = self._thresholds.rows(self.scores_, level, table, new)
        return np.zeros(_num_samples(X)) if numbers is None else numbers

    def _calibrations(self, scores: FloatArray, level: Fraction) -> list[FoldScores]:
        """Return the scores of each group by its number; one without groups."""
        codes, fold = self._thresholds.codes, self._left_out.fold
        n_models = self._left_out.n_models
        if codes is None:
            return [FoldScores(scores, fold, n_models, level)]
        members = [codes == g for g in range(self.groups_.size)]
        return [FoldScores(scores[m], fold[m], n_models, level) for m in members]

    def _chunks(self, X: Any, groups: FloatArray) -> Any:
        size = max(1, _CHUNK // self._left_out.models.width)
        n_samples = _num_samples(X)
        if n_samples <= size:
            return [(X, groups)]
        cuts = [slice(s, s + size) for s in range(0, n_samples, size)]
        return ((_safe_indexing(X, cut), groups[cut]) for cut in cuts)

    def _chunk_interval(
        self,
        X: Any,
        groups: FloatArray,
        calibrations: list[FoldScores],
        level: Fraction,
    ) -> FloatArray:
        base = self._fitted_method == "base"
        models = self._base if base else self._left_out.models
        columns = 1 if base else self._left_out.n_models
        if not is_affine(models.scores):
            columns = max(columns, self.n_calibration_)
        interval = everything(len(groups))
        first = 0
        # Without scores at other levels the threshold is of those that there are.
        known = self._left_out.quantiles is not None
        at = float(level) if known else self.confidence_level_
        for block in models.blocks(X, at, max(1, _CHUNK // columns)):
            rows = slice(first, first + len(block))
            self._fill(interval[rows], block, models.scores, groups[rows], calibrations)
            first += len(block)
        return interval

    def _fill(
        self,
        interval: FloatArray,
        predictions: FloatArray,
        scores: list[Any],
        groups: FloatArray,
        calibrations: list[FoldScores],
    ) -> None:
        """Overwrite the intervals that have bounds."""
        for g in np.unique(groups[np.isfinite(groups)]):
            calibration = calibrations[int(g)]
            if calibration.rank <= calibration.n:
                rows = groups == g
                own = predictions if rows.all() else predictions[rows]
                interval[rows] = intervals_of(
                    self._fitted_method, own, scores, calibration
                )
