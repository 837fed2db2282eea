r"""Order statistics of targets, from residuals and point predictions.

The targets of a batch are y_j = mu_j + t_j with predictions mu_j and residuals t_j,
which in sorted order are bounded by a band, t_(i) <= b_i for all i at once. Which
residual belongs to which prediction is not known, so that the k-th smallest target is
at most the largest that any matching gives:

    c_k = max over permutations pi of the k-th smallest of mu_j + b_pi(j)
        = min over j = 1, ..., q of mu_(k-1+j) + b_(m+1-j),        q = m + 1 - k.

For a matching has its k-th smallest sum at least t if and only if q of its pairs have
sums of at least t. Put the q largest predictions and the q largest bounds in place of
those of the q pairs, both in their order: every sum grows. Among these, if mu <= mu'
stand with b <= b', exchanging to mu + b' and mu' + b makes no sum smaller than mu + b,
so that pairing them in opposite order keeps all q at least t. Hence t is reached if and
only if the smallest sum of that pairing, which is the right side, is at least t; and
pairing the other predictions and bounds anyhow makes a permutation that reaches it.

An L-statistic with weights that are not negative, or a composition, grows with every
sorted target and is bounded by its value at c_1 <= ... <= c_m.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from uqlib._core.batch_statistics import Composition, Linear
from uqlib._core.order_law import upper_rank
from uqlib._core.outward import upper_end
from uqlib._core.rank_bands import band_probability, batch_band
from uqlib._core.rank_composition import composition_value
from uqlib._core.rank_events import order_probability
from uqlib._core.rank_sides import BatchBound
from uqlib._typing import FloatArray


def largest_matched(
    points: FloatArray, band: FloatArray, positions: list[int]
) -> FloatArray:
    """Return c_k for each position k; both arrays sorted, shape (m,)."""
    return np.array(
        [upper_end(points[k - 1 :], band[k - 1 :][::-1]).min() for k in positions]
    )


def matched_side(
    points: FloatArray,
    scores: FloatArray,
    end: float,
    statistic: Linear | Composition,
    level: Fraction,
    side: str,
) -> BatchBound:
    """Return one bound of a statistic of targets; `scores` are residuals.

    A lower side is the upper side of the mirrored problem, where the k-th smallest is
    the (m + 1 - k)-th smallest.
    """
    sign = 1.0 if side == "upper" else -1.0
    m = points.size
    mirrored = sign < 0 and isinstance(statistic, Linear)
    looked_at = statistic.mirrored() if mirrored else statistic
    gaps, probability = _gaps(scores.size, m, looked_at, level)
    ends = np.append(np.sort(sign * scores), sign * end)
    positions = _positions(looked_at, m)
    values = largest_matched(np.sort(sign * points), ends[gaps - 1], positions)
    if isinstance(looked_at, Composition):
        held = values if sign > 0 else -values[::-1]
        value = composition_value(looked_at, held, sign)
    else:
        weights = np.array([looked_at.weights[k - 1] for k in positions], dtype=float)
        value = sign * float(weights / weights.sum() @ values)
    return BatchBound(value, probability, math.nan, None, "matching")


def matched_rows(
    m: int, statistic: Linear | Composition, level: Fraction, side: str
) -> int:
    """Return the least n at which the bound does not reach the end of the range."""
    if side == "lower" and isinstance(statistic, Linear):
        statistic = statistic.mirrored()
    last = m if isinstance(statistic, Composition) else statistic.last
    low, high = 0, 1
    while _gaps(high, m, statistic, level)[0][last - 1] > high:
        low, high = high, 2 * high
    while high - low > 1:
        n = (low + high) // 2
        if _gaps(n, m, statistic, level)[0][last - 1] > n:
            low = n
        else:
            high = n
    return high


def _positions(statistic: Linear | Composition, m: int) -> list[int]:
    if isinstance(statistic, Composition):
        return list(range(1, m + 1))
    return [k for k in range(1, m + 1) if statistic.weights[k - 1]]


def _gaps(
    n: int, m: int, statistic: Linear | Composition, level: Fraction
) -> tuple[Any, float]:
    """Return the band of gaps of the sorted residuals, and its probability.

    The largest target looks at the largest residual alone, which has an exact rank.
    """
    if isinstance(statistic, Linear) and statistic.first == m:
        gaps = np.full(m, n + 1)
        gaps[-1] = upper_rank(n, m, m, level)
        return gaps, order_probability(n, m, m, int(gaps[-1]))
    return _band(n, m, level)


@lru_cache(maxsize=64)
def _band(n: int, m: int, level: Any) -> tuple[Any, float]:
    gaps = batch_band(n, m, level)
    return gaps, band_probability(n, m, gaps)
