"""Metrics of prediction intervals of shape (n_samples, 2): lower, upper."""

from uqlib._core.checks import check_sample_weight, check_target
from uqlib._core.coverage_checks import check_interval
from uqlib._core.losses import (
    covered,
    interval_losses,
    interval_widths,
    weighted_mean,
)
from uqlib._typing import ArrayLike, BoolArray


def covered_by_interval(y_true: ArrayLike, y_interval: ArrayLike) -> BoolArray:
    r"""Which targets are inside their intervals.

    .. math:: 1\{l_i \le y_i \le u_i\}

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True where the target is inside, ends included.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, or an interval contains NaN or has
        lower > upper.

    See Also
    --------
    covered_by_set : The same for prediction sets.
    group_coverage, stratified_coverage, worst_slab_coverage : What can be asked of it.

    Examples
    --------
    >>> from uqlib.metrics import covered_by_interval
    >>> covered_by_interval([1.0, 2.0], [[0.0, 1.0], [3.0, 4.0]])
    array([ True, False])
    """
    target = check_target(y_true)
    return covered(target, check_interval(y_interval, target.size))


def coverage_score(
    y_true: ArrayLike, y_interval: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Share of targets inside their intervals.

    .. math:: \frac{1}{n} \#\{i : l_i \le y_i \le u_i\} .

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1. Best is the level that was asked for, not 1.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, or an interval contains NaN or has
        lower > upper.

    See Also
    --------
    mean_interval_width : The price of coverage.
    interval_score : Both in one proper score.

    Notes
    -----
    Over n independent rows the standard error is
    :math:`\sqrt{c (1 - c) / n}`: 0.013 for c = 0.9 and n = 500.

    Examples
    --------
    >>> from uqlib.metrics import coverage_score
    >>> coverage_score([1.0, 2.0], [[0.0, 1.0], [3.0, 4.0]])
    0.5
    """
    target = check_target(y_true)
    interval = check_interval(y_interval, target.size)
    weight = check_sample_weight(sample_weight, target.size)
    return weighted_mean(covered(target, interval), weight)


def mean_interval_width(
    y_interval: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Mean width of the intervals.

    .. math:: \frac{1}{n} \sum_i (u_i - l_i) .

    Parameters
    ----------
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        In units of y; smaller is better at equal coverage. Infinite if a bound is.

    Raises
    ------
    ValueError
        If an interval contains NaN or has lower > upper, or there are none.

    See Also
    --------
    coverage_score : What the width buys.

    Examples
    --------
    >>> from uqlib.metrics import mean_interval_width
    >>> mean_interval_width([[0.0, 1.0], [3.0, 6.0]])
    2.0
    """
    interval = check_interval(y_interval, None)
    weight = check_sample_weight(sample_weight, interval.shape[0])
    return weighted_mean(interval_widths(interval), weight)


def interval_score(
    y_true: ArrayLike,
    y_interval: ArrayLike,
    confidence_level: float,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Interval score (Winkler score): width plus a penalty for misses.

    .. math:: \mathrm{IS}_\alpha = \frac{1}{n} \sum_i (u_i - l_i)
              + \frac{2}{\alpha} (l_i - y_i)_+ + \frac{2}{\alpha} (y_i - u_i)_+,
              \qquad \alpha = 1 - p .

    It is :math:`2 / \alpha` times the summed pinball loss of the two ends, so that the
    true quantiles of levels :math:`\alpha / 2` and :math:`1 - \alpha / 2` minimize its
    expectation.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper.
    confidence_level : float
        Coverage p that was asked for, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        In units of y; smaller is better. Infinite if a bound is.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, an interval contains NaN or has
        lower > upper, or the level is not in (0, 1).

    See Also
    --------
    weighted_interval_score : Over many levels.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102, 2007.

    Examples
    --------
    >>> from uqlib.metrics import interval_score
    >>> interval_score([1.0, 5.0], [[0.0, 2.0], [3.0, 4.0]], confidence_level=0.5)
    3.5
    """
    target = check_target(y_true)
    interval = check_interval(y_interval, target.size)
    weight = check_sample_weight(sample_weight, target.size)
    return weighted_mean(interval_losses(target, interval, confidence_level), weight)
