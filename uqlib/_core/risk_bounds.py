r"""P-values and upper confidence bounds of a risk, the mean of bounded losses.

Losses L_1, ..., L_n of independent rows of one law lie in [0, B]; after division by B
all below is for B = 1. With the risk R = E[L], the level a, the mean r = sum L_i / n:

    Hoeffding   P(mean <= r) <= exp(-n kl(r, R)),  kl(r, R) = r log(r / R)
                + (1 - r) log((1 - r) / (1 - R)),          for r <= R,
    Bentkus     P(mean <= r) <= e P(Bin(n, R) <= ceil(n r)),
    betting     E[prod_{j <= i} (1 - v_j (L_j - R))] = 1 for every i, if the bet v_j in
                [0, 1] is chosen from L_1, ..., L_{j-1} alone.

Both tails fall in R, and the smaller of the two is a p-value of the hypothesis R >= a
at R = a. The product is a martingale at the true R, each factor grows with R, and by
Ville's inequality its largest value exceeds 1 / d with probability at most d: the
inverse of the largest value is a p-value too. An upper bound of the risk is the
smallest R whose p-value is below d.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import check_no_nan
from uqlib._core.levels import check_confidence_level
from uqlib._core.risk_checks import (
    ROUNDING,
    check_bound,
    check_count,
    check_losses,
    check_range,
    check_risk_level,
)
from uqlib._typing import ArrayLike, FloatArray

_CHUNK = 2**19
_BISECTIONS = 42


def hoeffding_bentkus_p_value(
    mean_loss: ArrayLike, n: int, risk_level: float, *, loss_bound: float = 1.0
) -> Any:
    r"""P-value of the hypothesis that a risk is at least a level, from a mean loss.

    .. math:: p = \min\bigl\{1,\; e^{-n\, \mathrm{kl}(\min(r, a), a)},\;
              e\, P(\mathrm{Bin}(n, a) \le \lceil n r \rceil)\bigr\}

    for a mean r of n losses in [0, 1] and the level a; losses up to B are divided by
    B, and so is the level.

    Parameters
    ----------
    mean_loss : float or array-like of shape (n_parameters,)
        Means of n independent losses, each between 0 and `loss_bound`.
    n : int
        The number of losses behind each mean, at least 0.
    risk_level : float
        The level a, strictly between 0 and `loss_bound`.
    loss_bound : float, default=1.0
        The largest loss B that is possible.

    Returns
    -------
    float or ndarray of shape (n_parameters,)
        P-values in (0, 1], non-decreasing in `mean_loss`. Small ones speak for a risk
        below the level.

    Raises
    ------
    ValueError
        If a mean is NaN or outside [0, `loss_bound`], or the level is not inside.

    See Also
    --------
    wsr_p_value : Sharper for losses of small variance; needs each loss.
    learn_then_test : Which of many parameters have a small risk.

    Notes
    -----
    If the risk is at least `risk_level`, :math:`P(p \le u) \le u` for every u, for
    independent losses of one law [1]_. The count is rounded up, but a sum that exceeds
    an integer by a share of less than 1e-12 is that integer.

    References
    ----------
    .. [1] S. Bates, A. Angelopoulos, L. Lei, J. Malik, M. I. Jordan,
       "Distribution-Free, Risk-Controlling Prediction Sets", arXiv:2101.02703.

    Examples
    --------
    >>> from uqlib.conformal import hoeffding_bentkus_p_value
    >>> hoeffding_bentkus_p_value([0.0, 0.05, 0.2], 100, 0.1).round(4)
    array([0.    , 0.1565, 1.    ])
    """
    level = float(check_risk_level(risk_level, loss_bound)) / loss_bound
    means = np.asarray(mean_loss, dtype=np.float64)
    check_no_nan(means, "mean_loss")
    check_range(means, loss_bound, "mean_loss")
    p_values = _hoeffding_bentkus(
        np.atleast_1d(means) / loss_bound, check_count(n), np.array(level)
    )
    return float(p_values[0]) if means.ndim == 0 else p_values


def wsr_p_value(
    losses: ArrayLike,
    risk_level: float,
    *,
    confidence_level: float = 0.9,
    loss_bound: float = 1.0,
) -> Any:
    r"""P-value of the hypothesis that a risk is at least a level, by betting.

    .. math:: p = 1 \Big/ \max_{0 \le i \le n} \prod_{j \le i}
              \bigl(1 - v_j (L_j - a)\bigr), \qquad
              v_j = \min\Bigl\{1, \sqrt{\frac{2 \log(1 / d)}
              {n\, \hat\sigma^2_{j-1}}}\Bigr\}

    with the running variance :math:`\hat\sigma^2_{j-1}` of the losses before the j-th
    and :math:`d = 1 -` `confidence_level` (Waudby-Smith and Ramdas).

    Parameters
    ----------
    losses : array-like of shape (n,) or (n, n_parameters)
        Losses of independent rows, between 0 and `loss_bound`.
    risk_level : float
        The level a, strictly between 0 and `loss_bound`.
    confidence_level : float, default=0.9
        The confidence at which the bets do best. The p-value is valid for any.
    loss_bound : float, default=1.0
        The largest loss that is possible.

    Returns
    -------
    float or ndarray of shape (n_parameters,)
        P-values in (0, 1], one a column.

    Raises
    ------
    ValueError
        If a loss is NaN or outside [0, `loss_bound`], or a level is out of range.

    See Also
    --------
    hoeffding_bentkus_p_value : From the mean alone; does not depend on the order.

    Notes
    -----
    If the risk is at least `risk_level`, :math:`P(p \le u) \le u` for every u, for
    independent losses of one law [1]_, [2]_. The p-value **depends on the order** of
    the rows, since every bet is made on the rows before: the order must be chosen
    without looking at the losses, at random for example. Rows in any such order give
    valid p-values, though not the same.

    References
    ----------
    .. [1] I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by
       betting", arXiv:2010.09686.
    .. [2] S. Bates, A. Angelopoulos, L. Lei, J. Malik, M. I. Jordan,
       "Distribution-Free, Risk-Controlling Prediction Sets", arXiv:2101.02703.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import wsr_p_value
    >>> losses = np.random.default_rng(0).uniform(0.0, 0.1, size=(200, 1))
    >>> bool(wsr_p_value(losses, 0.1)[0] < 1e-3)
    True
    """
    level = float(check_risk_level(risk_level, loss_bound)) / loss_bound
    delta = 1 - check_confidence_level(confidence_level)
    values = check_losses(losses, loss_bound)
    columns = values[:, None] if values.ndim == 1 else values
    p_values = np.empty(columns.shape[1])
    for part in _column_chunks(columns):
        scaled = columns[:, part] / loss_bound
        p_values[part] = _betting(scaled, _bets(scaled, delta), np.array(level))
    return float(p_values[0]) if values.ndim == 1 else p_values


def risk_upper_bound(
    losses: ArrayLike,
    confidence_level: float = 0.9,
    *,
    bound: str = "hoeffding_bentkus",
    loss_bound: float = 1.0,
) -> Any:
    r"""Upper confidence bound of a risk, the mean of bounded losses.

    .. math:: R^+ = \inf\{a : p(a) < 1 - c\}, \qquad P(R \le R^+) \ge c,

    for the p-value p(a) of the hypothesis that the risk is at least a, and the
    confidence level c.

    Parameters
    ----------
    losses : array-like of shape (n,) or (n, n_parameters)
        Losses of independent rows, between 0 and `loss_bound`.
    confidence_level : float, default=0.9
        The confidence c, strictly between 0 and 1, that each bound holds by itself.
    bound : {"hoeffding_bentkus", "wsr"}, default="hoeffding_bentkus"
        The p-value: `hoeffding_bentkus_p_value` or `wsr_p_value`. The second is
        sharper where the losses vary little, and depends on the order of the rows:
        shuffle rows that are sorted by class or score.
    loss_bound : float, default=1.0
        The largest loss that is possible.

    Returns
    -------
    float or ndarray of shape (n_parameters,)
        Bounds, one a column, at most `loss_bound`; rounded up.

    Raises
    ------
    ValueError
        If a loss is NaN or outside [0, `loss_bound`], or a parameter is out of range.

    See Also
    --------
    rcps_threshold : The smallest threshold whose bound stays below a level.

    References
    ----------
    .. [1] S. Bates, A. Angelopoulos, L. Lei, J. Malik, M. I. Jordan,
       "Distribution-Free, Risk-Controlling Prediction Sets", arXiv:2101.02703.

    Examples
    --------
    >>> from uqlib.conformal import risk_upper_bound
    >>> losses = [0.0] * 95 + [1.0] * 5
    >>> round(risk_upper_bound(losses, 0.9), 4)
    0.107
    """
    delta = 1 - check_confidence_level(confidence_level)
    values = check_losses(losses, loss_bound)
    check_bound(bound)
    columns = values[:, None] if values.ndim == 1 else values
    upper = np.empty(columns.shape[1])
    for part in _column_chunks(columns):
        scaled = columns[:, part] / loss_bound
        upper[part] = _invert(scaled, delta, bound) * loss_bound
    return float(upper[0]) if values.ndim == 1 else upper


def column_p_values(
    losses: FloatArray,
    risk_level: Fraction,
    confidence_level: Fraction,
    bound: str,
    loss_bound: float,
) -> FloatArray:
    """Return a p-value for each column of checked losses, by either bound.

    Parameters
    ----------
    losses : ndarray of shape (n, n_parameters)
        As `check_losses` returns them.
    risk_level, confidence_level : Fraction
        Exact levels.
    bound : {"hoeffding_bentkus", "wsr"}
        Which p-value.
    loss_bound : float
        The largest loss that is possible.

    Returns
    -------
    ndarray of shape (n_parameters,)
        P-values.
    """
    level, n = np.array(float(risk_level) / loss_bound), len(losses)
    if bound == "hoeffding_bentkus":
        means = losses.sum(axis=0) / (max(n, 1) * loss_bound)
        return _hoeffding_bentkus(np.minimum(means, 1.0), n, level)
    p_values = np.empty(losses.shape[1])
    for part in _column_chunks(losses):
        scaled = losses[:, part] / loss_bound
        p_values[part] = _betting(scaled, _bets(scaled, 1 - confidence_level), level)
    return p_values


def _column_chunks(columns: FloatArray) -> list[slice]:
    width = max(1, _CHUNK // max(1, len(columns)))
    return [slice(k, k + width) for k in range(0, columns.shape[1], width)]


def _hoeffding_bentkus(means: FloatArray, n: int, levels: FloatArray) -> FloatArray:
    """Return p-values of means in [0, 1] at one level or one level a mean."""
    levels = np.broadcast_to(levels, means.shape)
    p_values = np.ones(means.shape)
    below = means < levels
    mean, level = means[below], levels[below]
    hoeffding = np.exp(-n * _divergence(mean, level))
    # The binomial median is at most ceil(n a): from there on e P(...) >= e / 2 > 1.
    count = np.ceil(n * mean * (1 - ROUNDING))
    bentkus = np.ones(mean.shape)
    tail = count < n * level
    bentkus[tail] = math.e * _lower_tail(count[tail], n, level[tail])
    p_values[below] = np.minimum(1.0, np.minimum(hoeffding, bentkus))
    return p_values


def _divergence(mean: FloatArray, level: FloatArray) -> FloatArray:
    """Return kl(mean, level) for mean < level <= 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(mean > 0, mean * np.log(mean / level), 0.0)
        high = (1 - mean) * (np.log1p(-mean) - np.log1p(-level))
    return np.asarray(low + high)


