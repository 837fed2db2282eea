"""Proper scores of predictive distributions: Gaussian laws and ensembles."""

from typing import Any

import numpy as np
from scipy.special import erf

from uqlib._core.checks import (
    as_1d,
    check_no_nan,
    check_rows,
    check_sample_weight,
    check_target,
)
from uqlib._core.losses import weighted_mean
from uqlib._typing import ArrayLike, FloatArray

# Members in one block of rows: a few arrays of that size stay in the cache.
_BLOCK = 2**17


def crps_from_gaussian(
    y_true: ArrayLike,
    y_mean: ArrayLike,
    y_std: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Continuous ranked probability score of Gaussian predictions.

    .. math:: \mathrm{CRPS} = \sigma \Big( z (2 \Phi(z) - 1) + 2 \varphi(z) -
              \frac{1}{\sqrt{\pi}} \Big), \qquad z = \frac{y - \mu}{\sigma},

    the integral of :math:`(F(t) - 1\{y \le t\})^2` over t, averaged over the rows.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_mean : array-like of shape (n_samples,)
        Predicted means. Infinities are legal and give an infinite score.
    y_std : float or array-like of shape (n_samples,)
        Predicted standard deviations, at least 0: where it is 0 the score is the
        absolute error, where it is infinite so is the score.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Mean over the rows, in units of y; 0 is best.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, y_true is not finite, y_mean or y_std
        contains NaN, or a standard deviation is negative.

    See Also
    --------
    crps_from_ensemble : From samples of any distribution.
    crps_from_quantiles : From a grid of quantiles.
    gaussian_negative_log_likelihood : The logarithmic score.

    Notes
    -----
    It is strictly proper, in the unit of y, and tolerant of outliers: it grows with the
    distance to the mean, the logarithmic score with its square.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102, 2007.

    Examples
    --------
    >>> from uqlib.metrics import crps_from_gaussian
    >>> round(crps_from_gaussian([1.0, 2.0], [1.0, 0.0], [1.0, 1.0]), 4)
    0.8432
    >>> crps_from_gaussian([1.0, 2.0], [1.0, 0.0], 0.0)
    1.0
    """
    target, mean, std = _check_gaussian(y_true, y_mean, y_std)
    weight = check_sample_weight(sample_weight, target.size)
    return weighted_mean(_gaussian_crps(target, mean, std), weight)


def crps_from_ensemble(
    y_true: ArrayLike,
    y_ensemble: ArrayLike,
    *,
    fair: bool = False,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Continuous ranked probability score of an ensemble of predictions.

    .. math:: \mathrm{CRPS} = \frac{1}{m} \sum_{k=1}^m |x_k - y| -
              \frac{1}{2 m^2} \sum_{k=1}^m \sum_{l=1}^m |x_k - x_l|,

    the score of the distribution with mass 1 / m on each of the m members, averaged
    over the rows. The fair score has :math:`2 m (m - 1)` in place of :math:`2 m^2`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_ensemble : array-like of shape (n_samples, n_members)
        Predictions of the members, in any order in each row: models, draws from a
        posterior, or samples of a predictive distribution. Infinities are legal and
        give an infinite score.
    fair : bool, default=False
        Whether to score the distribution from which the members were drawn, rather than
        the members: independent draws have the score of their distribution in the mean,
        however few they are. Compare ensembles of different sizes by it. It takes two
        members at least.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Mean over the rows, in units of y, at least 0 in both forms; 0 is best.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, y_true is not finite, y_ensemble
        contains NaN, or `fair` is True and there is one member only.

    See Also
    --------
    crps_from_quantiles : Equal to this for the sorted members as quantiles at the
        levels (k - 1/2) / m.
    crps_from_gaussian : From means and standard deviations.

    Notes
    -----
    Takes :math:`O(n m \log m)`. With one member it is the absolute error. All sums are
    of non-negative terms, so that nothing cancels however large the members are
    compared with their spread.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102, 2007.
    .. [2] C. A. T. Ferro, "Fair scores for ensemble forecasts", Quarterly Journal of
       the Royal Meteorological Society 140, 2014.

    Examples
    --------
    >>> from uqlib.metrics import crps_from_ensemble
    >>> crps_from_ensemble([3.0], [[1.0, 4.0]])
    0.75
    >>> crps_from_ensemble([3.0], [[1.0, 4.0]], fair=True)
    0.0
    """
    target = check_target(y_true)
    ensemble = _check_ensemble(y_ensemble, target.size)
    weight = check_sample_weight(sample_weight, target.size)
    levels = _member_levels(ensemble.shape[1], fair)
    return weighted_mean(_ensemble_crps(target, ensemble, levels), weight)


def gaussian_negative_log_likelihood(
    y_true: ArrayLike,
    y_mean: ArrayLike,
    y_std: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean negative log-density of the targets under Gaussian predictions.

    .. math:: \frac{1}{n} \sum_{i=1}^n \Big( \log \sigma_i + \frac{1}{2} \log (2 \pi) +
              \frac{(y_i - \mu_i)^2}{2 \sigma_i^2} \Big) .

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_mean : array-like of shape (n_samples,)
        Predicted means. Infinities are legal and give an infinite score.
    y_std : float or array-like of shape (n_samples,)
        Predicted standard deviations, positive; where it is infinite so is the score.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        In nats (natural logarithm); smaller is better. It is a density's: it may be
        negative, and a change of the unit of y moves it by the logarithm of the factor.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, y_true is not finite, y_mean or y_std
        contains NaN, or a standard deviation is not positive: without spread there is
        no density, and the limit is plus or minus infinity by whether the mean is
        exactly right.

    See Also
    --------
    crps_from_gaussian : In units of y, and defined without spread.
    negative_log_likelihood : For classification.

    Notes
    -----
    It is strictly proper. Its minimum over a constant factor s of the standard
    deviations is where :math:`s^2` is the mean of the squared standardized errors.

    References
    ----------
    .. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
       Estimation", JASA 102, 2007.

    Examples
    --------
    >>> from uqlib.metrics import gaussian_negative_log_likelihood
    >>> y_true, y_mean, y_std = [1.0, 2.0], [1.0, 0.0], [1.0, 2.0]
    >>> round(gaussian_negative_log_likelihood(y_true, y_mean, y_std), 4)
    1.5155
    """
    target, mean, std = _check_gaussian(y_true, y_mean, y_std)
    if std.min() == 0:
        raise ValueError(
            f"y_std must be positive, but row {int(np.argmin(std))} holds 0: a "
            "distribution without spread has no density. Put a floor under the "
            "standard deviations, or use crps_from_gaussian."
        )
    weight = check_sample_weight(sample_weight, target.size)
    with np.errstate(over="ignore", invalid="ignore"):
        z = (target - mean) / std
        losses = np.log(std) + 0.5 * np.log(2 * np.pi) + 0.5 * z**2
    return weighted_mean(_infinite_unless_finite(losses), weight)


# With d = y - mu and z = d / sigma, 2 Phi(z) - 1 = erf(z / sqrt(2)), so that
#
#     CRPS = |d| erf(|z| / sqrt(2)) + sigma (2 phi(z) - 1 / sqrt(pi)),
#
# which holds for sigma = 0 too, with z = infinity: the second term vanishes and the
# first is |d|, also where d is 0.
def _gaussian_crps(y: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        distance = np.abs(y - mean)
        z = np.where(std > 0, distance / std, np.inf)
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        score = distance * erf(z / np.sqrt(2))
        score += std * (2 * density - 1 / np.sqrt(np.pi))
    return _infinite_unless_finite(score)


# For the sorted members x_(1) <= ... <= x_(m) the double sum is
# sum_kl |x_k - x_l| = 2 sum_k (2 k - 1 - m) x_(k). The factors sum to 0, so that y may
# be subtracted from each x_(k): with D = m for the score, D = m - 1 for the fair one,
#
#     CRPS = (1 / m) sum_k |x_(k) - y| - ((2 k - 1 - m) / D) (x_(k) - y)
#          = (2 / m) sum_k psi_tau_k(y - x_(k)),   2 tau_k - 1 = (2 k - 1 - m) / D,
#
# psi the pinball loss: its levels are tau_k = (k - 1/2) / m for the score and
# tau_k = (k - 1) / (m - 1), from 0 to 1, for the fair one. No term is negative.
def _member_levels(n_members: int, fair: bool) -> FloatArray:
    if not fair:
        return (np.arange(n_members) + 0.5) / n_members
    if n_members == 1:
        raise ValueError(
            "fair=True needs at least 2 members, but y_ensemble has 1 column. Pass "
            "fair=False: the score of one member is its absolute error."
        )
    return np.linspace(0.0, 1.0, n_members)


def _ensemble_crps(y: FloatArray, members: FloatArray, levels: FloatArray) -> Any:
    score = np.empty(y.size)
    step = max(1, _BLOCK // levels.size)
    for start in range(0, y.size, step):
        rows = slice(start, start + step)
        ordered = np.sort(members[rows].astype(np.float64), axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            error = y[rows, None] - ordered
            loss = np.maximum(levels * error, (levels - 1) * error)
            score[rows] = 2 * loss.mean(axis=1)
    return _infinite_unless_finite(score)


def _infinite_unless_finite(score: FloatArray) -> FloatArray:
    """Return the scores with infinity for NaN, which only infinite input makes."""
    return np.where(np.isfinite(score), score, np.inf)


def _check_gaussian(
    y_true: ArrayLike, y_mean: ArrayLike, y_std: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    target = check_target(y_true)
    mean = as_1d(y_mean, "y_mean")
    check_rows(target.size, mean.size, "y_mean", "y_true")
    std = np.asarray(y_std, dtype=np.float64)
    if std.shape not in ((), target.shape):
        raise ValueError(
            f"y_std must be a number or have shape ({target.size},), one value a row "
            f"of y_true, got shape {std.shape}."
        )
    std = np.broadcast_to(std, target.shape)
    check_no_nan(std, "y_std")
    if std.min() < 0:
        raise ValueError(
            "y_std must hold standard deviations, at least 0, but row "
            f"{int(np.argmin(std))} holds {float(std.min())!r}. Take the square root "
            "of a variance; np.exp makes a log standard deviation positive."
        )
    return target, mean, std


def _check_ensemble(y_ensemble: Any, n_samples: int) -> FloatArray:
    ensemble = np.asarray(y_ensemble)
    if ensemble.dtype != np.float32:
        ensemble = ensemble.astype(np.float64, copy=False)
    if ensemble.ndim != 2 or ensemble.shape[1] == 0:
        raise ValueError(
            "y_ensemble must have shape (n_samples, n_members) with at least one "
            f"member, got shape {ensemble.shape}. Stack the predictions of members "
            "with np.column_stack."
        )
    check_rows(n_samples, len(ensemble), "y_ensemble", "y_true")
    check_no_nan(ensemble, "y_ensemble")
    return ensemble
