r"""The law of one rank of a batch: order statistics and counts, with exact ranks.

The scores of n calibration rows and of m new rows are exchangeable together. T_(1) <=
... <= T_(m) are the sorted new scores, S_(1) <= ... <= S_(n) the old ones, S_(0) = -inf
and S_(n+1) = +inf. The gap of T_(i), with ties broken at random,

    r_i = 1 + #{old scores below T_(i)},    S_(r_i - 1) <= T_(i) <= S_(r_i),

makes r_1 <= ... <= r_m uniform on the C(n + m, m) multisets of size m from
{1, ..., n + 1}. Among the j + k - 1 smallest of all n + m scores at least k are new if
and only if r_k <= j, so that

    P(r_k <= j) C(n + m, m) = sum_{i >= k} C(j + k - 1, i) C(n + m - j - k + 1, m - i),

a hypergeometric tail of m + 1 - k terms, and P(r_k = j) follows the recursion

    P(r_k = j + 1) / P(r_k = j) = (j + k - 1)(n - j + 1) / (j (n + m - j - k + 1)).

Turning the order around, v -> n + 2 - v, makes r_k the rank r_{m+1-k}: the event
r_k > j has the law of r_{m+1-k} <= n + 1 - j, which is a tail of k terms.
"""

import math
import operator
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from uqlib._core.kernels import compiled_kernels
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import rank_from_fraction
from uqlib._typing import FloatArray

SIDES = ("upper", "lower", "two")
_KERNEL_MIN_ROWS = 512


def order_statistic_rank(
    n: int, m: int, k: int, confidence_level: float, side: str
) -> Any:
    r"""Rank of the bound of the k-th smallest of m new scores, among n old scores.

    .. math:: j^* = \min\Bigl\{j : \sum_{i \ge k} \binom{j + k - 1}{i}
              \binom{n + m - j - k + 1}{m - i} \ge p \binom{n + m}{m}\Bigr\},
              \qquad P(T_{(k)} \le S_{(j^*)}) \ge p,

    for the upper bound; the lower bound is its mirror image
    :math:`n + 1 - j^*(m + 1 - k)`.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    m : int
        Number of new scores, at least 1.
    k : int
        Which of the sorted new scores, from 1 (the smallest) to m (the largest).
    confidence_level : float
        The p, strictly between 0 and 1.
    side : {"upper", "lower", "two"}
        Which bound; "two" asks for both at half the miscoverage each.

    Returns
    -------
    int or tuple of int
        Rank r in {0, ..., n + 1}: the bound is the r-th smallest calibration score.
        ``n + 1`` stands for the upper end of the scores (+inf) and 0 for the lower end
        (-inf): no order statistic has the level. For "two" the pair of the lower and
        the upper rank.

    Raises
    ------
    ValueError
        If `n` is negative, `m` below 1, `k` outside 1, ..., m, `side` unknown or the
        level not strictly between 0 and 1.
    TypeError
        If a number is not an integer or the level not a number.

    See Also
    --------
    joint_order_probability : Two order statistics together.
    batch_band : Bounds of all order statistics together.

    Notes
    -----
    The bound holds with probability at least p for exchangeable scores, and at most p
    plus one atom of the law of the rank if there are no ties. k = ceil((1 - d) m)
    bounds all but a share d of the batch; m = 1 is split conformal prediction. The rank
    is exact: floating point decides only where it is certain, integers the rest.

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from uqlib.batch import order_statistic_rank
    >>> order_statistic_rank(200, 100, 90, 0.9, "upper")
    188
    >>> order_statistic_rank(100, 11, 6, 0.9, "two")
    (26, 75)
    """
    n, m = check_sizes(n, m)
    k = check_between(k, 1, m, "k")
    level = _exact_level(confidence_level)
    if side == "upper":
        return upper_rank(n, m, k, level)
    if side == "lower":
        return n + 1 - upper_rank(n, m, m + 1 - k, level)
    if side != "two":
        raise ValueError(f"side={side!r} must be one of {list(SIDES)}.")
    half = (1 + level) / 2
    return n + 1 - upper_rank(n, m, m + 1 - k, half), upper_rank(n, m, k, half)


