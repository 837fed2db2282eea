"""Residuals that heads learn from: out of fold, held out, in sample, or of a model."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing

from uqlib._core.checks import check_target
from uqlib._fitting import (
    clone_and_fit,
    fit_each_fold,
    fit_rows,
    is_frozen,
    partition,
    shuffled_splitter,
)
from uqlib._predictions import predict_point
from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user

RESIDUALS = ("oof", "holdout", "train")
# A model that leaves less than this share of the spread of its target in sample
# interpolates: its residuals say nothing of new rows.
INTERPOLATION = 1e-3


class HeadRows(NamedTuple):
    """A fitted model, and residuals to learn from.

    `rows` are the numbers of the rows, None for all of them, that `residuals`, of shape
    (n_rows,), belong to.
    """

    model: Any
    rows: NDArray[np.intp] | None
    residuals: FloatArray


def residual_rows(
    estimator: Any,
    X: Any,
    y: FloatArray,
    weight: FloatArray | None,
    residuals: str,
    cv: Any,
    random_state: Any,
) -> HeadRows:
    """Fit a model and return residuals that heads may learn from.

    Parameters
    ----------
    estimator : estimator
        Never changed. All rows are residuals of a frozen one.
    X, y : array-like
        Training rows.
    weight : ndarray of shape (n_samples,) or None
        Their weights.
    residuals : {"oof", "holdout", "train"}
        Where they come from.
    cv : int, cross-validation splitter or iterable
        The folds.
    random_state : RandomState or None
        Draws the folds of an int.

    Returns
    -------
    HeadRows
        The model and the residuals.
    """
    if is_frozen(estimator):
        return _all_rows(estimator, X, y)
    if residuals == "train":
        fitted = _all_rows(clone_and_fit(estimator, X, y, weight), X, y)
        _warn_if_interpolating(fitted, y)
        return fitted
    splitter = shuffled_splitter(cv, random_state)
    if residuals == "holdout":
        return _held_out(estimator, X, y, weight, splitter)
    splits = partition(splitter, X, y)
    models = fit_each_fold(estimator, X, y, splits, weight)
    found = np.empty(y.size)
    for model, (_, test) in zip(models, splits, strict=True):
        found[test] = _residuals(model, _safe_indexing(X, test), y[test])
    return HeadRows(clone_and_fit(estimator, X, y, weight), None, found)


def _all_rows(model: Any, X: Any, y: FloatArray) -> HeadRows:
    return HeadRows(model, None, _residuals(model, X, y))


def _held_out(
    estimator: Any, X: Any, y: FloatArray, weight: FloatArray | None, splitter: Any
) -> HeadRows:
    train, test = next(iter(splitter.split(X, y)))
    if np.intersect1d(train, test).size or not len(test):
        raise ValueError(
            f"cv ({type(splitter).__name__}) must hold rows out in its first split: "
            f"{len(test)} test rows, {np.intersect1d(train, test).size} of them also "
            "trained on. Pass a number of folds or a splitter with separate parts."
        )
    model = fit_rows(estimator, X, y, train, weight)
    return HeadRows(model, test, _residuals(model, _safe_indexing(X, test), y[test]))


def _residuals(model: Any, X: Any, y: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        residuals = y - predict_point(model, X)
    return check_target(residuals, name=f"The residuals of {type(model).__name__}")


def _warn_if_interpolating(fitted: HeadRows, y: FloatArray) -> None:
    left, spread = np.abs(fitted.residuals).mean(), np.abs(y - y.mean()).mean()
    if spread > 0 and left <= INTERPOLATION * spread:
        warn_user(
            f"{type(fitted.model).__name__} leaves {left / spread:.1g} of the mean "
            "deviation of y on the rows that it was trained on: its residuals there "
            "say nothing of new rows. Use residuals='oof' or residuals='holdout'.",
            UncertaintyWarning,
        )
