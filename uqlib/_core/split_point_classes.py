"""Split-point analysis of class probabilities: discrepancy and adjustment."""

from numbers import Real
from typing import Any

import numpy as np

from uqlib._core.label_checks import check_proba
from uqlib._typing import ArrayLike, FloatArray

# Symbols, for one class k and given x:
#
#   p      probability that a classifier gives the class
#   pi     its true probability, P(y = k | x)
#   u+     E[1{y = k} (1 - p) | x] = pi (1 - p)       the side on which y lies above p
#   u-     E[1{y != k} p | x]      = (1 - pi) p       the side on which it lies below
#   m      E|1{y = k} - p| = u+ + u- = pi + p - 2 pi p
#
# A classifier that is right, pi = p, has m = 2 p (1 - p). What is left otherwise is
#
#   m - 2 p (1 - p) = pi (1 - 2 p) - p (1 - 2 p) = (pi - p) (1 - 2 p).
#
# Two of u+, u-, m give the third, and each pair gives the bias:
#
#   pi - p = u+ - u- = m - 2 u- = 2 u+ - m.
#
# Let the three be estimated one by one and a = u+ - u-, g = u+ + u- - m. The three
# estimates of the bias are then a, a - g and a + g: their mean is a whatever m is,
# and their minimum is a - |g|.


def sds_classification(
    proba: ArrayLike, mar: ArrayLike, reduce: str | None = "sum"
) -> FloatArray:
    r"""Self-consistency discrepancy of class probabilities.

    With :math:`m_k` the mean of :math:`|1\{y = k\} - p_k|` at a row,

    .. math:: \mathrm{SDS}_k = |m_k - 2 p_k (1 - p_k)|
              = |\pi_k - p_k| \, |1 - 2 p_k|, \qquad m_k = \pi_k + p_k - 2 \pi_k p_k .

    The model of :math:`m_k` says in another form that the class has the probability
    :math:`\pi_k`: the score is the disagreement of two models.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities, rows that sum to 1; for two classes both columns.
    mar : array-like of shape (n_samples, n_classes)
        The mean absolute residuals :math:`m_k`, finite. A mean of such residuals lies
        in [0, 1]; a prediction outside is taken as it is.
    reduce : {"sum"} or None, default="sum"
        Sum over the classes, or one value for each.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_classes)
        At least 0, larger = less consistent.

    Raises
    ------
    ValueError
        If the shapes differ, `proba` holds no probabilities, `mar` is not finite, or
        `reduce` is unknown.

    See Also
    --------
    spa_adjust_proba : Moves the probabilities by the bias that is found.
    SPAClassifier : Learns the residuals for any classifier.

    Notes
    -----
    It is not an out-of-distribution detector: far from the training rows nothing makes
    the two models disagree. It is blind to a class with :math:`p_k = 1/2`, where
    :math:`m_k = 1/2` whatever :math:`\pi_k` is. It is 0 if and only if each class has
    :math:`\pi_k = p_k` or :math:`p_k = 1/2`. Of two classes both have the same value.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in Deep
       Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from uqlib.spa import sds_classification
    >>> sds_classification([[0.9, 0.1]], [[0.42, 0.42]]).round(12)
    array([0.48])
    """
    p = _as_proba(proba)
    m = _like_proba(mar, p, "mar")
    if reduce not in ("sum", None):
        raise ValueError(
            f"reduce must be 'sum' (one value a row) or None (one a class), got "
            f"{reduce!r}."
        )
    sds: FloatArray = np.abs(m - 2 * p * (1 - p))
    return sds if reduce is None else sds.sum(axis=1)


