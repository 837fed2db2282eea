"""Metrics of a quantile matrix; smaller is better for all of them."""

from typing import Any

import numpy as np

from uqlib._core.calibration_error import gap_norm, observed_shares
from uqlib._core.levels import check_quantiles, is_symmetric
from uqlib._core.losses import crps_level_weight, level_losses, weighted_mean
from uqlib._typing import ArrayLike, FloatArray


def pinball_loss(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    multioutput: Any = "uniform_average",
) -> float | FloatArray:
    r"""Mean pinball loss over rows and levels.

    .. math:: \frac{1}{n m} \sum_{i=1}^n \sum_{k=1}^m \psi_{\tau_k}(y_i - q_{ik}),
              \qquad \psi_\tau(e) = \max(\tau e, (\tau - 1) e).

    It is the average of :func:`sklearn.metrics.mean_pinball_loss` over the levels, in
    one pass.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles. Infinities are legal and give an infinite loss.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.
    multioutput : str or array-like of shape (n_quantiles,), default="uniform_average"
        How the levels are averaged: "uniform_average" weighs them equally, an array
        gives their weights, "raw_values" returns one loss a level.

    Returns
    -------
    float or ndarray of shape (n_quantiles,)
        Non-negative; 0 is best.

    Raises
    ------
    ValueError
        If shapes do not agree, y_true is not finite, y_quantiles contains NaN, or the
        levels are not strictly increasing in (0, 1).

    See Also
    --------
    weighted_interval_score : Twice this loss, for symmetric levels.
    crps_from_quantiles : The integral over all levels.

    References
    ----------
    .. [1] R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46, 1978.

    Examples
    --------
    >>> from uqlib.metrics import pinball_loss
    >>> pinball_loss([1.0, 2.0], [[0.0, 1.0], [2.0, 4.0]], [0.5, 0.9])
    0.175
    """
    losses = level_losses(y_true, y_quantiles, quantiles, sample_weight)
    if isinstance(multioutput, str):
        if multioutput == "raw_values":
            return losses
        if multioutput == "uniform_average":
            return float(losses.mean())
        raise ValueError(
            f"multioutput={multioutput!r} must be 'uniform_average', 'raw_values' or "
            "one weight a level."
        )
    weight = np.asarray(multioutput, dtype=np.float64)
    if (
        weight.shape != losses.shape
        or weight.min() < 0
        or not 0 < weight.sum() < np.inf
    ):
        raise ValueError(
            f"multioutput must hold {losses.size} non-negative weights with a positive "
            f"sum, one a level, got {multioutput!r}."
        )
    return weighted_mean(losses, weight)


