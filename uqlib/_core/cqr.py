"""Offsets of conformalized quantile regression."""

from fractions import Fraction

import numpy as np

from uqlib._core.checks import check_no_nan, check_rows, check_target
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import (
    order_statistic,
    rank_from_fraction,
    threshold_at,
    warn_infinite,
)
from uqlib._core.scores import quantile_pair_scores
from uqlib._typing import ArrayLike, FloatArray


def cqr_offsets(
    y: ArrayLike,
    y_interval: ArrayLike,
    confidence_level: float,
    symmetric: bool = True,
) -> tuple[float, float]:
    r"""Offsets that turn a pair of predicted quantiles into calibrated intervals.

    With the scores :math:`l_i - y_i` and :math:`y_i - u_i` of n calibration rows, the
    interval is :math:`[l(x) - o_1, u(x) + o_2]`. If symmetric,

    .. math:: o_1 = o_2 = s_{(k)}, \quad s_i = \max(l_i - y_i, \; y_i - u_i), \quad
              k = \lceil (n + 1) p \rceil ;

    otherwise each offset is the order statistic of its own scores at the rank
    :math:`\lceil (n + 1) (1 - \alpha / 2) \rceil`, :math:`\alpha = 1 - p`.

    Parameters
    ----------
    y : array-like of shape (n,)
        Target of the calibration rows, finite.
    y_interval : array-like of shape (n, 2)
        Their predicted lower and upper quantiles; infinities are legal, NaN is not.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.
    symmetric : bool, default=True
        Move both ends by the same amount.

    Returns
    -------
    lower, upper : float
        What moves the ends outwards; negative values shrink, +inf if the rows are too
        few.

    Raises
    ------
    ValueError
        If the shapes do not fit, y is not finite, the interval contains NaN, or the
        level is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        If there are too few rows for the level, with the number needed.

    See Also
    --------
    ConformalizedQuantileRegressor : The estimator.
    split_interval : Offsets around a point prediction.

    References
    ----------
    .. [1] Y. Romano, E. Patterson, E. J. Candes, "Conformalized Quantile Regression",
       arXiv:1905.03222.

    Examples
    --------
    >>> from uqlib.conformal import cqr_offsets
    >>> y, interval = [0.0, 1.0, 2.0, 3.0], [[0.0, 2.0]] * 4
    >>> cqr_offsets(y, interval, 0.5)
    (0.0, 0.0)
    """
    target = check_target(y, name="y")
    interval = np.asarray(y_interval, dtype=np.float64)
    if interval.ndim != 2 or interval.shape[1] != 2:
        raise ValueError(
            "y_interval must have shape (n_samples, 2), lower and upper, got shape "
            f"{interval.shape}."
        )
    check_no_nan(interval, "y_interval")
    check_rows(target.size, interval.shape[0], "y_interval", "y")
    level = check_confidence_level(confidence_level)
    below, above = quantile_pair_scores(target, interval)
    if symmetric:
        offset = threshold_at(np.maximum(below, above), level)
        return offset, offset
    lower, upper = two_thresholds(np.column_stack([below, above]), level)
    return float(lower), float(upper)


def two_thresholds(scores: FloatArray, level: Fraction) -> FloatArray:
    """Return the thresholds of two columns of scores, each at 1 - alpha / 2.

    Parameters
    ----------
    scores : ndarray of shape (n, 2)
        One column an end, without NaN.
    level : Fraction
        The exact level of the two ends together.

    Returns
    -------
    ndarray of shape (2,)
        The thresholds; if the rows are too few, both are infinite, with one warning.
    """
    one_sided = 1 - (1 - level) / 2
    rank = rank_from_fraction(len(scores), one_sided)
    if rank > len(scores):  # both ends have this rank: one warning is enough
        warn_infinite(len(scores), one_sided)
    return np.array([order_statistic(column, rank) for column in scores.T])
