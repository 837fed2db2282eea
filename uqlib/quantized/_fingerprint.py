"""Recognize rows that a quantization was calibrated on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Fingerprints = NDArray[np.uint64] | None
# Odd multipliers make the map of 64-bit words one to one (xorshift-multiply).
_MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


def row_fingerprints(X: Any) -> Fingerprints:
    """Return a number for each different row.

    Parameters
    ----------
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    ndarray of shape (n_different,) or None
        Sorted; None where rows are not of numbers, so that nothing is recognized.
    """
    words = _words(X)
    return None if words is None else np.unique(_hashed(words))


def share_seen(fingerprints: Fingerprints, X: Any) -> float:
    """Return the share of rows whose fingerprint is among some.

    Parameters
    ----------
    fingerprints : ndarray or None
        As `row_fingerprints` gives them.
    X : array-like or dataframe of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    float
        Between 0 and 1; 0 where rows cannot be recognized.
    """
    words = _words(X)
    if fingerprints is None or words is None or not len(words):
        return 0.0
    return float(np.mean(np.isin(_hashed(words), fingerprints)))


def _words(X: Any) -> NDArray[np.uint64] | None:
    try:
        values = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if values.ndim < 2 or 0 in values.shape:
        return None
    # In single precision, so that rows are the same in either; -0.0 + 0.0 is 0.0.
    with np.errstate(over="ignore"):
        flat = values.reshape(len(values), -1).astype(np.float32) + np.float32(0)
    return flat.view(np.uint32).astype(np.uint64)


def _hashed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = np.full(len(words), words.shape[1], dtype=np.uint64)
    for column in words.T:
        state = state ^ column
        for multiplier in _MULTIPLIERS:
            state = (state ^ (state >> _SHIFT)) * np.uint64(multiplier)
        state = state ^ (state >> _SHIFT)
    return state
