r"""Intervals that reach further on one side than on the other, calibrated.

With the side quantiles q+ and q- of a row, r = y - v and a scale t,

    y in [v - t q-, v + t q+]  <=>  max(r / q+, -r / q-) <= t ,

so the k-th smallest of these scores is a conformal threshold. For r > 0 the maximum is
r / q+, else -r / q-. The two ratios, each with its own rank, calibrate the ends alone.

fl(r / q) <= t gives r < up(t) q <= up(fl(up(t) q)), up being the next larger float:
ends are rounded outwards by that much, so that no target with a score at the threshold
is lost.
"""

from typing import Any, NamedTuple

import numpy as np

from uqlib._core.checks import as_1d, check_target
from uqlib._core.levels import check_confidence_level
from uqlib._core.outward import next_larger, split_interval
from uqlib._core.ranks import threshold_at
from uqlib._typing import ArrayLike, FloatArray


class SideScales(NamedTuple):
    """What the side quantiles are multiplied by.

    Attributes
    ----------
    up, down : float
        The factor above and below the prediction, possibly infinite.
    """

    up: float
    down: float


def conformal_side_scale(
    residuals: ArrayLike,
    quantile_up: ArrayLike,
    quantile_down: ArrayLike,
    confidence_level: float,
    two_sided: bool = False,
) -> float | SideScales:
    r"""Calibrate a quantile for each side of a prediction.

    .. math:: s_i = \max(r_i / q_{+,i}, \; -r_i / q_{-,i}), \qquad
              C(x) = [v - s_{(k)} q_-, \; v + s_{(k)} q_+], \qquad
              k = \lceil (n + 1) p \rceil .

    Parameters
    ----------
    residuals : array-like of shape (n_calibration,)
        Target minus prediction v on rows that neither the prediction nor the side
        quantiles were fitted to; finite.
    quantile_up, quantile_down : float or array-like of shape (n_calibration,)
        How far targets are expected to lie above and below the prediction; at least
        0. Where one is 0, every residual on its side has the score +inf.
    confidence_level : float
        Coverage asked for, p, strictly between 0 and 1.
    two_sided : bool, default=False
        Calibrate the two ends apart, each by the signed ratios of its own side at
        the one-sided level :math:`1 - (1 - p) / 2`.

    Returns
    -------
    float or SideScales
        The scale t = :math:`s_{(k)}`; +inf if the rows are too few. If `two_sided`, the
        named tuple (up, down) of two scales. A scale can then be negative: more than
        that share of the rows lies on the other side.

    Raises
    ------
    ValueError
        If shapes differ, a residual is not finite, a quantile is negative or NaN, or
        the level is not strictly between 0 and 1.

    Warns
    -----
    InfiniteIntervalWarning
        If the calibration rows are too few for the level.

    See Also
    --------
    SPARegressor : Learns side quantiles and calibrates them.
    conformal_quantile : The threshold of any scores.

    Notes
    -----
    If the calibration rows and a new row are exchangeable, the interval covers with
    probability at least p, and at most :math:`p + 1 / (n + 1)` without ties. With
    `two_sided` each end is missed with probability at most :math:`(1 - p) / 2`.
    Nothing is promised of the targets above the prediction alone, or of those below.

    References
    ----------
    .. [1] J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman,
       "Distribution-Free Predictive Inference for Regression", arXiv:1604.04173.

    Examples
    --------
    >>> from uqlib.spa import conformal_side_scale
    >>> conformal_side_scale([1.0, -2.0, 3.0, -4.0], 1.0, 1.0, confidence_level=0.8)
    4.0
    """
    level = check_confidence_level(confidence_level)
    r = check_target(residuals, name="residuals")
    up, down = (
        _check_quantiles(values, r.size, name)
        for values, name in (
            (quantile_up, "quantile_up"),
            (quantile_down, "quantile_down"),
        )
    )
    if not two_sided:
        return threshold_at(side_scores(r, up, down), level)
    one_sided = (1 + level) / 2
    return SideScales(
        threshold_at(_ratio(r, up), one_sided),
        threshold_at(_ratio(-r, down), one_sided),
    )


def side_scores(
    residuals: FloatArray, quantile_up: FloatArray, quantile_down: FloatArray
) -> FloatArray:
    """Return r / q+ above the prediction and -r / q- below it.

    Parameters
    ----------
    residuals, quantile_up, quantile_down : ndarray of shape (n_samples,)
        Residuals, and side quantiles that are at least 0.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, at least 0.
    """
    side = np.where(residuals > 0, quantile_up, quantile_down)
    return _ratio(np.abs(residuals), side)


def side_interval(
    y_pred: FloatArray, quantile_up: FloatArray, quantile_down: FloatArray, scale: float
) -> FloatArray:
    """Return [v - t q-, v + t q+], rounded so that no score at the scale is lost.

    Parameters
    ----------
    y_pred, quantile_up, quantile_down : ndarray of shape (n_samples,)
        Predictions, and side quantiles that are at least 0.
    scale : float
        The scale t, possibly infinite.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Lower and upper bounds.
    """
    return split_interval(
        y_pred,
        np.column_stack([_margin(scale, quantile_down), _margin(scale, quantile_up)]),
    )


def _ratio(residuals: FloatArray, quantile: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        return np.where(residuals == 0, 0.0, residuals / quantile)


def _margin(scale: float, quantile: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        margin = next_larger(np.asarray(next_larger(np.asarray(scale)) * quantile))
    # An infinite scale leaves no target out, whatever the quantile.
    return np.where(np.isnan(margin), np.inf, margin)


def _check_quantiles(values: Any, n_samples: int, name: str) -> FloatArray:
    if np.ndim(values) == 0:
        values = np.full(n_samples, values, dtype=np.float64)
    array = as_1d(values, name)
    if array.size != n_samples:
        raise ValueError(
            f"{name} has {array.size} values for {n_samples} residuals: pass one for "
            "each, or one for all."
        )
    if (array < 0).any():
        raise ValueError(
            f"{name} must be at least 0, got {array.min()}: it is a distance from the "
            "prediction. Clip what a model predicts at a small positive number."
        )
    return array
