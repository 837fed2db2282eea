"""What a row's threshold may depend on: its group and its weight."""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import _num_samples

from uqlib._core.cqr import two_thresholds
from uqlib._core.group_ranks import (
    check_groups,
    group_codes,
    group_thresholds,
    list_labels,
    warn_small_groups,
)
from uqlib._core.ranks import threshold_at
from uqlib._core.weighted_ranks import (
    check_weights,
    warn_if_outweighed,
    weighted_thresholds,
)
from uqlib._typing import FloatArray
from uqlib.conformal._scores import column_of
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class Conditions(NamedTuple):
    """Group labels and likelihood ratios of rows; None where there are none."""

    groups: NDArray[Any] | None
    weights: FloatArray | None

    def take(self, rows: Any) -> "Conditions":
        """Return the conditions of some of the rows."""
        return Conditions(*(None if c is None else c[rows] for c in self))


def group_labels(group_by: Any, mondrian_groups: Any, X: Any) -> NDArray[Any] | None:
    """Return the group of each row, from the one place where it is given."""
    if mondrian_groups is not None:
        if group_by is not None:
            raise ValueError(
                f"mondrian_groups was given, but group_by={group_by!r} takes the "
                "groups from X. Use one of them."
            )
        return check_groups(mondrian_groups, _num_samples(X), "mondrian_groups")
    if group_by is None:
        return None
    labels = group_by(X) if callable(group_by) else column_of(X, group_by, "group_by")
    return check_groups(labels, _num_samples(X), "group_by")


def likelihood_weights(
    weight_estimator: Any, likelihood_ratio: Any, X: Any
) -> FloatArray | None:
    """Return the likelihood ratio of each row, from the one place where it is given."""
    if likelihood_ratio is not None:
        if weight_estimator is not None:
            raise ValueError(
                "likelihood_ratio was given, but weight_estimator estimates it from "
                "X. Use one of them."
            )
        return check_weights(likelihood_ratio, _num_samples(X), "likelihood_ratio")
    if weight_estimator is None:
        return None
    ratio = _estimated_ratio(weight_estimator, X)
    return check_weights(ratio, _num_samples(X), "The ratio of weight_estimator")


