"""Calibration error over ranges of equal size; what calibration metrics share."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import (
    check_quantile_matrix,
    check_rows,
    check_sample_weight,
    check_target,
)
from uqlib._core.losses import weighted_mean
from uqlib._core.proba_columns import label_columns, proba_columns
from uqlib._typing import ArrayLike, FloatArray


def adaptive_calibration_error(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    *,
    n_bins: int = 10,
    labels: ArrayLike | None = None,
) -> float:
    r"""Mean gap between probabilities and frequencies over ranges of equal size.

    .. math:: \mathrm{ACE} = \frac{1}{K R} \sum_{k=1}^{K} \sum_{r=1}^{R}
              \Big| \frac{1}{|B_{kr}|} \sum_{i \in B_{kr}}
              (1\{y_i = k\} - p_{ik}) \Big|,

    where :math:`B_{k1}, \dots, B_{kR}` are the rows in the order of :math:`p_{ik}`, cut
    into R ranges whose sizes differ by one at most, the larger ones first. Unlike
    ranges of equal width none is empty, and all count the same.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone, which
        is then the only one to count (K = 1).
    n_bins : int, default=10
        Number R of ranges, at least 1. With fewer rows than ranges each row is a range.
    labels : array-like of shape (n_classes,), default=None
        The labels, one for each column and in their order, as `classes_` of a
        classifier; for 1-D probabilities both. None takes the sorted labels of
        `y_true`, which must then be all there are.

    Returns
    -------
    float
        Between 0 and 1; 0 is best.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a probability is not in [0, 1] or a
        row does not sum to 1 within 0.001, a label is not among `labels`, `labels` are
        not as many as the columns or not distinct, or `n_bins` is below 1.
    TypeError
        If `n_bins` is not an integer.

    See Also
    --------
    VennAbersCalibrator : Calibrates probabilities.
    expected_calibration_error : Ranges of equal width or of equal weight, with
        `sample_weight`; rows of equal probability are never parted.
    sklearn.calibration.calibration_curve : The frequencies of two classes.

    Notes
    -----
    Where rows of equal probability lie in two ranges, each of them counts with the
    share of them that have the label, so that the order of the rows never matters. Even
    perfect probabilities have a positive error in a sample: with n rows up to about
    :math:`\sqrt{2 R \bar v / (\pi n)}`, :math:`\bar v` the mean of p (1 - p).

    References
    ----------
    .. [1] J. Nixon, M. W. Dusenberry, G. Jerfel, T. Nguyen, J. Liu, L. Zhang, D. Tran,
       "Measuring Calibration in Deep Learning", arXiv:1904.01685.

    Examples
    --------
    >>> from uqlib.metrics import adaptive_calibration_error
    >>> y_true, y_proba = [0, 1, 0, 1], [0.25, 0.25, 0.75, 1.0]
    >>> adaptive_calibration_error(y_true, y_proba, n_bins=2)
    0.3125
    """
    proba = proba_columns(y_proba)
    columns = label_columns(y_true, labels, proba.shape[1])
    check_rows(columns.size, len(proba), "y_proba", "y_true")
    n_bins = check_n_bins(n_bins)
    first = 1 if np.ndim(y_proba) == 1 else 0
    gaps = [
        _mean_gap(columns == k, proba[:, k], n_bins)
        for k in range(first, proba.shape[1])
    ]
    return float(np.mean(gaps))


def _mean_gap(hit: NDArray[np.bool_], p: FloatArray, n_bins: int) -> float:
    """Return the mean of |accuracy - confidence| over the ranges of one class."""
    values, tied, n_tied = np.unique(p, return_inverse=True, return_counts=True)
    share = np.bincount(tied, hit) / n_tied
    gap: FloatArray = np.repeat(share - values.astype(np.float64), n_tied)
    ranges: list[FloatArray] = np.array_split(gap, min(n_bins, gap.size))
    return float(np.mean([abs(part.mean()) for part in ranges]))


def check_n_bins(n_bins: Any) -> int:
    """Return a number of ranges, or say what is wrong with it.

    Parameters
    ----------
    n_bins : int
        Must be at least 1.

    Returns
    -------
    int
        The number.
    """
    if isinstance(n_bins, bool) or not isinstance(n_bins, Integral):
        raise TypeError(f"n_bins must be an integer, at least 1, got {n_bins!r}.")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins!r}. Pass 10.")
    return int(n_bins)


def gap_norm(gap: FloatArray, weight: FloatArray | None, norm: Any) -> float:
    r"""Return a norm of gaps under weights of sum 1.

    By Jensen's inequality "l1" <= "l2" <= "max".

    Parameters
    ----------
    gap : ndarray of shape (n,)
        Signed gaps.
    weight : ndarray of shape (n,) or None
        Positive weights, divided here by their sum; None weighs equally.
    norm : {"l1", "l2", "max"}
        Mean of the absolute gaps, root of their mean square, or their largest.

    Returns
    -------
    float
        Non-negative.
    """
    size = np.abs(gap)
    if isinstance(norm, str) and norm in ("l1", "l2", "max"):
        if norm == "max":
            return float(size.max())
        if norm == "l2":
            # Tiny gaps must not vanish when they are squared.
            scale = float(size.max()) or 1.0
            mean = np.average((size / scale) ** 2, weights=weight)
            return scale * float(np.sqrt(mean))
        return float(np.average(size, weights=weight))
    raise ValueError(
        f"norm={norm!r} must be 'l1' (mean absolute gap), 'l2' (root mean square) or "
        "'max' (largest)."
    )


def observed_shares(
    y_true: ArrayLike,
    y_quantiles: ArrayLike,
    levels: FloatArray,
    sample_weight: ArrayLike | None,
) -> FloatArray:
    """Return the share of targets at most their quantile, level by level.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Target, finite.
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        Predicted quantiles.
    levels : ndarray of shape (n_quantiles,)
        Levels, checked.
    sample_weight : array-like of shape (n_samples,) or None
        One non-negative weight a row.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        Between 0 and 1.
    """
    matrix = check_quantile_matrix(y_quantiles, levels.size)
    target = check_target(y_true)
    check_rows(target.size, matrix.shape[0], "y_quantiles", "y_true")
    weight = check_sample_weight(sample_weight, target.size)
    return np.array([weighted_mean(target <= column, weight) for column in matrix.T])