def _lower_tail(count: FloatArray, n: int, p: FloatArray) -> FloatArray:
    """Return P(Bin(n, p) <= count) for count < n p, where the terms fall downwards.

    P(k - 1) / P(k) = k (1 - p) / ((n - k + 1) p) < 1 below the mean, so about
    sqrt(n) terms reach full precision.
    """
    choose = np.array(
        [
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
            for k in count.tolist()
        ]
    )
    with np.errstate(divide="ignore"):  # p = 1: no smaller count is possible
        largest = np.exp(choose + count * np.log(p) + (n - count) * np.log1p(-p))
    odds, k = (1 - p) / p, count.copy()
    term, total = np.ones(count.shape), np.ones(count.shape)
    while np.any(term > 1e-20 * total):
        term = term * odds * k / (n - k + 1)
        total += term
        k = np.maximum(k - 1, 0.0)
    return np.asarray(largest * total)


def _bets(losses: FloatArray, delta: Fraction) -> FloatArray:
    """Return the bet on each loss, chosen from the losses above it in its column."""
    n, steps = len(losses), np.arange(1, len(losses) + 1)[:, None]
    means = (0.5 + np.cumsum(losses, axis=0)) / (1 + steps)
    spread = 0.25 + np.cumsum((losses - means) ** 2, axis=0)
    before = np.empty(losses.shape)
    before[:1] = 0.25
    before[1:] = (spread / (1 + steps))[:-1]
    return np.minimum(1.0, np.sqrt(-2 * math.log(delta) / (max(n, 1) * before)))


