r"""Monotone rows: sorting, isotonic projection, crossing.

With equal weights on the levels, both repairs never increase the summed pinball
loss, whatever y is. For q = (q_1, ..., q_m) and its sorted form (q_(1), ..., q_(m))

    sum_k psi_k(y - q_k) - sum_k psi_k(y - q_(k)) = sum_k tau_k (q_(k) - q_k) >= 0,

because psi_tau(e) = tau e + (-e)_+, the second term does not see a permutation, and
the first obeys the rearrangement inequality. For the projection with level weights
w the plus part falls by Jensen's inequality inside each pooled block and the linear
part by Abel summation, provided that the loss carries the same weights w. Sorting has
no such property under unequal weights.

A quantile row is scanned first; monotone rows come back bitwise equal.
"""

from typing import Any

import numpy as np

from uqlib._core.checks import as_quantile_matrix, check_no_nan, check_quantile_matrix
from uqlib._core.kernels import row_kernels
from uqlib._core.levels import find_level
from uqlib._typing import ArrayLike, BoolArray, FloatArray


def sort_quantiles(y_quantiles: ArrayLike) -> FloatArray:
    r"""Sort each row of a quantile matrix (monotone rearrangement).

    .. math:: S(q) = (q_{(1)}, \dots, q_{(m)}).

    Parameters
    ----------
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Quantile matrix, columns in increasing order of their levels. Infinities are
        legal, NaN is not.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        A new matrix with non-decreasing rows. Rows that were monotone already are
        bitwise equal. float32 stays float32.

    Raises
    ------
    ValueError
        If the matrix is not 2-D or contains NaN.

    See Also
    --------
    isotonic_quantiles : The least-squares projection, also for unequal weights.
    crossing_rate : Share of rows that need a repair.

    Notes
    -----
    With equal weights on the levels, the summed pinball loss falls by exactly
    :math:`\sum_k \tau_k (q_{(k)} - q_k) \ge 0` for every target. The distance to any
    non-decreasing row does not grow, in any :math:`\ell_p` norm.

    References
    ----------
    .. [1] V. Chernozhukov, I. Fernandez-Val, A. Galichon, "Quantile and Probability
       Curves Without Crossing", arXiv:0704.3649.
    .. [2] R. Fakoor, T. Kim, J. Mueller, A. J. Smola, R. J. Tibshirani, "Flexible
       Model Aggregation for Quantile Regression", arXiv:2103.00083.

    Examples
    --------
    >>> from uqlib.quantile import sort_quantiles
    >>> sort_quantiles([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    array([[1., 2., 3.],
           [1., 2., 3.]])
    """
    matrix = as_quantile_matrix(y_quantiles)
    kernels = row_kernels(matrix.size)
    if kernels is not None:
        try:
            sorted_rows: FloatArray = kernels.sort_rows(matrix)
        except ValueError:  # the kernel met NaN
            check_no_nan(matrix, "y_quantiles")
            raise
        return sorted_rows
    check_no_nan(matrix, "y_quantiles")
    result = np.array(matrix, order="C")
    crossing = _crossing_rows(matrix)
    result[crossing] = np.sort(matrix[crossing], axis=1)
    return result


def isotonic_quantiles(
    y_quantiles: ArrayLike, level_weight: ArrayLike | None = None
) -> FloatArray:
    r"""Project each row of a quantile matrix on the non-decreasing rows.

    .. math:: P_w(q) = \arg\min_{v_1 \le \dots \le v_m} \sum_k w_k (v_k - q_k)^2,

    by pooling adjacent violators: each block of the solution is the weighted mean of
    the values in it.

    Parameters
    ----------
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Quantile matrix, columns in increasing order of their levels. Infinities are
        legal, NaN is not.
    level_weight : array-like of shape (n_quantiles,), default=None
        One positive weight a level; None means equal weights. Use the weights of the
        loss that judges the quantiles.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        A new matrix with non-decreasing rows. Rows that were monotone already are
        bitwise equal. float32 stays float32.

    Raises
    ------
    ValueError
        If the matrix is not 2-D or contains NaN, if a weight is not positive and
        finite, or if a row falls from +inf to -inf, which has no projection.

    See Also
    --------
    sort_quantiles : The rearrangement; neither of the two dominates the other.

    Notes
    -----
    For every target, the pinball loss summed with the same weights,
    :math:`\sum_k w_k \psi_{\tau_k}(y - q_k)`, does not grow. The weighted mean of a
    row is kept, and the distance to any non-decreasing row does not grow in any
    :math:`\ell_p` norm that is weighted by w.

    References
    ----------
    .. [1] R. E. Barlow, D. J. Bartholomew, J. M. Bremner, H. D. Brunk, "Statistical
       Inference under Order Restrictions", Wiley, 1972.
    .. [2] R. Fakoor, T. Kim, J. Mueller, A. J. Smola, R. J. Tibshirani, "Flexible
       Model Aggregation for Quantile Regression", arXiv:2103.00083.

    Examples
    --------
    >>> from uqlib.quantile import isotonic_quantiles
    >>> isotonic_quantiles([[1.0, 3.0, 2.0]])
    array([[1. , 2.5, 2.5]])
    >>> isotonic_quantiles([[1.0, 3.0, 2.0]], level_weight=[1, 3, 1])
    array([[1.  , 2.75, 2.75]])
    """
    matrix = as_quantile_matrix(y_quantiles)
    weight = check_level_weight(level_weight, matrix.shape[1])
    kernels = row_kernels(matrix.size)
    project = _isotonic_reference if kernels is None else kernels.isotonic_rows
    result: FloatArray = project(matrix, weight)
    # NaN comes out where NaN went in, or where a block holds +inf and -inf.
    if result.size and np.isnan(result.min()):
        check_no_nan(matrix, "y_quantiles")
        row = int(np.flatnonzero(np.isnan(result).any(axis=1))[0])
        raise ValueError(
            f"y_quantiles falls from +inf to -inf in row {row}: it has no isotonic "
            "projection. Use sort_quantiles for such rows."
        )
    return result


