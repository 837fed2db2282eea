"""Calibration error of class probabilities over ranges with equal numbers of rows."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import check_rows
from uqlib._core.label_checks import check_proba
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
    sklearn.calibration.calibration_curve : The frequencies of two classes.

    Notes
    -----
    Rows of equal probability keep their order (a stable sort), so that the value can
    move with the order of the rows where a tie lies on the border of two ranges. Even
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
    proba = _as_columns(y_proba)
    classes, columns = _label_columns(y_true, labels, proba.shape[1])
    check_rows(columns.size, len(proba), "y_proba", "y_true")
    n_bins = _check_bins(n_bins)
    first = 1 if np.ndim(y_proba) == 1 else 0
    gaps = [_mean_gap(columns == k, proba[:, k], n_bins) for k in range(first, classes)]
    return float(np.mean(gaps))


def _mean_gap(hit: NDArray[np.bool_], p: FloatArray, n_bins: int) -> float:
    """Return the mean of |accuracy - confidence| over the ranges of one class."""
    order = np.argsort(p, kind="stable")
    gap: FloatArray = hit[order] - p[order].astype(np.float64)
    ranges: list[FloatArray] = np.array_split(gap, min(n_bins, gap.size))
    return float(np.mean([abs(part.mean()) for part in ranges]))


def _as_columns(y_proba: ArrayLike) -> FloatArray:
    if np.ndim(y_proba) != 1:
        return check_proba(y_proba, "y_proba")
    positive = np.asarray(y_proba, dtype=np.float64)
    # NaN fails both comparisons.
    wrong = ~((positive >= 0) & (positive <= 1))
    if wrong.any():
        raise ValueError(
            "y_proba must hold probabilities between 0 and 1, but row "
            f"{int(np.argmax(wrong))} holds {float(positive[wrong][0])!r}. Decision "
            "values become probabilities by calibration."
        )
    return np.column_stack([1 - positive, positive])


def _label_columns(
    y_true: ArrayLike, labels: ArrayLike | None, n_columns: int
) -> tuple[int, NDArray[np.intp]]:
    """Return the number of classes and the column of each row's label."""
    y = np.asarray(y_true)
    if y.ndim != 1:
        raise ValueError(
            f"y_true must have shape (n_samples,), got shape {y.shape}. Flatten a "
            "column with y_true.ravel()."
        )
    classes = np.unique(y) if labels is None else np.asarray(labels)
    if classes.ndim != 1 or len(classes) != n_columns:
        origin = "y_true holds" if labels is None else "labels has"
        raise ValueError(
            f"y_proba stands for {n_columns} classes, but {origin} {classes.size}. "
            "Pass labels= with one label for each column, in their order (1-D "
            "probabilities: both labels, the positive one last)."
        )
    order = np.argsort(classes)
    ordered = classes[order]
    if np.any(ordered[1:] == ordered[:-1]):
        raise ValueError(f"labels must be distinct, got {classes.tolist()}.")
    unknown = np.setdiff1d(y, classes)
    if unknown.size:
        raise ValueError(
            f"y_true holds labels that labels lacks: {unknown.tolist()[:10]}. Pass "
            "labels= with one label for each column of y_proba, in their order."
        )
    return len(classes), order[np.searchsorted(ordered, y)]


def _check_bins(n_bins: Any) -> int:
    if isinstance(n_bins, bool) or not isinstance(n_bins, Integral):
        raise TypeError(f"n_bins must be an integer, at least 1, got {n_bins!r}.")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins!r}. Pass 10.")
    return int(n_bins)
