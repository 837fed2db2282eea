r"""Scores of a step distribution at many points, in one pass over its steps."""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["sorted_crps"]


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
