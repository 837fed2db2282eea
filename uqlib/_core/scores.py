r"""Nonconformity scores, each with its inverse. Larger is stranger.

For every threshold t and every y: if score(y, y_pred) <= t, then lower <= y <= upper,
where (lower, upper) = inverse(y_pred, t); in exact arithmetic the converse holds too.
Ends are rounded outwards for that (see `outward`).
"""

from typing import Any

import numpy as np

from uqlib._core.outward import next_larger, split_interval
from uqlib._typing import FloatArray


class AbsoluteScore:
    r"""Absolute residual :math:`s = |y - \hat y|`; inverse :math:`\hat y \pm t`.

    Notes
    -----
    .. rubric:: Guarantee

    None of its own: every score is valid, and the guarantee is that of the calibrator
    which uses it.

    A score that fits the data makes intervals short; one that does not costs width and
    never coverage.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import AbsoluteScore
    >>> score = AbsoluteScore()
    >>> score.score(np.array([1.0, 5.0]), np.array([2.0, 2.0]))
    array([1., 3.])
    """

    def score(self, y: FloatArray, y_pred: FloatArray) -> FloatArray:
        """Return the absolute residuals.

        Parameters
        ----------
        y : ndarray of shape (n_samples,)
            Target.
        y_pred : ndarray of shape (n_samples,)
            Point predictions.

        Returns
        -------
        ndarray of shape (n_samples,)
            The scores, at least 0.
        """
        return np.abs(_difference(y, y_pred))

    def inverse(self, y_pred: FloatArray, threshold: Any) -> FloatArray:
        """Return [y_pred - t, y_pred + t].

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples,)
            Point predictions.
        threshold : float or ndarray of shape (n_samples,)
            The t, one for all rows or one a row.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds.
        """
        return split_interval(y_pred, _pair(threshold))

    def affine(self, y_pred: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what makes the ends affine in the threshold.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples,)
            Point predictions.

        Returns
        -------
        lower_base, upper_base, scale : ndarray of shape (n_samples,)
            The ends are lower_base - t scale and upper_base + t scale.
        """
        return y_pred, y_pred, np.ones_like(y_pred)


class SignedScore:
    r"""Both signed residuals, each end calibrated alone.

    .. math:: s = (\hat y - y, \; y - \hat y), \qquad
              C = [\hat y - t_1, \; \hat y + t_2],

    each threshold at the one-sided level :math:`1 - \alpha / 2`: intervals that need
    not be symmetric about the prediction and miss with at most
    :math:`\alpha / 2` on either side.

    Notes
    -----
    .. rubric:: Guarantee

    None of its own: every score is valid, and the guarantee is that of the calibrator
    which uses it, here for each end at :math:`1 - \alpha / 2`.

    A score that fits the data makes intervals short; one that does not costs width and
    never coverage.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import SignedScore
    >>> SignedScore().score(np.array([1.0, 5.0]), np.array([2.0, 2.0]))
    array([[ 1., -1.],
           [-3.,  3.]])
    """

    def score(self, y: FloatArray, y_pred: FloatArray) -> FloatArray:
        """Return how far the target lies below and above the prediction.

        Parameters
        ----------
        y : ndarray of shape (n_samples,)
            Target.
        y_pred : ndarray of shape (n_samples,)
            Point predictions.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            The scores of the lower and the upper end.
        """
        return np.column_stack([_difference(y_pred, y), _difference(y, y_pred)])

    def inverse(self, y_pred: FloatArray, threshold: Any) -> FloatArray:
        """Return [y_pred - t_1, y_pred + t_2].

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples,)
            Point predictions.
        threshold : ndarray of shape (2,) or (n_samples, 2)
            The thresholds of the two ends.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds.
        """
        return split_interval(y_pred, threshold)

    def affine(self, y_pred: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what makes the ends affine in the threshold.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples,)
            Point predictions.

        Returns
        -------
        lower_base, upper_base, scale : ndarray of shape (n_samples,)
            The ends are lower_base - t_1 scale and upper_base + t_2 scale.
        """
        return y_pred, y_pred, np.ones_like(y_pred)


