r"""Dynamic programs over sets of ranks: counts of a rank score, extremes of a sum.

n calibration scores leave n + 1 gaps; the m scores of a batch fall into gaps
r_1 <= ... <= r_m, and every such multiset is equally likely. With integer weights a_i
and integer levels phi(v) >= 0, h(r) = sum_i a_i phi(r_i). Written down here are

1. the law of h: `weighted_law`;
2. the largest sum_i a_i x(r_i) with h(r) <= q: `largest_weighted_sum`;
3. the same for a_i = 1 and a budget that is nearly used up: `largest_windowed_sum`.

Each has a compiled twin that gives the same numbers.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib._core.kernels import compiled_kernels
from uqlib._core.order_law import order_law
from uqlib._typing import FloatArray

IntArray = NDArray[np.int64]

_KERNEL_MIN_STEPS = 2**19
_MAX_TABLE = 2**27
_MAX_STEPS = 2**37


# The law of h. Let A_v[i](s) be the share of the multisets of i gaps of {1, ..., v}
# with a_1 phi(r_1) + ... + a_i phi(r_i) = s. Either r_i < v, or r_i = v and the first
# i - 1 are anything up to v; there are C(v - 1 + i, i) in all, so
#
#     A_v[i](s) = (v - 1) / (v - 1 + i) A_{v-1}[i](s)
#                 + i / (v - 1 + i) A_v[i-1](s - a_i phi(v)).
#
# Positions before the first weight carry no sum, and those after the last, K, only
# count: given r_K = v, the first K - 1 are a uniform multiset of {1, ..., v}. Hence
#
#     P(h = s) = sum_v P(r_K = v) A_v[K-1](s - a_K phi(v)),
#
# over allowed gaps v. All terms are positive, so the error is relative and small.


def weighted_law(
    levels: IntArray, n: int, weights: tuple[int, ...], first: int, last: int
) -> FloatArray:
    """Return P(sum_i a_i phi(r_i) = s) for all s.

    Parameters
    ----------
    levels : ndarray of shape (n_allowed,)
        phi of the gaps 1, 2, ..., not decreasing, from 0; later gaps are forbidden to
        positions with a weight.
    n : int
        Number of calibration scores.
    weights : tuple of int
        The a, one a position.
    first, last : int
        Outermost positions with a weight, from 1.

    Returns
    -------
    ndarray of shape (sum of weights times the last level + 1,)
        Probabilities; their sum is that of keeping to the allowed gaps.
    """
    a = np.array(weights[first - 1 : last], dtype=np.int64)
    top = order_law(n, len(weights), last)[: levels.size]
    width = int(a.sum()) * int(levels[-1]) + 1
    steps = check_size(width, a.size, levels.size)
    compiled = compiled_kernels("rank_bounds", steps, _KERNEL_MIN_STEPS)
    if compiled is not None:
        law: FloatArray = compiled.weighted_rank_law(levels, a, top, first)
        return law
    return _weighted_law_reference(levels, a, top, first)


def _weighted_law_reference(
    levels: IntArray, a: IntArray, top: FloatArray, first: int
) -> FloatArray:
    law = np.zeros(int(a.sum()) * int(levels[-1]) + 1)
    share = np.zeros((a.size, law.size - int(a[-1] * levels[-1])))
    share[0, 0] = 1.0
    total = np.cumsum(a).tolist()
    for v, level in enumerate(levels.tolist()):
        for row in range(1, a.size):
            i, shift = first + row - 1, int(a[row - 1]) * level
            stop = total[row - 1] * level + 1
            share[row, :stop] *= v / (v + i)
            share[row, shift:stop] += share[row - 1, : stop - shift] * (i / (v + i))
        shift, stop = int(a[-1]) * level, total[-1] * level + 1
        law[shift:stop] += top[v] * share[-1, : stop - shift]
    return law


# The largest weighted sum. W_i(s) is the largest a_1 x(r_1) + ... + a_i x(r_i) over
# r_1 <= ... <= r_i of the gaps looked at so far with h = s. A new gap v is offered to
# the positions in increasing order, so that it can take any run of them:
#
#     W_i(s) <- max(W_i(s), W_{i-1}(s - a_i phi(v)) + a_i x(v)).


def largest_weighted_sum(
    levels: IntArray, values: FloatArray, weights: IntArray, budget: int
) -> float:
    """Return the largest sum a_i x(r_i) over r_1 <= ... with sum a_i phi(r_i) <= q.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        phi, not decreasing, from 0.
    values : ndarray of shape (n_levels,)
        The x, finite.
    weights : ndarray of shape (n_positions,)
        The a, positive.
    budget : int
        The q, at least 0.

    Returns
    -------
    float
        The largest sum.
    """
    budget = min(budget, int(weights.sum()) * int(levels[-1]))
    steps = check_size(budget + 1, weights.size, levels.size)
    compiled = compiled_kernels("rank_bounds", steps, _KERNEL_MIN_STEPS)
    if compiled is not None:
        return float(compiled.largest_weighted_sum(levels, values, weights, budget))
    return _largest_weighted_reference(levels, values, weights, budget)


def _largest_weighted_reference(
    levels: IntArray, values: FloatArray, weights: IntArray, budget: int
) -> float:
    best = np.full((weights.size + 1, budget + 1), -np.inf)
    best[0, 0] = 0.0
    total = np.cumsum(weights)
    for level, value in zip(levels.tolist(), values.tolist(), strict=True):
        for row, a in enumerate(weights.tolist(), start=1):
            shift = a * level
            stop = min(budget, int(total[row - 1]) * level) + 1
            if shift < stop:
                taken = best[row - 1, : stop - shift] + a * value
                np.maximum(best[row, shift:stop], taken, out=best[row, shift:stop])
    return float(best[-1].max())


# The same for equal weights, when all but `slack` of the budget q must be used. The
# order of the m summands is free. Take next one with phi > q / m while the partial sum
# is at most its share i q / m, else one with phi <= q / m: partial sums then stay
# within the largest excess of a summand above their share, and within the largest
# shortfall (or the slack, at the end) below it. So a window along the line i q / m
# holds them all, as wide as the levels are and not as q is.


def largest_windowed_sum(
    levels: IntArray, values: FloatArray, m: int, budget: int, slack: int
) -> float:
    """Return the largest sum of m values with budget - slack <= sum phi <= budget.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        phi, not decreasing.
    values : ndarray of shape (n_levels,)
        The x, finite.
    m : int
        Number of summands, repetition allowed.
    budget, slack : int
        The budget, and how much of it may be left, at least 0.

    Returns
    -------
    float
        The largest sum, -inf if there is none; sums with more left may be among those
        that are looked at.
    """
    share = budget // m
    above = max(int(levels[-1]) - share, 0) + 1
    below = max(share + 1 - int(levels[0]), slack, 0) + 1
    steps = check_size(above + below, 1, m * levels.size)
    compiled = compiled_kernels("rank_bounds", steps, _KERNEL_MIN_STEPS)
    if compiled is not None:
        return float(
            compiled.largest_windowed_sum(levels, values, m, budget, below, above)
        )
    return _largest_windowed_reference(levels, values, m, budget, below, above)


def _largest_windowed_reference(
    levels: IntArray, values: FloatArray, m: int, budget: int, below: int, above: int
) -> float:
    width = below + above + 1  # element e of row i stands for i q // m - below + e
    best = np.full(width, -np.inf)
    best[below] = 0.0
    for i in range(m):
        rise = (i + 1) * budget // m - i * budget // m
        grown = np.full(width, -np.inf)
        for level, value in zip(levels.tolist(), values.tolist(), strict=True):
            shift = level - rise
            if abs(shift) >= width:
                continue
            to = slice(max(shift, 0), width + min(shift, 0))
            taken = best[max(-shift, 0) : width - max(shift, 0)] + value
            np.maximum(grown[to], taken, out=grown[to])
        best = grown
    return float(best[: below + 1].max())


def check_size(width: int, rows: int, n_levels: int) -> int:
    """Return the steps of a program, or refuse one that would not fit.

    Parameters
    ----------
    width, rows : int
        Of its table.
    n_levels : int
        How often it is passed over.

    Returns
    -------
    int
        The number of elementary steps.
    """
    steps = width * rows * n_levels
    if width * (rows + 1) > _MAX_TABLE or steps > _MAX_STEPS:
        raise ValueError(
            f"The program over ranks would take {steps:.1e} steps on a table of "
            f"{width * (rows + 1):.1e} entries, too many. Pass a coarser phi, such as "
            "'normal' or an array of integers up to 100, or method='hull' or 'band'."
        )
    return steps
