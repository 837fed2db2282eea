r"""P-values of a sequence: how strange each score is among those up to it.

If scores s_1, s_2, ... are exchangeable (larger = stranger), then

    p_t = (#{i <= t : s_i > s_t} + u_t #{i <= t : s_i = s_t}) / t,

with independent uniform u_t, are independent and uniform on [0, 1] (Vovk): without ties
the n! orders of n scores give the n! vectors of ranks (R_1, ..., R_n), R_t in
{1, ..., t}, once each.
"""

from typing import Any

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.outlier_p_values import check_smoothing
from uqlib._typing import ArrayLike, FloatArray


def sequential_p_values(
    scores: ArrayLike, *, u: ArrayLike | None = None, rng: Any = None
) -> FloatArray:
    r"""P-values of each score among those up to it.

    .. math:: p_t = \frac{\#\{i \le t : s_i > s_t\}
              + u_t\,\#\{i \le t : s_i = s_t\}}{t}

    Parameters
    ----------
    scores : array-like of shape (n_samples,)
        Scores in the order in which they came, larger = stranger. Infinities are legal,
        NaN is not.
    u : float or array-like of shape (n_samples,), default=None
        Numbers in [0, 1]; None draws them.
    rng : None, int or numpy.random.Generator, default=None
        Draws `u` if it is None.

    Returns
    -------
    ndarray of shape (n_samples,)
        The p-values, small where a score is stranger than those before it.

    Raises
    ------
    ValueError
        If `scores` is not 1-D or contains NaN, or `u` does not fit or leaves [0, 1].

    See Also
    --------
    exchangeability_martingale : Bets against their uniformity.

    Notes
    -----
    If the scores are exchangeable and `u` is uniform and independent of them, the
    p-values are independent and uniform on [0, 1], exactly and for every length [1]_.
    The cost is O(n log n).

    References
    ----------
    .. [1] V. Vovk, "Testing randomness online", arXiv:1906.09256.

    Examples
    --------
    >>> from uqlib.conformal import sequential_p_values
    >>> sequential_p_values([2.0, 1.0, 3.0, 3.0], u=0.5)
    array([0.5       , 0.75      , 0.16666667, 0.25      ])
    """
    values = as_1d(scores, "scores")
    p_values, _ = continue_p_values(np.empty(0), values, _smoothing(u, rng, values))
    return p_values


def _smoothing(u: Any, rng: Any, values: FloatArray) -> FloatArray:
    if u is None:
        return np.random.default_rng(rng).random(values.size)
    return check_smoothing(u, values.size)


def continue_p_values(
    seen: FloatArray, scores: FloatArray, u: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the p-values of further scores, and all scores sorted.

    Parameters
    ----------
    seen : ndarray of shape (n_seen,)
        The scores before, sorted.
    scores, u : ndarray of shape (n_samples,)
        The scores that follow, without NaN, and numbers in [0, 1].

    Returns
    -------
    p_values : ndarray of shape (n_samples,)
        The p-values of `scores`.
    seen : ndarray of shape (n_seen + n_samples,)
        The scores so far, sorted.
    """
    above, equal = _earlier_counts(scores)
    right = np.searchsorted(seen, scores, side="right")
    above += seen.size - right
    equal += right - np.searchsorted(seen, scores, side="left")
    position = seen.size + np.arange(1, scores.size + 1)
    # A stable sort only merges what is in order already.
    merged = np.sort(np.concatenate([seen, np.sort(scores)]), kind="stable")
    return (above + u * equal) / position, merged


# Each score is replaced by its rank among the distinct ones, and the bits of the ranks
# are read from the highest to the lowest. Scores whose ranks agree in the bits read so
# far form a group, within which they stand in order of time. An earlier score is larger
# exactly if there is a first bit in which they differ, and it has the one: so at each
# bit, every zero counts the ones before it in its group. Then each group is split.
def _earlier_counts(values: FloatArray) -> tuple[Any, Any]:
    """Return for each t #{i < t : s_i > s_t} and #{i <= t : s_i = s_t}."""
    distinct, rank = np.unique(values, return_inverse=True)
    time = index = np.arange(values.size)
    above = np.zeros(values.size, dtype=np.int64)
    for bit in reversed(range(max(distinct.size - 1, 0).bit_length())):
        child = rank >> bit
        size = np.bincount(child)
        start = size.cumsum() - size
        group_start = start[child & ~1]
        one = child & 1
        ones_before = one.cumsum() - one
        ones_before -= ones_before[group_start]
        above += np.where(one, 0, ones_before)
        zeros_before = index - group_start - ones_before
        target = start[child] + np.where(one, ones_before, zeros_before)
        order = np.empty_like(target)
        order[target] = index
        rank, time, above = rank[order], time[order], above[order]
    counts = np.empty((2, values.size), dtype=np.int64)
    counts[0, time] = above
    counts[1, time] = index - np.searchsorted(rank, rank, side="left") + 1
    return counts[0], counts[1]
