r"""Coverage by group, and the strata of interval widths and set sizes.

With weights w_i and the share c of the weight of a group that is covered, the standard
error is that of a weighted mean of independent rows,

    se^2 = sum w_i^2 (1{covered} - c)^2 / (sum w_i)^2 ,

which is c (1 - c) / n where all weights are equal.
"""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import as_1d, check_rows
from uqlib._typing import BoolArray, FloatArray


class Shares(NamedTuple):
    """Coverage of several groups of rows."""

    coverage: FloatArray
    standard_error: FloatArray
    n_samples: NDArray[np.intp]


def shares_by_code(
    covered: BoolArray,
    codes: NDArray[np.intp],
    n_groups: int,
    weight: FloatArray | None,
) -> Shares:
    """Return the coverage of each group.

    Parameters
    ----------
    covered : ndarray of shape (n_samples,)
        Which rows are covered.
    codes : ndarray of shape (n_samples,)
        The group of each row, from 0 to n_groups - 1. None is empty.
    n_groups : int
        The number of groups.
    weight : ndarray of shape (n_samples,) or None
        Positive weights.

    Returns
    -------
    Shares
        Coverage, standard error and number of rows of each group.
    """
    rows = np.bincount(codes, minlength=n_groups)
    if weight is None:
        share = np.bincount(codes[covered], minlength=n_groups) / rows
        return Shares(share, np.sqrt(share * (1 - share) / rows), rows)
    largest = np.zeros(n_groups)
    np.maximum.at(largest, codes, weight)
    w = weight / largest[codes]  # only ratios within a group matter
    total = np.bincount(codes, w, n_groups)
    share = np.bincount(codes, w * covered, n_groups) / total
    spread = np.bincount(codes, (w * (covered - share[codes])) ** 2, n_groups)
    return Shares(share, np.sqrt(spread) / total, rows)


def check_size(size: Any, n_samples: int) -> FloatArray:
    """Return widths or sizes, or say what is wrong.

    Parameters
    ----------
    size : array-like of shape (n_samples,)
        Numbers that are at least 0; +inf is legal.
    n_samples : int
        The number of rows of `covered`.

    Returns
    -------
    ndarray of shape (n_samples,)
        The sizes.
    """
    sizes = as_1d(size, "size")
    check_rows(n_samples, sizes.size, "size", "covered")
    if sizes.min() < 0:
        raise ValueError(
            f"size must be at least 0, got {float(sizes.min())!r}. Pass widths, upper "
            "- lower, or numbers of labels, y_set.sum(axis=1)."
        )
    return sizes


def check_bins(n_bins: Any) -> int | None:
    """Return the number of strata, or None for all distinct sizes.

    Parameters
    ----------
    n_bins : int or None
        At least 1.

    Returns
    -------
    int or None
        As given.
    """
    if n_bins is None:
        return None
    if isinstance(n_bins, bool) or not isinstance(n_bins, Integral):
        raise TypeError(
            f"n_bins must be an integer, at least 1, or None, got {n_bins!r}."
        )
    if n_bins < 1:
        raise ValueError(
            f"n_bins must be at least 1, got {n_bins!r}. Pass None for one stratum for "
            "each distinct size."
        )
    return int(n_bins)


# Equal sizes must stay together, whatever the order of the rows. Let C_k be the weight
# of the rows of the k smallest distinct sizes. All rows of the k-th go to the stratum
# in which the middle of them lies,
#
#     floor(B (C_{k-1} + C_k) / (2 C_m)),
#
# which without ties and with n a multiple of B puts n / B rows into each.


def strata(
    sizes: FloatArray, n_bins: int | None, weight: FloatArray | None
) -> NDArray[np.intp]:
    """Return the stratum of each row: 0 holds the smallest sizes, none is empty.

    Parameters
    ----------
    sizes : ndarray of shape (n_samples,)
        Widths or sizes; infinite ones are a stratum of their own, the last.
    n_bins : int or None
        The largest number of strata of finite sizes; None for one for each size.
    weight : ndarray of shape (n_samples,) or None
        Positive weights.

    Returns
    -------
    ndarray of shape (n_samples,)
        The strata, numbered without gaps.
    """
    values, codes = np.unique(sizes, return_inverse=True)
    finite = int(np.sum(np.isfinite(values)))
    if n_bins is None or finite <= n_bins:
        return codes.astype(np.intp, copy=False)
    w = None if weight is None else weight / weight.max()
    mass = np.bincount(codes, w, values.size)[:finite]
    above = np.cumsum(mass)
    stratum = np.full(values.size, n_bins)
    # A middle on a border is above it, whichever way its weights were rounded.
    middle = n_bins * (above - mass / 2) / above[-1] + 1e-9
    stratum[:finite] = np.minimum(middle.astype(np.intp), n_bins - 1)
    return np.unique(stratum, return_inverse=True)[1][codes].astype(np.intp, copy=False)
