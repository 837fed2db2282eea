"""Decomposition of the variance of an ensemble for regression."""

from typing import Any

import numpy as np
from sklearn.utils import Bunch

from uqlib._core.checks import check_no_nan
from uqlib._typing import ArrayLike, FloatArray


def variance_decomposition(y_means: ArrayLike, y_stds: ArrayLike) -> Bunch:
    r"""Mean of variances and variance of means of an ensemble for regression.

    .. math:: \underbrace{\frac{1}{M} \sum_m \sigma_m^2}_{\text{aleatoric}} +
              \underbrace{\frac{1}{M} \sum_m (\mu_m - \bar \mu)^2}_{\text{epistemic}},

    which is the variance of the mixture of the members, by the law of total variance.

    Parameters
    ----------
    y_means : array-like of shape (n_members, n_samples)
        Predicted mean of each member, finite.
    y_stds : array-like of shape (n_members, n_samples)
        Predicted standard deviation of each member, at least 0. Infinities are legal.

    Returns
    -------
    Bunch
        With three arrays of shape (n_samples,), all in the square of the unit of y and
        at least 0; larger is more uncertain:

        aleatoric : ndarray of shape (n_samples,)
            The mean of the variances.
        epistemic : ndarray of shape (n_samples,)
            The variance of the means, with divisor n_members; 0 just where all agree.
        total : ndarray of shape (n_samples,)
            Their sum.

    Raises
    ------
    ValueError
        If the arrays are not two-dimensional or differ in shape, there is no member,
        y_means is not finite, or y_stds contains NaN or is negative.

    See Also
    --------
    mutual_information : For classification.
    crps_from_gaussian : Scores mean and standard deviation against a target.

    Notes
    -----
    The means of few members understate the variance that many would have: with M of
    them, drawn independently, by the factor (M - 1) / M on average.

    References
    ----------
    .. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and Scalable Predictive
       Uncertainty Estimation using Deep Ensembles", arXiv:1612.01474.

    Examples
    --------
    >>> from uqlib.metrics import variance_decomposition
    >>> parts = variance_decomposition([[1.0, 2.0], [3.0, 2.0]], [[1.0, 0.5]] * 2)
    >>> parts.aleatoric, parts.epistemic, parts.total
    (array([1.  , 0.25]), array([1., 0.]), array([2.  , 0.25]))
    """
    means, stds = _check_gaussian_members(y_means, y_stds)
    with np.errstate(over="ignore"):
        # Between the smallest and the largest; rounding must not take it out, or
        # members that agree would seem to differ.
        center = np.clip(means.mean(axis=0), means.min(axis=0), means.max(axis=0))
        aleatoric = np.mean(stds**2, axis=0)
        epistemic = np.mean((means - center) ** 2, axis=0)
        total = aleatoric + epistemic
    return Bunch(aleatoric=aleatoric, epistemic=epistemic, total=total)


def _check_gaussian_members(y_means: Any, y_stds: Any) -> tuple[FloatArray, FloatArray]:
    means = np.asarray(y_means, dtype=np.float64)
    stds = np.asarray(y_stds, dtype=np.float64)
    if means.ndim != 2 or len(means) == 0:
        raise ValueError(
            "y_means must have shape (n_members, n_samples) with at least one member, "
            f"got shape {means.shape}. Stack the predictions with np.stack."
        )
    if stds.shape != means.shape:
        raise ValueError(
            f"y_stds must have the shape of y_means, {means.shape}, got {stds.shape}. "
            "For members without a spread of their own pass np.zeros_like(y_means)."
        )
    if not np.isfinite(means).all():
        raise ValueError(
            "y_means contains NaN or infinity: no variance is defined. Remove those "
            "rows or check the members."
        )
    check_no_nan(stds, "y_stds")
    if stds.size and stds.min() < 0:
        raise ValueError(
            "y_stds must hold standard deviations, at least 0, got "
            f"{float(stds.min())!r}. Take the square root of variances."
        )
    return means, stds
