"""Widths of intervals against the spread of the target, and against coverage."""

import math
from numbers import Real
from typing import Any

import numpy as np

from uqlib._core import losses
from uqlib._core.checks import check_sample_weight, check_target
from uqlib._core.coverage_checks import check_interval
from uqlib._core.interval_ties import tied_widths
from uqlib._core.levels import check_confidence_level
from uqlib._core.losses import covered, weighted_mean
from uqlib._typing import ArrayLike, FloatArray

NORMALIZATIONS = ("range", "std")


def interval_widths(y_interval: ArrayLike) -> FloatArray:
    r"""Width of each interval, to rank rows or to make strata of.

    .. math:: u_i - l_i

    Parameters
    ----------
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper.

    Returns
    -------
    ndarray of shape (n_samples,)
        In units of y, larger = more uncertain; infinite where a bound is. Widths that
        may differ by the rounding of the bounds alone are the same number: plain
        differences of intervals that are all as wide rank rows by the sizes of their
        predictions.

    Raises
    ------
    ValueError
        If an interval contains NaN or has lower > upper, or there are none.

    See Also
    --------
    mean_interval_width : Their mean.
    stratified_coverage : Coverage by width.
    risk_coverage_auc : Whether wide intervals have large errors.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.metrics import interval_widths
    >>> y_interval = np.array([[0.1, 0.4], [1000.1, 1000.4]])
    >>> bool(np.diff(y_interval)[0] == np.diff(y_interval)[1])
    False
    >>> widths = interval_widths(y_interval)
    >>> bool(widths[0] == widths[1])
    True
    """
    return tied_widths(check_interval(y_interval, None))


