r"""P-values of strangeness: conformal, and calibration-conditional.

For scores s_1, ..., s_n of inliers (larger = stranger) and the score s of a new row,

    p = (1 + #{i : s_i >= s}) / (n + 1)

is super-uniform, P(p <= t) <= t, if the new row is exchangeable with the others. The
probability is over all n + 1 rows. For the n rows at hand it is random: write
U_i = 1 - F(s_i) with the continuous law F of the scores. Then p <= j / (n + 1) means
that fewer than j of the U_i lie at or below 1 - F(s), which has the probability

    P(p <= j / (n + 1) | s_1, ..., s_n) = U_(j),      j = 1, ..., n.

So p becomes super-uniform conditional on the calibration rows, if j / (n + 1) is
replaced by a non-decreasing b_j with U_(j) <= b_j for all j, and b_{n+1} = 1. Order
statistics of n uniform variables stay below such a boundary with probability
1 - delta; each method below is one boundary. Atoms of F only make p larger.
"""

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import order_statistic, rank_from_fraction, rows_needed
from uqlib._typing import ArrayLike, FloatArray


def conformal_p_values(
    calibration_scores: ArrayLike, scores: ArrayLike, *, u: ArrayLike | None = None
) -> FloatArray:
    r"""P-values of the hypothesis that a row is no stranger than the calibration rows.

    .. math:: p = \frac{1 + \#\{i : s_i \ge s\}}{n + 1},

    and, with `u` in [0, 1], the smoothed

    .. math:: p = \frac{\#\{i : s_i > s\} + u\,(1 + \#\{i : s_i = s\})}{n + 1},

    which is the former at u = 1.

    Parameters
    ----------
    calibration_scores : array-like of shape (n_calibration,)
        Scores of inliers that the model was not trained on, larger = stranger.
        Infinities are legal, NaN is not.
    scores : array-like of shape (n_samples,)
        Scores of the rows in question.
    u : float or array-like of shape (n_samples,), default=None
        Uniform random numbers in [0, 1], one a row, which make p exactly uniform for
        an exchangeable row; None gives the deterministic form.

    Returns
    -------
    ndarray of shape (n_samples,)
        The p-values, small = outlying. Without calibration scores all are 1 (or `u`).

    Raises
    ------
    ValueError
        If scores are not 1-D or contain NaN, or `u` does not fit or leaves [0, 1].

    See Also
    --------
    conditional_p_values : Valid for the calibration scores at hand.
    scipy.stats.false_discovery_control : Adjusts them for many rows.

    Notes
    -----
    For a row that is exchangeable with the calibration rows :math:`P(p \le t) \le t`,
    with equality for independent uniform `u`. The p-values of several independent
    inliers share the calibration scores and are positively dependent (PRDS), so the
    procedure of Benjamini and Hochberg controls their false discovery rate [1]_.

    References
    ----------
    .. [1] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for Outliers with
       Conformal p-values", arXiv:2104.08279.

    Examples
    --------
    >>> from uqlib.conformal import conformal_p_values
    >>> conformal_p_values([1.0, 2.0, 3.0, 4.0], [0.0, 3.0, 9.0])
    array([1. , 0.6, 0.2])
    """
    reference = np.sort(as_1d(calibration_scores, "calibration_scores"))
    values = as_1d(scores, "scores")
    n_at_least = reference.size - np.searchsorted(reference, values, side="left")
    if u is None:
        return (1 + n_at_least) / (reference.size + 1)
    weight = check_smoothing(u, values.size)
    n_above = reference.size - np.searchsorted(reference, values, side="right")
    return (n_above + weight * (1 + n_at_least - n_above)) / (reference.size + 1)


