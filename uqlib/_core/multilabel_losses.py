r"""Losses of label sets {k : p_k >= t}, for many thresholds t at once.

A label is in the set at t exactly when t <= p_k. With thresholds in increasing order,
label k of row i is therefore in the first c_ik sets, c_ik the number of thresholds that
are at most p_ik, and the number of labels in the set at the j-th threshold is
#{k : c_ik > j}: a histogram of the c_ik, summed from above. So all thresholds cost one
binary search a label and one pass over (n_samples, n_thresholds).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import check_no_nan, check_rows
from uqlib._typing import ArrayLike, BoolArray, FloatArray


def false_negative_losses(
    y_true: ArrayLike, y_proba: ArrayLike, thresholds: ArrayLike
) -> FloatArray:
    r"""Share of a row's labels that its set leaves out, at each threshold.

    .. math:: L_i(t) = \frac{\#\{k : y_{ik} = 1, p_{ik} < t\}}{\#\{k : y_{ik} = 1\}},

    and 0 for a row without labels: non-decreasing in t, and 0 for t = 0.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_labels)
        1 where a row has the label, else 0.
    y_proba : array-like of shape (n_samples, n_labels)
        Probability of each label, in [0, 1]; rows need not sum to one.
    thresholds : array-like of shape (n_thresholds,)
        Smallest probability of a label in the set, in any order, without NaN.

    Returns
    -------
    ndarray of shape (n_samples, n_thresholds)
        Losses in [0, 1], one column a threshold.

    Raises
    ------
    ValueError
        If shapes differ, `y_true` is not an indicator or a probability not in [0, 1].

    See Also
    --------
    conformal_risk_threshold : The threshold that controls their mean.
    false_discovery_losses : The share of the set that is wrong.

    Examples
    --------
    >>> from uqlib.conformal import false_negative_losses
    >>> y_true, y_proba = [[1, 1, 0]], [[0.9, 0.2, 0.4]]
    >>> false_negative_losses(y_true, y_proba, [0.95, 0.5, 0.2])
    array([[1. , 0.5, 0. ]])
    """
    labels, _ = _label_counts(y_true, y_proba, thresholds)
    total = np.maximum(_indicator(y_true).sum(axis=1), 1)[:, None]
    missed = _indicator(y_true).sum(axis=1)[:, None] - labels
    return np.asarray(missed / total)


def false_discovery_losses(
    y_true: ArrayLike, y_proba: ArrayLike, thresholds: ArrayLike
) -> FloatArray:
    r"""Share of a row's set that is not among its labels, at each threshold.

    .. math:: L_i(t) = \frac{\#\{k : y_{ik} = 0, p_{ik} \ge t\}}
              {\#\{k : p_{ik} \ge t\}},

    and 0 for an empty set. It is not monotone in t: use `learn_then_test`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_labels)
        1 where a row has the label, else 0.
    y_proba : array-like of shape (n_samples, n_labels)
        Probability of each label, in [0, 1]; rows need not sum to one.
    thresholds : array-like of shape (n_thresholds,)
        Smallest probability of a label in the set, in any order, without NaN.

    Returns
    -------
    ndarray of shape (n_samples, n_thresholds)
        Losses in [0, 1], one column a threshold.

    Raises
    ------
    ValueError
        If shapes differ, `y_true` is not an indicator or a probability not in [0, 1].

    See Also
    --------
    learn_then_test : Which thresholds control their mean.
    false_negative_losses : The share of the labels that is left out.

    Examples
    --------
    >>> from uqlib.conformal import false_discovery_losses
    >>> y_true, y_proba = [[1, 1, 0]], [[0.9, 0.2, 0.4]]
    >>> false_discovery_losses(y_true, y_proba, [0.95, 0.4, 0.0]).round(3)
    array([[0.   , 0.5  , 0.333]])
    """
    labels, sizes = _label_counts(y_true, y_proba, thresholds)
    return np.asarray((sizes - labels) / np.maximum(sizes, 1))


def miscoverage_losses(
    y_true: ArrayLike, y_proba: ArrayLike, thresholds: ArrayLike
) -> FloatArray:
    r"""1 where the set leaves out any of the row's labels, at each threshold.

    .. math:: L_i(t) = 1\{\exists k : y_{ik} = 1, p_{ik} < t\},

    non-decreasing in t, and 0 for t = 0.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_labels)
        1 where a row has the label, else 0; one 1 a row for classes.
    y_proba : array-like of shape (n_samples, n_labels)
        Probability of each label, in [0, 1]; rows need not sum to one.
    thresholds : array-like of shape (n_thresholds,)
        Smallest probability of a label in the set, in any order, without NaN.

    Returns
    -------
    ndarray of shape (n_samples, n_thresholds)
        Losses 0 and 1, one column a threshold.

    Raises
    ------
    ValueError
        If shapes differ, `y_true` is not an indicator or a probability not in [0, 1].

    See Also
    --------
    false_negative_losses : The share that is left out.

    Examples
    --------
    >>> from uqlib.conformal import miscoverage_losses
    >>> y_true, y_proba = [[1, 1, 0]], [[0.9, 0.2, 0.4]]
    >>> miscoverage_losses(y_true, y_proba, [0.95, 0.5, 0.2])
    array([[1., 1., 0.]])
    """
    labels, _ = _label_counts(y_true, y_proba, thresholds)
    missed = labels < _indicator(y_true).sum(axis=1)[:, None]
    return np.asarray(missed, dtype=np.float64)


def set_size_losses(y_proba: ArrayLike, thresholds: ArrayLike) -> FloatArray:
    r"""Share of all labels that is in the set, at each threshold.

    .. math:: L_i(t) = \#\{k : p_{ik} \ge t\} / K,

    non-increasing in t: what a large set costs, for `learn_then_test`.

    Parameters
    ----------
    y_proba : array-like of shape (n_samples, n_labels)
        Probability of each of the K labels, in [0, 1]; rows need not sum to one.
    thresholds : array-like of shape (n_thresholds,)
        Smallest probability of a label in the set, in any order, without NaN.

    Returns
    -------
    ndarray of shape (n_samples, n_thresholds)
        Losses in [0, 1], one column a threshold.

    Raises
    ------
    ValueError
        If a probability is not in [0, 1] or `thresholds` is empty or has NaN.

    See Also
    --------
    false_negative_losses : The share of the labels that is left out.

    Examples
    --------
    >>> from uqlib.conformal import set_size_losses
    >>> set_size_losses([[0.9, 0.2, 0.4, 0.1]], [0.95, 0.4, 0.0])
    array([[0. , 0.5, 1. ]])
    """
    proba = check_label_proba(y_proba)
    sizes = _count_at(proba, np.ones(proba.shape, dtype=bool), thresholds)
    return np.asarray(sizes / proba.shape[1])


def check_label_proba(y_proba: Any, name: str = "y_proba") -> FloatArray:
    """Return label probabilities in [0, 1] as a float64 matrix.

    Parameters
    ----------
    y_proba : array-like of shape (n_samples, n_labels)
        Probabilities; rows need not sum to one.
    name : str, default="y_proba"
        How the error calls them.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
        The probabilities.
    """
    proba = np.asarray(y_proba, dtype=np.float64)
    if proba.ndim != 2 or proba.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (n_samples, n_labels) with at least one label, "
            f"got shape {proba.shape}."
        )
    check_no_nan(proba, name)
    if proba.size and not (proba.min() >= 0 and proba.max() <= 1):
        raise ValueError(
            f"{name} must lie in [0, 1], got values from {proba.min()} to "
            f"{proba.max()}. Pass probabilities, not decision values."
        )
    return proba


def check_indicator(y_true: Any, n_labels: int, name: str = "y_true") -> BoolArray:
    """Return an indicator matrix of 0 and 1 as booleans.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_labels)
        1 where a row has the label, else 0.
    n_labels : int
        The number of columns that it must have.
    name : str, default="y_true"
        How the error calls it.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
        True where a row has the label.
    """
    values = np.asarray(y_true)
    if values.ndim != 2 or values.shape[1] != n_labels:
        raise ValueError(
            f"{name} must have shape (n_samples, {n_labels}), one column a label, got "
            f"shape {values.shape}. Turn class labels into such columns with "
            "sklearn.preprocessing.label_binarize."
        )
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(
            f"{name} must hold 0 and 1 alone, 1 where a row has the label. Turn class "
            "labels into such columns with sklearn.preprocessing.label_binarize."
        )
    return values.astype(bool)


def _indicator(y_true: Any) -> BoolArray:
    return np.asarray(y_true).astype(bool)


def _label_counts(
    y_true: Any, y_proba: Any, thresholds: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many labels of the row, and how many in all, are in each set."""
    proba = check_label_proba(y_proba)
    indicator = check_indicator(y_true, proba.shape[1])
    check_rows(len(proba), len(indicator), "y_true", "y_proba")
    everything = np.ones(proba.shape, dtype=bool)
    return (
        _count_at(proba, indicator, thresholds),
        _count_at(proba, everything, thresholds),
    )


def _count_at(
    proba: FloatArray, chosen: BoolArray, thresholds: Any
) -> NDArray[np.int64]:
    """Return #{k chosen : p_k >= t} for each row and each threshold."""
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(
            "thresholds must be a non-empty 1-D sequence, got an array of shape "
            f"{values.shape}."
        )
    check_no_nan(values, "thresholds")
    order = np.argsort(values, kind="stable")
    rows, columns = np.nonzero(chosen)
    reached = np.searchsorted(values[order], proba[rows, columns], side="right")
    width = values.size + 1
    counts = np.bincount(rows * width + reached, minlength=len(proba) * width)
    counts = counts.reshape(len(proba), width)
    counts = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    in_order = np.empty((len(proba), values.size), dtype=np.int64)
    in_order[:, order] = counts[:, 1:]
    return in_order