def crossing_rate(y_quantiles: ArrayLike) -> float:
    r"""Share of rows in which a quantile falls below one of a lower level.

    .. math:: \frac{1}{n} \#\{i : q_{i,k+1} < q_{i,k} \text{ for some } k\}.

    Parameters
    ----------
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Quantile matrix, columns in increasing order of their levels.

    Returns
    -------
    float
        Between 0 (all rows are non-decreasing) and 1; smaller is better.

    Raises
    ------
    ValueError
        If the matrix is not 2-D, has no rows or contains NaN.

    See Also
    --------
    sort_quantiles, isotonic_quantiles : Repairs.

    Examples
    --------
    >>> from uqlib.quantile import crossing_rate
    >>> crossing_rate([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    0.5
    """
    matrix = check_quantile_matrix(y_quantiles)
    if matrix.shape[0] == 0:
        raise ValueError("y_quantiles has no rows: the share of them is undefined.")
    kernels = row_kernels(matrix.size)
    if kernels is not None:
        return float(kernels.count_crossing_rows(matrix) / matrix.shape[0])
    return float(_crossing_rows(matrix).mean())


def interpolate_level(
    y_quantiles: FloatArray, quantiles: FloatArray, level: float
) -> FloatArray:
    """Return the column of a level, interpolated linearly between its neighbors.

    Parameters
    ----------
    y_quantiles : ndarray of shape (n_samples, n_quantiles)
        The quantile matrix.
    quantiles : ndarray of shape (n_quantiles,)
        Its levels.
    level : float
        The level sought.

    Returns
    -------
    ndarray of shape (n_samples,)
        Quantiles at the level.
    """
    first, last = bracket(quantiles, level)
    if first == last:
        return y_quantiles[:, first]
    share = (level - quantiles[first]) / (quantiles[last] - quantiles[first])
    lower, upper = y_quantiles[:, first], y_quantiles[:, last]
    # A convex combination, not lower + share * (upper - lower): equal infinities stay.
    with np.errstate(invalid="ignore"):
        value: FloatArray = (1 - share) * lower + share * upper
    if np.isnan(value).any():
        raise ValueError(
            f"The quantiles around level {level:g} are -inf and +inf, so that nothing "
            f"lies between them. Add the level {level:g} to quantiles."
        )
    return value


def bracket(quantiles: FloatArray, level: float) -> tuple[int, int]:
    """Return the positions of the neighbors of a level, twice its own if it is there.

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles,)
        Increasing levels.
    level : float
        The level sought.

    Returns
    -------
    first, last : int
        Positions.
    """
    exact = find_level(quantiles, level)
    if exact is not None:
        return exact, exact
    above = int(np.searchsorted(quantiles, level))
    if above in (0, quantiles.size):
        raise ValueError(
            f"quantiles={quantiles.tolist()} do not bracket the level {level:g}, so "
            "there is nothing to interpolate. Add the level, or one on each side."
        )
    return above - 1, above


def check_level_weight(level_weight: Any, n_quantiles: int) -> FloatArray | None:
    """Return positive finite weights over the levels, or None.

    Parameters
    ----------
    level_weight : array-like of shape (n_quantiles,) or None
        The weights.
    n_quantiles : int
        The number of levels.

    Returns
    -------
    ndarray of shape (n_quantiles,) or None
        The weights; None stands for equal ones.
    """
    if level_weight is None:
        return None
    weight = np.asarray(level_weight, dtype=np.float64)
    if weight.shape != (n_quantiles,):
        raise ValueError(
            f"level_weight must have shape ({n_quantiles},), one weight a level, got "
            f"shape {weight.shape}."
        )
    if not np.all(np.isfinite(weight)) or np.any(weight <= 0):
        raise ValueError(
            f"level_weight must be positive and finite, got {weight.tolist()}. Drop a "
            "level instead of giving it weight 0."
        )
    return weight


def _crossing_rows(matrix: FloatArray) -> BoolArray:
    crossing: BoolArray = np.any(matrix[:, 1:] < matrix[:, :-1], axis=1)
    return crossing


def _isotonic_reference(matrix: FloatArray, weight: FloatArray | None) -> FloatArray:
    result = np.array(matrix, order="C")
    weights = np.ones(matrix.shape[1]) if weight is None else weight
    # Times the power of two that brings the sum of the weights below 1: no digit of a
    # mean changes, and no weighted sum of huge values overflows.
    _, exponent = np.frexp(weights.max())
    weights = np.ldexp(weights, -int(exponent) - weights.size.bit_length())
    for row in np.flatnonzero(_crossing_rows(matrix)):
        result[row] = _pool_adjacent_violators(matrix[row].tolist(), weights.tolist())
    return result


def _pool_adjacent_violators(values: list[float], weights: list[float]) -> list[float]:
    # A stack of blocks (weighted sum, weight, length) with increasing means: each
    # value opens a block, which swallows its predecessors while they are above. Ties
    # stay apart and keep their bits.
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (weight * value, weight, 1)
        while blocks and blocks[-1][0] / blocks[-1][1] > block[0] / block[1]:
            total, mass, length = blocks.pop()
            block = (total + block[0], mass + block[1], length + block[2])
        blocks.append(block)
    fitted: list[float] = []
    for total, mass, length in blocks:
        fitted += [total / mass] * length
    return fitted