def check_smoothing(u: Any, n_samples: int) -> FloatArray:
    """Return random numbers in [0, 1], one a row, or say what is wrong.

    Parameters
    ----------
    u : float or array-like of shape (n_samples,)
        A number, or one a row.
    n_samples : int
        The number of rows.

    Returns
    -------
    ndarray of shape (n_samples,)
        The numbers.
    """
    numbers = np.asarray(u, dtype=np.float64)
    if numbers.shape not in ((), (n_samples,)):
        raise ValueError(
            f"u must be a number or have shape ({n_samples},), one number a row, got "
            f"shape {numbers.shape}."
        )
    _check_unit_interval(numbers, "u")
    return np.broadcast_to(numbers, (n_samples,))


def check_p_values(p_values: ArrayLike) -> FloatArray:
    """Return p-values as a float64 array of numbers in [0, 1].

    Parameters
    ----------
    p_values : array-like of shape (n_samples,)
        The p-values.

    Returns
    -------
    ndarray of shape (n_samples,)
        The same.
    """
    values = as_1d(p_values, "p_values")
    _check_unit_interval(values, "p_values")
    return values


def _check_unit_interval(values: FloatArray, name: str) -> None:
    # Negated, so that NaN is found as well.
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {values.min()} to "
            f"{values.max()}."
        )


def conditional_p_values(
    p_values: ArrayLike,
    n_calibration: int,
    confidence_level: float,
    method: str = "simes",
    *,
    rng: Any = None,
) -> FloatArray:
    r"""Enlarge conformal p-values until they hold for the calibration rows at hand.

    .. math:: \tilde p = b_j, \quad j = \lceil (n + 1) p \rceil, \qquad
              P(U_{(1)} \le b_1, \dots, U_{(n)} \le b_n) \ge 1 - \delta,

    with order statistics of n independent uniform variables, and :math:`b_{n+1} = 1`.

    Parameters
    ----------
    p_values : array-like of shape (n_samples,)
        What :func:`conformal_p_values` returned.
    n_calibration : int
        The number n of calibration scores behind them.
    confidence_level : float
        :math:`1 - \delta`, the probability over calibration sets, strictly between 0
        and 1.
    method : {"simes", "asymptotic", "monte_carlo"}, default="simes"
        The boundary b. "simes" is the generalized Simes inequality with
        :math:`k = \max(1, \lfloor n / 2 \rfloor)`,

        .. math:: b_j = 1 - \Big(\delta \prod_{l=0}^{k-1}
                  \frac{n + 1 - j - l}{n - l} \Big)^{1/k} \ (j \le n + 1 - k),
                  \qquad b_j = 1 \text{ otherwise};

        it has no constant to be found and leaves p-values above one half without
        power. "asymptotic" and "monte_carlo" are the band

        .. math:: b_j = \min\Big(1, \frac{j}{n}
                  + c\,\frac{\sqrt{j (n - j)}}{n \sqrt n}\Big),

        whose c is taken from its limit law (n at least 16) or from simulated uniform
        variables.
    rng : None, int or numpy.random.Generator, default=None
        Draws the variables of "monte_carlo".

    Returns
    -------
    ndarray of shape (n_samples,)
        A non-decreasing function of `p_values`.

    Raises
    ------
    ValueError
        If a p-value leaves [0, 1], or the level, the method or n is not legal.
    TypeError
        If `n_calibration` is not an integer or the level not a number.

    See Also
    --------
    conformal_p_values : The p-values to enlarge.

    Notes
    -----
    If the calibration scores are independent draws of one law, then with probability at
    least :math:`1 - \delta` over them, every inlier of that law has

    .. math:: P(\tilde p \le t \mid s_1, \dots, s_n) \le t \quad \text{for all } t,

    and the p-values of independent rows are independent given the calibration scores
    [1]_. "simes" holds for every n, and with equality for a continuous law.
    "monte_carlo" holds for every n as well, with the
    simulated variables part of the probability: c is the conformal quantile of
    :math:`\max_j (U_{(j)} - j / n) \, n \sqrt n / \sqrt{j (n - j)}` over simulated
    sets, and the true one is exchangeable with them. "asymptotic" holds as n grows, and
    may fall short for finite n.

    References
    ----------
    .. [1] S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia, "Testing for Outliers with
       Conformal p-values", arXiv:2104.08279.

    Examples
    --------
    >>> from uqlib.conformal import conditional_p_values
    >>> conditional_p_values([0.01, 0.1, 0.5, 0.9], 99, 0.9).round(3)
    array([0.046, 0.165, 0.732, 1.   ])
    """
    values = check_p_values(p_values)
    n = _check_calibration_count(n_calibration)
    level = check_confidence_level(confidence_level)
    boundary = conditional_boundary(n, level, method, rng)
    adjusted: FloatArray = boundary[ranks_of_p_values(values, n) - 1]
    return adjusted


