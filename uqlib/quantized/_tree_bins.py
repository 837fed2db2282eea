r"""Thresholds as integers, without any rounding.

With the thresholds t_0 < ... < t_{m-1} of a column let

    bin(x) = #{k : t_k < x} .

Then x <= t_k if and only if bin(x) <= k: if x <= t_k, none of t_k, ..., t_{m-1} is
below x, so at most k are; otherwise t_0, ..., t_k all are. Every comparison becomes one
of integers below m + 1. The other comparisons reduce to this one:

- for x in single precision, x <= t if and only if x <= the largest such number up to t;
- for such x, x < t if and only if x <= the largest such number below t.

A missing value gets the bin m, above every node, where it goes right, and 0, below or
equal to every node, where it goes left. A feature whose missing values go left at some
nodes and right at others has two columns. Bin m is not that of infinity, for a node may
compare with an infinite threshold: all but missing values go left there.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._trees import (
    LEFT,
    ZERO,
    ZERO_LEFT,
    ZERO_RIGHT,
    BinColumns,
    Bins,
    TreeEnsemble,
)


def float32_floor(thresholds: FloatArray) -> NDArray[np.float32]:
    """Return the largest single-precision numbers that are not larger.

    Parameters
    ----------
    thresholds : ndarray of shape (n_thresholds,)
        No NaN.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        float32.
    """
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
    above = nearest.astype(np.float64) > thresholds
    nearest[above] = float32_below(nearest[above])
    return nearest


def float32_below(thresholds: FloatArray) -> NDArray[np.float32]:
    """Return the largest numbers below numbers in single precision.

    Parameters
    ----------
    thresholds : ndarray of shape (n_thresholds,)
        float32.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        float32.
    """
    # The next number below +-0 is the negative subnormal one.
    with np.errstate(over="ignore"):
        return np.nextafter(thresholds, np.float32(-np.inf), dtype=np.float32)


def bin_columns(ensemble: TreeEnsemble, X: object) -> Bins:
    """Return the bins of X.

    Parameters
    ----------
    ensemble : TreeEnsemble
        The trees.
    X : array-like of shape (n_samples, n_features)
        What the original model takes.

    Returns
    -------
    ndarray of shape (n_columns, n_samples)
        Every column is contiguous; uint8, or uint16 if a column has more than 255
        thresholds.
    """
    return bins_of(ensemble.columns, ensemble.inputs.read(X))


def bins_of(columns: BinColumns, values: FloatArray) -> Bins:
    """Return the bins of numbers.

    Parameters
    ----------
    columns : BinColumns
        What the bins are.
    values : ndarray of shape (n_samples, n_features)
        As `TreeInputs.read` gives them.

    Returns
    -------
    ndarray of shape (n_columns, n_samples)
        uint8 or uint16.
    """
    bins = np.empty((columns.n_columns, len(values)), dtype=columns.bin_dtype)
    for column, feature in enumerate(columns.feature):
        missing = int(columns.missing[column])
        if columns.table(column).size:
            bins[column] = _category_bins(
                values[:, feature], columns.table(column), missing
            )
        else:
            bins[column] = _number_bins(
                values[:, feature], columns.numbers(column), missing
            )
    return bins


def _number_bins(
    x: FloatArray, thresholds: FloatArray, missing: int
) -> NDArray[np.int64]:
    """Return bin(x) of numbers in the type of the thresholds."""
    bins = np.searchsorted(thresholds, x, side="left")
    is_missing = np.isnan(x)
    if missing in (ZERO_LEFT, ZERO_RIGHT):
        is_missing |= x == 0
    bins[is_missing] = thresholds.size
    if missing in (LEFT, ZERO_LEFT):
        bins[is_missing] = 0
    elif missing == ZERO:
        zero = thresholds.dtype.type(0)
        bins[is_missing] = np.searchsorted(thresholds, zero, side="left")
    return bins.astype(np.int64, copy=False)


def _category_bins(
    x: FloatArray, table: NDArray[np.uint8], missing: int
) -> NDArray[np.uint8]:
    """Return 0 for categories that go left and 1 for those that go right."""
    known = (x > -1) & (x < table.size)  # numbers are cut off toward 0; NaN is unknown
    bins = np.full(x.shape, 0 if missing == LEFT else 1, dtype=np.uint8)
    bins[known] = table[x[known].astype(np.int64)]
    return bins
