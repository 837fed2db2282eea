r"""Steps and scores of an empirical law at many points, in ascending order."""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["count_below", "sorted_crps"]


def count_below(
    ordered: NDArray[np.float64], z: NDArray[np.float64], closed: bool = False
) -> NDArray[np.intp]:
    """Count the values below each of several ascending points.

    Parameters
    ----------
    ordered : ndarray of shape (n,), float64
        Ascending values, infinities included.
    z : ndarray of shape (n_samples,), float64
        Ascending points, infinities included.
    closed : bool, default=False
        Count the values equal to a point, too.

    Returns
    -------
    ndarray of shape (n_samples,)
        As :func:`numpy.searchsorted` on the side "left", or "right" if closed. Each
        search starts where the last one ended and doubles its step.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.predictive import count_below
    >>> count_below(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0]))
    array([0, 1, 3])
    """
    counts = np.empty(z.size, dtype=np.intp)
    _gallop(np.ascontiguousarray(ordered), np.ascontiguousarray(z), closed, counts)
    return counts


def sorted_crps(
    ordered: NDArray[np.float64], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    r"""Continuous ranked probability score of an empirical law at ascending points.

    .. math:: \int (F(t) - 1\{z \le t\})^2 \, dt, \qquad
              F(t) = \#\{r_i \le t\} / n .

    Parameters
    ----------
    ordered : ndarray of shape (n,), float64
        The r, finite and ascending, at least one.
    z : ndarray of shape (n_samples,), float64
        The points, finite and ascending.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores.

    Notes
    -----
    The integral left of a point grows by one step of F at a time as the points ascend,
    the one right of it as they descend. All terms are positive: nothing cancels.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.predictive import sorted_crps
    >>> sorted_crps(np.array([-1.0, 1.0]), np.array([-3.0, 0.0, 1.0]))
    array([2.5, 0.5, 0.5])
    """
    scores = np.empty(z.size)
    _add_both_sides(np.ascontiguousarray(ordered), np.ascontiguousarray(z), scores)
    return scores


@row_jit
def _add_both_sides(
    ordered: NDArray[np.float64],
    z: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> None:
    n, m = len(ordered), len(z)
    # j residuals lie below the point; `total` is the integral up to the last of them.
    j, total = 0, 0.0
    for i in range(m):
        while j < n and ordered[j] < z[i]:
            if j > 0:
                share = j / n
                total += share * share * (ordered[j] - ordered[j - 1])
            j += 1
        share = j / n
        scores[i] = total
        if j > 0:
            scores[i] += share * share * (z[i] - ordered[j - 1])
    # Now j residuals do not lie below it.
    j, total = 0, 0.0
    for i in range(m - 1, -1, -1):
        while j < n and ordered[n - 1 - j] >= z[i]:
            if j > 0:
                share = j / n
                total += share * share * (ordered[n - j] - ordered[n - 1 - j])
            j += 1
        share = j / n
        scores[i] += total
        if j > 0:
            scores[i] += share * share * (ordered[n - j] - z[i])


@row_jit
def _gallop(
    ordered: NDArray[np.float64],
    z: NDArray[np.float64],
    closed: bool,
    counts: NDArray[np.intp],
) -> None:
    n = len(ordered)
    low = 0  # so many values are known to count
    for i in range(len(z)):
        point = z[i]
        step, high = 1, low
        while high < n and (
            ordered[high] < point or (closed and ordered[high] == point)
        ):
            low = high + 1
            high = min(n, low + step)
            step *= 2
        while low < high:
            middle = (low + high) // 2
            if ordered[middle] < point or (closed and ordered[middle] == point):
                low = middle + 1
            else:
                high = middle
        counts[i] = low
