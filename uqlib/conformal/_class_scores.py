"""Scores that rank rows by how likely each class is, from any classifier."""

from typing import Any

import numpy as np
from sklearn.utils.validation import _num_samples

from uqlib._class_predictions import label_columns, model_classes, predict_proba
from uqlib._core.label_checks import nine_digits
from uqlib._fitting import is_frozen
from uqlib._typing import FloatArray
from uqlib._validation import check_finite_predictions


def class_scores(model: Any, X: Any, classes: Any) -> FloatArray:
    """Return one column of scores for each class; of two, for the second alone.

    Two classes that the model knows are scored by `decision_function` where there is
    one, more by the log odds of `predict_proba`. A class that it does not know has the
    same score everywhere.
    """
    if is_frozen(model):
        model = model.estimator  # errors name what was frozen
    known = model_classes(model)
    methods = ["decision_function", "predict_proba"]
    if known.size > 2:
        methods.reverse()
    method = next((name for name in methods if hasattr(model, name)), None)
    if method is None:
        raise TypeError(
            f"{type(model).__name__} has neither decision_function nor predict_proba: "
            "it gives no scores to calibrate. Choose a classifier that has one."
        )
    if method == "predict_proba":
        scores = _log_odds(predict_proba(model, X, classes))
    else:
        scores = np.zeros((_num_samples(X), classes.size))
        scores[:, label_columns(known, classes)] = _decisions(model, X, known.size)
    return _rounded(scores[:, 1:] if classes.size == 2 else scores)


def _decisions(model: Any, X: Any, n_classes: int) -> FloatArray:
    scores = np.asarray(model.decision_function(X), dtype=np.float64)
    check_finite_predictions(scores, model)
    if scores.ndim == 1 and n_classes <= 2:
        return np.column_stack([-scores, scores])[:, -n_classes:]
    if scores.shape != (_num_samples(X), n_classes):
        raise ValueError(
            f"{type(model).__name__}.decision_function gave an array of shape "
            f"{scores.shape} for {_num_samples(X)} rows and {n_classes} classes: it "
            "must have one column a class. Choose one class against the rest, or a "
            "classifier with predict_proba."
        )
    return scores


def _log_odds(proba: FloatArray) -> FloatArray:
    """Return log(p_k / sum of the others): increasing in p_k, and fine near 1 too."""
    proba = proba.astype(np.float64)
    before, after = np.zeros((2, *proba.shape))
    np.cumsum(proba[:, :-1], axis=1, out=before[:, 1:])
    np.cumsum(proba[:, :0:-1], axis=1, out=after[:, -2::-1])
    with np.errstate(divide="ignore"):
        return np.log(proba) - np.log(before + after)


def _rounded(scores: FloatArray) -> FloatArray:
    """Return scores of nine digits; infinite ones become the largest there are."""
    largest = np.finfo(np.float64).max / 2
    return nine_digits(np.clip(scores, -largest, largest))
