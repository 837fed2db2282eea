"""The door to predictions of classifiers that need not be ours: sets, probabilities.

Points, quantiles, intervals and all else of any model are in `_predictions`.
"""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _num_samples

from uqlib._core.group_ranks import list_labels
from uqlib._core.label_checks import check_proba
from uqlib._core.multilabel_losses import check_label_proba
from uqlib._predictions import given, innermost, taken
from uqlib._typing import BoolArray, FloatArray


class SetPrediction(NamedTuple):
    """Booleans (n_samples, n_classes) and the classes of the columns (n_classes,)."""

    values: BoolArray
    classes: Any


def predict_set(
    estimator: Any,
    X: Any,
    confidence_level: float | None = None,
    **conditions: Any,
) -> SetPrediction:
    """Return the prediction sets of a fitted classifier.

    Parameters
    ----------
    estimator : object
        A model with `predict_set` and `classes_`, or a pipeline, search object or
        frozen estimator around one.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.
    confidence_level : float, default=None
        Coverage; None takes the model's own.
    **conditions : dict
        More about the rows, as `mondrian_groups` and `likelihood_ratio`, for the method
        `predict_set` of the innermost model; None stands for nothing.

    Returns
    -------
    SetPrediction
        Which classes are in the set of each row, and the classes of the columns.
    """
    inner, X = innermost(estimator, X, "predict_set")
    name = type(inner).__name__
    if not hasattr(inner, "predict_set"):
        raise ValueError(
            f"{name} has no predict_set. Wrap the classifier in ConformalClassifier, "
            "or pass a model with predict_set."
        )
    arguments = given({"confidence_level": confidence_level, **conditions})
    found = inner.predict_set(X, **taken(inner, "predict_set", arguments))
    classes = model_classes(inner, "predict_set")
    # Some libraries give labels and sets together, which are no array.
    sets = np.asarray(None if isinstance(found, tuple) else found)
    expected = _num_samples(X), classes.size
    if sets.dtype != np.bool_ or sets.shape != expected:
        raise ValueError(
            f"{name}.predict_set gave a {type(found).__name__} of type {sets.dtype} "
            f"and shape {sets.shape}: it must give booleans of shape {expected}, a row "
            "for each row of X and a column for each of classes_."
        )
    return SetPrediction(sets, classes)


def predict_proba(model: Any, X: Any, classes: Any) -> FloatArray:
    """Return class probabilities of a fitted classifier, one column a class.

    Parameters
    ----------
    model : classifier
        Fitted, with `predict_proba` and `classes_`.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.
    classes : ndarray of shape (n_classes,)
        The classes in the order of the columns; one that the model was not trained on
        has the probability 0.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Rows sum to 1.
    """
    name = type(model).__name__
    if not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{name} has no predict_proba, from which the scores of labels are "
            "computed. Wrap it in sklearn.calibration.CalibratedClassifierCV, or use "
            "a classifier with probabilities."
        )
    own = model_classes(model)
    proba = check_proba(model.predict_proba(X), f"{name}.predict_proba(X)")
    if proba.shape != (_num_samples(X), own.size):
        raise ValueError(
            f"{name}.predict_proba gave an array of shape {proba.shape} for "
            f"{_num_samples(X)} rows and {own.size} classes: it must give one row for "
            "each row and one column for each class."
        )
    if np.array_equal(own, classes):
        return proba
    aligned = np.zeros((len(proba), len(classes)), dtype=proba.dtype)
    aligned[:, label_columns(own, classes)] = proba
    return aligned


def predict_label_proba(model: Any, X: Any, n_labels: int | None = None) -> FloatArray:
    """Return the probability of each label, however a classifier gives it.

    Parameters
    ----------
    model : classifier
        Fitted, with `predict_proba`: an array with a column for each class or label, or
        a list of one array (n_samples, 2) for each label.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.
    n_labels : int, default=None
        The number of columns that there must be; None for any.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
        In [0, 1].
    """
    name = type(model).__name__
    if not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{name} has no predict_proba, which label sets are made of. Wrap it in "
            "sklearn.calibration.CalibratedClassifierCV or choose a classifier that "
            "gives probabilities."
        )
    proba = model.predict_proba(X)
    if isinstance(proba, list):
        pairs = zip(proba, model.classes_, strict=True)
        proba = np.column_stack([_positive_column(*pair) for pair in pairs])
    proba = check_label_proba(proba, f"the probabilities of {name}")
    if len(proba) != _num_samples(X) or n_labels not in (None, proba.shape[1]):
        raise ValueError(
            f"{name}.predict_proba gave shape {proba.shape}, but there are "
            f"{_num_samples(X)} rows and {n_labels} labels: one column a label is "
            "needed."
        )
    return proba


def model_classes(model: Any, method: str = "predict_proba") -> Any:
    """Return the classes of a fitted classifier.

    Parameters
    ----------
    model : classifier
        Fitted, of one target.
    method : str, default="predict_proba"
        The method whose columns they name, for the error.

    Returns
    -------
    ndarray of shape (n_classes,)
        Its `classes_`.
    """
    classes = getattr(model, "classes_", None)
    if classes is None or isinstance(classes, list):
        raise ValueError(
            f"{type(model).__name__} has no array classes_ that names the columns of "
            f"its {method}. Use a classifier of one target with classes_."
        )
    return np.asarray(classes)


def label_columns(y: Any, classes: Any) -> Any:
    """Return the position of each label among the classes, or say which has none.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels.
    classes : ndarray of shape (n_classes,)
        The classes that a model knows.

    Returns
    -------
    ndarray of shape (n_samples,)
        Columns.
    """
    position = {label: k for k, label in enumerate(classes.tolist())}
    labels, inverse = np.unique(y, return_inverse=True)
    columns = np.array([position.get(label, -1) for label in labels.tolist()])
    if (columns < 0).any():
        raise ValueError(
            f"y has labels that the estimator does not know: "
            f"{list_labels(labels[columns < 0])}; it knows {list_labels(classes)}. "
            "Leave such rows out of calibration, or fit an estimator on all classes."
        )
    return columns[inverse]


def _positive_column(proba: Any, classes: Any) -> FloatArray:
    """Return the probability of 1; a label that training saw once has one column."""
    proba, found = np.asarray(proba), np.flatnonzero(np.asarray(classes) == 1)
    return proba[:, found[0]] if found.size else np.zeros(len(proba))