def ranks_of_p_values(p_values: FloatArray, n_calibration: int) -> Any:
    """Return the smallest j >= 1 with j / (n + 1) >= p, in the arithmetic of p.

    Parameters
    ----------
    p_values : ndarray of shape (n_samples,)
        Numbers in [0, 1].
    n_calibration : int
        The n.

    Returns
    -------
    ndarray of shape (n_samples,)
        Integers between 1 and n + 1. For p computed as j / (n + 1) it is that j.
    """
    total = n_calibration + 1
    # The product may be rounded past an integer either way; the quotient decides.
    ranks = np.clip(np.rint(p_values * total), 1, total).astype(np.int64)
    ranks += ranks / total < p_values
    return np.where((ranks > 1) & ((ranks - 1) / total >= p_values), ranks - 1, ranks)


def conditional_boundary(
    n_calibration: int, level: Fraction, method: str, rng: Any = None
) -> FloatArray:
    """Return b_1, ..., b_n and b_{n+1} = 1 of a method, non-decreasing.

    Parameters
    ----------
    n_calibration : int
        The n, at least 0.
    level : Fraction
        1 - delta.
    method : str
        One of the methods of `conditional_p_values`.
    rng : None, int or numpy.random.Generator
        For "monte_carlo".

    Returns
    -------
    ndarray of shape (n_calibration + 1,)
        The boundary.
    """
    check_conditional_method(method, "method")
    if n_calibration == 0:
        return np.ones(1)
    boundary = _BOUNDARIES[method](n_calibration, level, rng)
    # Larger values keep every guarantee; a p-value must not fall as the rank grows.
    boundary = np.maximum.accumulate(np.clip(boundary, 0.0, 1.0))
    return np.append(boundary, 1.0)


def check_conditional_method(method: Any, name: str) -> None:
    """Refuse what is not a method of `conditional_p_values`.

    Parameters
    ----------
    method : str
        The method.
    name : str
        How the error calls it.
    """
    if not isinstance(method, str) or method not in _BOUNDARIES:
        raise ValueError(
            f"{name}={method!r} must be one of {sorted(_BOUNDARIES)}: it names the "
            "boundary that the p-values are raised to."
        )