def count_above_bound(n: int, m: int, n_below: int, confidence_level: float) -> int:
    r"""Upper bound of the number of m new scores that exceed a fixed value.

    .. math:: \max\{y : P(\mathrm{HG}(n + m, n - K + y, m) \ge y) > 1 - p\}

    with the number K of calibration scores at or below the value, and the
    hypergeometric number HG of new scores among the n - K + y largest of all.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    m : int
        Number of new scores, at least 1.
    n_below : int
        The K, from 0 to n.
    confidence_level : float
        The p, strictly between 0 and 1.

    Returns
    -------
    int
        The bound, from 0 to m.

    Raises
    ------
    ValueError
        If `n` is negative, `m` below 1, `n_below` outside 0, ..., n or the level not
        strictly between 0 and 1.
    TypeError
        If a number is not an integer or the level not a number.

    See Also
    --------
    order_statistic_rank : The value for a given count.

    Notes
    -----
    If the scores are exchangeable and the value was fixed before looking at them, the
    number of new scores above it is at most the bound with probability at least p:
    given how many of all n + m scores lie above, the new ones among them are
    hypergeometric, and the bound collects every count that the level does not reject.
    For many values at once see :func:`batch_band`. The comparison is made in integers.

    References
    ----------
    .. [1] Y. Lee, E. Tchetgen Tchetgen, E. Dobriban, "Batch Predictive Inference",
       arXiv:2409.13990.

    Examples
    --------
    >>> from uqlib.batch import count_above_bound
    >>> [count_above_bound(100, 20, below, 0.9) for below in (0, 50, 90, 100)]
    [20, 13, 4, 1]
    """
    n, m = check_sizes(n, m)
    below = check_between(n_below, 0, n, "n_below")
    alpha = 1 - check_confidence_level(confidence_level)
    total = alpha * math.comb(n + m, m)
    # At least y new ones among the n - K + y largest of all is r_y <= n - K + 1 in the
    # order turned around: one tail, which falls as y grows.
    low, high = 0, m + 1
    while high - low > 1:
        y = (low + high) // 2
        if count_multisets(n, m, y, n - below + 1) > total:
            low = y
        else:
            high = y
    return low


def upper_rank(n: int, m: int, k: int, level: Fraction) -> int:
    """Return the smallest j with P(r_k <= j) >= level, exactly.

    Parameters
    ----------
    n, m, k : int
        Checked numbers of old and new scores, and which of the new ones.
    level : Fraction
        The exact level.

    Returns
    -------
    int
        The rank, from 1 to n + 1.
    """
    if m == 1:
        return rank_from_fraction(n, level)
    first, last = _bracket(n, m, k, level)
    if first == last:
        return first
    total = level * math.comb(n + m, m)
    while first < last:
        middle = (first + last) // 2
        if count_multisets(n, m, k, middle) >= total:
            last = middle
        else:
            first = middle + 1
    return first


def count_multisets(n: int, m: int, k: int, j: int) -> int:
    """Return the number of multisets, of all C(n + m, m), with r_k <= j.

    Parameters
    ----------
    n, m, k : int
        Checked numbers of old and new scores, and which of the new ones.
    j : int
        The largest rank that counts.

    Returns
    -------
    int
        The exact number.
    """
    if j <= 0:
        return 0
    if j > n:
        return math.comb(n + m, m)
    if 2 * k < m + 1:  # the opposite event has the shorter sum
        opposite = count_multisets(n, m, m + 1 - k, n + 1 - j)
        return math.comb(n + m, m) - opposite
    among = j + k - 1
    term = math.comb(among, k) * math.comb(n + m - among, m - k)
    total, i = 0, k
    while term:
        total += term
        term = term * (among - i) * (m - i) // ((i + 1) * (n - among + i + 1))
        i += 1
    return total


