r"""Ends of intervals, rounded and repaired outwards.

A score is rounded and so is an end, and with ties at the threshold (targets of one
decimal, say) the rounding of both could put every tied target just outside. So ends
are rounded outwards: a computed difference fl(d) <= t means d < up(t), where up is the
next larger float, and then base + d < base + up(t) <= up(fl(base + up(t))).
"""

import numpy as np

from uqlib._core.checks import as_1d, check_no_nan
from uqlib._core.levels import find_level
from uqlib._typing import ArrayLike, FloatArray


def split_interval(y_pred: ArrayLike, offsets: ArrayLike) -> FloatArray:
    r"""Interval around predictions that is moved outwards by offsets.

    .. math:: C = [\hat y - o_1, \; \hat y + o_2] .

    Parameters
    ----------
    y_pred : array-like of shape (n_samples,)
        Point predictions, without NaN.
    offsets : float or array-like of shape (2,) or (n_samples, 2)
        How far the lower and the upper end lie outside the prediction; positive =
        outwards, +inf is legal. One number moves both ends; shape (2,) always is the
        pair of the two ends.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Lower and upper bounds. Ends that cross, which only negative offsets bring
        about, are exchanged, and both are rounded outwards by a few units in the last
        place, so that a target with a score equal to the offset lies inside.

    Raises
    ------
    ValueError
        If a shape is not one of these or a value is NaN.

    See Also
    --------
    conformal_quantile : The offset of absolute residuals.
    cqr_offsets : The offsets around quantiles.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import split_interval
    >>> np.round(split_interval([1.0, 2.0], 0.5), 6)
    array([[0.5, 1.5],
           [1.5, 2.5]])
    """
    point = as_1d(y_pred, "y_pred")
    pair = np.asarray(offsets, dtype=np.float64)
    check_no_nan(pair, "offsets")
    if pair.shape not in ((), (2,), (point.size, 2)):
        raise ValueError(
            f"offsets must be a number or have shape (2,) or ({point.size}, 2), got "
            f"shape {pair.shape}. Pass one offset a row as a column for each end, "
            "np.column_stack([offset, offset])."
        )
    lower, upper = np.broadcast_to(pair, (point.size, 2)).T
    return outward_interval(lower_end(point, -lower), upper_end(point, upper))


def upper_end(base: FloatArray, shift: FloatArray | float) -> FloatArray:
    """Return base + shift, rounded so that no y with fl(y - base) <= shift is lost.

    Parameters
    ----------
    base, shift : ndarray or float
        Possibly infinite.

    Returns
    -------
    ndarray
        At most a few units in the last place above the sum; NaN where the sum is.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return next_larger(np.asarray(base + next_larger(np.asarray(shift))))


def lower_end(base: FloatArray, shift: FloatArray | float) -> FloatArray:
    """Return base + shift, rounded so that no y with fl(y - base) >= shift is lost.

    Parameters
    ----------
    base, shift : ndarray or float
        Possibly infinite.

    Returns
    -------
    ndarray
        At most a few units in the last place below the sum; NaN where the sum is.
    """
    return -upper_end(-base, -np.asarray(shift))


def next_larger(values: FloatArray) -> FloatArray:
    """Return the next larger floats; infinities stay.

    Parameters
    ----------
    values : ndarray
        Possibly infinite: the float after -inf would be the most negative number.

    Returns
    -------
    ndarray
        Non-decreasing in the values.
    """
    return np.where(np.isfinite(values), np.nextafter(values, np.inf), values)


def outward_interval(lower: FloatArray, upper: FloatArray) -> FloatArray:
    """Return the interval of two bounds; whatever is undefined goes outwards.

    The difference of two infinities is the end that encloses more, and bounds that
    crossed are exchanged. Both only enlarge the set {lower <= y <= upper} (empty
    where the bounds cross), so every coverage statement survives.

    Parameters
    ----------
    lower, upper : ndarray of shape (n_samples,)
        The bounds.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        The interval, lower <= upper, without NaN.
    """
    lower = np.where(np.isnan(lower), -np.inf, lower)
    upper = np.where(np.isnan(upper), np.inf, upper)
    return np.column_stack([np.minimum(lower, upper), np.maximum(lower, upper)])


def add_outward(
    y_quantiles: FloatArray, quantiles: FloatArray, shift: FloatArray
) -> FloatArray:
    """Return y_quantiles + shift, rounded and resolved away from the median.

    Levels below 1/2 are rounded down and levels above up, as `lower_end` and
    `upper_end` do. +inf and -inf add up to -inf at a level below 1/2, to +inf at a
    level above, and leave the median as it was.

    Parameters
    ----------
    y_quantiles : ndarray of shape (n_samples, n_quantiles)
        The quantile matrix.
    quantiles : ndarray of shape (n_quantiles,)
        Its levels.
    shift : ndarray of shape (n_quantiles,)
        What is added to each level.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The shifted matrix, without NaN.
    """
    median = find_level(quantiles, 0.5)
    below = quantiles < 0.5
    shifted = np.where(
        below, lower_end(y_quantiles, shift), upper_end(y_quantiles, shift)
    )
    if median is not None:
        with np.errstate(invalid="ignore"):
            shifted[:, median] = y_quantiles[:, median] + shift[median]
    undefined = np.isnan(shifted)
    if undefined.any():
        fallback = np.broadcast_to(
            np.where(below, -np.inf, np.inf), shifted.shape
        ).copy()
        if median is not None:
            fallback[:, median] = y_quantiles[:, median]
        shifted[undefined] = fallback[undefined]
    return shifted


def outward_envelope(y_quantiles: FloatArray, quantiles: FloatArray) -> FloatArray:
    r"""Repair crossing by moving ends outwards only.

    Seen from the middle outwards, a lower end becomes the minimum over itself and
    the ends inside it, an upper end the maximum:

    .. math::
        \tilde q_\tau = \min_{\tau \le \sigma \le 1/2} q_\sigma \ (\tau < 1/2), \qquad
        \tilde q_\tau = \max_{1/2 \le \sigma \le \tau} q_\sigma \ (\tau > 1/2).

    Without a level 1/2 the two innermost ends are exchanged where they cross. Every
    lower end can only fall and every upper end only rise, so each one-sided and each
    central coverage statement survives.

    Parameters
    ----------
    y_quantiles : ndarray of shape (n_samples, n_quantiles)
        The quantile matrix.
    quantiles : ndarray of shape (n_quantiles,)
        Its levels.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        A new matrix with non-decreasing rows.
    """
    result = y_quantiles.copy()
    median = find_level(quantiles, 0.5)
    first_upper = int(np.searchsorted(quantiles, 0.5)) if median is None else median
    if median is None and 0 < first_upper < quantiles.size:
        result[:, first_upper - 1 : first_upper + 1].sort(axis=1)
    # Cumulative extremes from the middle outwards; the median, if any, starts both.
    n_lower = first_upper if median is None else median + 1
    lower, upper = result[:, :n_lower][:, ::-1], result[:, first_upper:]
    np.minimum.accumulate(lower, axis=1, out=lower)
    np.maximum.accumulate(upper, axis=1, out=upper)
    return result
