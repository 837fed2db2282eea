r"""One side of a bound by ranks: which method, which event, and the extreme over it.

Upper sides are written out; a lower side is the upper side of the mirrored problem,
scores -S and statistic -g(-t). A composition alone keeps its order of scores, and
takes the smallest value in place of the largest.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.batch_statistics import Composition, Linear
from uqlib._core.order_law import upper_rank
from uqlib._core.rank_bands import band_probability, batch_band
from uqlib._core.rank_composition import (
    composition_event,
    composition_extreme,
    composition_steps,
    composition_value,
)
from uqlib._core.rank_events import linear_event, order_probability
from uqlib._core.rank_grid import RankGrid, rank_grid
from uqlib._core.rank_hull import core_bound, hull_bound
from uqlib._core.rank_programs import IntArray, largest_weighted_sum
from uqlib._typing import FloatArray

METHODS = ("auto", "closed", "dp", "hull", "core", "band")
# "auto" takes the exact core up to about so many steps; the hull is nearly as tight.
_MAX_CORE = 2**26
_HUGE = 2.0**900


class BatchBound(NamedTuple):
    """One side of a bound, and how it was come by.

    `event_probability` is the exact probability of the set of ranks, at least the level
    asked for. `gap` is how far the bound may be from the best one over that set: 0.0
    for exact methods, the certificate of the hull, NaN for the band. `rank` is the rank
    of the calibration score that is the bound (0 and n + 1 are the ends) for the closed
    form, q for a program over h(r) <= q, and None for the band.
    """

    value: float
    event_probability: float
    gap: float
    rank: float | None
    method: str


def upper_side(
    values: FloatArray,
    end: float,
    m: int,
    statistic: Linear | Composition,
    level: Fraction,
    phi: Any,
    method: str,
) -> BatchBound:
    """Return the upper bound of a statistic of m unseen scores.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Sorted calibration scores.
    end : float
        The upper end of their range.
    m : int
        Number of unseen scores.
    statistic : Linear or Composition
        The statistic.
    level : Fraction
        The exact one-sided level.
    phi, method
        As `batch_bound` takes them.

    Returns
    -------
    BatchBound
        The bound.
    """
    ends = np.append(values, end)
    if isinstance(statistic, Composition):
        return _composed(ends, m, statistic, level, phi, method, 1.0)
    return _linear(ends, m, statistic, level, phi, method)


def lower_side(
    values: FloatArray,
    end: float,
    m: int,
    statistic: Linear | Composition,
    level: Fraction,
    phi: Any,
    method: str,
) -> BatchBound:
    """Return the lower bound of a statistic of m unseen scores.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Sorted calibration scores.
    end : float
        The lower end of their range.
    m, statistic, level, phi, method
        As `upper_side` takes them.

    Returns
    -------
    BatchBound
        The bound.
    """
    if isinstance(statistic, Composition):
        ends = np.append(end, values)
        return _composed(ends, m, statistic, level, phi, method, -1.0)
    ends = np.append(-values[::-1], -end)
    bound = _linear(ends, m, statistic.mirrored(), level, phi, method)
    rank = bound.rank
    if bound.method == "closed" and rank is not None:
        rank = ends.size - rank
    return bound._replace(value=0.0 - bound.value, rank=rank)


# ---------------------------------------------------------------------------
# Weights on the sorted scores. ends[v - 1] is the score at the end of gap v.


def _linear(
    ends: FloatArray, m: int, statistic: Linear, level: Fraction, phi: Any, method: str
) -> BatchBound:
    n = ends.size - 1
    grid = rank_grid(phi, n, bool(ends[-1] == np.inf))
    method = _choose(method, statistic, n, m)
    if method == "closed":
        rank = upper_rank(n, m, statistic.first, level)
        probability = order_probability(n, m, statistic.first, rank)
        return BatchBound(float(ends[rank - 1]), probability, 0.0, rank, method)
    if float(np.max(np.abs(ends), where=np.isfinite(ends), initial=0.0)) > _HUGE:
        # Sums would overflow. A power of two is exact where scores are as large.
        tame = _linear(ends / _HUGE, m, statistic, level, phi, method)
        return tame._replace(value=tame.value * _HUGE, gap=tame.gap * _HUGE)
    weights = np.array(statistic.weights)
    held, total = weights > 0, int(weights.sum())
    if method == "band":
        gaps, probability = _band(n, m, level)
        value = float(weights[held] @ ends[gaps[held] - 1]) / total
        return BatchBound(value, probability, math.nan, None, method)
    event = linear_event(grid, statistic, level)
    if event.position is None:
        return BatchBound(float(ends[-1]), 1.0, 0.0, math.inf, method)
    largest, gap = _largest_sum(ends, grid, weights[held], event.position, method)
    rank = event.position + grid.offset * total
    return BatchBound(largest / total, event.probability, gap / total, rank, method)


def _largest_sum(
    ends: FloatArray, grid: RankGrid, a: IntArray, budget: int, method: str
) -> tuple[float, float]:
    """Return the largest weighted sum within the budget of levels, and its gap.

    Only the last gap of each level matters, and only levels that the last position can
    pay for while the others take the first gap, which costs nothing. If it can pay for
    an infinite end, that is the answer; otherwise no position can.
    """
    n_steps = int(np.searchsorted(grid.steps, budget // int(a[-1]), side="right"))
    levels, x = grid.steps[:n_steps], ends[grid.last[:n_steps]]
    if x[-1] == np.inf:
        return math.inf, 0.0
    if method == "dp":
        return largest_weighted_sum(levels, x, a, budget), 0.0
    if method == "core":
        return core_bound(levels, x, a.size, budget), 0.0
    hull = hull_bound(levels, x, a.size, budget)
    return hull.bound, hull.gap


def _choose(method: str, statistic: Linear, n: int, m: int) -> str:
    """Return the method, which depends on nothing but the shape of the problem."""
    _check_method(method)
    if method == "auto":
        if statistic.order is not None:
            return "closed"
        if not statistic.is_mean:
            return "dp"
        return "core" if m * n * n <= _MAX_CORE else "hull"
    if method == "closed" and statistic.order is None:
        raise ValueError(
            "method='closed' has a closed form for a single order statistic alone "
            "('max', 'min', ('order', k), ('quantile', p), the median of an odd "
            "number). Pass method='auto'."
        )
    if method in ("hull", "core") and not statistic.is_mean:
        raise ValueError(
            f"method={method!r} bounds the mean alone. Pass method='auto' or 'dp'."
        )
    return method


# ---------------------------------------------------------------------------
# Compositions.


def _composed(
    ends: FloatArray,
    m: int,
    statistic: Composition,
    level: Fraction,
    phi: Any,
    method: str,
    sign: float,
) -> BatchBound:
    n = ends.size - 1
    _check_method(method)
    if method not in ("auto", "dp", "band"):
        raise ValueError(
            f"method={method!r} does not know compositions. Pass method='dp' or 'band'."
        )
    if not isinstance(phi, str) or phi != "rank":
        raise ValueError(
            "A composition scores ranks by its own eta: leave phi='rank', got "
            f"phi={phi!r}."
        )
    if method == "band":
        gaps, probability = _band(n, m, level)
        held = ends[gaps - 1] if sign > 0 else ends[n + 1 - gaps[::-1]]
        value = composition_value(statistic, held, sign)
        return BatchBound(value, probability, math.nan, None, method)
    gaps_told = range(1, n + 2) if sign > 0 else range(n + 1, 0, -1)
    steps = composition_steps(statistic, m, list(gaps_told))
    event = composition_event(steps, n, level)
    value = composition_extreme(statistic, steps, ends, event, sign)
    return BatchBound(value, event.probability, 0.0, event.bound, "dp")


@lru_cache(maxsize=64)
def _band(n: int, m: int, level: Any) -> tuple[Any, float]:
    gaps = batch_band(n, m, level)
    return gaps, band_probability(n, m, gaps)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(
            f"method={method!r} must be one of {', '.join(map(repr, METHODS))}."
        )
