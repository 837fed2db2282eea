r"""Dynamic programs over sets of ranks: laws of rank scores, extremes of sums.

The scores of a batch of m fall into gaps r_1 <= ... <= r_m between n calibration
scores, all multisets of gaps being equally likely. phi gives each gap an integer level,
x a value. The programs count, or maximize, over all multisets of a bounded level.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["largest_weighted_sum", "largest_windowed_sum", "weighted_rank_law"]


def weighted_rank_law(
    levels: NDArray[Any], weights: NDArray[Any], top: NDArray[Any], first: int
) -> NDArray[np.float64]:
    r"""Law of a weighted sum of levels of sorted, uniformly random gaps.

    .. math:: P\Big(\sum_{i=1}^{p} a_i \varphi(r_{f+i-1}) = s\Big), \qquad
              s = 0, \dots, \varphi_{\max} \sum_i a_i

    Parameters
    ----------
    levels : ndarray of shape (n_gaps,), int
        The phi of the gaps 1, 2, ..., from 0, non-decreasing.

    weights : ndarray of shape (n_positions,), int
        The a, non-negative.

    top : ndarray of shape (n_gaps,), float64
        The probability that the last of the positions falls into each gap.

    first : int
        The f, at least 1: the f - 1 smallest gaps of the batch carry no weight.

    Returns
    -------
    ndarray of shape (n_sums,), float64
        Probabilities of the sums 0, 1, ...

    Notes
    -----
    Time O(n_gaps n_positions n_sums), memory O(n_positions n_sums).

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rank_bounds import weighted_rank_law
    >>> top = np.array([1.0, 2.0, 3.0]) / 6  # of the larger of two gaps out of three
    >>> 6 * weighted_rank_law(np.arange(3), np.array([1, 1]), top, 1)
    array([1., 1., 2., 1., 1.])
    """
    gaps, a = _integers(levels), _integers(weights)
    mass = np.ascontiguousarray(top, dtype=np.float64)
    _check(gaps, mass, a)
    law = np.zeros(int(a.sum()) * int(gaps[-1]) + 1)
    share = np.zeros((a.size, law.size - int(a[-1] * gaps[-1])))
    share[0, 0] = 1.0
    _count(gaps, a, np.cumsum(a), mass, int(first), share, law)
    return law


def largest_weighted_sum(
    levels: NDArray[Any], values: NDArray[Any], weights: NDArray[Any], budget: int
) -> float:
    r"""Maximize a weighted sum of values of sorted gaps, within a budget of levels.

    .. math:: \max_{r_1 \le \dots \le r_p} \sum_i a_i x(r_i) \quad \text{with} \quad
              \sum_i a_i \varphi(r_i) \le q

    Parameters
    ----------
    levels : ndarray of shape (n_gaps,), int
        The phi, non-negative and non-decreasing.

    values : ndarray of shape (n_gaps,), float64
        The x, finite.

    weights : ndarray of shape (n_positions,), int
        The a, positive.

    budget : int
        The q, at least 0.

    Returns
    -------
    float
        The largest sum; -inf if none is within the budget.

    Notes
    -----
    Time O(n_gaps n_positions q), memory O(n_positions q).

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rank_bounds import largest_weighted_sum
    >>> values = np.array([1.0, 2.0, 4.0, 7.0, 10.0])
    >>> largest_weighted_sum(np.arange(5), values, np.array([1, 1]), 6)
    14.0
    """
    gaps, a = _integers(levels), _integers(weights)
    x = np.ascontiguousarray(values, dtype=np.float64)
    _check(gaps, x, a)
    best = np.full((a.size + 1, int(budget) + 1), -np.inf)
    best[0, 0] = 0.0
    _grow(gaps, x, a, np.cumsum(a), best)
    return float(best[-1].max())


def largest_windowed_sum(
    levels: NDArray[Any],
    values: NDArray[Any],
    m: int,
    budget: int,
    below: int,
    above: int,
) -> float:
    r"""Maximize a sum of m values whose partial sums of levels follow a line.

    .. math:: \max \sum_{i=1}^{m} x(v_i) \quad \text{with} \quad
              -b \le \sum_{j \le i} \varphi(v_j) - \lfloor i q / m \rfloor \le c
              \text{ for all } i, \text{ and } \sum_{j \le m} \varphi(v_j) \le q

    Parameters
    ----------
    levels : ndarray of shape (n_gaps,), int
        The phi, non-negative and non-decreasing.

    values : ndarray of shape (n_gaps,), float64
        The x, finite.

    m : int
        Number of summands; gaps may be repeated.

    budget : int
        The q.

    below, above : int
        The b and c, at least 0.

    Returns
    -------
    float
        The largest sum; -inf if there is none.

    Notes
    -----
    Time O(n_gaps m (b + c)), memory O(b + c). The order of the summands is free, so
    that the window need not be wider than the levels spread about q / m.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.rank_bounds import largest_windowed_sum
    >>> values = np.array([1.0, 2.0, 4.0, 7.0, 10.0])
    >>> largest_windowed_sum(np.arange(5), values, 2, 6, 4, 2)
    14.0
    """
    gaps = _integers(levels)
    x = np.ascontiguousarray(values, dtype=np.float64)
    _check(gaps, x, np.ones(1, dtype=np.int64))
    if m < 1 or below < 0 or above < 0:
        raise ValueError(
            f"m must be positive, below and above not negative, got m={m}, "
            f"below={below} and above={above}."
        )
    best = np.full(int(below) + int(above) + 1, -np.inf)
    best[below] = 0.0
    _follow(gaps, x, int(m), int(budget), best)
    return float(best[: below + 1].max())


@row_jit
def _count(
    levels: NDArray[np.int64],
    a: NDArray[np.int64],
    total: NDArray[np.int64],
    top: NDArray[np.float64],
    first: int,
    share: NDArray[np.float64],
    law: NDArray[np.float64],
) -> None:
    """Add up the law; `share` holds the laws of the first positions among v gaps."""
    p = a.size
    for v in range(levels.size):
        level = levels[v]
        for row in range(1, p):
            i = first + row - 1
            shift = a[row - 1] * level
            stay, move = v / (v + i), i / (v + i)
            for s in range(shift):
                share[row, s] *= stay
            for s in range(shift, total[row - 1] * level + 1):
                share[row, s] = share[row, s] * stay + share[row - 1, s - shift] * move
        shift = a[p - 1] * level
        for s in range(shift, total[p - 1] * level + 1):
            law[s] += top[v] * share[p - 1, s - shift]


@row_jit
def _grow(
    levels: NDArray[np.int64],
    values: NDArray[np.float64],
    a: NDArray[np.int64],
    total: NDArray[np.int64],
    best: NDArray[np.float64],
) -> None:
    """Offer every gap to all positions in turn."""
    budget = best.shape[1] - 1
    for v in range(levels.size):
        for row in range(1, a.size + 1):
            shift = a[row - 1] * levels[v]
            gain = a[row - 1] * values[v]
            stop = min(budget, total[row - 1] * levels[v]) + 1
            for s in range(shift, stop):
                taken = best[row - 1, s - shift] + gain
                best[row, s] = max(best[row, s], taken)


@row_jit
def _follow(
    levels: NDArray[np.int64],
    values: NDArray[np.float64],
    m: int,
    budget: int,
    best: NDArray[np.float64],
) -> None:
    """Overwrite the best sums of no summand with those of m."""
    width = best.size
    grown = np.empty(width)
    for i in range(m):
        rise = (i + 1) * budget // m - i * budget // m
        grown[:] = -np.inf
        for v in range(levels.size):
            shift = levels[v] - rise
            for e in range(max(shift, 0), width + min(shift, 0)):
                grown[e] = max(grown[e], best[e - shift] + values[v])
        best[:] = grown


def _integers(values: NDArray[Any]) -> NDArray[np.int64]:
    return np.ascontiguousarray(values, dtype=np.int64)


def _check(
    levels: NDArray[np.int64], values: NDArray[np.float64], weights: NDArray[np.int64]
) -> None:
    """Refuse what the kernels would read outside of their arrays."""
    if levels.ndim != 1 or levels.size == 0 or levels.shape != values.shape:
        raise ValueError(
            "levels must be 1-D and not empty, with one value each, got shapes "
            f"{levels.shape} and {values.shape}."
        )
    if levels[0] < 0 or np.any(levels[1:] < levels[:-1]):
        raise ValueError(f"levels must not be negative or decrease, got {levels}.")
    if weights.ndim != 1 or weights.size == 0 or weights.min() < 0:
        raise ValueError(
            f"weights must be 1-D, not empty and not negative, got {weights}."
        )
