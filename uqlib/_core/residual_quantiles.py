r"""Quantiles of a predictive system: order statistics of residuals, put in place.

A level above 1/2 takes the smallest residual that no more than a share 1 - tau of the
n + 1 exchangeable ones exceeds, a level below 1/2 the mirror image, so that two levels
alpha / 2 and 1 - alpha / 2 are the ends of a valid interval.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.levels import exact_level
from uqlib._core.outward import lower_end, next_larger, upper_end
from uqlib._core.ranks import (
    lower_rank_from_fraction,
    order_statistic,
    rank_from_fraction,
)
from uqlib._typing import FloatArray


def level_residuals(residuals: FloatArray, quantiles: FloatArray) -> FloatArray:
    """Return the residual that stands for each level, infinite where there is none.

    Parameters
    ----------
    residuals : ndarray of shape (n,)
        Without NaN.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        Order statistics, or the median.
    """
    return np.array([_level_residual(residuals, _exact(tau)) for tau in quantiles])


def infinite_level(n: int, quantiles: FloatArray) -> Fraction | None:
    """Return the outermost one-sided level for which n rows are too few, or None.

    Parameters
    ----------
    n : int
        Number of calibration rows.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    Fraction or None
        The level that needs the most rows.
    """
    sided = max(max(_exact(tau), 1 - _exact(tau)) for tau in quantiles)
    return sided if rank_from_fraction(n, sided) > n else None


# fl(fl(y - mu) / sigma) <= r gives fl(y - mu) < up(r) sigma <= up(fl(up(r) sigma)), and
# `upper_end` adds this to mu without losing such a y. A scale of 1 has rounded nothing.
def place_quantiles(
    y_pred: FloatArray, scale: FloatArray, shifts: FloatArray, quantiles: FloatArray
) -> FloatArray:
    """Return y_pred + scale * shifts, rounded away from the median.

    Parameters
    ----------
    y_pred, scale : ndarray of shape (n_samples,)
        Finite predictions and positive scales.
    shifts : ndarray of shape (n_quantiles,) or (n_samples, n_quantiles)
        Residuals of the levels, possibly infinite.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The quantile matrix.
    """
    shifts = np.broadcast_to(shifts, (y_pred.size, quantiles.size))
    result = np.empty(shifts.shape)
    for column, tau in enumerate(quantiles):
        shift, level = shifts[:, column], _exact(tau)
        if level * 2 > 1:
            result[:, column] = upper_end(y_pred, _scaled_up(shift, scale))
        elif level * 2 < 1:
            result[:, column] = lower_end(y_pred, -_scaled_up(-shift, scale))
        else:
            with np.errstate(over="ignore"):
                result[:, column] = y_pred + scale * shift
    return result


def _exact(tau: Any) -> Fraction:
    return exact_level(float(tau))


def _level_residual(residuals: FloatArray, level: Fraction) -> float:
    n = residuals.size
    if level * 2 > 1:
        return order_statistic(residuals, rank_from_fraction(n, level))
    if level * 2 < 1:
        return order_statistic(residuals, lower_rank_from_fraction(n, level))
    if n == 0:
        return 0.0
    # Between -inf and +inf lies nothing in particular: then the median stays.
    with np.errstate(invalid="ignore"):
        middle = float(np.median(residuals))
    return 0.0 if np.isnan(middle) else middle


def _scaled_up(shift: FloatArray, scale: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        margin = next_larger(np.asarray(next_larger(shift) * scale))
    return np.where(scale == 1, shift, margin)
