"""Losses and uncertainties of the rows of a fitted model, for pictures of them."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import _num_samples

from uqlib._class_predictions import model_classes, predict_proba
from uqlib._core.checks import as_1d, check_rows, check_target
from uqlib._core.interval_ties import tied_widths
from uqlib._predictions import (
    gives_intervals,
    gives_uncertainty,
    predict_interval,
    predict_point,
    predict_quantiles,
    predict_uncertainty,
    uncertainty_field,
)
from uqlib._typing import ArrayLike, FloatArray


class RowLosses(NamedTuple):
    """Losses of shape (n_samples,), and what they are."""

    values: Any
    name: str


def classifies(estimator: Any) -> bool:
    """Return whether a model, ours or not, is a classifier."""
    if hasattr(estimator, "__sklearn_tags__"):
        return bool(is_classifier(estimator))
    return hasattr(estimator, "predict_proba")


def row_losses(estimator: Any, X: Any, y: ArrayLike) -> RowLosses:
    """Return which labels are wrong, or the absolute errors of the predictions."""
    if classifies(estimator):
        return RowLosses(_wrong_labels(estimator, X, y), "0/1 error")
    target = check_target(y, name="y")
    point = predict_point(estimator, X)
    check_rows(point.size, target.size, "y", "X")
    return RowLosses(np.abs(target - point), "absolute error")


def row_uncertainty(estimator: Any, X: Any, uncertainty: Any) -> FloatArray:
    """Return the uncertainty that was given, named, or that the model has."""
    if isinstance(uncertainty, str):
        return _field(estimator, X, uncertainty)
    if uncertainty is not None:
        values = as_1d(uncertainty, "uncertainty")
        check_rows(_num_samples(X), values.size, "uncertainty", "X")
        return values
    if classifies(estimator):
        return _class_uncertainty(estimator, X)
    return _interval_width(estimator, X)


def _wrong_labels(estimator: Any, X: Any, y: ArrayLike) -> Any:
    predicted, labels = np.asarray(estimator.predict(X)), np.asarray(y)
    for values, name in ((predicted, "the prediction"), (labels, "y")):
        if values.ndim != 1:
            raise ValueError(
                f"{name} must have shape (n_samples,), one label a row, got shape "
                f"{values.shape}. For several labels a row pass losses= and "
                "uncertainty=."
            )
    check_rows(predicted.size, labels.size, "y", "X")
    # As objects, so that labels of different kinds differ instead of raising.
    return predicted.astype(object) != labels.astype(object)


def _class_uncertainty(estimator: Any, X: Any) -> FloatArray:
    if hasattr(estimator, "predict_proba"):
        proba = predict_proba(estimator, X, model_classes(estimator))
        # In the order of 1 - max, which would round small differences away.
        return -proba.max(axis=1).astype(np.float64)
    if gives_uncertainty(estimator):
        return _field(estimator, X, "epistemic")
    raise ValueError(
        f"{type(estimator).__name__} has neither predict_proba nor "
        "predict_uncertainty. Pass uncertainty= with one number a row."
    )


def _interval_width(estimator: Any, X: Any) -> FloatArray:
    if gives_intervals(estimator):
        return tied_widths(predict_interval(estimator, X))
    if gives_uncertainty(estimator):
        return _field(estimator, X, "epistemic")
    try:
        values, levels = predict_quantiles(estimator, X)
    except ValueError as error:
        raise ValueError(
            f"{type(estimator).__name__} gives neither intervals, nor quantiles, nor "
            "predict_uncertainty. Pass uncertainty= with one number a row, or wrap it "
            "in a calibrator, as SplitConformalRegressor, or in SPARegressor."
        ) from error
    if levels.size == 1:
        raise ValueError(
            f"{type(estimator).__name__} gives the one quantile level "
            f"{levels.tolist()}, which has no width. Pass a model of several levels, "
            "or uncertainty= with one number a row."
        )
    return tied_widths(np.column_stack([values.min(axis=1), values.max(axis=1)]))


def _field(estimator: Any, X: Any, name: str) -> FloatArray:
    fields = predict_uncertainty(estimator, X)
    return uncertainty_field(fields, name, _num_samples(X))