class GammaScore:
    r"""Residual relative to the prediction.

    .. math:: s = |y - \hat y| / |\hat y|, \qquad
              C = \hat y \pm t |\hat y| .

    For targets whose spread grows in proportion to their size. A prediction of 0 has
    the score :math:`+\infty` unless it is right.

    Notes
    -----
    .. rubric:: Guarantee

    None of its own: every score is valid, and the guarantee is that of the calibrator
    which uses it.

    A score that fits the data makes intervals short; one that does not costs width and
    never coverage.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import GammaScore
    >>> GammaScore().score(np.array([1.0, 5.0]), np.array([2.0, 4.0]))
    array([0.5 , 0.25])
    """

    def score(self, y: FloatArray, y_pred: FloatArray) -> FloatArray:
        """Return the relative residuals.

        Parameters
        ----------
        y : ndarray of shape (n_samples,)
            Target.
        y_pred : ndarray of shape (n_samples,)
            Point predictions.

        Returns
        -------
        ndarray of shape (n_samples,)
            The scores, at least 0.
        """
        return scaled_scores(y, y_pred, np.abs(y_pred))

    def inverse(self, y_pred: FloatArray, threshold: Any) -> FloatArray:
        """Return the prediction -+ t times its absolute value.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples,)
            Point predictions.
        threshold : float or ndarray of shape (n_samples,)
            The t, one for all rows or one a row.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Lower and upper bounds.
        """
        return scaled_interval(y_pred, np.abs(y_pred), threshold)

    def affine(self, y_pred: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what makes the ends affine in the threshold.

        Parameters
        ----------
        y_pred : ndarray of shape (n_samples,)
            Point predictions.

        Returns
        -------
        lower_base, upper_base, scale : ndarray of shape (n_samples,)
            The ends are lower_base - t scale and upper_base + t scale.
        """
        return y_pred, y_pred, np.abs(y_pred)


def scaled_scores(y: FloatArray, y_pred: FloatArray, scale: FloatArray) -> FloatArray:
    """Return |y - y_pred| / scale; a scale of 0 gives +inf, and 0 for no residual.

    Parameters
    ----------
    y, y_pred, scale : ndarray of shape (n_samples,)
        Target, prediction and a scale that is at least 0.

    Returns
    -------
    ndarray of shape (n_samples,)
        The scores, at least 0.
    """
    residual = np.abs(_difference(y, y_pred))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(residual == 0, 0.0, residual / scale)


def scaled_interval(
    y_pred: FloatArray, scale: FloatArray, threshold: Any
) -> FloatArray:
    """Return y_pred -+ threshold scale, rounded so that no tied target is lost.

    fl(|d| / scale) <= t gives |d| < up(t) scale <= up(fl(up(t) scale)); see the top of
    this module.

    Parameters
    ----------
    y_pred, scale : ndarray of shape (n_samples,)
        Prediction, and a scale that is at least 0.
    threshold : float or ndarray of shape (n_samples,)
        The threshold.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        Lower and upper bounds.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        margin = next_larger(np.asarray(next_larger(np.asarray(threshold)) * scale))
    # Without scale only the prediction itself has a finite score.
    margin = np.where(np.isnan(margin), np.inf, margin)
    return split_interval(y_pred, _pair(margin))


def _difference(a: FloatArray, b: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # an infinite score is legal
        return a - b


def _pair(threshold: Any) -> FloatArray:
    """Return one threshold for both ends, whether for all rows or one a row."""
    values = np.asarray(threshold, dtype=np.float64)
    return values if values.ndim == 0 else np.column_stack([values, values])


NONCONFORMITY_SCORES: dict[str, Any] = {
    "absolute": AbsoluteScore,
    "gamma": GammaScore,
    "signed": SignedScore,
}


def quantile_pair_scores(
    y: FloatArray, y_interval: FloatArray
) -> tuple[FloatArray, FloatArray]:
    r"""Return how far y lies outside each end: lower - y and y - upper.

    Their maximum is the score of conformalized quantile regression: negative
    inside the interval, the distance to it outside.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        The target, finite.
    y_interval : ndarray of shape (n_samples, 2)
        Lower and upper quantile, possibly infinite.

    Returns
    -------
    below, above : ndarray of shape (n_samples,)
        The one-sided scores.
    """
    return _difference(y_interval[:, 0], y), _difference(y, y_interval[:, 1])