# Generalized Simes inequality. With V_(i) = 1 - U_(n + 1 - i), for every k <= n
#
#     P(V_(i) <= a_i for some i >= k) <= delta,
#     a_i^k = delta * (i / n) ((i - 1) / (n - 1)) ... ((i - k + 1) / (n - k + 1)),
#
# so b_j = 1 - a_{n+1-j}. The product is a ratio of factorials: a difference of sums of
# logarithms.
def _simes_boundary(n: int, level: Fraction, rng: Any) -> FloatArray:
    k = max(1, n // 2)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    i = np.arange(n, k - 1, -1)  # n + 1 - j for j = 1, ..., n + 1 - k
    log_product = log_factorial[i] - log_factorial[i - k]
    log_product -= log_factorial[n] - log_factorial[n - k]
    boundary = np.ones(n)
    boundary[: i.size] = -np.expm1((math.log(1 - level) + log_product) / k)
    return boundary


def simes_rows_needed(conditional_level: Fraction, level: Fraction) -> int:
    """Return the smallest n whose smallest conditional p-value is 1 - level or less.

    Parameters
    ----------
    conditional_level : Fraction
        1 - delta.
    level : Fraction
        1 - alpha.

    Returns
    -------
    int
        The least n with b_1 = 1 - delta^(1/k) <= alpha for the method "simes".
    """
    ratio = math.log(1 - conditional_level) / math.log(level)
    k = max(1, math.ceil(ratio * (1 - 1e-12)))
    return 1 if k == 1 else 2 * k


# Weighted by its estimated standard deviation, the empirical distribution function has
# a one-sided supremum Z with P(a Z - b <= x) -> exp(-exp(-x)), where a^2 = 2 log log n
# and b = 2 log log n + (log log log n - log pi) / 2 (Eicker, Jaeschke): c solves it.
_ASYMPTOTIC_MIN_ROWS = 16  # log log log n is defined and positive from here on


def _asymptotic_boundary(n: int, level: Fraction, rng: Any) -> FloatArray:
    if n < _ASYMPTOTIC_MIN_ROWS:
        raise ValueError(
            "method='asymptotic' needs n_calibration of at least "
            f"{_ASYMPTOTIC_MIN_ROWS}, got {n}. Use method='simes' or 'monte_carlo', "
            "which hold for every number of rows."
        )
    log2 = math.log(math.log(n))
    quantile = -math.log(-math.log(level))
    center = 2 * log2 + 0.5 * math.log(log2) - 0.5 * math.log(math.pi)
    # At low levels the limit law would allow a negative c; the band stays above j / n.
    return _band(n, max(0.0, (quantile + center) / math.sqrt(2 * log2)))


_MIN_DRAWS, _MAX_DRAWS = 1000, 10**7
_DRAW_BLOCK = 2**18


def _monte_carlo_boundary(n: int, level: Fraction, rng: Any) -> FloatArray:
    if n == 1:
        return np.ones(1)  # the band is 1 at j = n, whatever c is
    n_draws = max(_MIN_DRAWS, 10 * int(rows_needed(level)))
    if n_draws > _MAX_DRAWS:
        raise ValueError(
            f"method='monte_carlo' at the level {float(level):.12g} needs {n_draws} "
            "simulated sets of calibration scores. Use method='simes', which needs "
            "none, or a lower level."
        )
    generator = np.random.default_rng(rng)
    suprema = np.empty(n_draws)
    center, width = _band_parts(n)
    n_rows = max(1, _DRAW_BLOCK // n)
    for first in range(0, suprema.size, n_rows):
        block = suprema[first : first + n_rows]
        # Sums of exponential variables over their total are uniform order statistics.
        steps = generator.standard_exponential((block.size, n + 1)).cumsum(axis=1)
        uniform = steps[:, : n - 1] / steps[:, -1:]
        block[:] = ((uniform - center[:-1]) / width[:-1]).max(axis=1)
    return _band(n, order_statistic(suprema, rank_from_fraction(suprema.size, level)))


def _band(n: int, c: float) -> FloatArray:
    center, width = _band_parts(n)
    return center + c * width


def _band_parts(n: int) -> tuple[FloatArray, FloatArray]:
    j = np.arange(1.0, n + 1)
    return j / n, np.sqrt(j * (n - j)) / (n * math.sqrt(n))


_BOUNDARIES: dict[str, Callable[[int, Fraction, Any], FloatArray]] = {
    "simes": _simes_boundary,
    "asymptotic": _asymptotic_boundary,
    "monte_carlo": _monte_carlo_boundary,
}


def _check_calibration_count(n_calibration: Any) -> int:
    try:
        count = operator.index(n_calibration)
    except TypeError as error:
        raise TypeError(
            "n_calibration must be an integer number of calibration scores, got "
            f"{n_calibration!r} of type {type(n_calibration).__name__}."
        ) from error
    if count < 0:
        raise ValueError(f"n_calibration must be at least 0, got {n_calibration!r}.")
    return count
