r"""The largest sum of m values within a budget: concave hull, certificate, exact core.

    maximize  sum_i x(v_i)   subject to   sum_i phi(v_i) <= q

over m gaps v_1, ..., v_m, repetition allowed. Dual to the budget with price lambda:

    sum_i x(v_i) <= lambda q + m max_v (x(v) - lambda phi(v))   for all lambda >= 0,

and the least right-hand side is m conc(q / m), with conc the least concave majorant of
the points (phi(v), x(v)): the best that fractions of a gap could do. Below it lies
every sum that whole gaps give; rounding the fractions gives one, and the difference is
a certificate of how much the hull can lose.
"""

from typing import NamedTuple

import numpy as np

from uqlib._core.rank_programs import (
    IntArray,
    largest_weighted_sum,
    largest_windowed_sum,
)
from uqlib._typing import FloatArray

_ROUNDING = 64 * float(np.finfo(np.float64).eps)


class HullBound(NamedTuple):
    """The hull's bound, a sum of whole gaps, and the dual that proves the bound.

    `price` is lambda and `lead` the largest x - lambda phi; `left` and `right` are the
    indices of the ends of the hull's edge over q / m.
    """

    bound: float
    feasible: float
    price: float
    lead: float
    left: int
    right: int

    @property
    def gap(self) -> float:
        """How far at most the bound is above the largest sum."""
        return max(self.bound - self.feasible, 0.0)


def hull_bound(levels: IntArray, values: FloatArray, m: int, budget: int) -> HullBound:
    """Return the concave bound of a sum of m values and a feasible sum.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        phi, strictly increasing.
    values : ndarray of shape (n_levels,)
        The x, finite, not decreasing.
    m : int
        Number of summands.
    budget : int
        The q, at least m times the first level.

    Returns
    -------
    HullBound
        Equal bound and feasible sum where the budget buys m times the last level.
    """
    last = levels.size - 1
    if budget >= m * int(levels[last]):
        best = float(values[last])
        return HullBound(m * best, m * best, 0.0, best, last, last)
    left, right, price, lead = _edge(levels, values, m, budget)
    feasible = _round_down(levels, values, m, budget, left, right)
    return HullBound(price * budget + m * lead, feasible, price, lead, left, right)


# The edge of the hull over y = q / m. Start with the chord of the first and the last
# point. While some point lies above the chord, the farthest above it is a vertex of the
# hull, and takes the place of the end on its side of y. Points outside of the chord lie
# below it, since both ends are vertices, so the chord shrinks with every step.


def _edge(
    levels: IntArray, values: FloatArray, m: int, budget: int
) -> tuple[int, int, float, float]:
    left, right = 0, levels.size - 1
    while True:
        price = float(values[right] - values[left]) / int(levels[right] - levels[left])
        height = values - price * levels
        top = int(height.argmax())
        if not left < top < right or height[top] <= height[left]:
            return left, right, price, float(height[top])
        if int(levels[top]) * m <= budget:
            left = top
        else:
            right = top


def _round_down(
    levels: IntArray, values: FloatArray, m: int, budget: int, left: int, right: int
) -> float:
    """Return the sum of as many right ends as the budget allows, and what is left."""
    low, high = int(levels[left]), int(levels[right])
    n_right, rest = divmod(budget - m * low, high - low)
    extra = int(levels.searchsorted(low + rest, side="right")) - 1
    n_left = m - n_right - 1
    total = n_left * values[left] + n_right * values[right] + values[extra]
    return float(total)


# Exactly. A sum with levels s <= q is
#
#     sum_i x(v_i) = bound - sum_i c(v_i) - lambda (q - s),
#     c(v) = lead - (x(v) - lambda phi(v)) >= 0,
#
# so that in a sum that beats a feasible one every c(v_i) and lambda (q - s) are at most
# the gap between that and the bound. What is left of the gaps is the core. The better
# the feasible sum the smaller the core, so two summands are first chosen at will.


def core_bound(levels: IntArray, values: FloatArray, m: int, budget: int) -> float:
    """Return the largest sum of m values within the budget, exactly.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        phi, strictly increasing from 0.
    values : ndarray of shape (n_levels,)
        The x, finite, not decreasing.
    m : int
        Number of summands.
    budget : int
        The q, at least 0.

    Returns
    -------
    float
        The largest sum.
    """
    hull = hull_bound(levels, values, m, budget)
    if hull.gap == 0:
        return hull.feasible
    feasible = max(hull.feasible, _best_pair(levels, values, m, budget, hull))
    noise = _ROUNDING * m * float(np.abs(values).max())
    gap = max(hull.bound - feasible, 0.0) + noise
    kept = hull.lead - (values - hull.price * levels) <= gap
    levels, values = levels[kept], values[kept]
    if hull.price * budget <= gap:  # no bound on what is left of the budget
        ones = np.ones(m, dtype=np.int64)
        return max(feasible, largest_weighted_sum(levels, values, ones, budget))
    slack = int(gap / hull.price) + 1
    return max(feasible, largest_windowed_sum(levels, values, m, budget, slack))


def _best_pair(
    levels: IntArray, values: FloatArray, m: int, budget: int, hull: HullBound
) -> float:
    """Return the best sum of m - 2 ends of the edge and any two gaps."""
    low, high = int(levels[hull.left]), int(levels[hull.right])
    n_right = (budget - m * low) // (high - low)
    best = -np.inf
    for count in range(max(n_right - 1, 0), min(n_right, m - 2) + 1):
        fixed = (m - 2 - count) * values[hull.left] + count * values[hull.right]
        room = budget - (m - 2 - count) * low - count * high
        first = levels[: levels.searchsorted(room, side="right")]
        second = levels.searchsorted(room - first, side="right") - 1
        if first.size:
            pair = float((values[: first.size] + values[second])[second >= 0].max())
            best = max(best, fixed + pair)
    return float(best)
