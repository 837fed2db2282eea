r"""Losses of quantiles and intervals.

The pinball loss of level tau and error e = y - q is

    psi_tau(e) = max(tau e, (tau - 1) e) = tau e + (-e)_+ .

Everything here is a weighted mean of it: with a pair of levels alpha / 2 and
1 - alpha / 2 whose quantiles are l and u,

    2 (psi_{alpha/2} + psi_{1-alpha/2}) = alpha (u - l) + 2 (l - y)_+ + 2 (y - u)_+ ,

which is alpha times the interval score.
"""

import numpy as np

from uqlib._core.checks import (
    as_quantile_matrix,
    check_no_nan,
    check_rows,
    check_sample_weight,
    check_target,
)
from uqlib._core.kernels import row_kernels
from uqlib._core.levels import check_confidence_level, check_quantiles
from uqlib._typing import ArrayLike, BoolArray, FloatArray


def level_losses(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> FloatArray:
    """Return the mean pinball loss of each level.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        The target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        The quantile matrix.
    quantiles : array-like of shape (n_quantiles,)
        The levels.
    sample_weight : array-like of shape (n_samples,), default=None
        One weight a row.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        The losses.
    """
    levels = check_quantiles(quantiles)
    matrix = as_quantile_matrix(y_quantiles, levels.size)
    target = check_target(y_true)
    check_rows(target.size, matrix.shape[0], "y_quantiles", "y_true")
    weight = check_sample_weight(sample_weight, target.size)
    total = float(target.size) if weight is None else float(weight.sum())
    kernels = row_kernels(matrix.size)
    if kernels is None or weight is not None:
        check_no_nan(matrix, "y_quantiles")
    if kernels is not None:
        sums = kernels.pinball_sums(target, matrix, levels, weight)
        if np.isnan(sums).any():
            check_no_nan(matrix, "y_quantiles")
        return np.asarray(sums / total)
    if weight is not None:
        # A row without weight has no say, even where its loss is infinite.
        kept = weight > 0
        target, matrix, weight = target[kept], matrix[kept], weight[kept]
    error = target[:, None] - matrix
    loss = np.maximum(levels * error, (levels - 1) * error)
    return np.asarray(_sum_rows(loss, weight) / total)


def interval_losses(
    y_true: FloatArray, y_interval: FloatArray, confidence_level: float
) -> FloatArray:
    """Return the interval score of each row.

    Parameters
    ----------
    y_true : ndarray of shape (n_samples,)
        The target.
    y_interval : ndarray of shape (n_samples, 2)
        Lower and upper bounds.
    confidence_level : float
        The nominal coverage.

    Returns
    -------
    ndarray of shape (n_samples,)
        Width plus 2 / alpha times the distance of y to the interval.
    """
    alpha = float(1 - check_confidence_level(confidence_level))
    lower, upper = y_interval.T
    below = np.maximum(lower - y_true, 0.0)
    above = np.maximum(y_true - upper, 0.0)
    return np.asarray(interval_widths(y_interval) + (2.0 / alpha) * (below + above))


def interval_widths(y_interval: FloatArray) -> FloatArray:
    """Return upper - lower, infinite where a bound is.

    Parameters
    ----------
    y_interval : ndarray of shape (n_samples, 2)
        Lower and upper bounds.

    Returns
    -------
    ndarray of shape (n_samples,)
        The widths.
    """
    widths = np.full(y_interval.shape[0], np.inf)
    finite = np.isfinite(y_interval).all(axis=1)
    with np.errstate(over="ignore"):
        widths[finite] = y_interval[finite, 1] - y_interval[finite, 0]
    return widths


def covered(y_true: FloatArray, y_interval: FloatArray) -> BoolArray:
    """Return whether each target lies in its closed interval.

    Parameters
    ----------
    y_true : ndarray of shape (n_samples,)
        The target.
    y_interval : ndarray of shape (n_samples, 2)
        Lower and upper bounds.

    Returns
    -------
    ndarray of shape (n_samples,)
        True where lower <= y <= upper.
    """
    inside: BoolArray = (y_interval[:, 0] <= y_true) & (y_true <= y_interval[:, 1])
    return inside


def weighted_mean(values: FloatArray, weight: FloatArray | None) -> float:
    """Return the weighted mean; rows without weight have no say even if infinite.

    Parameters
    ----------
    values : ndarray of shape (n_samples,)
        Without NaN.
    weight : ndarray of shape (n_samples,) or None
        Non-negative weights with a positive sum.

    Returns
    -------
    float
        The mean.
    """
    if weight is None:
        return float(np.mean(values))
    kept = weight > 0
    return float(np.average(values[kept], weights=weight[kept]))


def crps_level_weight(quantiles: FloatArray) -> FloatArray:
    r"""Return the weights of the levels in the quadrature of the CRPS.

    The integrand of CRPS = 2 int_0^1 psi_tau dtau is integrated by the trapezoidal
    rule between the levels and held constant beyond the outer two:

        w_1 = (tau_1 + tau_2) / 2,   w_k = (tau_{k+1} - tau_{k-1}) / 2,
        w_m = 1 - (tau_{m-1} + tau_m) / 2,   sum_k w_k = 1.

    For the midpoints tau_k = (k - 1/2) / m this is w_k = 1 / m.

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles,)
        Increasing levels.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        Positive weights that sum to 1.
    """
    edges = (quantiles[1:] + quantiles[:-1]) / 2
    return np.diff(np.concatenate([[0.0], edges, [1.0]]))


def _sum_rows(loss: FloatArray, weight: FloatArray | None) -> FloatArray:
    return np.asarray(loss.sum(axis=0) if weight is None else weight @ loss)
