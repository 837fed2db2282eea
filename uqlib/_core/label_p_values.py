r"""P-values of labels, and the thresholds at which they pass a level.

A cell holds the calibration scores s_i that a new score is compared with: all of them,
or those of one group, class or both. With weights w_i (1 without covariate shift) and
w of the new row, and u in [0, 1],

    p(s) = (sum_{s_i > s} w_i + u (sum_{s_i = s} w_i + w)) / (sum_i w_i + w),

which is (#{s_i >= s} + 1) / (n + 1) at u = 1 and weights of 1. As s grows past the
distinct scores v_0 < ... < v_{d-1}, p runs through 2 d + 1 values, non-increasing:

    below v_0, at v_0, between v_0 and v_1, at v_1, ..., above v_{d-1}.

Hence {s : p(s) > alpha} is an interval from -inf: it ends at some v_j, included, or
just below v_{j+1}, which for floats is at the next smaller float.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.ranks import order_statistic, rank_from_fraction
from uqlib._core.weighted_ranks import weighted_thresholds
from uqlib._typing import FloatArray


class CalibrationCell:
    """Calibration scores that new scores are compared with.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN and -inf: nothing could lie below it.
    weights : ndarray of shape (n,), default=None
        Finite, at least 0; None weighs each by one.
    """

    def __init__(self, scores: FloatArray, weights: FloatArray | None = None) -> None:
        order = np.argsort(scores, kind="stable")
        self.scores = scores[order]
        self.weights = None if weights is None else weights[order]

    # Only ratios of weights matter: a power of two keeps their sums from overflowing.
    @cached_property
    def _exponent(self) -> int:
        largest = 0.0 if self.weights is None else self.weights.max(initial=0.0)
        exponent = int(np.frexp(largest)[1])
        return exponent if abs(exponent) > 500 else 0

    def _scaled(self, weights: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            return np.minimum(np.ldexp(weights, -self._exponent), 2.0**1000)

    @cached_property
    def _tail(self) -> FloatArray:
        """Sums of the weights from each position on, shape (n + 1,)."""
        scores, weights = self.scores, self.weights
        weights = np.ones_like(scores) if weights is None else self._scaled(weights)
        return np.append(np.cumsum(weights[::-1])[::-1], 0.0)

    @cached_property
    def _steps(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The distinct scores, with the weights from each on and above it, then 0."""
        values = np.unique(self.scores)
        at_least = self._tail[np.searchsorted(self.scores, values, side="left")]
        above = self._tail[np.searchsorted(self.scores, values, side="right")]
        return values, np.append(at_least, 0.0), np.append(above, 0.0)

    def p_values(
        self,
        scores: FloatArray,
        weights: FloatArray | None = None,
        u: FloatArray | None = None,
    ) -> FloatArray:
        """Return the p-values of new scores.

        Parameters
        ----------
        scores : ndarray of shape (n_samples, n_labels)
            New scores, without NaN.
        weights : ndarray of shape (n_samples,), default=None
            The w of each row.
        u : ndarray of shape (n_samples,), default=None
            The u of each row; None is 1.

        Returns
        -------
        ndarray of shape (n_samples, n_labels)
            The p-values; 1 where nothing was calibrated.
        """
        if self.scores.size == 0:
            return np.ones(scores.shape)
        weight = 1.0 if weights is None else self._scaled(weights)[:, None]
        at_least = self._tail[np.searchsorted(self.scores, scores, side="left")]
        if u is None:
            return self._p(at_least, 0.0, weight, 1.0)
        above = self._tail[np.searchsorted(self.scores, scores, side="right")]
        return self._p(above, at_least - above, weight, u[:, None])

    def thresholds(
        self,
        level: Fraction,
        n_samples: int,
        weights: FloatArray | None = None,
        u: FloatArray | None = None,
    ) -> FloatArray:
        """Return the largest score of each row whose p-value exceeds 1 - level.

        Parameters
        ----------
        level : Fraction
            The exact level.
        n_samples : int
            Number of rows.
        weights : ndarray of shape (n_samples,), default=None
            The w of each row.
        u : ndarray of shape (n_samples,), default=None
            The u of each row; None is 1.

        Returns
        -------
        ndarray of shape (n_samples,)
            The thresholds: +inf if all scores are as likely, -inf if none is.
        """
        if self.scores.size == 0:
            return np.full(n_samples, np.inf)
        if u is not None:
            return self._smoothed(float(1 - level), weights, u)
        if weights is not None and self.weights is not None:
            return weighted_thresholds(self.scores, self.weights, weights, level)
        rank = rank_from_fraction(self.scores.size, level)
        return np.full(n_samples, order_statistic(self.scores, rank))

    def _smoothed(
        self, alpha: float, weights: FloatArray | None, u: FloatArray
    ) -> FloatArray:
        """Bisect the 2 d + 1 values of p for the last one above alpha, in all rows."""
        values, at_least, above = self._steps
        weight = np.ones(u.shape) if weights is None else self._scaled(weights)
        # Value 2 j is that below v_j, value 2 j + 1 that at v_j; v_d is +inf here.
        low, high = np.full(u.shape, -1), np.full(u.shape, 2 * values.size)
        while np.any(low < high):
            middle = (low + high + 1) // 2
            j, at = middle // 2, middle % 2 == 1
            beyond = np.where(at, above[j], at_least[j])
            ties = np.where(at, at_least[j] - above[j], 0.0)
            inside = self._p(beyond, ties, weight, u) > alpha
            low = np.where(inside, middle, low)
            high = np.where(inside, high, middle - 1)
        ends = np.append(values, np.inf)
        below = np.append(np.nextafter(values, -np.inf), np.inf)
        threshold = np.where(low % 2 == 1, ends[low // 2], below[low // 2])
        return np.where(low < 0, -np.inf, threshold)

    def _p(
        self,
        above: FloatArray,
        equal: FloatArray | float,
        weight: FloatArray | float,
        u: FloatArray | float,
    ) -> FloatArray:
        total = self._tail[0] + weight
        with np.errstate(invalid="ignore", divide="ignore"):
            p = (above + u * (equal + weight)) / total
        # Where nothing weighs anything nothing is known.
        return np.where(total > 0, p, 1.0)


class NewRows(NamedTuple):
    """What new rows are compared by; each array has shape (n_samples,).

    `group` is the position of the group, -1 if there were no calibration rows of it;
    None without groups, likelihood ratios or randomization.
    """

    n_samples: int
    group: NDArray[np.intp] | None = None
    weights: FloatArray | None = None
    u: FloatArray | None = None

    def take(self, rows: NDArray[np.intp]) -> "NewRows":
        """Return some of the rows.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,)
            Their positions.

        Returns
        -------
        NewRows
            In that order.
        """
        return NewRows(
            rows.size,
            None if self.group is None else self.group[rows],
            None if self.weights is None else self.weights[rows],
            None if self.u is None else self.u[rows],
        )


class LabelCells:
    """Calibration scores by group of the row, by label, by both or by neither.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN.
    groups : ndarray of shape (n,), default=None
        Position of the group of each row; None is one group.
    n_groups : int, default=1
        Number of groups.
    labels : ndarray of shape (n,), default=None
        Column of the label of each row; None compares all labels with all rows.
    n_labels : int, default=1
        Number of columns, 1 without labels.
    weights : ndarray of shape (n,), default=None
        Likelihood ratios.
    """

    def __init__(
        self,
        scores: FloatArray,
        groups: NDArray[np.intp] | None = None,
        n_groups: int = 1,
        labels: NDArray[np.intp] | None = None,
        n_labels: int = 1,
        weights: FloatArray | None = None,
    ) -> None:
        code = np.zeros(scores.size, dtype=np.intp)
        code += 0 if groups is None else groups * n_labels
        code += 0 if labels is None else labels
        self.sizes = np.bincount(code, minlength=n_groups * n_labels).reshape(
            n_groups, n_labels
        )
        order = np.argsort(code, kind="stable")
        rows = np.split(order, np.cumsum(self.sizes.ravel())[:-1])
        self.cells = [
            CalibrationCell(scores[r], None if weights is None else weights[r])
            for r in rows
        ]

    def p_values(self, scores: FloatArray, new: NewRows) -> FloatArray:
        """Return the p-value of every label of new rows.

        Parameters
        ----------
        scores : ndarray of shape (n_samples, n_classes)
            Scores of all labels.
        new : NewRows
            What the rows are compared by.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The p-values.
        """
        result = np.ones(scores.shape)
        for rows, columns, cell, weights, u in self._blocks(new):
            block = scores[rows, columns]
            result[rows, columns] = cell.p_values(block, weights, u)
        return result

    def thresholds(self, level: Fraction, new: NewRows) -> FloatArray:
        """Return the largest scores whose p-values exceed 1 - level.

        Parameters
        ----------
        level : Fraction
            The exact level.
        new : NewRows
            What the rows are compared by.

        Returns
        -------
        ndarray of shape (n_samples, 1) or (n_samples, n_labels)
            The thresholds, one for all labels or one a label.
        """
        result = np.full((new.n_samples, self.sizes.shape[1]), np.inf)
        for rows, columns, cell, weights, u in self._blocks(new):
            block = result[rows, columns]
            thresholds = cell.thresholds(level, len(block), weights, u)
            result[rows, columns] = thresholds[:, None]
        return result

    def _blocks(self, new: NewRows) -> Iterator[tuple[Any, ...]]:
        """Yield the rows and columns that are compared with one cell."""
        n_labels = self.sizes.shape[1]
        for i, cell in enumerate(self.cells):
            g, label = divmod(i, n_labels)
            rows: Any = slice(None)
            if new.group is not None:
                rows = np.flatnonzero(new.group == g)
            # A cell without a label of its own is there for all of them.
            columns = slice(label, label + 1) if n_labels > 1 else slice(None)
            weights, u = (
                None if values is None else values[rows]
                for values in (new.weights, new.u)
            )
            yield rows, columns, cell, weights, u
