"""Bounds over sets of ranks by listing every multiset of gaps."""

import itertools
import math
from fractions import Fraction
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def multisets(n, m):
    """All r_1 <= ... <= r_m with entries in 1, ..., n + 1."""
    return list(itertools.combinations_with_replacement(range(1, n + 2), m))


def quantile(values, level):
    """Smallest q with P(value <= q) >= level, and that probability."""
    ordered = sorted(values)
    q = ordered[math.ceil(Fraction(level) * len(ordered)) - 1]
    return q, Fraction(sum(value <= q for value in ordered), len(ordered))


def weights_of(statistic, m):
    """Weights on the sorted scores, by the definitions alone."""
    if isinstance(statistic, list):
        return statistic
    name, *values = statistic if isinstance(statistic, tuple) else (statistic,)
    shares = [Fraction(str(value)) * m for value in values]
    held = {
        "mean": lambda i: True,
        "median": lambda i: m in (2 * i - 2, 2 * i - 1, 2 * i),
        "max": lambda i: i == m,
        "min": lambda i: i == 1,
        "order": lambda i: i == values[0],
        "quantile": lambda i: i - 1 < shares[0] <= i,
        "trimmed": lambda i: i > int(shares[0]) and i <= m - int(shares[1]),
    }[name]
    return [int(held(i)) for i in range(1, m + 1)]


def weighted(weights, values):
    """Weighted mean of sorted values; what has no weight may be infinite."""
    held = [w * x for w, x in zip(weights, values, strict=True) if w]
    return sum(held) / sum(weights)


def gap_cost(phi, n, open_end):
    """The phi of a name, as a list."""
    if not isinstance(phi, str):
        return list(phi)
    assert phi == "rank"
    return [*range(n), math.inf if open_end else n]


def extreme(scores, m, g, h, level, bounds, side):
    """(bound, probability, q) of monotone g over {h <= q}, mirrored for the lower side.

    g takes sorted values, h sorted gaps.
    """
    n = len(scores)
    ends = [bounds[0], *sorted(scores), bounds[1]]
    sets = multisets(n, m)
    if side == "upper":
        costs = [h(r) for r in sets]
        values = [g([ends[v] for v in r]) for r in sets]
    else:
        costs = [h(tuple(n + 2 - v for v in reversed(r))) for r in sets]
        values = [g([ends[v - 1] for v in r]) for r in sets]
    q, probability = quantile(costs, level)
    inside = [x for x, cost in zip(values, costs, strict=True) if cost <= q]
    return (max if side == "upper" else min)(inside), probability, q


def linear_extreme(scores, m, statistic, level, phi, bounds, side):
    """The same for weights on the sorted scores and h = sum of a_i phi(r_i)."""
    weights = weights_of(statistic, m)
    cost = gap_cost(phi, len(scores), math.isinf(bounds[side == "upper"]))
    a = weights if side == "upper" else weights[::-1]

    def h(r):
        return sum(w * cost[v - 1] for w, v in zip(a, r, strict=True) if w)

    return extreme(scores, m, lambda t: weighted(weights, t), h, level, bounds, side)


def split_coverage(pooled, m, weights, bound):
    """Exact share of the splits of a pooled sample in which a bound holds.

    Exchangeable scores are a uniformly random split of their own values; `bound` takes
    the calibration part and gives (lower, upper) for a weighted mean of the other.
    """
    pooled = np.asarray(pooled, dtype=float)
    held = []
    for batch in itertools.combinations(range(pooled.size), m):
        lower, upper = bound(np.delete(pooled, batch))
        value = weighted(weights, sorted(pooled[list(batch)]))
        held.append(lower - 1e-9 <= value <= upper + 1e-9)
    return Fraction(sum(held), len(held))
