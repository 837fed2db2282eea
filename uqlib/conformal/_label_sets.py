"""What risk control needs of a classifier: label probabilities, targets and losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _num_samples

from uqlib._class_predictions import label_columns, predict_label_proba
from uqlib._core.multilabel_losses import (
    check_indicator,
    false_discovery_losses,
    false_negative_losses,
    miscoverage_losses,
)
from uqlib._core.risk_checks import check_losses
from uqlib._typing import BoolArray, FloatArray
from uqlib._validation import check_given, check_no_missing_label


class Risk(NamedTuple):
    """A loss of label sets, and what is known of it.

    `losses` takes the indicator, the probabilities and increasing thresholds, and gives
    (n_samples, n_thresholds). `full_is_safe` says that the full set loses nothing,
    otherwise the empty one does; `monotone` that smaller sets never lose less.
    """

    losses: Callable[..., FloatArray]
    full_is_safe: bool
    monotone: bool
    known: bool


RISKS = {
    "false_negative_rate": Risk(false_negative_losses, True, True, True),
    "false_discovery_rate": Risk(false_discovery_losses, False, False, True),
    "miscoverage": Risk(miscoverage_losses, True, True, True),
}


def resolve_risk(risk: Any) -> Risk:
    """Return the risk that a name or a function stands for.

    Parameters
    ----------
    risk : str or callable
        A name, or a function of an indicator and a set, both (n_samples, n_labels).

    Returns
    -------
    Risk
        Of a function it is assumed that the full set is safe, and nothing is known.
    """
    if isinstance(risk, str) and risk in RISKS:
        return RISKS[risk]
    if callable(risk) and not isinstance(risk, type):
        return Risk(_SetLoss(risk), full_is_safe=True, monotone=False, known=False)
    raise ValueError(
        f"risk={risk!r} must be one of {sorted(RISKS)} or a function "
        "risk(y_true, y_set) of two boolean arrays of shape (n_samples, n_labels) that "
        "gives losses of shape (n_samples,) between 0 and 1."
    )


class _SetLoss:
    """The losses of a user's function of sets, one threshold after the other."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(
        self, indicator: BoolArray, proba: FloatArray, thresholds: FloatArray
    ) -> FloatArray:
        columns = [self._losses(indicator, proba >= t) for t in thresholds]
        return np.column_stack(columns)

    def _losses(self, indicator: BoolArray, sets: BoolArray) -> FloatArray:
        losses = np.asarray(self.function(indicator.copy(), sets), dtype=np.float64)
        if losses.shape != (len(indicator),):
            raise ValueError(
                "risk(y_true, y_set) must give one loss a row, shape "
                f"({len(indicator)},), got shape {losses.shape}."
            )
        return check_losses(losses, 1.0)


def check_labels(owner: Any, X: Any, y: Any) -> tuple[Any, bool]:
    """Return y as an array, and whether each row may have several labels.

    Parameters
    ----------
    owner : estimator
        Named in errors.
    X : array-like of shape (n_samples, n_features)
        The rows that y belongs to.
    y : array-like of shape (n_samples,) or (n_samples, n_labels)
        Classes, or an indicator of 0 and 1.

    Returns
    -------
    y : ndarray of shape (n_samples,) or (n_samples, n_labels)
        The labels.
    multilabel : bool
        True for an indicator.
    """
    check_given(owner, X, y)
    y = y.toarray() if hasattr(y, "toarray") else np.asarray(y)
    if len(y) != _num_samples(X):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: X has "
            f"{_num_samples(X)} rows and y has {len(y)}."
        )
    if y.ndim == 2 and y.shape[1] > 1:
        return check_indicator(y, y.shape[1], "y").astype(np.int64), True
    check_no_missing_label(y)
    y = column_or_1d(y, warn=True)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("Input y contains NaN or infinity. Remove those rows.")
    if type_of_target(y).startswith("multilabel"):  # an object array of lists
        raise ValueError(
            "y must be classes of shape (n_samples,) or an indicator of shape "
            "(n_samples, n_labels). Use sklearn.preprocessing.MultiLabelBinarizer."
        )
    check_classification_targets(y)
    return y, False


def class_probabilities(model: Any, X: Any, labels: Any) -> tuple[Any, FloatArray]:
    """Return the classes of a model and further labels, and the probability of each.

    Parameters
    ----------
    model : classifier
        Fitted, with `predict_proba` and `classes_`.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.
    labels : array-like
        Labels; those that the model does not know have the probability 0.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        In the order of the model if it knows all labels, else sorted.
    proba : ndarray of shape (n_samples, n_classes)
        One column for each of them.
    """
    proba = predict_label_proba(model, X)
    known = _classes_of(model, proba.shape[1])
    if len(labels) == 0 or np.isin(labels, known).all():
        return known, proba
    classes = np.union1d(known, labels)
    spread = np.zeros((len(proba), classes.size))
    spread[:, label_columns(known, classes)] = proba
    return classes, spread


def _classes_of(model: Any, n_classes: int) -> Any:
    classes = getattr(model, "classes_", None)
    if classes is None or isinstance(classes, list) or len(classes) != n_classes:
        raise ValueError(
            f"{type(model).__name__} must have classes_, one for each of its "
            f"{n_classes} probability columns, got {classes!r}. Pass y as an indicator "
            "of shape (n_samples, n_labels) if the model has several labels a row."
        )
    return np.asarray(classes)


def indicator_of(y: Any, classes: Any) -> BoolArray:
    """Return which class each row has, one column a class.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Classes of rows.
    classes : ndarray of shape (n_classes,)
        All that the model knows.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        One True a row.
    """
    indicator = np.asarray(y)[:, None] == np.asarray(classes)[None, :]
    unknown = ~indicator.any(axis=1)
    if unknown.any():
        raise ValueError(
            f"y holds classes {np.unique(np.asarray(y)[unknown]).tolist()} that the "
            "estimator was not trained on: it gives them no probability. Train on "
            "every class, with more rows or a smaller calibration_size."
        )
    return np.asarray(indicator)


def default_thresholds() -> FloatArray:
    """Return the thresholds that are tried unless others are given.

    Steps of 0.001 over (0, 1), finer by factors towards both ends, 0 and 1 included:
    rare labels and overconfident models need the ends.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        Strictly increasing.
    """
    tail = np.geomspace(1e-6, 1e-3, 100)[:-1]
    middle = np.arange(1, 1000) / 1000
    return np.concatenate([[0.0], tail, middle, 1 - tail[::-1], [1.0]])


def check_thresholds(thresholds: Any) -> FloatArray:
    """Return thresholds in strictly increasing order.

    Parameters
    ----------
    thresholds : array-like of shape (n_thresholds,) or None
        Numbers in any order; None for the default ones.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        Sorted, without repetition.
    """
    if thresholds is None:
        return default_thresholds()
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            "thresholds must be a non-empty 1-D sequence of finite numbers, the "
            f"smallest probability of a label in the set, got {thresholds!r}."
        )
    return np.unique(values)
