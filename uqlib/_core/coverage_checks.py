"""Checks of what coverage is counted from: intervals, prediction sets, booleans."""

from typing import Any

import numpy as np

from uqlib._core.checks import check_no_nan, check_rows
from uqlib._typing import BoolArray, FloatArray


def check_interval(y_interval: Any, n_samples: int | None) -> FloatArray:
    """Return float64 intervals without NaN and crossed ends, or say what is wrong."""
    interval = np.asarray(y_interval, dtype=np.float64)
    if interval.ndim != 2 or interval.shape[1] != 2:
        raise ValueError(
            "y_interval must have shape (n_samples, 2) with columns lower and upper, "
            f"got shape {interval.shape}."
        )
    expected = interval.shape[0] if n_samples is None else n_samples
    reference = "y_interval" if n_samples is None else "y_true"
    check_rows(expected, interval.shape[0], "y_interval", reference)
    check_no_nan(interval, "y_interval")
    crossed = int(np.sum(interval[:, 0] > interval[:, 1]))
    if crossed:
        raise ValueError(
            f"y_interval has lower > upper in {crossed} of {interval.shape[0]} rows. "
            "Order the columns as lower, upper; sort_quantiles(y_interval) exchanges "
            "ends that crossed."
        )
    return interval


def check_covered(covered: Any, n_samples: int | None = None) -> BoolArray:
    """Return which rows are covered as a boolean array, or say what is wrong.

    Parameters
    ----------
    covered : array-like of shape (n_samples,)
        Booleans.
    n_samples : int, default=None
        The number of rows of `X`; None leaves it open.

    Returns
    -------
    ndarray of shape (n_samples,)
        The same as booleans, at least one.
    """
    inside = _as_bool(covered, "covered")
    if inside.ndim != 1:
        raise ValueError(
            f"covered must have shape (n_samples,), got shape {inside.shape}. Flatten "
            "a column with covered.ravel()."
        )
    if n_samples is None:
        check_rows(inside.size, inside.size, "covered", "covered")
    else:
        check_rows(n_samples, inside.size, "covered", "X")
    return inside


def check_sets(y_set: Any) -> BoolArray:
    """Return prediction sets as a boolean matrix, or say what is wrong.

    Parameters
    ----------
    y_set : array-like of shape (n_samples, n_classes)
        Booleans.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        The same as booleans, at least one row and one column.
    """
    sets = _as_bool(y_set, "y_set")
    if sets.ndim != 2 or sets.shape[1] == 0:
        raise ValueError(
            "y_set must have shape (n_samples, n_classes) with one column for each "
            f"class, got shape {sets.shape}."
        )
    check_rows(len(sets), len(sets), "y_set", "y_set")
    return sets


def _as_bool(values: Any, name: str) -> BoolArray:
    array = np.asarray(values)
    if array.size == 0:  # an empty list has no type of its own
        return array.astype(np.bool_)
    # Nullable booleans of pandas arrive as objects.
    if array.dtype == object and all(
        isinstance(v, bool | np.bool_) for v in array.flat
    ):
        array = array.astype(np.bool_)
    if array.dtype != np.bool_:
        raise TypeError(
            f"{name} must be boolean without missing values, got dtype {array.dtype}. "
            f"Where 1 stands for True and 0 for False pass {name}.astype(bool)."
        )
    return array