def _estimated_ratio(weight_estimator: Any, X: Any) -> Any:
    if not hasattr(weight_estimator, "predict_proba"):
        if callable(weight_estimator):
            return weight_estimator(X)
        raise ValueError(
            f"weight_estimator={weight_estimator!r} must be a callable on X or a "
            "fitted classifier with predict_proba that tells calibration rows (first "
            "class) from new rows (second class)."
        )
    try:
        proba = np.asarray(weight_estimator.predict_proba(X), dtype=np.float64)
    except NotFittedError as error:
        raise NotFittedError(
            f"weight_estimator={weight_estimator!r} is not fitted. If it was, a clone "
            "has forgotten it: pass FrozenEstimator(weight_estimator) to searches and "
            "cross-validation."
        ) from error
    if proba.ndim != 2 or proba.shape[1] != 2:
        raise ValueError(
            "weight_estimator must have two classes, calibration rows and new rows, "
            f"but predict_proba gave an array of shape {proba.shape}."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        return proba[:, 1] / proba[:, 0]


class Thresholds:
    """Conformal thresholds of calibration rows, for rows under any conditions.

    Scores of two columns belong to the two ends, each at the level 1 - alpha / 2.
    """

    def __init__(self, conditions: Conditions) -> None:
        self.weights = conditions.weights
        self.labels: NDArray[Any] | None = None
        self.codes: NDArray[np.intp] | None = None
        if conditions.groups is not None:
            groups = conditions.groups
            self.labels, self.codes = group_codes(groups, groups.size, "groups")

    @property
    def n_groups(self) -> int:
        """Number of groups; 1 without groups."""
        return 1 if self.labels is None else self.labels.size

    def members(self, group: int) -> Any:
        """Return an index of the calibration rows of a group; none of group -1."""
        if group < 0:
            return slice(0)
        return slice(None) if self.codes is None else self.codes == group

    def table(self, scores: FloatArray, level: Fraction) -> Any:
        """Return the thresholds that all rows share: one, or one a group.

        Shape () or (n_groups,), and a last axis of 2 for scores of two columns. None
        with likelihood ratios, where every row has its own.
        """
        if self.weights is not None:
            return None
        if self.labels is None or self.codes is None:
            if scores.ndim == 2:
                return two_thresholds(scores, level)
            return threshold_at(scores, level)
        sided = _sided(scores, level)
        sizes = np.bincount(self.codes, minlength=self.labels.size)
        warn_small_groups(self.labels, sizes, sided)
        columns = [
            group_thresholds(column, self.codes, self.labels.size, sided)
            for column in _columns(scores)
        ]
        return columns[0] if scores.ndim == 1 else np.column_stack(columns)

    def rows(
        self, scores: FloatArray, level: Fraction, table: Any, new: Conditions
    ) -> Any:
        """Return the thresholds of new rows.

        A scalar (or shape (2,)) if all rows share it, else shape (n_samples,) or
        (n_samples, 2).
        """
        self.check_same_kind(new)
        if self.weights is not None:
            return self._weighted_rows(scores, level, new)
        if self.labels is None or new.groups is None:
            return table
        unseen = np.full_like(table[:1], np.inf)
        return np.concatenate([table, unseen])[self.group_numbers(new, 0)]

    def group_numbers(self, new: Conditions, n_samples: int) -> NDArray[np.intp]:
        """Return the number of each new row's group among `labels`.

        0 without groups and -1, with a warning, for a group without calibration rows.
        """
        self.check_same_kind(new)
        if self.labels is None or new.groups is None:
            return np.zeros(n_samples, dtype=np.intp)
        position, known = self._positions(new.groups)
        return np.where(known, position, -1)

    def _weighted_rows(
        self, scores: FloatArray, level: Fraction, new: Conditions
    ) -> FloatArray:
        sided = _sided(scores, level)
        groups = self.group_numbers(new, new.weights.size)
        columns = [
            self._weighted_column(column, sided, new.weights, groups)
            for column in _columns(scores)
        ]
        # Rows of unseen groups had their warning.
        warn_if_outweighed(columns[0][groups >= 0], scores, sided)
        return columns[0] if scores.ndim == 1 else np.column_stack(columns)

    def _weighted_column(
        self,
        scores: FloatArray,
        level: Fraction,
        weights: FloatArray,
        groups: NDArray[np.intp],
    ) -> FloatArray:
        thresholds = np.full(weights.size, np.inf)
        for g in np.unique(groups[groups >= 0]):
            old, rows = self.members(g), groups == g
            thresholds[rows] = weighted_thresholds(
                scores[old], self.weights[old], weights[rows], level
            )
        return thresholds

    def _positions(self, groups: NDArray[Any]) -> tuple[Any, Any]:
        """Return where each label is among the known ones, and whether it is."""
        labels, codes = np.unique(groups, return_inverse=True)
        try:
            same = (labels.dtype.kind in "US") == (self.labels.dtype.kind in "US")
            position = np.searchsorted(self.labels, labels) if same else None
        except TypeError:  # dates and numbers, say
            position = None
        if position is None:
            raise ValueError(
                f"The groups of these rows, {list_labels(labels)}, are of another type "
                f"than those of calibration, {list_labels(self.labels)}. Pass labels "
                "of one type."
            )
        position = np.minimum(position, self.labels.size - 1)
        known = self.labels[position] == labels
        if not known.all():
            warn_user(
                f"{int((~known).sum())} groups had no calibration rows: "
                f"{list_labels(labels[~known])}. Their bounds are infinite; calibrate "
                "with rows of these groups.",
                InfiniteIntervalWarning,
            )
        return position[codes], known[codes]

    def check_same_kind(self, new: Conditions) -> None:
        """Refuse conditions that either calibration or the new rows lack."""
        for name, old, now in (
            ("mondrian_groups", self.labels, new.groups),
            ("likelihood_ratio", self.weights, new.weights),
        ):
            if old is None and now is not None:
                raise ValueError(
                    f"{name} was given, but the calibration was without it. Pass it "
                    "to fit or calibrate too."
                )
            if old is not None and now is None:
                raise ValueError(
                    f"{name} is needed for these rows, as it was given at calibration. "
                    f"Pass {name} here too."
                )


def _sided(scores: FloatArray, level: Fraction) -> Fraction:
    return level if scores.ndim == 1 else 1 - (1 - level) / 2


def _columns(scores: FloatArray) -> Any:
    return [scores] if scores.ndim == 1 else list(scores.T)
