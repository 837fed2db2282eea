r"""Ranks and order statistics: the finite-sample quantile of conformal prediction.

With exchangeable scores s_1, ..., s_n, s_{n+1} the rank of the last one is
uniform on {1, ..., n + 1} up to ties, so

    P(s_{n+1} <= s_(k)) >= k / (n + 1),   s_(n+1) := +inf,

and the smallest k with k / (n + 1) >= p is k = ceil((n + 1) p). The product is
taken in integers: in floating point 100 * 0.55 is just above 55, and its ceiling
is one rank too high.
"""

import math
import operator
from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.levels import check_confidence_level
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


def conformal_rank(n: int, confidence_level: float) -> int:
    r"""Rank of the conformal threshold among n calibration scores.

    .. math:: k = \max(1, \lceil (n + 1) p \rceil),

    computed in integers with the rational level p that is meant by
    `confidence_level`, so that it is right for literals (0.9) and for computed
    levels (0.55 - 0.45) alike.

    Parameters
    ----------
    n : int
        Number of calibration scores, at least 0.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.

    Returns
    -------
    int
        Rank k in {1, ..., n + 1}: the threshold is the k-th smallest score.
        ``n + 1`` stands for +inf: no finite threshold has the coverage.

    Raises
    ------
    ValueError
        If `n` is negative or `confidence_level` is not strictly between 0 and 1.
    TypeError
        If `n` is not an integer or `confidence_level` not a number.

    See Also
    --------
    conformal_quantile : The threshold itself.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random
       World", Springer, 2005.

    Examples
    --------
    >>> from uqlib.conformal import conformal_rank
    >>> conformal_rank(9, 0.9), conformal_rank(99, 0.55), conformal_rank(8, 0.9)
    (9, 55, 9)
    """
    level = check_confidence_level(confidence_level)
    return rank_from_fraction(_check_count(n), level)


def conformal_quantile(scores: ArrayLike, confidence_level: float) -> float:
    r"""Smallest threshold that covers an exchangeable score with the given level.

    The k-th smallest score, :math:`k = \max(1, \lceil (n + 1) p \rceil)`, or
    :math:`+\infty` if :math:`k > n`. It is always one of the scores: nothing is
    interpolated, and no index is clamped.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Calibration scores, larger = stranger. Infinities are legal, NaN is not.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.

    Returns
    -------
    float
        The threshold.

    Raises
    ------
    ValueError
        If `scores` is not 1-D or contains NaN, or the level is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        If there are too few scores for the level, with the number needed.

    See Also
    --------
    conformal_rank : The rank alone.

    Notes
    -----
    If the n scores and the next one are exchangeable, the next one is at most
    the threshold with probability at least p, and at most
    :math:`p + 1 / (n + 1)` if there are no ties [1]_. If they are independent draws
    of one continuous law, the coverage conditional on the n scores is random with the
    law :math:`\mathrm{Beta}(k, n + 1 - k)`.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, "A Gentle Introduction to Conformal
       Prediction and Distribution-Free Uncertainty Quantification",
       arXiv:2107.07511.

    Examples
    --------
    >>> from uqlib.conformal import conformal_quantile
    >>> conformal_quantile([3.0, 1.0, 2.0, 5.0, 4.0, 9.0, 7.0, 8.0, 6.0], 0.8)
    8.0
    """
    values = as_1d(scores, "scores")
    return threshold_at(values, check_confidence_level(confidence_level))


def threshold_at(scores: FloatArray, level: Fraction) -> float:
    """Return the conformal threshold of scores, with a warning if it is infinite.

    Parameters
    ----------
    scores : ndarray of shape (n_calibration,)
        Without NaN.
    level : Fraction
        The exact level.

    Returns
    -------
    float
        The threshold.
    """
    rank = rank_from_fraction(scores.size, level)
    if rank > scores.size:
        warn_infinite(scores.size, level)
    return order_statistic(scores, rank)


def rank_from_fraction(n: int, level: Fraction) -> int:
    """Return max(1, ceil((n + 1) level)) for an exact level in [0, 1].

    Parameters
    ----------
    n : int
        Number of scores.
    level : Fraction
        The exact level.

    Returns
    -------
    int
        The rank, at most n + 1.
    """
    return max(1, math.ceil((n + 1) * level))


def lower_rank_from_fraction(n: int, level: Fraction) -> int:
    r"""Return floor((n + 1) level), the largest rank r with r / (n + 1) <= level.

    The mirror image of the upper rank: P(s_{n+1} < s_(r)) <= r / (n + 1) <= level,
    with rank 0 standing for -inf.

    Parameters
    ----------
    n : int
        Number of scores.
    level : Fraction
        The exact level.

    Returns
    -------
    int
        The rank, between 0 and n.
    """
    return min(n, math.floor((n + 1) * level))


def order_statistic(values: FloatArray, rank: int) -> float:
    """Return the rank-th smallest value; rank 0 is -inf and rank n + 1 is +inf.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Without NaN.
    rank : int
        Between 0 and n + 1.

    Returns
    -------
    float
        The order statistic.
    """
    if rank <= 0:
        return -math.inf
    if rank > values.size:
        return math.inf
    return float(np.partition(values, rank - 1)[rank - 1])


def rows_needed(level: Fraction) -> float:
    """Return the smallest n with ceil((n + 1) level) <= n, that is level / (1 - level).

    Parameters
    ----------
    level : Fraction
        The exact level.

    Returns
    -------
    int or inf
        The number of calibration rows for a finite threshold.
    """
    return math.ceil(level / (1 - level)) if level < 1 else math.inf


def warn_infinite(n: int, level: Fraction) -> None:
    """Warn that n calibration rows are too few for a finite bound at the level.

    Parameters
    ----------
    n : int
        Number of calibration rows.
    level : Fraction
        The exact one-sided level.
    """
    warn_user(
        f"{n} calibration rows are too few for a finite bound at level "
        f"{float(level):g}: at least {rows_needed(level)} are needed. The bound is "
        "infinite; pass more calibration rows or ask for a lower level.",
        InfiniteIntervalWarning,
    )


def _check_count(n: Any) -> int:
    try:
        count = operator.index(n)
    except TypeError as error:
        raise TypeError(
            f"n must be an integer number of scores, got {n!r} of type "
            f"{type(n).__name__}."
        ) from error
    if count < 0:
        raise ValueError(f"n must be a number of scores >= 0, got {n!r}.")
    return count
