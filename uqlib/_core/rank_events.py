r"""Events of the form h(R) <= q: the smallest q with the probability asked for.

R is uniform on the multisets of m gaps out of n + 1, so a probability is a count over
C(n + m, m). Where there are few multisets, laws are exact to far less than one of them
and counts are compared as integers. Where there are many, a law of positive terms is
compared with a slack of 1e-12, more than its rounding. One that went through a Fourier
transform is off by up to 1e-11 and gets a margin on the safe side; that all multisets
without a forbidden gap have the probability, the one tie that is met in practice,
n / (n + m) = p, is then decided in integers.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from uqlib._core.batch_statistics import Linear
from uqlib._core.order_law import count_multisets, order_law
from uqlib._core.rank_grid import RankGrid
from uqlib._core.rank_law import grid_law
from uqlib._core.rank_programs import IntArray, check_size, weighted_law
from uqlib._typing import FloatArray

_FEW = 10**9
_SLACK = -1e-12
_MARGIN = 1e-10


class RankEvent(NamedTuple):
    """The event h(R) <= `bound` and its probability.

    `position` is that of the bound among the values of h, None where no finite value
    has the probability asked for: the event then is certain, and the bound inf.
    """

    bound: float
    probability: float
    position: int | None


CERTAIN = RankEvent(math.inf, 1.0, None)


def smallest_event(
    values: IntArray,
    law: FloatArray,
    n: int,
    m: int,
    level: Fraction,
    margin: float = _SLACK,
) -> RankEvent:
    """Return the event of the smallest bound that has the probability.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        The values of h, increasing.
    law : ndarray of shape (n_values,)
        Their probabilities.
    n, m : int
        Numbers of calibration and of batch scores.
    level : Fraction
        The probability asked for.
    margin : float, default=-1e-12
        What a probability must have above the level.

    Returns
    -------
    RankEvent
        Certain where the whole law has less.
    """
    reached, count = np.cumsum(law), _few_multisets(n, m)
    if count:
        reached = np.rint(reached * count)
        position = int(reached.searchsorted(math.ceil(level * count)))
    else:
        position = int(reached.searchsorted(float(level) + margin))
    if position == law.size:
        return CERTAIN
    return _event_at(values, reached / (count or 1), position)


def _event_at(values: IntArray, reached: FloatArray, position: int) -> RankEvent:
    probability = min(float(reached[position]), 1.0)
    return RankEvent(float(values[position]), probability, position)


@lru_cache(maxsize=256)
def linear_event(grid: RankGrid, statistic: Linear, level: Fraction) -> RankEvent:
    """Return the smallest event for h(r) = sum_i a_i phi(r_i), in shifted levels.

    Parameters
    ----------
    grid : RankGrid
        The phi.
    statistic : Linear
        The a.
    level : Fraction
        The probability asked for.

    Returns
    -------
    RankEvent
        Its bound is counted from the lowest level of the grid. The event is
        remembered: it does not depend on the scores.
    """
    if grid.levels.size == 0:
        return CERTAIN
    n, m, law = grid.n, len(statistic.weights), _linear_law(grid, statistic)
    values = np.arange(law.size)
    if not statistic.is_mean:
        return smallest_event(values, law, n, m, level)
    event = smallest_event(values, law, n, m, level, _MARGIN)
    if event.position is None:
        allowed = count_multisets(n, m, m, grid.levels.size)
        if allowed >= level * math.comb(n + m, m):
            return _event_at(values, np.cumsum(law), law.size - 1)
    return event


@lru_cache(maxsize=4)
def _linear_law(grid: RankGrid, statistic: Linear) -> FloatArray:
    n, m = grid.n, len(statistic.weights)
    if not statistic.is_mean:
        return weighted_law(
            grid.levels, n, statistic.weights, statistic.first, statistic.last
        )
    check_size(m * int(grid.levels[-1]) + 1, 1, m)
    phi = np.full(n + 1, np.inf)
    phi[: grid.levels.size] = grid.levels
    return grid_law(phi, m)


@lru_cache(maxsize=256)
def order_probability(n: int, m: int, k: int, j: int) -> float:
    """Return P(r_k <= j), the probability that the k-th batch score is at most S_(j).

    Parameters
    ----------
    n, m, k : int
        Calibration scores, batch scores, position.
    j : int
        Rank of a calibration score; n + 1 has probability 1.

    Returns
    -------
    float
        The probability.
    """
    return 1.0 if j > n else float(order_law(n, m, k)[:j].sum())


def _few_multisets(n: int, m: int) -> int:
    """Return C(n + m, m) where it is small, else 0."""
    small = min(n, m)
    if small > 30:  # C(60, 30) is beyond it already
        return 0
    count = math.comb(n + m, small)
    return count if count <= _FEW else 0
