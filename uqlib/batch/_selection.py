r"""Windows that hold k of m scores, and selections with few false ones.

The numbers of unseen scores in the n + 1 gaps between the calibration scores are
exchangeable: every vector of counts with sum m has the same probability. So the number
in any j of the gaps has the law of the number in the first j, and

    P(at least k in the gaps low + 1, ..., low + j) = P(r_k <= j),

whatever `low` is. A score in these gaps lies in [S_(low), S_(low + j)], ties included.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.order_law import upper_rank
from uqlib._core.outward import lower_end, outward_interval, upper_end
from uqlib._core.rank_bounds import rows_for_finite_bound
from uqlib._core.ranks import order_statistic
from uqlib._typing import BoolArray, FloatArray
from uqlib.batch._bounds import warn_rows


class Window(NamedTuple):
    """Ranks of two calibration scores; 0 and n + 1 are the ends of their range."""

    low: int
    high: int


def covering_window(n: int, m: int, k: int, level: Fraction, side: str) -> Window:
    """Return the window that holds at least k of m scores with the level.

    Two-sided ones leave out as many gaps below as above, one more above if odd.
    """
    n_gaps = upper_rank(n, m, k, level)
    left_out = n + 1 - n_gaps
    low = {"upper": 0, "lower": left_out, "two": left_out // 2}[side]
    return Window(low, low + n_gaps)


def window_interval(
    points: FloatArray,
    scores: FloatArray,
    ends: tuple[float, float],
    k: int,
    level: Fraction,
    side: str,
) -> FloatArray:
    """Return points plus the two scores of the window, shape (m, 2)."""
    n, m = scores.size, points.size
    window = covering_window(n, m, k, level, side)
    low = score_at(scores, window.low, ends) if side != "upper" else -np.inf
    high = score_at(scores, window.high, ends) if side != "lower" else np.inf
    open_low, open_high = side != "upper" and low == -np.inf, high == np.inf
    if open_low or (open_high and side != "lower"):
        left_out = 2 if side == "two" and open_low else 1
        needed = rows_for_window(m, k, level, left_out)
        warn_rows(n, m, needed, f"The set that covers {k}")
    return outward_interval(lower_end(points, low), upper_end(points, high))


def score_at(scores: FloatArray, rank: int, ends: tuple[float, float]) -> float:
    """Return the rank-th smallest score, where 0 and n + 1 are the ends."""
    if 1 <= rank <= scores.size:
        return order_statistic(scores, rank)
    return ends[0] if rank == 0 else ends[1]


def rows_for_window(m: int, k: int, level: Fraction, left_out: int) -> int:
    """Return the least n at which so many gaps can be left out."""
    low = rows_for_finite_bound(m, k, level) - 1  # where no gap can
    high = low + 1
    while _left_out(high, m, k, level) < left_out:
        low, high = high, 2 * high + 1
    while high - low > 1:
        n = (low + high) // 2
        if _left_out(n, m, k, level) < left_out:
            low = n
        else:
            high = n
    return high


def _left_out(n: int, m: int, k: int, level: Fraction) -> int:
    return n + 1 - upper_rank(n, m, k, level)


# Let V be the prediction of a row whose target is not above the threshold, and -inf for
# any other. A false selection at v is a V above v, so that more than f of them means
# V_(m - f) > v. The calibration rows have their own V, exchangeable with those.
def selected(
    points: FloatArray, rivals: FloatArray, max_false: int, level: Fraction
) -> BoolArray:
    """Return which rows to select, shape (m,); `rivals` are the V of calibration."""
    n, m = rivals.size, points.size
    rank = upper_rank(n, m, m - max_false, level)
    if rank > n:
        needed = rows_for_finite_bound(m, m - max_false, level)
        warn_rows(n, m, needed, f"Selection with at most {max_false} false rows")
        return np.zeros(m, dtype=bool)
    return np.asarray(points > order_statistic(rivals, rank))


def check_threshold(threshold: Any) -> float:
    """Return a threshold as a number."""
    try:
        value = float(threshold)
    except (TypeError, ValueError) as error:
        raise TypeError(f"threshold must be a number, got {threshold!r}.") from error
    if np.isnan(value):
        raise ValueError("threshold must not be NaN. Pass a number.")
    return value
