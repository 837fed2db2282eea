r"""Adaptive conformal inference over long streams, one compiled loop a stream.

The coverage that is asked for at step t is an integer in units of 1 / unit; a miss adds
`rise` to it, a hit takes `fall` away. The threshold is the order statistic of rank
ceil((n + 1) coverage / unit) of n scores; a coverage of at least `unit` stands for
+inf, one of at most 0 for -inf. Callers see to it that (n + 2) unit and
every coverage that can be reached fit 64 bits.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["fixed_thresholds", "window_thresholds"]


def fixed_thresholds(
    calibration: NDArray[np.float64],
    scores: NDArray[np.float64],
    unit: int,
    start: int,
    rise: int,
    fall: int,
) -> NDArray[np.float64]:
    r"""Thresholds :math:`c_{(k_t)}` over calibration scores that stay the same.

    Parameters
    ----------
    calibration : ndarray of shape (n,)
        Calibration scores, non-decreasing.
    scores : ndarray of shape (n_steps,)
        Scores of the stream in time order.
    unit, start, rise, fall : int
        Unit of the coverage, its first value and its steps.

    Returns
    -------
    ndarray of shape (n_steps,)
        The threshold of each step.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.online import fixed_thresholds
    >>> calibration = np.array([1.0, 2.0, 3.0, 4.0])
    >>> fixed_thresholds(calibration, np.array([9.0, 0.0, 0.0]), 8, 4, 1, 1)
    array([3., 4., 3.])
    """
    thresholds = np.empty(scores.size)
    _fixed_loop(
        np.ascontiguousarray(calibration),
        np.ascontiguousarray(scores),
        unit,
        start,
        rise,
        fall,
        thresholds,
    )
    return thresholds


def window_thresholds(
    past: NDArray[np.float64],
    scores: NDArray[np.float64],
    window: int,
    unit: int,
    start: int,
    rise: int,
    fall: int,
) -> NDArray[np.float64]:
    r"""Thresholds over the last `window` scores, each new score joining them.

    Parameters
    ----------
    past : ndarray of shape (n_past,)
        Scores before the stream in time order, at most `window`.
    scores : ndarray of shape (n_steps,)
        Scores of the stream in time order.
    window : int
        How many of the last scores count, at least 1.
    unit, start, rise, fall : int
        Unit of the coverage, its first value and its steps.

    Returns
    -------
    ndarray of shape (n_steps,)
        The threshold of each step.

    Notes
    -----
    All scores are known beforehand, so each has its place in the order of all of them
    and a Fenwick tree counts which places are in the window: a score joins, leaves, or
    is found by its rank in O(log(n_past + n_steps)), whatever the window.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.online import window_thresholds
    >>> past, scores = np.array([1.0, 2.0, 3.0]), np.array([9.0, 0.0, 0.0])
    >>> window_thresholds(past, scores, 3, 8, 4, 1, 1)
    array([2., 9., 3.])
    """
    values = np.concatenate([past, scores])
    order = np.argsort(values, kind="stable")
    place = np.empty(values.size, dtype=np.int64)
    place[order] = np.arange(1, values.size + 1)
    thresholds = np.empty(scores.size)
    tree = np.zeros(values.size + 1, dtype=np.int64)
    _window_loop(
        values,
        values[order],
        place,
        past.size,
        window,
        unit,
        start,
        rise,
        fall,
        tree,
        thresholds,
    )
    return thresholds


@row_jit
def _rank(n: int, coverage: int, unit: int) -> int:
    """Return the rank among n scores; 0 is -inf, n + 1 is +inf."""
    if coverage <= 0:
        return 0
    if coverage >= unit:
        return n + 1
    return ((n + 1) * coverage + unit - 1) // unit


@row_jit
def _fixed_loop(
    calibration: NDArray[np.float64],
    scores: NDArray[np.float64],
    unit: int,
    start: int,
    rise: int,
    fall: int,
    thresholds: NDArray[np.float64],
) -> None:
    n = calibration.size
    coverage = start
    for t in range(scores.size):
        rank = _rank(n, coverage, unit)
        threshold = -np.inf
        if rank > n:
            threshold = np.inf
        elif rank > 0:
            threshold = calibration[rank - 1]
        thresholds[t] = threshold
        coverage += rise if scores[t] > threshold else -fall


@row_jit
def _add(tree: NDArray[np.int64], place: int, change: int) -> None:
    """Change the count at a place; node i holds the last (i & -i) places up to i."""
    while place < tree.size:
        tree[place] += change
        place += place & -place


@row_jit
def _find(tree: NDArray[np.int64], top: int, rank: int) -> int:
    """Return the place of the rank-th of those present, descending from node `top`."""
    place = 0
    step = top
    while step > 0:
        node = place + step
        if node < tree.size and tree[node] < rank:
            rank -= tree[node]
            place = node
        step >>= 1
    return place + 1


@row_jit
def _window_loop(
    values: NDArray[np.float64],
    ordered: NDArray[np.float64],
    place: NDArray[np.int64],
    n_past: int,
    window: int,
    unit: int,
    start: int,
    rise: int,
    fall: int,
    tree: NDArray[np.int64],
    thresholds: NDArray[np.float64],
) -> None:
    top = 1
    while 2 * top < tree.size:
        top *= 2
    for i in range(n_past):
        _add(tree, place[i], 1)
    n = n_past
    coverage = start
    for i in range(n_past, values.size):
        rank = _rank(n, coverage, unit)
        threshold = -np.inf
        if rank > n:
            threshold = np.inf
        elif rank > 0:
            threshold = ordered[_find(tree, top, rank) - 1]
        thresholds[i - n_past] = threshold
        coverage += rise if values[i] > threshold else -fall
        _add(tree, place[i], 1)
        n += 1
        if n > window:
            _add(tree, place[i + 1 - n], -1)
            n -= 1