def order_law(n: int, m: int, k: int) -> FloatArray:
    """Return the probabilities P(r_k = j), j = 1, ..., n + 1.

    Parameters
    ----------
    n, m, k : int
        Checked numbers of old and new scores, and which of the new ones.

    Returns
    -------
    ndarray of shape (n + 1,)
        The probabilities; those far below 1e-300 may be zero.
    """
    j = np.arange(1.0, n + 1)
    weights = unimodal_weights(
        (j + (k - 1)) * (n + 1 - j) / (j * ((n + m - k + 1) - j))
    )
    return np.asarray(weights / weights.sum())


def unimodal_weights(ratios: FloatArray) -> FloatArray:
    """Return weights with the given ratios of neighbors, the largest of them 1.

    Parameters
    ----------
    ratios : ndarray of shape (n,)
        Non-increasing: the weights rise to their mode and fall from it.

    Returns
    -------
    ndarray of shape (n + 1,)
        The weights. Built from the mode outwards they may underflow, never overflow.
    """
    mode = int(np.count_nonzero(ratios >= 1))
    weights = np.ones(ratios.size + 1)
    np.cumprod(ratios[mode:], out=weights[mode + 1 :])
    np.cumprod(1 / ratios[:mode][::-1], out=weights[:mode][::-1])
    return weights


def check_sizes(n: Any, m: Any) -> tuple[int, int]:
    """Return the numbers of calibration scores and of new scores as integers.

    Parameters
    ----------
    n : int
        Must be at least 0.
    m : int
        Must be at least 1.

    Returns
    -------
    n, m : int
        The numbers.
    """
    n_old, n_new = _as_integer(n, "n"), _as_integer(m, "m")
    if n_old < 0:
        raise ValueError(
            f"n must be a number of calibration scores >= 0, got {n!r}. Pass how many "
            "there are."
        )
    if n_new < 1:
        raise ValueError(
            f"m must be a number of new scores >= 1, got {m!r}. Pass the size of a "
            "batch that is not empty."
        )
    return n_old, n_new


def check_between(value: Any, low: int, high: int, name: str) -> int:
    """Return an integer that must lie between two others, both included.

    Parameters
    ----------
    value : int
        The number.
    low, high : int
        The smallest and the largest that are legal.
    name : str
        How the error calls it.

    Returns
    -------
    int
        The number.
    """
    number = _as_integer(value, name)
    if not low <= number <= high:
        raise ValueError(
            f"{name} must be an integer from {low} to {high}, got {value!r}."
        )
    return number


def _as_integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(
            f"{name} must be an integer, got {value!r} of type {type(value).__name__}."
        ) from error


def _exact_level(confidence_level: Any) -> Fraction:
    # The rational that a float stands for takes longer to find than a rank.
    if type(confidence_level) is float:
        return _level_of_float(confidence_level)
    return check_confidence_level(confidence_level)


@lru_cache(maxsize=256)
def _level_of_float(confidence_level: float) -> Fraction:
    return check_confidence_level(confidence_level)


def _bracket(n: int, m: int, k: int, level: Fraction) -> tuple[int, int]:
    """Return ranks between which the smallest j with P(r_k <= j) >= level lies."""
    if 2 * k <= m + 1:
        return _first_ranks(n, m, k, float(level))
    # j is the one sought if and only if n + 2 - j is the smallest i at which
    # P(r_{m+1-k} <= i) exceeds 1 - level; a walk from that end is shorter.
    first, last = _first_ranks(n, m, m + 1 - k, float(1 - level))
    return n + 2 - last, n + 2 - first


# Each probability is a product of some 5 (n + m) rounded factors at most and their sums
# add n roundings, relative to sums of at most 1: less than 7e-16 (n + m) in all.
def _first_ranks(n: int, m: int, k: int, level: float) -> tuple[int, int]:
    """Return the ranks that surely are at most, and at least, the first to `level`."""
    slack = 1e-15 * (n + m + 16)
    low, high = level - slack, level + slack
    kernels = compiled_kernels("rank_law", n, _KERNEL_MIN_ROWS)
    if kernels is not None:
        first, last = kernels.first_ranks(n, m, k, low, high)
        return first, last
    ranks = 1 + np.searchsorted(np.cumsum(order_law(n, m, k)), [low, high])
    first, last = np.minimum(ranks, n + 1).tolist()
    return first, last
