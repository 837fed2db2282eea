"""Widths of intervals to rank rows by: those that differ by rounding alone are one.

An interval c - q, c + q has the same width at every row, but its floats have not. Let u
be the unit roundoff and E the larger of the sizes of the ends; then q <= E. An end is
rounded once (u E) and may be moved outwards by the next float of q and of itself (2 u E
each), so that both ends are off by 10 u E at most and their difference, itself rounded
(2 u E), by 12 u E = 6 eps E. Ranked by such widths, rows would be ranked by the sizes
of their predictions.
"""

import numpy as np

from uqlib._core.losses import interval_widths
from uqlib._typing import FloatArray


def tied_widths(y_interval: FloatArray) -> FloatArray:
    """Return the widths of intervals, the same number for all that may be equal.

    Parameters
    ----------
    y_interval : ndarray of shape (n_samples, 2)
        Lower and upper bounds, lower <= upper, infinite ones included.

    Returns
    -------
    ndarray of shape (n_samples,)
        The widths, infinite where a bound is. Of neighbors in their order that are no
        farther apart than the errors of both, each has the width of the smallest.
    """
    widths = np.array(interval_widths(y_interval))
    rows = np.flatnonzero(np.isfinite(widths))
    error = 6 * np.finfo(np.float64).eps * np.abs(y_interval[rows]).max(axis=1)
    # Equal widths in the order of their errors: no order of the rows matters.
    order = np.lexsort((error, widths[rows]))
    rows, error = rows[order], error[order]
    apart = np.diff(widths[rows]) > error[1:] + error[:-1]
    starts = np.flatnonzero(np.concatenate([[True], apart])[: rows.size])
    sizes = np.diff(np.append(starts, rows.size))
    widths[rows] = np.repeat(widths[rows[starts]], sizes)
    return widths
