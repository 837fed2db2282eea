"""Calibration of quantiles and of Gaussian forecasts: curve, area, worst group."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.special import ndtri

from uqlib._core.calibration_error import gap_norm, observed_shares
from uqlib._core.checks import (
    check_quantile_matrix,
    check_rows,
    check_target,
)
from uqlib._core.levels import check_quantiles
from uqlib._typing import ArrayLike, FloatArray


def gaussian_quantiles(
    y_mean: ArrayLike, y_std: ArrayLike, quantiles: ArrayLike
) -> FloatArray:
    r"""Quantile matrix of Gaussian predictions.

    .. math:: q_{ik} = \mu_i + \sigma_i \, \Phi^{-1}(\tau_k),

    so that every metric of quantiles serves models that predict a mean and a standard
    deviation.

    Parameters
    ----------
    y_mean : array-like of shape (n_samples,)
        Predicted means, finite.
    y_std : float or array-like of shape (n_samples,)
        Predicted standard deviations, finite, at least 0: where it is 0 all quantiles
        are the mean.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.

    Returns
    -------
    y_quantiles : ndarray of shape (n_samples, n_quantiles)
        The quantiles, non-decreasing in each row.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a mean or standard deviation is not
        finite, a standard deviation is negative, or the levels are not strictly
        increasing in (0, 1).

    See Also
    --------
    quantile_calibration_curve : Takes such a matrix, as all metrics of quantiles.

    Examples
    --------
    >>> from uqlib.metrics import gaussian_quantiles
    >>> gaussian_quantiles([0.0, 1.0], [1.0, 2.0], [0.5, 0.975])
    array([[0.        , 1.95996398],
           [1.        , 4.91992797]])
    """
    levels = check_quantiles(quantiles)
    mean = check_target(y_mean, name="y_mean")
    std = np.broadcast_to(y_std, mean.shape) if np.ndim(y_std) == 0 else y_std
    std = check_target(std, name="y_std")
    check_rows(mean.size, std.size, "y_std", "y_mean")
    if std.min() < 0:
        raise ValueError(
            f"y_std must not be negative, but row {int(np.argmin(std))} holds "
            f"{float(std.min())!r}. Pass standard deviations, not their logarithms."
        )
    with np.errstate(over="ignore"):  # an infinite quantile is a legal bound
        return mean[:, None] + std[:, None] * ndtri(levels)


def quantile_calibration_curve(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> FloatArray:
    r"""Share of targets at most their quantile, level by level.

    .. math:: \hat\tau_k = \frac{1}{n} \#\{i : y_i \le q_{ik}\} .

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles. Infinities are legal.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    observed : ndarray of shape (n_quantiles,)
        Between 0 and 1; best are the levels themselves.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, y_true is not finite, y_quantiles
        contains NaN, or the levels are not strictly increasing in (0, 1).

    See Also
    --------
    quantile_calibration_error : Mean distance between shares and levels.
    miscalibration_area : Area between the curve and the diagonal.

    Notes
    -----
    Over n independent rows the standard error of a share is at most
    :math:`1 / (2 \sqrt n)`. The shares are non-decreasing where no row crosses.

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner, S. Ermon, "Accurate Uncertainties for Deep Learning
       Using Calibrated Regression", arXiv:1807.00263.

    Examples
    --------
    >>> from uqlib.metrics import quantile_calibration_curve
    >>> quantile_calibration_curve([1.0, 2.0], [[0.0, 1.5], [1.0, 2.5]], [0.1, 0.5])
    array([0., 1.])
    """
    levels = check_quantiles(quantiles)
    return observed_shares(y_true, y_quantiles, levels, sample_weight)


def miscalibration_area(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Area between the calibration curve of quantiles and the diagonal.

    .. math:: \int_0^1 |c(\tau) - \tau| \, d\tau,

    where c runs straight from (0, 0) through the points :math:`(\tau_k, \hat\tau_k)` of
    :func:`quantile_calibration_curve` to (1, 1). Exact, also where the curve crosses
    the diagonal between two levels.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles. Infinities are legal.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        At least 0, which is best, and below 1/2 if no row crosses.

    Raises
    ------
    ValueError
        For the reasons of :func:`quantile_calibration_curve`.

    See Also
    --------
    quantile_calibration_error : The mean over the levels, however they lie.

    Notes
    -----
    Unlike the mean over the levels it weighs them by their distance, so that grids
    which are dense in the tails compare with even ones. It does not reward sharpness.

    References
    ----------
    .. [1] Y. Chung, I. Char, H. Guo, J. Schneider, W. Neiswanger, "Uncertainty Toolbox:
       an Open-Source Library for Assessing, Visualizing, and Improving Uncertainty
       Quantification", arXiv:2109.10254.

    Examples
    --------
    >>> from uqlib.metrics import miscalibration_area
    >>> miscalibration_area([1.0, 2.0], [[3.0], [3.0]], [0.5])
    0.25
    """
    levels = check_quantiles(quantiles)
    shares = observed_shares(y_true, y_quantiles, levels, sample_weight)
    gap = np.concatenate([[0.0], shares - levels, [0.0]])
    width = np.diff(np.concatenate([[0.0], levels, [1.0]]))
    return float(width @ _mean_absolute(gap[:-1], gap[1:]))


