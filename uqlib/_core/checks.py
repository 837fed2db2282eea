"""Checks of plain arrays and levels, shared by the whole mathematical core."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from uqlib._typing import ArrayLike, FloatArray


def check_quantile_matrix(
    y_quantiles: Any, n_quantiles: int | None = None, *, name: str = "y_quantiles"
) -> FloatArray:
    """Return a quantile matrix as a float32 or float64 array without NaN.

    Infinite values are legal: they are honest bounds.

    Parameters
    ----------
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        The matrix.
    n_quantiles : int, default=None
        The number of columns that it must have.
    name : str, default="y_quantiles"
        How the error calls it.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The matrix; float32 stays float32, all else becomes float64.
    """
    matrix = as_quantile_matrix(y_quantiles, n_quantiles, name=name)
    check_no_nan(matrix, name)
    return matrix


def as_quantile_matrix(
    y_quantiles: Any, n_quantiles: int | None = None, *, name: str = "y_quantiles"
) -> FloatArray:
    """Return a quantile matrix as `check_quantile_matrix` does, NaN not looked for.

    For callers that find NaN in what they compute, without a pass of its own.

    Parameters
    ----------
    y_quantiles : array-like of shape (n_samples, n_quantiles)
        The matrix.
    n_quantiles : int, default=None
        The number of columns that it must have.
    name : str, default="y_quantiles"
        How the error calls it.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The matrix; float32 stays float32, all else becomes float64.
    """
    matrix = np.asarray(y_quantiles)
    if matrix.dtype != np.float32:
        matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (n_samples, n_quantiles) with at least one "
            f"column, got shape {matrix.shape}. Reshape one row with "
            f"{name}.reshape(1, -1) and one level with {name}.reshape(-1, 1)."
        )
    if n_quantiles is not None and matrix.shape[1] != n_quantiles:
        raise ValueError(
            f"{name} has {matrix.shape[1]} columns but there are {n_quantiles} "
            "quantile levels: pass one level for each column."
        )
    return matrix


def check_no_nan(array: FloatArray, name: str) -> None:
    """Refuse NaN without allocating a boolean array.

    Parameters
    ----------
    array : ndarray
        Any floating-point array.
    name : str
        How the error calls it.
    """
    # min propagates NaN and, unlike a sum, cannot create one from infinities.
    if array.size and np.isnan(array.min()):
        raise ValueError(
            f"{name} contains NaN. Remove or impute those rows; infinite values are "
            "legal, NaN is not."
        )


def check_target(y: Any, *, name: str = "y_true") -> FloatArray:
    """Return a finite float64 target of shape (n_samples,).

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        The target. A column of shape (n_samples, 1) is an error, since it would
        broadcast to (n_samples, n_samples).
    name : str, default="y_true"
        How the error calls it.

    Returns
    -------
    ndarray of shape (n_samples,)
        The target.
    """
    check_not_a_date(y, name)
    target = np.asarray(y, dtype=np.float64)
    if target.ndim != 1:
        raise ValueError(
            f"{name} must have shape (n_samples,), got shape {target.shape}. "
            f"Flatten a column with {name}.ravel()."
        )
    # The extremes tell, without a boolean array.
    if target.size and not np.isfinite([target.min(), target.max()]).all():
        raise ValueError(
            f"{name} contains NaN or infinity. Remove those rows: every target must "
            "be finite."
        )
    return target


def check_not_a_date(y: Any, name: str) -> None:
    """Refuse dates and durations, whose missing value is a number to NumPy.

    Parameters
    ----------
    y : array-like
        The target.
    name : str
        How the error calls it.
    """
    kind = np.asarray(y).dtype.kind
    if kind in "mM":
        raise ValueError(
            f"{name} holds dates or durations. Convert it to numbers in a unit of your "
            "choice, and remove the missing ones."
        )


def check_sample_weight(sample_weight: Any, n_samples: int) -> FloatArray | None:
    """Return non-negative finite weights with a positive sum, or None.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,) or None
        One weight a row.
    n_samples : int
        The number of rows.

    Returns
    -------
    ndarray of shape (n_samples,) or None
        The weights; None stands for equal ones.
    """
    if sample_weight is None:
        return None
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must have shape ({n_samples},), one weight a row, got "
            f"shape {weight.shape}."
        )
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not np.isfinite(total) or np.any(weight < 0) or total <= 0:
        raise ValueError(
            "sample_weight must be finite and non-negative with at least one non-zero "
            f"weight, got values from {weight.min()} to {weight.max()}."
        )
    return weight


def check_rows(n_expected: int, n_received: int, name: str, reference: str) -> None:
    """Refuse two arrays with different numbers of rows, and empty ones.

    Parameters
    ----------
    n_expected, n_received : int
        Numbers of rows of the reference and of the checked array.
    name, reference : str
        How the error calls them.
    """
    if n_received != n_expected:
        raise ValueError(
            f"{name} has {n_received} rows but {reference} has {n_expected}: pass "
            "arrays over the same rows."
        )
    if n_expected == 0:
        raise ValueError(f"{reference} is empty: at least one row is needed.")


def as_1d(values: ArrayLike, name: str) -> FloatArray:
    """Return a 1-D float64 array without NaN.

    Parameters
    ----------
    values : array-like of shape (n,)
        Numbers, infinities included.
    name : str
        How the error calls them.

    Returns
    -------
    ndarray of shape (n,)
        The values.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be 1-D, got an array of shape {array.shape}. Flatten a "
            "column with .ravel()."
        )
    check_no_nan(array, name)
    return array


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse a value that is none of those allowed.

    Parameters
    ----------
    name : str
        The parameter.
    value : object
        What was passed for it.
    allowed : sequence
        What it may be.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}.")