def normalized_interval_width(
    y_true: ArrayLike,
    y_interval: ArrayLike,
    *,
    normalization: str = "range",
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean width of the intervals in units of the spread of the target.

    .. math:: \frac{1}{n} \sum_i (u_i - l_i) \Big/ (\max_i y_i - \min_i y_i)
              \qquad \text{or} \qquad
              \frac{1}{n} \sum_i (u_i - l_i) \Big/ \mathrm{sd}(y) .

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal.
    normalization : {"range", "std"}, default="range"
        The spread: the range of the target, or its standard deviation (divisor n).
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight 0 are as if they were not there.

    Returns
    -------
    float
        Without unit, at least 0; smaller is better at equal coverage. Infinite if a
        bound is. If the target is constant 0 for points and infinite otherwise.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, an interval contains NaN or has
        lower > upper, or `normalization` is unknown.

    See Also
    --------
    mean_interval_width : In units of the target.
    coverage_width_criterion : With coverage in one number.

    Notes
    -----
    It does not change when target and intervals are shifted or scaled together, so that
    it compares targets of different units. The range grows with the number of rows and
    hangs on the two outermost; the standard deviation does not.

    Examples
    --------
    >>> from uqlib.metrics import normalized_interval_width
    >>> normalized_interval_width([0.0, 10.0], [[0.0, 1.0], [7.0, 11.0]])
    0.25
    """
    if not isinstance(normalization, str) or normalization not in NORMALIZATIONS:
        raise ValueError(
            f"normalization={normalization!r} must be one of {list(NORMALIZATIONS)}."
        )
    target = check_target(y_true)
    interval = check_interval(y_interval, target.size)
    weight = check_sample_weight(sample_weight, target.size)
    return _normalized_width(target, interval, normalization, weight)


def coverage_width_criterion(
    y_true: ArrayLike,
    y_interval: ArrayLike,
    confidence_level: float,
    *,
    eta: float = 30.0,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Coverage and width in one number (CWC); larger is better.

    .. math:: \mathrm{CWC} = (1 - w) \exp(-\eta \, (c - p)^2)

    with the coverage c, its level p and the mean width w in units of the range of the
    target, :func:`normalized_interval_width`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper. Infinite bounds are legal.
    confidence_level : float
        Coverage p that was asked for, strictly between 0 and 1.
    eta : float, default=30.0
        How much a coverage beside the level costs, at least 0. At 30 a gap of 0.1 costs
        a quarter.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight 0 are as if they were not there.

    Returns
    -------
    float
        At most 1; larger is better. Negative if intervals are wider than the range of
        the target, minus infinity if a bound is infinite.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, an interval contains NaN or has
        lower > upper, the level is not in (0, 1), or `eta` is negative or not finite.

    See Also
    --------
    interval_score : A proper score for the same purpose, to be preferred.
    coverage_score : The coverage.

    Notes
    -----
    Too much coverage costs as much as too little. The criterion is not proper: other
    intervals than the true quantiles can have the best value, and where w > 1 a wrong
    coverage even raises it. Other criteria of the same name differ: the older ones
    multiply the width by a penalty for too little coverage, so that smaller is better.

    References
    ----------
    .. [1] A. Khosravi, S. Nahavandi, D. Creighton, "Construction of Optimal Prediction
       Intervals for Load Forecasting Problems", IEEE Transactions on Power Systems 25,
       2010.

    Examples
    --------
    >>> from uqlib.metrics import coverage_width_criterion
    >>> y_true, y_interval = [0.0, 10.0], [[0.0, 1.0], [7.0, 9.0]]
    >>> coverage_width_criterion(y_true, y_interval, confidence_level=0.5)
    0.85
    """
    level = float(check_confidence_level(confidence_level))
    rate = _check_eta(eta)
    target = check_target(y_true)
    interval = check_interval(y_interval, target.size)
    weight = check_sample_weight(sample_weight, target.size)
    width = _normalized_width(target, interval, "range", weight)
    if math.isinf(width):  # times a penalty that may round to 0
        return -math.inf
    gap = weighted_mean(covered(target, interval), weight) - level
    return (1.0 - width) * math.exp(-rate * gap**2)


def infinite_interval_share(
    y_interval: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Share of intervals with an infinite end.

    .. math:: \frac{1}{n} \#\{i : u_i - l_i = \infty\}

    One such interval makes every mean width infinite: this tells how many there are,
    for methods that give them by design or for want of calibration rows.

    Parameters
    ----------
    y_interval : array-like of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; smaller is better at equal coverage.

    Raises
    ------
    ValueError
        If an interval contains NaN or has lower > upper, or there are none.

    See Also
    --------
    mean_interval_width : Infinite if this is positive.

    Examples
    --------
    >>> from uqlib.metrics import infinite_interval_share
    >>> infinite_interval_share([[0.0, 1.0], [0.0, float("inf")]])
    0.5
    """
    interval = check_interval(y_interval, None)
    weight = check_sample_weight(sample_weight, interval.shape[0])
    return weighted_mean(np.isinf(interval).any(axis=1), weight)


def _normalized_width(
    target: FloatArray,
    interval: FloatArray,
    normalization: str,
    weight: FloatArray | None,
) -> float:
    if weight is not None:
        kept = weight > 0
        target, interval, weight = target[kept], interval[kept], weight[kept]
    # A power of two changes no digit of the ratio and keeps the target's spread and
    # its square finite.
    exponent = -np.frexp(np.abs(target).max())[1]
    with np.errstate(over="ignore"):
        target, interval = np.ldexp(target, exponent), np.ldexp(interval, exponent)
    width = weighted_mean(losses.interval_widths(interval), weight)
    spread = _spread(target, normalization, weight)
    if spread == 0:
        return 0.0 if width == 0 else math.inf
    return width / spread


def _spread(target: FloatArray, normalization: str, weight: FloatArray | None) -> float:
    least, largest = float(target.min()), float(target.max())
    # Rounding of the mean would give a constant a small deviation.
    if normalization == "range" or least == largest:
        return largest - least
    center = target - weighted_mean(target, weight)
    return math.sqrt(weighted_mean(center**2, weight))


def _check_eta(eta: Any) -> float:
    is_number = isinstance(eta, Real) and not isinstance(eta, bool)
    if not is_number or not 0 <= eta < math.inf:
        raise ValueError(
            f"eta must be a finite number >= 0, got {eta!r}. Pass 0 to look at the "
            "width alone."
        )
    return float(eta)
