r"""Several ranks of a batch together: bands over all of them, and pairs.

The ranks r_1 <= ... <= r_m of m new scores among n old ones are uniform on the
C(n + m, m) multisets of size m from {1, ..., n + 1}. With N_i(v) the number of ways to
choose r_1 <= ... <= r_i = v below a band b,

    N_i(v) = sum_{u <= v} N_{i-1}(u) if v <= b_i, else 0,

so each of the m ranks costs one running sum, and all terms are positive.

A pair of ranks asks for numbers of new scores in three groups of gaps. The numbers in
all n + 1 gaps are independent geometric variables given their sum m, for any one
parameter x; in a group of g gaps they add up to a negative binomial variable with
weights C(a + g - 1, a) x^a. At x = m / (n + 1 + m) the sum m is a likely one and no
weight that matters underflows.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.levels import check_confidence_level
from uqlib._core.order_law import (
    check_between,
    check_sizes,
    order_law,
    unimodal_weights,
)
from uqlib._core.ranks import rank_from_fraction
from uqlib._typing import ArrayLike, FloatArray

# Probabilities are known to rounding: one that is at most so far below a level has it.
PROBABILITY_SLACK = 1e-12
_GAMMA_TOLERANCE = 1e-13


def band_probability(n: int, m: int, b: ArrayLike) -> float:
    r"""Probability that all sorted new scores stay below a band of order statistics.

    .. math:: P(r_1 \le b_1, \dots, r_m \le b_m)
              \le P(T_{(i)} \le S_{(b_i)} \text{ for all } i)

    for the ranks :math:`r_i = 1 + \#\{j : S_j < T_{(i)}\}`, ties broken at random.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    m : int
        Number of new scores, at least 1.
    b : array-like of shape (m,)
        The band: integers from 0 to n + 1. n + 1 bounds nothing, 0 is below every
        rank. A value above a later one is as good as that one.

    Returns
    -------
    float
        The probability. All terms of its sum are positive, so it is accurate to a
        small multiple of the rounding error, however small.

    Raises
    ------
    ValueError
        If `n` is negative, `m` below 1, or `b` has the wrong length or leaves
        0, ..., n + 1.
    TypeError
        If `n`, `m` or the values of `b` are not integers.

    See Also
    --------
    batch_band : The band of a given probability.
    joint_order_probability : Two of the ranks, one of them from below.

    Notes
    -----
    The scores are assumed exchangeable. Without ties both sides of the inequality are
    equal. A lower band a has :math:`P(r_i \ge a_i \text{ for all } i)` =
    ``band_probability(n, m, (n + 2 - a)[::-1])``. Time O(n m), memory O(n).

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.
    .. [2] U. Gazin, G. Blanchard, E. Roquain, "Transductive conformal inference with
       adaptive scores", arXiv:2310.18108.

    Examples
    --------
    >>> from uqlib.batch import band_probability
    >>> round(band_probability(9, 3, [5, 8, 10]) * 22, 9)
    17.0
    """
    n, m = check_sizes(n, m)
    band = np.asarray(b)
    if band.shape != (m,):
        raise ValueError(
            f"b must have shape ({m},), one rank for each of the m={m} new scores, got "
            f"shape {band.shape}."
        )
    if band.dtype.kind not in "iu":
        raise TypeError(
            f"b must hold integers, got an array of {band.dtype}. Pass ranks from 0 to "
            f"{n + 1}."
        )
    if band.min() < 0 or band.max() > n + 1:
        raise ValueError(
            f"b must hold ranks from 0 to n + 1 = {n + 1}, got values from "
            f"{band.min()} to {band.max()}."
        )
    return _below(n, m, np.minimum.accumulate(band[::-1])[::-1])


def batch_band(n: int, m: int, confidence_level: float) -> Any:
    r"""Band of order statistics that bounds all sorted new scores at once.

    .. math:: b_i = \min\{j : P(r_i \le j) \ge \gamma\}, \qquad
              P(r_1 \le b_1, \dots, r_m \le b_m) \ge p,

    with the smallest common :math:`\gamma`: quantiles of the beta-binomial laws of the
    ranks at one level.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    m : int
        Number of new scores, at least 1.
    confidence_level : float
        The p, strictly between 0 and 1.

    Returns
    -------
    ndarray of shape (m,), int
        Ranks from 1 to n + 1, non-decreasing: the i-th smallest new score is bounded by
        the :math:`b_i`-th smallest calibration score. Where that is impossible with
        the level, :math:`b_i` = n + 1 stands for the upper end of the scores (+inf);
        :math:`b_m` is the first to reach it, and must if n / (n + m) < p.

    Raises
    ------
    ValueError
        If `n` is negative, `m` below 1 or the level not strictly between 0 and 1.
    TypeError
        If a number is not an integer or the level not a number.

    See Also
    --------
    band_probability : The exact probability of the band.
    order_statistic_rank : One of the sorted scores alone.

    Notes
    -----
    If the scores are exchangeable, :math:`T_{(i)} \le S_{(b_i)}` for all i together
    with probability at least p. So every non-decreasing function of the sorted new
    scores is bounded by its value at the band, all such functions at once, and for all
    t at once the number of new scores above t is at most
    :math:`\#\{i : S_{(b_i)} > t\}`. The lower band is ``n + 1 - b[::-1]``, in ranks of
    calibration scores with 0 for the lower end. :math:`\gamma` lies between p and
    :math:`1 - (1 - p) / m` and is found by bisection; the probability is compared with
    p to 1e-12. m = 1 is split conformal prediction, with an exact rank.

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from uqlib.batch import batch_band
    >>> batch_band(200, 5, 0.9)
    array([103, 142, 171, 190, 200])
    """
    n, m = check_sizes(n, m)
    level = check_confidence_level(confidence_level)
    if m == 1:
        return np.array([rank_from_fraction(n, level)])
    low, high = float(level), float(1 - (1 - level) / m) + PROBABILITY_SLACK
    windows = _quantile_windows(n, m, low - PROBABILITY_SLACK, high)
    return _tune(n, m, windows, low, high, level)


def joint_order_probability(
    n: int, m: int, k1: int, k2: int, lower: int, upper: int
) -> float:
    r"""Probability that one rank is not below a bound and a later one not above one.

    .. math:: P(\ell \le r_{k_1} \text{ and } r_{k_2} \le u)
              \le P(S_{(\ell - 1)} \le T_{(k_1)} \text{ and } T_{(k_2)} \le S_{(u)}),
              \qquad k_1 \le k_2,

    for the ranks :math:`r_i = 1 + \#\{j : S_j < T_{(i)}\}`, ties broken at random; then
    the scores :math:`T_{(k_1)}, \dots, T_{(k_2)}` all lie between the two bounds.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    m : int
        Number of new scores, at least 1.
    k1, k2 : int
        Which of the sorted new scores, 1 <= k1 <= k2 <= m.
    lower, upper : int
        The ranks :math:`\ell` and u, from 1 to n + 1. lower = 1 and upper = n + 1 bound
        nothing; note that rank `lower` gives the order statistic `lower` - 1.

    Returns
    -------
    float
        The probability, 0 if `lower` > `upper`. All terms of its sum are positive.

    Raises
    ------
    ValueError
        If `n` is negative, `m` below 1, 1 <= k1 <= k2 <= m does not hold, or a rank
        leaves 1, ..., n + 1.
    TypeError
        If a number is not an integer.

    See Also
    --------
    order_statistic_rank : Ranks for one order statistic.

    Notes
    -----
    The scores are assumed exchangeable. Without ties both sides of the inequality are
    equal. Time O(n + m^2), memory O(n + m).

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from uqlib.batch import joint_order_probability
    >>> round(joint_order_probability(100, 11, 6, 6, 27, 75), 4)
    0.9046
    """
    n, m = check_sizes(n, m)
    k1, k2 = check_between(k1, 1, m, "k1"), check_between(k2, 1, m, "k2")
    if k1 > k2:
        raise ValueError(
            f"k1={k1} must be at most k2={k2}: the event bounds the smaller order "
            "statistic from below and the larger from above. Exchange them."
        )
    lower = check_between(lower, 1, n + 1, "lower")
    upper = check_between(upper, 1, n + 1, "upper")
    if lower > upper:
        return 0.0
    return _between(n, m, k1, k2, lower, upper)


# The weights are kept as w 2^e: those of few ranks may be far below any float when b_i
# is tuned to many. The step i / (n + i) turns counts into shares of C(n + i, i).
def _below(n: int, m: int, band: Any) -> float:
    """Return P(r_i <= b_i for all i) for a non-decreasing band."""
    weights, exponent = np.zeros(n + 1), 0
    weights[:1] = 1.0
    for i, top in enumerate(band.tolist(), start=1):
        if top == 0:
            return 0.0
        np.cumsum(weights[:top], out=weights[:top])
        _, shift = np.frexp(weights[top - 1])
        weights[:top] *= np.ldexp(i / (n + i), -int(shift))
        exponent += int(shift)
    return float(min(np.ldexp(weights[: band[-1]].sum(), exponent), 1.0))


def _quantile_windows(
    n: int, m: int, low: float, high: float
) -> list[tuple[int, FloatArray]]:
    """Return the laws of the ranks between two levels: first rank, then probabilities.

    A window (f, c) holds c_t = P(r_i <= f + t).
    """
    windows = []
    for i in range(1, m + 1):
        cumulative = np.cumsum(order_law(n, m, i))
        start, stop = np.searchsorted(cumulative, [low, high])
        windows.append((int(start) + 1, cumulative[start:stop].copy()))
    return windows


def _band_at(windows: list[tuple[int, FloatArray]], gamma: float, n: int) -> Any:
    level = gamma - PROBABILITY_SLACK
    ranks = [first + int(np.searchsorted(part, level)) for first, part in windows]
    return np.minimum(ranks, n + 1)


# The probability of the band at gamma is a non-decreasing step function of gamma: at
# most gamma, since it is at most that of each rank, and by the union bound at least
# 1 - m (1 - gamma). So the gamma sought lies between p and 1 - (1 - p) / m.
def _tune(
    n: int,
    m: int,
    windows: list[tuple[int, FloatArray]],
    low: float,
    high: float,
    level: Fraction,
) -> Any:
    """Return the band of the smallest gamma in [low, high] that has the level."""
    target = float(level) - PROBABILITY_SLACK
    below, above = _band_at(windows, low, n), _band_at(windows, high, n)
    if _below(n, m, below) >= target:
        return below
    while high - low > _GAMMA_TOLERANCE:
        gamma = (low + high) / 2
        band = _band_at(windows, gamma, n)
        enough = np.array_equal(band, above) or (
            not np.array_equal(band, below) and _below(n, m, band) >= target
        )
        if enough:
            high, above = gamma, band
        else:
            low, below = gamma, band
    return above


def _gap_weights(n_gaps: int, m: int, x: float) -> FloatArray:
    """Return C(a + g - 1, a) x^a for a = 0, ..., m new scores, up to a factor."""
    a = np.arange(float(m))
    return unimodal_weights((a + n_gaps) / (a + 1) * x)


def _between(n: int, m: int, k1: int, k2: int, lower: int, upper: int) -> float:
    """Return P(lower <= r_k1, r_k2 <= upper) from the numbers in three groups of gaps.

    Fewer than k1 new scores below the gap `lower`, and at least k2 up to `upper`.
    """
    x = m / (n + 1 + m)
    low = _gap_weights(lower - 1, m, x)
    middle = _gap_weights(upper - lower + 1, m, x)
    top = _gap_weights(n + 1 - upper, m, x)
    total = low @ np.convolve(middle, top)[m::-1]
    inside = sum(
        low[a] * (middle[k2 - a : m - a + 1] @ top[m - k2 :: -1]) for a in range(k1)
    )
    return float(min(inside / total, 1.0))
