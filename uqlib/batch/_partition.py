r"""Split conformal prediction with groups of calibration rows in place of rows.

The n calibration scores, in random order, make B = floor(n / m) groups of m. The
statistics g_1, ..., g_B of the groups and the one of the batch are exchangeable, so

    P(g(T) <= g_(k)) >= k / (B + 1),    k = ceil((B + 1) (1 - a)),

where g_(B+1) is the statistic of m scores at the upper end of their range. The bound is
below that end if and only if B >= 1 / a - 1, which hardly differs from what any bound
of the mean needs, n >= m (1 / a - 1).
"""

import math
from fractions import Fraction

import numpy as np

from uqlib._core.batch_statistics import Composition, Linear
from uqlib._core.rank_composition import composition_value
from uqlib._core.rank_sides import BatchBound
from uqlib._core.ranks import (
    lower_rank_from_fraction,
    order_statistic,
    rank_from_fraction,
    rows_needed,
)
from uqlib._typing import FloatArray


def partition_reaches(n: int, m: int, level: Fraction) -> bool:
    """Whether there are enough groups for a bound other than the end of the range."""
    return rank_from_fraction(n // m, level) <= n // m


def partition_side(
    scores: FloatArray,
    end: float,
    m: int,
    statistic: Linear | Composition,
    level: Fraction,
    side: str,
) -> BatchBound:
    """Return one bound of a statistic; `scores` are in random order."""
    values = _group_statistics(scores, m, statistic)
    if side == "upper":
        rank, sign = rank_from_fraction(values.size, level), 1.0
        share = Fraction(rank, values.size + 1)
    else:
        rank, sign = lower_rank_from_fraction(values.size, 1 - level), -1.0
        share = 1 - Fraction(rank, values.size + 1)
    if 1 <= rank <= values.size:
        value = order_statistic(values, rank)
    elif isinstance(statistic, Composition):
        value = composition_value(statistic, np.full(m, end), sign)
    else:
        value = end
    return BatchBound(value, float(share), math.nan, rank, "partition")


def partition_rows(m: int, level: Fraction) -> int:
    """Return the least n at which the bound is not the end of the range."""
    return m * int(rows_needed(level))


def _group_statistics(
    scores: FloatArray, m: int, statistic: Linear | Composition
) -> FloatArray:
    n_groups = scores.size // m
    groups = np.sort(scores[: n_groups * m].reshape(n_groups, m), axis=1)
    if isinstance(statistic, Composition):
        found = [composition_value(statistic, group, 1.0) for group in groups]
        return np.array(found)
    weights = np.array(statistic.weights, dtype=np.float64)
    return groups @ (weights / weights.sum())  # sums of huge scores would overflow
