"""Checks of class probabilities and of what comes with them."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import ArrayLike, FloatArray

# Rows may sum to one up to this: half-precision probabilities do. Logits, percentages
# and probabilities that were not normalized do not.
SUM_TOLERANCE = 1e-3
_BLOCK = 2**17


def check_proba(proba: ArrayLike, name: str = "proba") -> FloatArray:
    """Return class probabilities, or say which row is none.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Must be finite, not negative, and sum to 1 a row up to `SUM_TOLERANCE`.
    name : str, default="proba"
        How the error calls them.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        The probabilities; float32 stays float32, all else becomes float64.
    """
    matrix = np.asarray(proba)
    if matrix.dtype != np.float32:
        matrix = np.asarray(matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (n_samples, n_classes) with at least one column, "
            f"got shape {matrix.shape}. Pass the probability of every class: for two "
            "classes both columns."
        )
    n_rows = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), n_rows):
        _check_block(matrix[start : start + n_rows], start, name)
    return matrix


def _check_block(block: FloatArray, start: int, name: str) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        total = block.sum(axis=1, dtype=np.float64)
    # NaN and infinity make the sum such, and fail both comparisons.
    valid = (block.min(axis=1) >= 0) & (np.abs(total - 1.0) <= SUM_TOLERANCE)
    if valid.all():
        return
    i = int(np.argmin(valid))
    if not np.isfinite(block[i]).all():
        problem, remedy = "contains NaN or infinity", "Remove such rows"
    elif block[i].min() < 0:
        problem = f"contains {block[i].min()!r}, a negative value"
        remedy = "Logits become probabilities by softmax"
    else:
        problem = f"sums to {total[i]:.9g}"
        remedy = "Divide rows by their sum: proba / proba.sum(axis=1, keepdims=True)"
    raise ValueError(
        f"{name} must hold probabilities, finite, at least 0 and with rows that sum to "
        f"1 within {SUM_TOLERANCE:g}, but row {start + i} {problem}. {remedy}."
    )


# A row must tie with its like among the calibration rows, but many models compute the
# last bits of a row by the number of rows that go with it: where few rows are distinct,
# a label at the threshold would be left out though all its likes are covered. Bits of a
# float are in the order of its size, so that one addition rounds the last 20 off. The
# floats of float32 are too few for that.
_DROPPED = 20


def nine_digits(values: FloatArray) -> FloatArray:
    """Return numbers of 33 significant bits, which are nine decimal digits.

    Parameters
    ----------
    values : ndarray
        Finite numbers.

    Returns
    -------
    ndarray
        Rounded, float64; float32 as it is.
    """
    if values.dtype == np.float32:
        return values
    bits = np.array(values, dtype=np.float64).view(np.int64)
    bits += 1 << (_DROPPED - 1)
    bits &= -(1 << _DROPPED)
    return bits.view(np.float64)


def check_columns(y: ArrayLike, proba: FloatArray) -> NDArray[np.intp]:
    """Return labels as columns of the probabilities, or say which is none.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Integers from 0 to n_classes - 1.
    proba : ndarray of shape (n_samples, n_classes)
        The probabilities.

    Returns
    -------
    ndarray of shape (n_samples,)
        The labels.
    """
    labels = np.asarray(y)
    n_samples, n_classes = proba.shape
    if labels.shape != (n_samples,):
        raise ValueError(
            f"y must have shape ({n_samples},), one label for each row of proba, got "
            f"shape {labels.shape}."
        )
    if labels.size and labels.dtype.kind not in "iub":
        raise ValueError(
            f"y must hold column indices of proba, integers from 0 to {n_classes - 1}, "
            f"got values of type {labels.dtype}. With other labels pass "
            "np.searchsorted(classes, y)."
        )
    out_of_range = (labels < 0) | (labels >= n_classes)
    if np.any(out_of_range):
        i = int(np.argmax(out_of_range))
        raise ValueError(
            f"y must hold column indices of proba, from 0 to {n_classes - 1}, got "
            f"{int(labels[i])} in row {i}. With other labels pass "
            "np.searchsorted(classes, y)."
        )
    return labels.astype(np.intp)


def check_uniforms(u: ArrayLike | None, n_samples: int) -> FloatArray:
    """Return the share of its own mass that counts for a label, one a row.

    Parameters
    ----------
    u : array-like of shape (n_samples,), float or None
        In [0, 1]; None stands for 1, the deterministic score.
    n_samples : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n_samples,)
        The shares.
    """
    share = _one_a_row(1.0 if u is None else u, n_samples, "u")
    if not np.all((share >= 0) & (share <= 1)):
        bad = share[~((share >= 0) & (share <= 1))][0]
        raise ValueError(
            f"u must lie in [0, 1], got {bad}. Draw it with rng.random(n_samples)."
        )
    return share


def check_threshold(threshold: ArrayLike, n_samples: int) -> FloatArray:
    """Return the threshold of each row.

    Parameters
    ----------
    threshold : array-like of shape (n_samples,) or float
        Without NaN; infinities are legal.
    n_samples : int
        Number of rows.

    Returns
    -------
    ndarray of shape (n_samples,)
        The thresholds.
    """
    values = _one_a_row(threshold, n_samples, "threshold")
    if np.isnan(values).any():
        raise ValueError(
            "threshold contains NaN. Infinite thresholds are legal, NaN is not."
        )
    return values


def check_rank_penalty(k_reg: Any, penalty: Any) -> tuple[int, float]:
    """Return the parameters of the rank penalty.

    Parameters
    ----------
    k_reg : int
        At least 0.
    penalty : float
        Finite, at least 0.

    Returns
    -------
    k_reg : int
        As given.
    penalty : float
        As given.
    """
    if isinstance(k_reg, bool) or not isinstance(k_reg, Integral) or k_reg < 0:
        raise ValueError(
            "k_reg must be an integer, the number >= 0 of ranks without penalty, got "
            f"{k_reg!r}."
        )
    return int(k_reg), check_not_negative(penalty, "penalty")


def check_not_negative(value: Any, name: str) -> float:
    """Return a finite number that is at least 0.

    Parameters
    ----------
    value : float
        The number.
    name : str
        How the error calls it.

    Returns
    -------
    float
        The number.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < np.inf:
        raise ValueError(
            f"{name} must be a finite number >= 0, got {value!r}: a score must not "
            "fall with the rank."
        )
    return float(value)


def _one_a_row(values: ArrayLike, n_samples: int, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim > 0 and array.shape != (n_samples,):
        raise ValueError(
            f"{name} must be a number or have shape ({n_samples},), one value a row, "
            f"got shape {array.shape}."
        )
    return np.broadcast_to(array, (n_samples,))