def adversarial_group_calibration_error(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    group_size: int | float = 0.1,
    n_groups: int = 100,
    norm: str = "l1",
    rng: Any = None,
) -> float:
    r"""Largest calibration error over random groups of rows.

    .. math:: \max_{g = 1, \dots, G} \; \frac{1}{m} \sum_{k=1}^m
              \Big| \frac{1}{|I_g|} \#\{i \in I_g : y_i \le q_{ik}\} - \tau_k \Big|,

    where the groups :math:`I_g` are drawn without replacement from all rows,
    independently of one another.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles. Infinities are legal.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    group_size : int or float, default=0.1
        Rows of a group: an int is their number, from 1 to n_samples, a float their
        share, above 0 and at most 1, rounded to a number of at least 1.
    n_groups : int, default=100
        Number G of groups, at least 1.
    norm : {"l1", "l2", "max"}, default="l1"
        Mean of the distances, root of the mean of their squares, or the largest, as in
        :func:`quantile_calibration_error`.
    rng : None, int or numpy.random.Generator, default=None
        Draws the groups.

    Returns
    -------
    float
        Between 0 and 1; smaller is better.

    Raises
    ------
    ValueError
        If `group_size`, `n_groups` or `norm` is out of range, or for the reasons of
        :func:`quantile_calibration_curve`.
    TypeError
        If `group_size` is not a number or `n_groups` not an integer.

    See Also
    --------
    quantile_calibration_error : Over all rows.

    Notes
    -----
    What a random search finds is a lower bound on the error of the worst group of that
    size, and mostly far below it: a group chosen with y in sight always looks
    miscalibrated. The value grows with `n_groups` and, by chance alone, as groups get
    smaller, like :math:`1 / \sqrt{|I_g|}` for perfect quantiles too. Compare models by
    the same sizes and the same `rng`, which gives all of them the same groups. A group
    that is known beforehand, such as the rows of one category, needs no search.

    References
    ----------
    .. [1] S. Zhao, T. Ma, S. Ermon, "Individual Calibration with Randomized
       Forecasting", arXiv:2006.10288.
    .. [2] Y. Chung, I. Char, H. Guo, J. Schneider, W. Neiswanger, "Uncertainty Toolbox:
       an Open-Source Library for Assessing, Visualizing, and Improving Uncertainty
       Quantification", arXiv:2109.10254.

    Examples
    --------
    >>> from uqlib.metrics import adversarial_group_calibration_error
    >>> y, q = [1.0, 2.0, 3.0, 4.0], [[2.5]] * 4
    >>> adversarial_group_calibration_error(y, q, [0.5], group_size=4)
    0.0
    >>> adversarial_group_calibration_error(y, q, [0.5], group_size=1)
    0.5
    """
    levels = check_quantiles(quantiles)
    matrix = check_quantile_matrix(y_quantiles, levels.size)
    target = check_target(y_true)
    check_rows(target.size, matrix.shape[0], "y_quantiles", "y_true")
    size = _check_group_size(group_size, target.size)
    n_groups = _check_n_groups(n_groups)
    below = target[:, None] <= matrix
    generator = np.random.default_rng(rng)
    errors = [
        gap_norm(below[rows].mean(axis=0) - levels, None, norm)
        for rows in _draw_groups(target.size, size, n_groups, generator)
    ]
    return max(errors)


def _mean_absolute(a: FloatArray, b: FloatArray) -> FloatArray:
    # The mean of |(1 - s) a + s b| over s in [0, 1]. With one sign it is that of the
    # ends. Else the line meets 0 at s = |a| / (|a| + |b|), and two triangles remain.
    a_size, b_size = np.abs(a), np.abs(b)
    total = a_size + b_size
    crossed = a * b < 0
    triangles = np.divide(
        a_size**2 + b_size**2, 2 * total, out=np.zeros_like(total), where=crossed
    )
    return np.where(crossed, triangles, total / 2)


def _draw_groups(n_samples, size, n_groups, generator):
    if size == n_samples:
        return [np.arange(n_samples)]
    return (
        generator.choice(n_samples, size, replace=False, shuffle=False)
        for _ in range(n_groups)
    )


def _check_group_size(group_size: Any, n_samples: int) -> int:
    if isinstance(group_size, bool) or not isinstance(group_size, Real):
        raise TypeError(
            "group_size must be a number of rows or a share of them, got "
            f"{group_size!r}."
        )
    if isinstance(group_size, Integral):
        if 1 <= group_size <= n_samples:
            return int(group_size)
    elif 0 < group_size <= 1:
        return max(1, round(float(group_size) * n_samples))
    raise ValueError(
        f"group_size={group_size!r} must be an int from 1 to n_samples={n_samples} or "
        "a float above 0 and at most 1. Pass 0.1 for groups of a tenth of the rows."
    )


def _check_n_groups(n_groups: Any) -> int:
    if isinstance(n_groups, bool) or not isinstance(n_groups, Integral):
        raise TypeError(f"n_groups must be an integer, at least 1, got {n_groups!r}.")
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups!r}. Pass 100.")
    return int(n_groups)
