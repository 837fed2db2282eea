r"""The bridges of Venn-ABERS prediction: isotonic fits with a one put in everywhere.

The rows of a calibration set, grouped by score in increasing order, give the points
P_j = (rows, ones) among the first j groups. With P_0, ..., P_i moved by (-1, -1), the
slope of the greatest convex minorant where it passes from the moved points to those
that stay is the isotonic value of a one put in between group i and group i + 1.

As i grows, the start of that bridge moves to the newly moved point if that lies below
it, and its landing goes along the hull of the points to its right: a stack, popped at
most once a point. All is in integers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["bridge_slopes"]


def bridge_slopes(
    rows: NDArray[Any], ones: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    r"""Return the isotonic values of a one put in between groups of rows.

    .. math:: p_i = \max_{a \le i} \min_{b > i}
              \frac{1 + \text{ones in groups } a + 1, \dots, b}
              {1 + \text{rows in groups } a + 1, \dots, b}, \qquad
              i = 0, \dots, m - 1, \qquad p_m = 1

    Parameters
    ----------
    rows : ndarray of shape (n_groups,), int
        Number of rows of each group, positive; at most 2**31 in all.

    ones : ndarray of shape (n_groups,), int
        Number of rows with label 1 among them.

    Returns
    -------
    rise, run : ndarray of shape (n_groups + 1,), int64
        The values as fractions rise / run, not reduced.

    Notes
    -----
    Time and extra memory are O(n_groups).

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.venn_abers import bridge_slopes
    >>> rise, run = bridge_slopes(np.array([1, 1, 2]), np.array([0, 1, 1]))
    >>> rise / run
    array([0.5 , 0.75, 0.75, 1.  ])
    """
    if rows.ndim != 1 or rows.shape != ones.shape:
        raise ValueError(
            "rows and ones must be 1-D and of the same length, got shapes "
            f"{rows.shape} and {ones.shape}."
        )
    x, y = np.zeros((2, rows.size + 1), dtype=np.int64)
    np.cumsum(rows, out=x[1:])
    np.cumsum(ones, out=y[1:])
    slopes = np.ones((2, x.size), dtype=np.int64)
    _bridge(x, y, slopes[0], slopes[1], np.empty((2, x.size), dtype=np.int64))
    return slopes[0], slopes[1]


@row_jit
def _bridge(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    rise: NDArray[np.int64],
    run: NDArray[np.int64],
    hull: NDArray[np.int64],
) -> None:
    """Overwrite rise and run of all places but the last.

    `hull[:, : top + 1]` is the stack, the start of the bridge at its top. Pass m of the
    loop over k pushes P_m, ..., P_1 and the moved P_0, later passes a moved P_i.
    """
    m = x.size - 1
    top = -1
    for k in range(2 * m):
        if k < m:
            x0, y0 = x[m - k], y[m - k]
        else:
            i = k - m
            x0, y0 = x[i] - 1, y[i] - 1
            if i > 0:
                x1, y1 = hull[0, top], hull[1, top]
                if (y0 - y1) * run[i - 1] >= rise[i - 1] * (x0 - x1):
                    rise[i], run[i] = rise[i - 1], run[i - 1]
                    continue
                top -= 1
        while top > 0:
            ahead = (hull[1, top - 1] - y0) * (hull[0, top] - x0)
            if ahead > (hull[1, top] - y0) * (hull[0, top - 1] - x0):
                break
            top -= 1
        top += 1
        hull[0, top], hull[1, top] = x0, y0
        if k >= m:
            rise[k - m] = hull[1, top - 1] - y0
            run[k - m] = hull[0, top - 1] - x0
