r"""How far a changed model has moved, and what that will cost.

Symbols, for one row: f the model before and f_q after the change (here: quantization),
d = f_q - f its drift, r = y - f the residual before. The new residual is r - d,
so with uncorrelated r and d, E d = 0 or E r = 0,

    E (r - d)^2 = E r^2 + E d^2 ,      RMSE_q / RMSE = sqrt(1 + E d^2 / E r^2) .

Intervals of constant width are as wide as a quantile of |r - d|. If r - d has the
law of c r for some c > 0 ("the same shape"), then c is the ratio above and every
quantile grows by it. Independent r and d, both normal and centered, have that.
"""

import math
from numbers import Real
from typing import Any

import numpy as np

from uqlib._core.checks import check_no_nan, check_sample_weight
from uqlib._typing import ArrayLike, FloatArray


def width_ratio_forecast(
    drift: ArrayLike, rmse: float, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Forecast how much wider intervals get, from the drift of a model alone.

    .. math:: \sqrt{1 + \frac{\overline{d^2}}{\mathrm{RMSE}^2}}, \qquad
              d = f_q(x) - f(x) ,

    with the RMSE of the float model. The rows of the drift need no labels.

    Parameters
    ----------
    drift : array-like of shape (n_samples,)
        Prediction of the quantized model minus that of the float model, in units of
        the target, finite.
    rmse : float
        Root mean squared error of the float model on rows that it was not trained on,
        finite and at least 0.
    sample_weight : array-like of shape (n_samples,), default=None
        One weight a row.

    Returns
    -------
    float
        At least 1; infinite if `rmse` is 0 and the drift is not.

    Raises
    ------
    ValueError
        If there is no drift, a drift is not finite, `rmse` is negative or not finite,
        or the weights are negative, not finite or all 0.
    TypeError
        If `rmse` is not a number.

    See Also
    --------
    coverage_report : What it came to, measured with labels.
    drift_certificate : Intervals that hold until labels arrive.

    Notes
    -----
    It is a forecast for recalibrated intervals of constant width, such as those of
    absolute residuals, and no bound. It is the ratio of the two RMSEs if residual and
    drift are uncorrelated and one of them has mean 0; it is that of the widths at
    every level if, besides, the residuals after quantization have the law of a
    multiple of those before, as where both are independent, normal and centered. In
    experiments with networks on noisy data it was 0.97 to 1.1 times the ratio measured,
    the least for networks of little training. Nothing keeps it from being far too low:
    if most residuals are small and a few are huge, the RMSE is that of the few, and a
    drift far below it can multiply the width.

    Examples
    --------
    >>> from uqlib.quantized import width_ratio_forecast
    >>> width_ratio_forecast([0.75, -0.75], 1.0)
    1.25
    """
    values = check_drift(drift, finite=True)
    if values.ndim != 1:
        raise ValueError(
            f"drift must have shape (n_samples,), got shape {values.shape}. Pass the "
            "drift of point predictions."
        )
    scale = _check_rmse(rmse)
    weight = check_sample_weight(sample_weight, values.size)
    moved = _root_mean_square(values, weight)
    if moved == 0:
        return 1.0
    return math.hypot(1.0, moved / scale) if scale > 0 else math.inf


def row_drift(drift: FloatArray) -> FloatArray:
    """Return how far each row has moved: the root mean square over its outputs.

    Parameters
    ----------
    drift : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        New minus old prediction; infinities are legal.

    Returns
    -------
    ndarray of shape (n_samples,)
        At least 0.
    """
    if drift.ndim == 1:
        return np.asarray(np.abs(drift))
    scale = np.abs(drift).max(axis=1)
    usable = np.isfinite(scale) & (scale > 0)
    size = scale.astype(np.float64)
    shares = drift[usable] / scale[usable, None]
    size[usable] *= np.sqrt(np.mean(shares**2, axis=1))
    return np.asarray(size)


def drift_rms(drift: FloatArray) -> float:
    """Return the root mean square of all entries, without overflow.

    Parameters
    ----------
    drift : ndarray of any shape
        At least one entry, without NaN.

    Returns
    -------
    float
        At least 0.
    """
    return _root_mean_square(drift.ravel(), None)


def _root_mean_square(values: FloatArray, weight: FloatArray | None) -> float:
    scale = float(np.abs(values).max())
    if scale == 0 or math.isinf(scale):
        return scale
    return scale * math.sqrt(np.average((values / scale) ** 2, weights=weight))


def check_drift(drift: ArrayLike, finite: bool = False) -> FloatArray:
    """Return drifts of points or of two quantiles, or say what is wrong.

    Parameters
    ----------
    drift : array-like of shape (n_drift,) or (n_drift, 2)
        Without NaN.
    finite : bool, default=False
        Refuse infinities and no rows at all.

    Returns
    -------
    ndarray of the same shape
        The drifts.
    """
    values = np.asarray(drift, dtype=np.float64)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 2):
        raise ValueError(
            "drift must have shape (n_drift,) for points or (n_drift, 2) for lower and "
            f"upper quantiles, got shape {values.shape}."
        )
    check_no_nan(values, "drift")
    if finite and (values.size == 0 or not np.isfinite(values).all()):
        raise ValueError(
            f"drift must hold at least one row and finite numbers, got {values.size} "
            "rows. Leave out rows whose prediction is infinite."
        )
    return values


def _check_rmse(rmse: Any) -> float:
    if isinstance(rmse, bool) or not isinstance(rmse, Real):
        raise TypeError(
            "rmse must be a number, the root mean squared error of the float model, "
            f"got {type(rmse).__name__}. Of residuals take "
            "np.sqrt(np.mean(residuals**2))."
        )
    if not 0 <= float(rmse) < math.inf:
        raise ValueError(f"rmse must be finite and at least 0, got {rmse!r}.")
    return float(rmse)
