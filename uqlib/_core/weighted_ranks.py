r"""Weighted conformal quantiles: calibration rows that do not count alike.

Under covariate shift row i counts by its likelihood ratio w_i and a new row by w(x).
The threshold at level p is

    min{ t : sum_{i : s_i <= t} w_i >= p (sum_i w_i + w(x)) },          (1)

with the mass w(x) of the new row placed at +inf. With equal weights (1) is the k-th
smallest score, k = ceil((n + 1) p). In floating point both sides of (1) are rounded,
and where they meet, which with equal weights is at every n + 1 that p divides, the
answer would be one score too high or too low. So (1) is decided in floating point
where the sides are further apart than their rounding, and in rational arithmetic
where they are not.
"""

from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d, check_no_nan, check_rows
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import rows_needed
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


def weighted_conformal_quantile(
    scores: ArrayLike,
    weights: ArrayLike,
    test_weights: ArrayLike,
    confidence_level: float,
) -> FloatArray:
    r"""Smallest threshold of the given weighted coverage, for each new row.

    .. math:: t(x) = \min\Big\{ t : \sum_{i : s_i \le t} w_i \ge
              p \Big( \sum_{i = 1}^n w_i + w(x) \Big) \Big\},

    and :math:`+\infty` where no score reaches it: the mass of the new row itself lies
    at :math:`+\infty`.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Calibration scores, larger = stranger. Infinities are legal, NaN is not.
    weights : array-like of shape (n,)
        Their weights, at least 0 and finite, such as likelihood ratios; only their
        ratios to one another and to `test_weights` matter.
    test_weights : array-like of shape (n_test,)
        Weight of each new row on the same scale, at least 0 and finite.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.

    Returns
    -------
    ndarray of shape (n_test,)
        The thresholds, non-decreasing in the test weight.

    Raises
    ------
    ValueError
        If the shapes differ, a weight is negative, infinite or NaN, a score is NaN, or
        the level is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        If a threshold is infinite because the calibration rows weigh too little.

    See Also
    --------
    conformal_quantile : With equal weights.

    Notes
    -----
    If the calibration rows are independent draws of one law, the new row is drawn from
    another law of the features with the same conditional law of the target, and the
    weights are the ratio of the two densities up to a factor, then the score of the
    new row is at most its threshold with probability at least p [1]_.

    References
    ----------
    .. [1] R. J. Tibshirani, R. F. Barber, E. J. Candes, A. Ramdas, "Conformal
       Prediction Under Covariate Shift", arXiv:1904.06019.

    Examples
    --------
    >>> from uqlib.conformal import weighted_conformal_quantile
    >>> scores, weights = [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 5.0]
    >>> weighted_conformal_quantile(scores, weights, [0.0, 2.0], 0.8)
    array([4., 4.])
    >>> weighted_conformal_quantile(scores, [5.0, 1.0, 1.0, 1.0], [0.0, 2.0], 0.6)
    array([1., 2.])
    """
    values = as_1d(scores, "scores")
    weight = check_weights(weights, values.size, "weights")
    new = check_weights(test_weights, np.size(test_weights), "test_weights")
    level = check_confidence_level(confidence_level)
    thresholds = weighted_thresholds(values, weight, new, level)
    warn_if_outweighed(thresholds, values, level)
    return thresholds


