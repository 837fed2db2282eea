"""Class probabilities as a matrix, and the column of each row's label in one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.label_checks import check_proba
from uqlib._typing import ArrayLike, FloatArray


def proba_columns(y_proba: ArrayLike) -> FloatArray:
    """Return the probabilities of all classes, one column each.

    Parameters
    ----------
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probability of every class, or for two classes that of the second alone.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        The probabilities; float32 columns stay float32, all else becomes float64.
    """
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


def label_columns(
    y_true: ArrayLike,
    labels: ArrayLike | None,
    n_columns: int,
    name: str = "y_proba",
) -> NDArray[np.intp]:
    """Return the column of each row's label.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels of any type that sorts, none missing.
    labels : array-like of shape (n_classes,) or None
        The label of each column; None stands for the sorted labels of `y_true`.
    n_columns : int
        The number of columns.
    name : str, default="y_proba"
        What has the columns, for the errors: probabilities or prediction sets.

    Returns
    -------
    ndarray of shape (n_samples,)
        Columns, from 0 to n_columns - 1.
    """
    y = np.asarray(y_true)
    if y.ndim != 1:
        raise ValueError(
            f"y_true must have shape (n_samples,), got shape {y.shape}. Flatten a "
            "column with y_true.ravel()."
        )
    present = _sorted_labels(y, "y_true")
    classes = present if labels is None else np.asarray(labels)
    if classes.ndim != 1:
        raise ValueError(
            f"labels must have shape (n_classes,), got shape {classes.shape}: the "
            "labels of the columns, in their order."
        )
    if len(classes) != n_columns:
        origin = "y_true holds" if labels is None else "labels has"
        raise ValueError(
            f"{name} stands for {n_columns} classes, but {origin} {classes.size}. "
            "Pass labels= with one label for each column, in their order (1-D "
            "probabilities: both labels, the positive one last)."
        )
    distinct = _sorted_labels(classes, "labels")
    if len(distinct) < len(classes):
        raise ValueError(f"labels must be distinct, got {classes.tolist()}.")
    unknown = _unknown(present, distinct)
    if unknown.size:
        raise ValueError(
            f"y_true holds labels that labels lacks: {unknown.tolist()[:10]}. Pass "
            f"labels= with one label for each column of {name}, in their order."
        )
    return np.argsort(classes)[np.searchsorted(distinct, y)]


def _unknown(present: NDArray[Any], classes: NDArray[Any]) -> NDArray[Any]:
    # To NumPy the number 1 is among the strings "0" and "1".
    kinds = {present.dtype.kind, classes.dtype.kind}
    if present.size and "U" in kinds and kinds & set("biuf"):
        return present
    return np.setdiff1d(present, classes)


def _sorted_labels(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Return the distinct labels, sorted; a missing one is no label."""
    try:
        missing = bool(np.any(values != values))  # true of NaN and NaT alone
        distinct: NDArray[Any] = np.unique(values)
    except TypeError as error:  # None, pandas.NA, or strings among numbers
        raise ValueError(
            f"{name} must hold labels of one type, none of them missing: {error}. "
            "Remove rows without a label."
        ) from error
    if missing:
        raise ValueError(
            f"{name} contains NaN, which is no label. Remove rows without a label."
        )
    return distinct
