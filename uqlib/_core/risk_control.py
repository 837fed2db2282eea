r"""Thresholds that control a risk: conformal risk control and RCPS.

A family of sets or decisions has a threshold; column j of the losses is its j-th member
and the members become more cautious from column to column. With losses in [0, B] that
never grow along a row, and a further member that loses at most the level a surely:

- *Conformal risk control* takes the first column with (sum_i L_ij + B) / (n + 1) <= a.
  Were the loss of the new row known, the first column whose mean over all n + 1 rows is
  at most a would be a symmetric function of them, and the new row's expected loss there
  at most a; the bound B for the unknown loss can only move to a more cautious column.
- *RCPS* takes the first column from which on every p-value of the hypothesis "the risk
  is at least a" is at most d. To go wrong, the last column whose risk exceeds a must
  have had a p-value of at most d.

Without an order of caution, or with losses that do grow, use Learn-then-Test.
"""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import check_no_nan
from uqlib._core.levels import check_confidence_level
from uqlib._core.risk_bounds import column_p_values
from uqlib._core.risk_checks import (
    ROUNDING,
    check_bound,
    check_losses,
    check_monotone,
    check_risk_level,
    exact_size,
)
from uqlib._typing import ArrayLike, BoolArray, FloatArray
from uqlib.exceptions import RiskNotControlledWarning, warn_user


def conformal_risk_threshold(
    losses: ArrayLike,
    thresholds: ArrayLike,
    risk_level: float,
    *,
    loss_bound: float = 1.0,
) -> float:
    r"""Least cautious threshold that keeps the expected loss of a new row at a level.

    .. math:: \hat\lambda = \text{first } \lambda_j \text{ with }
              \frac{1}{n + 1} \Bigl( \sum_{i=1}^n L_i(\lambda_j) + B \Bigr) \le a .

    Parameters
    ----------
    losses : array-like of shape (n, n_thresholds)
        Loss of each calibration row at each threshold, between 0 and `loss_bound`. The
        columns go from the least to the most cautious: no row may grow along them.
    thresholds : array-like of shape (n_thresholds,)
        The threshold of each column: strictly increasing or strictly decreasing.
    risk_level : float
        The level a, strictly between 0 and `loss_bound`.
    loss_bound : float, default=1.0
        The largest loss B that is possible.

    Returns
    -------
    float
        One of the thresholds. If none will do, the infinity to which they go: +inf if
        they increase (or if there is one alone), -inf if they decrease.

    Raises
    ------
    ValueError
        If a loss is NaN or outside [0, `loss_bound`], a row grows along the columns,
        the thresholds are not monotone, or the level is out of range.

    Warns
    -----
    RiskNotControlledWarning
        If none of the thresholds will do.

    See Also
    --------
    rcps_threshold : With high probability over the calibration rows.
    learn_then_test : For losses that are not monotone.

    Notes
    -----
    If the calibration rows and a new one are exchangeable and losses never grow with
    caution, :math:`E[L_{n+1}(\hat\lambda)] \le a` [1]_, over calibration and new row
    together. An infinite result is covered if the set at infinity, which holds
    everything, never loses more than a. For the loss "the score exceeds the threshold"
    the result is `conformal_quantile`. Sums that differ by a share of less than 1e-12
    are equal: their difference is rounding.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, A. Fisch, L. Lei, T. Schuster, "Conformal Risk
       Control", arXiv:2208.02814.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import conformal_risk_threshold
    >>> scores, thresholds = np.arange(1.0, 10.0), np.arange(12.0)
    >>> losses = (scores[:, None] > thresholds).astype(float)
    >>> conformal_risk_threshold(losses, thresholds, 0.2)
    8.0
    """
    level = check_risk_level(risk_level, loss_bound)
    values, grid = _check_family(losses, thresholds, loss_bound)
    reached = conformal_risk_reached(
        values.sum(axis=0), len(values), level, float(loss_bound)
    )
    if reached.any():
        return float(grid[np.argmax(reached)])
    warn_risk_not_controlled(len(values), level, rows_for_risk(level, loss_bound))
    return _beyond(grid)