def weighted_interval_score(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Weighted interval score over all central intervals and the median.

    With K central intervals :math:`[l_k, u_k]` of levels :math:`1 - \alpha_k` and,
    if 0.5 is a level, the median m,

    .. math:: \mathrm{WIS} = \frac{1}{K + 1/2} \Big(\frac{1}{2} |y - m| +
              \sum_{k=1}^K \frac{\alpha_k}{2} \mathrm{IS}_{\alpha_k}\Big)
              = \frac{2}{n_q} \sum_{j=1}^{n_q} \psi_{\tau_j}(y - q_j),

    the mean over the :math:`n_q` levels, times 2: comparable between grids. Without
    the median the factor is 1 / K. The sum form of some papers is :math:`n_q` times
    this.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles.
    quantiles : array-like of shape (n_quantiles,)
        Levels: with each level its partner 1 - level.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Mean over the rows, in units of y; 0 is best.

    Raises
    ------
    ValueError
        If a level has no partner, or for the reasons of :func:`pinball_loss`.

    See Also
    --------
    pinball_loss : Half of it.
    interval_score : One interval alone.

    References
    ----------
    .. [1] J. Bracher, E. L. Ray, T. Gneiting, N. G. Reich, "Evaluating epidemic
       forecasts in an interval format", arXiv:2005.12881.

    Examples
    --------
    >>> from uqlib.metrics import weighted_interval_score
    >>> weighted_interval_score([3.0], [[1.0, 2.0, 4.0]], [0.25, 0.5, 0.75])
    0.8333333333333334
    """
    levels = check_quantiles(quantiles)
    if not is_symmetric(levels):
        raise ValueError(
            "quantiles must hold the level 1 - tau for every level tau, got "
            f"{levels.tolist()}. Use pinball_loss for other levels."
        )
    return float(2 * level_losses(y_true, y_quantiles, levels, sample_weight).mean())


def crps_from_quantiles(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Continuous ranked probability score from a grid of quantiles.

    .. math:: \mathrm{CRPS} = 2 \int_0^1 \psi_\tau(y - q_\tau) \, d\tau \approx
              2 \sum_k w_k \psi_{\tau_k}(y - q_{\tau_k}),

    by the trapezoidal rule between the levels, with the integrand held constant below
    the first and above the last level. For :math:`\tau_k = (k - 1/2) / m` all
    :math:`w_k = 1 / m`, and for a row that does not cross the value is exactly the CRPS
    of the distribution with equal mass on the m quantiles,
    :math:`\frac{1}{m} \sum_k |y - q_k| - \frac{1}{2 m^2} \sum_{k,l} |q_k - q_l|`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Mean over the rows, in units of y; 0 is best.

    Raises
    ------
    ValueError
        For the reasons of :func:`pinball_loss`.

    See Also
    --------
    pinball_loss : Equal weights on the levels, without the factor 2.

    Notes
    -----
    The level weights are :math:`w_1 = (\tau_1 + \tau_2) / 2`,
    :math:`w_k = (\tau_{k+1} - \tau_{k-1}) / 2` and
    :math:`w_m = 1 - (\tau_{m-1} + \tau_m) / 2`. They differ on most grids, and sorting
    can then increase the score: repair crossing with
    :func:`~uqlib.quantile.isotonic_quantiles` and these weights.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102, 2007.

    Examples
    --------
    >>> from uqlib.metrics import crps_from_quantiles
    >>> crps_from_quantiles([3.0], [[1.0, 4.0]], [0.25, 0.75])
    0.75
    """
    levels = check_quantiles(quantiles)
    losses = level_losses(y_true, y_quantiles, levels, sample_weight)
    return float(2 * crps_level_weight(levels) @ losses)


def quantile_calibration_error(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    quantiles: ArrayLike,
    *,
    norm: str = "l1",
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean distance between levels and the shares of targets below them.

    .. math:: \frac{1}{m} \sum_{k=1}^m
              \Big| \frac{1}{n} \#\{i : y_i \le q_{ik}\} - \tau_k \Big|,

    or with `norm` the root of the mean square of these distances, or the largest.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles.
    quantiles : array-like of shape (n_quantiles,)
        Levels, strictly increasing, strictly between 0 and 1.
    norm : {"l1", "l2", "max"}, default="l1"
        Mean of the distances, root of the mean of their squares, or the largest.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; smaller is better. Even perfect quantiles have an error of
        order :math:`n^{-1/2}`.

    Raises
    ------
    ValueError
        If `norm` is unknown, or for the reasons of :func:`pinball_loss`.

    See Also
    --------
    quantile_calibration_curve : The shares themselves.
    miscalibration_area : The area between their curve and the diagonal.
    gaussian_quantiles : The matrix of Gaussian forecasts.
    uqlib.inspection.CoverageDisplay : Central coverage, drawn level by level.
    coverage_score : Coverage of an interval.

    Notes
    -----
    It does not reward sharpness: the quantiles of y itself, the same for all rows, have
    a small error. Rank models by :func:`pinball_loss` and look at this.

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner, S. Ermon, "Accurate Uncertainties for Deep Learning
       Using Calibrated Regression", arXiv:1807.00263.

    Examples
    --------
    >>> from uqlib.metrics import quantile_calibration_error
    >>> quantile_calibration_error([1.0, 2.0], [[1.5], [1.5]], [0.5])
    0.0
    """
    levels = check_quantiles(quantiles)
    shares = observed_shares(y_true, y_quantiles, levels, sample_weight)
    return gap_norm(shares - levels, None, norm)