def _log_wealth(losses: FloatArray, bets: FloatArray, level: FloatArray) -> FloatArray:
    """Return the logarithm of the wealth after each bet, shape (n, n_parameters)."""
    return np.asarray(np.cumsum(np.log1p(-bets * (losses - level)), axis=0))


def _betting(losses: FloatArray, bets: FloatArray, level: FloatArray) -> FloatArray:
    wealth = _log_wealth(losses, bets, level)
    # The wealth before the first bet is 1: it counts among the n + 1.
    return np.asarray(np.exp(-wealth.max(axis=0, initial=0.0)))


def _invert(losses: FloatArray, delta: Fraction, bound: str) -> FloatArray:
    """Return, a column, the risk in [0, 1] where the p-value falls below delta."""
    n = len(losses)
    means = np.minimum(losses.sum(axis=0) / max(n, 1), 1.0)
    bets = _bets(losses, delta) if bound == "wsr" else None
    # Betting can win early and lose later: its bound may lie below the mean.
    low = means if bets is None else np.zeros(means.shape)
    high = np.ones(means.shape)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if bets is None:
            p_values = _hoeffding_bentkus(means, n, middle)
        else:
            p_values = _betting(losses, bets, middle)
        rejected = p_values < float(delta)
        high = np.where(rejected, middle, high)
        low = np.where(rejected, low, middle)
    return np.asarray(high)