def rcps_threshold(
    losses: ArrayLike,
    thresholds: ArrayLike,
    risk_level: float,
    *,
    confidence_level: float = 0.9,
    bound: str = "hoeffding_bentkus",
    loss_bound: float = 1.0,
) -> float:
    r"""Least cautious threshold from which on the risk is surely small enough.

    .. math:: \hat\lambda = \min\{\lambda_j :
              p(\lambda) \le 1 - c \text{ for every } \lambda \ge \lambda_j\},

    with the p-value of the hypothesis that the risk is at least `risk_level` and the
    confidence level c: an upper confidence bound of the risk stays at or below the
    level (risk-controlling prediction sets).

    Parameters
    ----------
    losses : array-like of shape (n, n_thresholds)
        Loss of each calibration row at each threshold, between 0 and `loss_bound`. The
        columns go from the least to the most cautious: no row may grow along them.
    thresholds : array-like of shape (n_thresholds,)
        The threshold of each column: strictly increasing or strictly decreasing, chosen
        without looking at the losses.
    risk_level : float
        The level a, strictly between 0 and `loss_bound`.
    confidence_level : float, default=0.9
        Probability over the calibration rows that the risk is at most `risk_level`.
    bound : {"hoeffding_bentkus", "wsr"}, default="hoeffding_bentkus"
        The p-value: `hoeffding_bentkus_p_value` or `wsr_p_value`. The second depends on
        the order of the rows: shuffle rows that are sorted by class or score.
    loss_bound : float, default=1.0
        The largest loss that is possible.

    Returns
    -------
    float
        One of the thresholds. If none will do, the infinity to which they go: +inf if
        they increase (or if there is one alone), -inf if they decrease.

    Raises
    ------
    ValueError
        If a loss is NaN or outside [0, `loss_bound`], a row grows along the columns,
        the thresholds are not monotone, or a level is out of range.

    Warns
    -----
    RiskNotControlledWarning
        If none of the thresholds will do.

    See Also
    --------
    risk_upper_bound : The bound itself.
    conformal_risk_threshold : In expectation; less cautious.
    learn_then_test : For losses that are not monotone.

    Notes
    -----
    If calibration rows are independent draws of one law and the risk never grows with
    caution, :math:`P(R(\hat\lambda) \le a) \ge c` [1]_, over the calibration rows.

    References
    ----------
    .. [1] S. Bates, A. Angelopoulos, L. Lei, J. Malik, M. I. Jordan,
       "Distribution-Free, Risk-Controlling Prediction Sets", arXiv:2101.02703.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import rcps_threshold
    >>> scores, thresholds = np.arange(0.005, 1.0, 0.01), np.linspace(0, 1, 101)
    >>> losses = (scores[:, None] > thresholds).astype(float)
    >>> rcps_threshold(losses, thresholds, 0.2)
    0.88
    """
    level = check_risk_level(risk_level, loss_bound)
    confidence = check_confidence_level(confidence_level)
    check_bound(bound)
    values, grid = _check_family(losses, thresholds, loss_bound)
    p_values = column_p_values(values, level, confidence, bound, float(loss_bound))
    certified = cautious_run(p_values[::-1], confidence)[::-1]
    if certified.any():
        return float(grid[np.argmax(certified)])
    needed = rows_for_risk(level, loss_bound, confidence, bound)
    warn_risk_not_controlled(len(values), level, needed)
    return _beyond(grid)


