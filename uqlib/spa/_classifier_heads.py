"""The regressors that learn the residuals of class probabilities."""

from typing import Any

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.validation import _num_samples

from uqlib._fitting import clone_and_fit
from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user
from uqlib.spa._residuals import INTERPOLATION


def fit_heads(
    head: Any, X: Any, proba: FloatArray, columns: Any, weight: FloatArray | None
) -> dict[str, list[Any]]:
    """Fit the three means of the residuals, each on all rows.

    Parameters
    ----------
    head : estimator
        Regressor, never changed.
    X : array-like of shape (n_samples, n_features)
        Rows on which the classifier was judged.
    proba : ndarray of shape (n_samples, n_classes)
        Its probabilities.
    columns : ndarray of shape (n_samples,)
        The column of each label.
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows.

    Returns
    -------
    dict of list of estimators
        For each mean one model of all columns, or one model a column.
    """
    # Of two classes the second is enough: the up side of one is the down side of the
    # other.
    first = 1 if proba.shape[1] == 2 else 0
    p = np.asarray(proba, dtype=np.float64)[:, first:]
    label = (columns[:, None] == np.arange(first, proba.shape[1])).astype(np.float64)
    targets = {
        "mar": np.abs(label - p),
        "side_up": label * (1 - p),
        "side_down": (1 - label) * p,
    }
    together = get_tags(head).target_tags.multi_output and p.shape[1] > 1
    return {
        name: [
            clone_and_fit(head, X, part, weight)
            for part in ([target] if together else target.T)
        ]
        for name, target in targets.items()
    }


def predict_heads(
    heads: dict[str, list[Any]], X: Any, proba: FloatArray
) -> dict[str, FloatArray]:
    """Return the three means of each class, in the range that such means have.

    Parameters
    ----------
    heads : dict of list of estimators
        As `fit_heads` returns them.
    X : array-like of shape (n_samples, n_features)
        Rows.
    proba : ndarray of shape (n_samples, n_classes)
        The probabilities of the classifier there.

    Returns
    -------
    dict of ndarray of shape (n_samples, n_classes)
        "mar", "side_up" and "side_down".
    """
    n_classes = proba.shape[1]
    n_columns = 1 if n_classes == 2 else n_classes
    mar, up, down = (
        _predict_columns(heads[name], X, n_columns)
        for name in ("mar", "side_up", "side_down")
    )
    if n_classes == 2:
        mar = np.concatenate([mar, mar], axis=1)
        up, down = (
            np.concatenate([down, up], axis=1),
            np.concatenate([up, down], axis=1),
        )
    # Given x, u+ = pi (1 - p) and u- = (1 - pi) p for some pi in [0, 1].
    p = np.asarray(proba, dtype=np.float64)
    return {
        "mar": np.clip(mar, 0.0, 1.0),
        "side_up": np.clip(up, 0.0, np.maximum(1 - p, 0.0)),
        "side_down": np.clip(down, 0.0, p),
    }


def _predict_columns(models: list[Any], X: Any, n_columns: int) -> FloatArray:
    """Return what the models of one mean predict, shape (n_samples, n_columns)."""
    shape = (_num_samples(X), n_columns // len(models))
    parts = []
    for model in models:
        values = np.asarray(model.predict(X), dtype=np.float64)
        if values.size != shape[0] * shape[1]:
            raise ValueError(
                f"mar_estimator: {type(model).__name__} predicted an array of shape "
                f"{values.shape}, but {shape} is needed: one value for each row and "
                "target. Use a regressor that predicts as many targets as it is "
                "fitted to."
            )
        if np.isnan(values).any():
            raise ValueError(
                f"mar_estimator: {type(model).__name__} predicted NaN, not the "
                "mean of a residual. Check its training data and parameters."
            )
        parts.append(values.reshape(shape))
    return np.concatenate(parts, axis=1)


def warn_if_interpolating(model: Any, proba: FloatArray, columns: Any) -> None:
    """Warn that the residuals of training rows say nothing of new rows.

    Parameters
    ----------
    model : classifier
        Named in the warning.
    proba : ndarray of shape (n_samples, n_classes)
        Its probabilities on the rows that it was trained on.
    columns : ndarray of shape (n_samples,)
        The column of each label.
    """
    # Of rows that sum to one, sum_k |1{y = k} - p_k| is 2 (1 - p_y).
    left = float(np.mean(1 - proba[np.arange(columns.size), columns]))
    share = np.bincount(columns) / columns.size
    spread = float(np.sum(share * (1 - share)))  # what p = share would leave
    if spread > 0 and left <= INTERPOLATION * spread:
        warn_user(
            f"{type(model).__name__} gives the right label a probability of 1 on "
            "nearly all rows that it was trained on: its residuals there say nothing "
            "of new rows. Use residuals='oof' or residuals='holdout'.",
            UncertaintyWarning,
        )