def spa_adjust_proba(
    proba: ArrayLike,
    mar: ArrayLike,
    side_up: ArrayLike,
    side_down: ArrayLike,
    threshold: float = 0.05,
    combine: str = "min",
    normalize: bool = True,
) -> FloatArray:
    r"""Move class probabilities by the bias that their residuals show.

    With :math:`g_k = u^+_k + u^-_k - m_k`, which is 0 if the three are consistent,

    .. math:: p'_k = p_k + \delta_k, \qquad \delta_k = 1\{|g_k| < t\} \,
              \min(u^+_k - u^-_k, \; m_k - 2 u^-_k, \; 2 u^+_k - m_k)
              = 1\{|g_k| < t\} \, (u^+_k - u^-_k - |g_k|) .

    ``combine="mean"`` takes the mean of the three instead, :math:`u^+_k - u^-_k`.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Class probabilities :math:`p_k`, rows that sum to 1.
    mar : array-like of shape (n_samples, n_classes)
        Mean :math:`m_k` of :math:`|1\{y = k\} - p_k|`, finite.
    side_up : array-like of shape (n_samples, n_classes)
        Mean :math:`u^+_k` of :math:`1\{y = k\} (1 - p_k)` over all rows, those of other
        classes counted as 0. Finite.
    side_down : array-like of shape (n_samples, n_classes)
        Mean :math:`u^-_k` of :math:`1\{y \ne k\} p_k` over all rows. Finite.
    threshold : float, default=0.05
        The bound t on the inconsistency from which on a class is left as it is; at
        least 0, and infinity for no bound.
    combine : {"min", "mean"}, default="min"
        How the three estimates of the bias become one. The minimum is too low on
        average, by :math:`|g_k|`.
    normalize : bool, default=True
        Clip to [0, 1] and divide rows by their sum; a row of which nothing is left
        keeps its `proba`. False returns :math:`p'_k`, whose rows need not sum to 1 and
        may hold negative values.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Adjusted probabilities.

    Raises
    ------
    ValueError
        If shapes differ, `proba` holds no probabilities, another array is not finite,
        `threshold` is negative or NaN, or `combine` is unknown.

    See Also
    --------
    sds_classification : The discrepancy without the sides.
    SPAClassifier : Learns the residuals for any classifier.

    Notes
    -----
    Exact :math:`m, u^+, u^-` give the true class probabilities. Estimated ones replace
    `proba` by the estimate of a second model that was fitted with squared loss: no
    guarantee on accuracy, log loss or calibration. In most data sets that were tried
    the log loss rose; temperature scaling and
    :class:`~uqlib.conformal.VennAbersCalibrator` are the remedies for calibration.

    References
    ----------
    .. [1] Z. Zhao, K. Chen, "Post-Hoc Split-Point Self-Consistency Verification for
       Efficient, Unified Quantification of Aleatoric and Epistemic Uncertainty in Deep
       Learning", arXiv:2509.13262.

    Examples
    --------
    >>> from uqlib.spa import spa_adjust_proba
    >>> up, down = [[0.06, 0.36]], [[0.36, 0.06]]
    >>> spa_adjust_proba([[0.9, 0.1]], [[0.42, 0.42]], up, down).round(12)
    array([[0.6, 0.4]])
    """
    p = _as_proba(proba)
    m = _like_proba(mar, p, "mar")
    up = _like_proba(side_up, p, "side_up")
    down = _like_proba(side_down, p, "side_down")
    threshold = check_gap_threshold(threshold)
    if combine not in ("min", "mean"):
        raise ValueError(f"combine must be 'min' or 'mean', got {combine!r}.")
    gap = np.abs(up + down - m)
    delta = up - down - (gap if combine == "min" else 0.0)
    adjusted: FloatArray = p + np.where(gap < threshold, delta, 0.0)
    return _normalized(adjusted, p) if normalize else adjusted


def check_gap_threshold(threshold: Any) -> float:
    """Return a bound on inconsistency: a number that is at least 0.

    Parameters
    ----------
    threshold : float
        The bound, possibly infinite.

    Returns
    -------
    float
        The bound.
    """
    is_number = isinstance(threshold, Real) and not isinstance(threshold, bool)
    if not is_number or not threshold >= 0:  # NaN fails the comparison
        raise ValueError(
            f"threshold must be a number >= 0, got {threshold!r}. Pass 0.05, or 0 to "
            "leave every class as it is, or numpy.inf to adjust every class."
        )
    return float(threshold)


def _normalized(adjusted: FloatArray, proba: FloatArray) -> FloatArray:
    """Return rows in [0, 1] that sum to 1; those of nothing become `proba`."""
    clipped = np.clip(adjusted, 0.0, 1.0)
    empty = clipped.max(axis=1, keepdims=True) == 0
    kept: FloatArray = np.where(empty, proba, clipped)
    # Dividing by the largest first: sums of subnormal numbers are too coarse.
    kept /= kept.max(axis=1, keepdims=True)
    kept /= kept.sum(axis=1, keepdims=True)
    return kept


def _as_proba(proba: ArrayLike) -> FloatArray:
    return np.asarray(check_proba(proba), dtype=np.float64)


def _like_proba(values: ArrayLike, proba: FloatArray, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != proba.shape:
        raise ValueError(
            f"{name} must have the shape of proba, {proba.shape}, one value for each "
            f"row and class, got shape {array.shape}."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} contains NaN or infinity. It is a mean of residuals of "
            "probabilities, in [0, 1]: check the model that predicts it."
        )
    return array