def conformal_risk_reached(
    totals: FloatArray, n: int, risk_level: Fraction, loss_bound: float
) -> BoolArray:
    """Return where (total + B) / (n + 1) <= a, equal but for rounding included.

    Parameters
    ----------
    totals : ndarray of shape (n_thresholds,)
        Sums of n losses.
    n : int
        Number of calibration rows.
    risk_level : Fraction
        The exact level a.
    loss_bound : float
        The largest loss B.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        True where the expected loss of a new row is bounded by the level.
    """
    budget, largest = (n + 1) * risk_level, exact_size(loss_bound)
    if budget < largest:
        return np.zeros(totals.shape, dtype=bool)
    limit = float(budget - largest) + ROUNDING * float(budget)
    return np.asarray(totals <= limit)


def cautious_run(p_values: FloatArray, confidence_level: Fraction) -> BoolArray:
    """Return the first run of p-values of at most 1 - confidence_level.

    Parameters
    ----------
    p_values : ndarray of shape (n_thresholds,)
        From the most cautious threshold on.
    confidence_level : Fraction
        The exact level.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        True up to the first p-value that is larger.
    """
    return np.logical_and.accumulate(p_values <= float(1 - confidence_level))


def rows_for_risk(
    risk_level: Fraction,
    loss_bound: float,
    confidence_level: Fraction | None = None,
    bound: str = "hoeffding_bentkus",
) -> int:
    """Return the number of rows below which even losses of 0 certify nothing.

    Parameters
    ----------
    risk_level : Fraction
        The exact level a.
    loss_bound : float
        The largest loss B.
    confidence_level : Fraction, default=None
        None for the expectation, B / (n + 1) <= a; else (1 - a / B)^n <= 1 - c, or
        (1 + a / B)^-n <= 1 - c for the bets, which are at most 1.
    bound : {"hoeffding_bentkus", "wsr"}, default="hoeffding_bentkus"
        Which p-value.

    Returns
    -------
    int
        The number of rows.
    """
    share = risk_level / exact_size(loss_bound)
    if confidence_level is None:
        return math.ceil(1 / share) - 1
    factor = 1 / (1 + share) if bound == "wsr" else 1 - share
    rows = math.log(1 - confidence_level) / math.log(factor)
    return math.ceil(rows * (1 - ROUNDING))


def warn_risk_not_controlled(
    n: int,
    risk_level: Fraction,
    n_needed: int,
    left: str = "the threshold is infinite",
) -> None:
    """Warn that no threshold is certified, and say which remedy there is.

    Parameters
    ----------
    n : int
        Number of calibration rows.
    risk_level : Fraction
        The exact level.
    n_needed : int
        Rows below which even losses of 0 certify nothing.
    left : str, default="the threshold is infinite"
        What comes instead.
    """
    reason = (
        f"at least {n_needed} are needed even if no row loses anything"
        if n < n_needed
        else "the losses are too large at every threshold"
    )
    warn_user(
        f"No threshold is certified at risk_level={float(risk_level):g} by {n} "
        f"calibration rows: {reason}. Therefore {left}; pass more calibration rows, "
        "more cautious thresholds or a higher risk_level.",
        RiskNotControlledWarning,
    )


def _check_family(
    losses: Any, thresholds: Any, loss_bound: float
) -> tuple[FloatArray, FloatArray]:
    values = check_losses(losses, loss_bound)
    grid = np.asarray(thresholds, dtype=np.float64)
    if values.ndim != 2 or grid.shape != values.shape[1:]:
        raise ValueError(
            "losses must have shape (n, n_thresholds) with one column a threshold, got "
            f"shape {values.shape} for thresholds of shape {grid.shape}."
        )
    check_no_nan(grid, "thresholds")
    steps = np.sign(grid[1:] - grid[:-1])
    if not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError(
            "thresholds must be strictly increasing or strictly decreasing, from the "
            "least to the most cautious. Sort them, and the columns of losses with "
            "them."
        )
    check_monotone(values, loss_bound)
    return values, grid


def _beyond(grid: FloatArray) -> float:
    return -math.inf if grid.size > 1 and grid[0] > grid[-1] else math.inf
