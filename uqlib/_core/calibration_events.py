"""Events with their probabilities: what calibration metrics compare, class by class."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import check_rows, check_sample_weight
from uqlib._core.proba_columns import label_columns, proba_columns
from uqlib._typing import ArrayLike, FloatArray

IntArray = NDArray[np.intp]

KINDS = ("top_label", "class_wise")


class Events(NamedTuple):
    """Probabilities of one event a row, whether it came about, and the row's weight.

    `proba`, `outcome` and `weight` have shape (n_samples,). An outcome is between 0 and
    1: a share where several labels tie for the top. Rows without weight are left out,
    and the rest are in an order that depends on their values alone, so that no sum
    depends on the order in which they came.
    """

    proba: FloatArray
    outcome: FloatArray
    weight: FloatArray


def events_of_kind(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    kind: Any,
    labels: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> list[Events]:
    """Return the events that a metric averages over.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probabilities.
    kind : {"top_label", "class_wise"}
        The top label is right, or for each class: it is the label.
    labels : array-like of shape (n_classes,) or None
        Labels of the columns.
    sample_weight : array-like of shape (n_samples,) or None
        Weights of the rows.

    Returns
    -------
    list of Events
        One for the top label; one a class, of 1-D probabilities the second class alone.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"kind={kind!r} must be 'top_label' (is the most probable label right?) or "
            "'class_wise' (every class against its own probability)."
        )
    proba, columns, weight = _check(y_true, y_proba, labels, sample_weight)
    if kind == "top_label":
        return [_top_label(proba, columns, weight)]
    first = 1 if np.ndim(y_proba) == 1 else 0
    return [_of_class(k, proba, columns, weight) for k in range(first, proba.shape[1])]


def events_of_label(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    pos_label: Any,
    labels: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> Events:
    """Return the events of one class, or of the top label if `pos_label` is None.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probabilities.
    pos_label : object
        One of the labels, or None.
    labels : array-like of shape (n_classes,) or None
        Labels of the columns.
    sample_weight : array-like of shape (n_samples,) or None
        Weights of the rows.

    Returns
    -------
    Events
        Of the rows that have a weight.
    """
    proba, columns, weight = _check(y_true, y_proba, labels, sample_weight)
    if pos_label is None:
        return _top_label(proba, columns, weight)
    classes = np.unique(np.asarray(y_true)) if labels is None else np.asarray(labels)
    found = [k for k, label in enumerate(classes) if label == pos_label]
    if not found:
        raise ValueError(
            f"pos_label={pos_label!r} must be one of the labels "
            f"{classes.tolist()[:10]}, or None for the top label."
        )
    return _of_class(found[0], proba, columns, weight)


def _check(
    y_true: ArrayLike,
    y_proba: ArrayLike,
    labels: ArrayLike | None,
    sample_weight: ArrayLike | None,
) -> tuple[FloatArray, IntArray, FloatArray]:
    proba = proba_columns(y_proba)
    columns = label_columns(y_true, labels, proba.shape[1])
    check_rows(columns.size, len(proba), "y_proba", "y_true")
    weight = check_sample_weight(sample_weight, columns.size)
    return proba, columns, np.ones(columns.size) if weight is None else weight


def _top_label(proba: FloatArray, columns: IntArray, weight: FloatArray) -> Events:
    # Labels that tie for the top are drawn with equal chances: the mean outcome.
    highest = proba.max(axis=1)
    tied = proba == highest[:, None]
    outcome = tied[np.arange(columns.size), columns] / tied.sum(axis=1)
    return _ordered(highest, outcome, weight)


def _of_class(
    k: int, proba: FloatArray, columns: IntArray, weight: FloatArray
) -> Events:
    return _ordered(proba[:, k], (columns == k).astype(np.float64), weight)


def _ordered(proba: FloatArray, outcome: FloatArray, weight: FloatArray) -> Events:
    # Rows may sum to a little more than 1; a probability of more than 1 is 1.
    proba = np.minimum(proba.astype(np.float64), 1.0)
    order = np.lexsort((outcome, weight, proba))
    order = order[weight[order] > 0]
    return Events(proba[order], outcome[order], weight[order])