def check_weights(weights: Any, n_samples: int, name: str) -> FloatArray:
    """Return finite, non-negative float64 weights, or say what is wrong.

    Parameters
    ----------
    weights : array-like of shape (n_samples,)
        One a row; zero is legal, infinity is not.
    n_samples : int
        The number of rows.
    name : str
        How the error calls them.

    Returns
    -------
    ndarray of shape (n_samples,)
        The weights.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (n_samples,):
        raise ValueError(
            f"{name} must have shape ({n_samples},), one weight a row, got shape "
            f"{values.shape}."
        )
    check_no_nan(values, name)
    if values.size and not (values.min() >= 0 and np.isfinite(values.max())):
        raise ValueError(
            f"{name} must be finite and at least 0, got values from {values.min()} to "
            f"{values.max()}. An infinite ratio means that a new row lies where no "
            "calibration row can: no finite threshold is honest there. Clip the ratio, "
            "or leave those rows out."
        )
    return values


def weighted_thresholds(
    scores: FloatArray, weights: FloatArray, test_weights: FloatArray, level: Fraction
) -> FloatArray:
    """Return the thresholds of checked arrays at an exact level, without a warning.

    Parameters
    ----------
    scores, weights : ndarray of shape (n,)
        Calibration scores and their weights.
    test_weights : ndarray of shape (n_test,)
        Weights of the new rows.
    level : Fraction
        The exact level.

    Returns
    -------
    ndarray of shape (n_test,)
        The thresholds.
    """
    check_rows(scores.size, weights.size, "weights", "scores") if scores.size else None
    weights, test_weights = _rescaled(weights, test_weights)
    keep = weights > 0  # a row without weight is no row
    order = np.argsort(scores[keep], kind="stable")
    ordered = np.append(scores[keep][order], np.inf)
    mass = _Mass(weights[keep][order], level)
    distinct, inverse = np.unique(test_weights, return_inverse=True)
    thresholds: FloatArray = ordered[mass.first_enough(distinct)][inverse]
    return thresholds


class _Mass:
    """The cumulative weight of sorted scores, and where it is enough."""

    def __init__(self, weights: FloatArray, level: Fraction) -> None:
        self._weights, self._level = weights, level
        self._cumulative = np.cumsum(weights)
        self._total = self._cumulative[-1] if weights.size else 0.0
        self._exact: list[Fraction] | None = None

    def first_enough(self, test_weights: FloatArray) -> Any:
        """Return for each test weight the first position that satisfies (1)."""
        n = self._weights.size
        needed = float(self._level) * (self._total + test_weights)
        # n sums and a few products, each rounded once, of numbers that are >= 0.
        slack = (n + 8) * np.finfo(np.float64).eps * (self._total + test_weights)
        position = np.searchsorted(self._cumulative, needed - slack, side="left")
        certain = np.searchsorted(self._cumulative, needed + slack, side="left")
        for i in np.flatnonzero(position < certain):
            position[i] = self._decide(position[i], certain[i], test_weights[i])
        # Where nothing weighs anything n is 0, and no score is enough.
        return position

    def _decide(self, low: int, high: int, test_weight: float) -> int:
        """Return the first position in [low, high] that is enough, exactly."""
        if self._exact is None:
            self._exact = list(accumulate(Fraction(w) for w in self._weights))
        needed = self._level * (self._exact[-1] + Fraction(test_weight))
        while low < high:
            middle = (low + high) // 2
            if self._exact[middle] >= needed:
                high = middle
            else:
                low = middle + 1
        return low


def _rescaled(
    weights: FloatArray, test_weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return weights times a power of two: their sums neither overflow nor vanish."""
    largest = max(weights.max(initial=0.0), test_weights.max(initial=0.0))
    exponent = int(np.frexp(largest)[1])
    if -500 < exponent < 900:
        return weights, test_weights
    return np.ldexp(weights, -exponent), np.ldexp(test_weights, -exponent)


def warn_if_outweighed(
    thresholds: FloatArray, scores: FloatArray, level: Fraction
) -> None:
    """Warn once if thresholds are infinite that no infinite score explains.

    Parameters
    ----------
    thresholds : ndarray of shape (n_test,)
        As `weighted_thresholds` gives them.
    scores : ndarray of shape (n,)
        The calibration scores.
    level : Fraction
        The exact level.
    """
    infinite = int(np.isposinf(thresholds).sum())
    if infinite == 0 or np.isposinf(scores).any():
        return
    warn_user(
        f"For {infinite} of {thresholds.size} rows the {scores.size} calibration rows "
        f"weigh too little for a finite bound at level {float(level):g}: beside a new "
        "row of weight w they must weigh at least "
        f"{rows_needed(level)} w in all, that is {rows_needed(level)} rows as heavy as "
        "it. The bound is infinite; pass more calibration rows like the new ones or "
        "ask for a lower level.",
        InfiniteIntervalWarning,
    )
