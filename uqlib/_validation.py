"""Checks that estimators share. X belongs to the wrapped model; y must be finite."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    column_or_1d,
    get_tags,
    indexable,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, validate_data

from uqlib._core.checks import check_not_a_date, check_quantile_matrix
from uqlib._core.group_ranks import is_missing
from uqlib._typing import FloatArray


def check_X(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Record or compare the features of X and leave its values to the wrapped model.

    Parameters
    ----------
    estimator : estimator
        The estimator that holds `n_features_in_`.
    X : array-like or dataframe of shape (n_samples, n_features)
        Anything that the wrapped model takes, missing values and strings included.
    reset : bool
        True in fit, False afterwards.

    Returns
    -------
    X
        The same object, made indexable by rows if it was not.
    """
    if isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "fiub":
        check_array(X)  # raises scikit-learn's own advice on reshaping
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    return indexable(X)[0]


def check_X_y(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[Any, FloatArray]:
    """Check what a fit or a calibration needs: a finite 1-D y over the rows of X.

    Parameters
    ----------
    estimator : estimator
        The estimator that holds `n_features_in_`.
    X : array-like or dataframe of shape (n_samples, n_features)
        Left as it is.
    y : array-like of shape (n_samples,)
        The target.
    reset : bool
        True in fit, False in calibrate.

    Returns
    -------
    X, y
        The same X, and y as a float64 array.
    """
    X = check_X(estimator, X, reset=reset)
    check_given(estimator, X, y)
    check_not_a_date(y, "y")
    y = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
    y = np.asarray(column_or_1d(y, warn=True), dtype=np.float64)
    check_consistent_length(X, y)
    return X, y


def check_X_labels(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
    """Check what a fit or a calibration of a classifier needs: 1-D labels over X.

    Parameters
    ----------
    estimator : estimator
        The estimator that holds `n_features_in_`.
    X : array-like or dataframe of shape (n_samples, n_features)
        Left as it is.
    y : array-like of shape (n_samples,)
        Labels, none of them missing.
    reset : bool
        True in fit, False in calibrate.

    Returns
    -------
    X, y
        The same X, and y as an array.
    """
    X = check_X(estimator, X, reset=reset)
    check_given(estimator, X, y)
    check_no_missing_label(y)
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    check_consistent_length(X, y)
    return X, y


def check_no_missing_label(y: Any) -> None:
    """Refuse missing labels: None and pandas.NA have no order, NaT would be a class.

    Parameters
    ----------
    y : array-like
        Labels.
    """
    values = np.asarray(y).ravel()
    if values.dtype.kind not in "OmM":
        return  # strings are never missing, numbers are checked elsewhere
    missing = np.array([is_missing(value) for value in values], dtype=bool)
    if missing.any():
        raise ValueError(
            f"Input y contains NaN or another missing label in {missing.sum()} rows. "
            "Remove those rows, or give them a label of their own."
        )


def check_given(estimator: Any, X: Any, y: Any) -> None:
    """Refuse a target that is None, and no rows at all.

    Parameters
    ----------
    estimator : estimator
        Named in the error.
    X : array-like of shape (n_samples, n_features)
        The rows.
    y : object
        The target, looked at for None alone.
    """
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but "
            "the target y is None."
        )
    check_some_rows(estimator, X)


def check_some_rows(estimator: Any, X: Any) -> None:
    """Refuse no rows at all.

    Parameters
    ----------
    estimator : estimator
        Named in the error.
    X : array-like of shape (n_samples, n_features)
        The rows.
    """
    if _num_samples(X) == 0:
        raise ValueError(
            "Found array with 0 sample(s) while a minimum of 1 is required by "
            f"{type(estimator).__name__}."
        )


def check_quantile_input(estimator: Any, X: Any, *, reset: bool) -> FloatArray:
    """Check a quantile matrix that arrives as the X of a transformer.

    Parameters
    ----------
    estimator : estimator
        The transformer.
    X : array-like or dataframe of shape (n_samples, n_quantiles)
        The matrix; infinities are legal, NaN is not.
    reset : bool
        True in fit, False in transform.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The matrix, float32 or float64.
    """
    X = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[np.float64, np.float32],
        ensure_all_finite=False,
    )
    return check_quantile_matrix(X, name="Input X")


def check_calibration_size(calibration_size: Any, n_samples: int) -> int:
    """Return the number of calibration rows, or say what is wrong.

    Parameters
    ----------
    calibration_size : float or int
        A share strictly between 0 and 1, or a number of rows from 1 to
        n_samples - 1.
    n_samples : int
        The number of rows to split.

    Returns
    -------
    int
        The number of rows held out for calibration, rounded up.
    """
    if isinstance(calibration_size, bool) or not isinstance(calibration_size, Real):
        raise TypeError(
            "calibration_size must be a share of the rows (float) or a number of rows "
            f"(int), got {calibration_size!r}."
        )
    if isinstance(calibration_size, Integral):
        n_calibration = int(calibration_size)
    elif 0 < calibration_size < 1:
        n_calibration = int(np.ceil(float(calibration_size) * n_samples))
    else:
        raise ValueError(
            "calibration_size as a float must lie strictly between 0 and 1, got "
            f"{calibration_size!r}. Pass an int for a number of rows."
        )
    if not 0 < n_calibration < n_samples:
        raise ValueError(
            f"With n_samples={n_samples}, calibration_size={calibration_size!r} leaves "
            f"{n_samples - n_calibration} rows to train and {n_calibration} to "
            "calibrate: both must be at least 1."
        )
    return n_calibration


def check_finite_predictions(values: FloatArray, source: Any) -> FloatArray:
    """Refuse NaN in what a wrapped model predicted.

    Parameters
    ----------
    values : ndarray
        Predictions.
    source : object
        The model that gave them, for the error.

    Returns
    -------
    ndarray
        The same values.
    """
    if np.isnan(values).any():
        raise ValueError(
            f"{type(source).__name__} predicted NaN: no interval can be built on it. "
            "Check its training data and parameters."
        )
    return values


def with_input_tags(tags: Any, estimators: list[Any]) -> Any:
    """Return tags that say of X what all wrapped models say of it.

    Parameters
    ----------
    tags : sklearn.utils.Tags
        The tags of the wrapper.
    estimators : list
        The wrapped models.

    Returns
    -------
    sklearn.utils.Tags
        The same tags, changed.
    """
    inner = [get_tags(estimator).input_tags for estimator in estimators]
    for name in ("allow_nan", "sparse", "string", "categorical"):
        setattr(tags.input_tags, name, all(getattr(tag, name) for tag in inner))
    return tags
