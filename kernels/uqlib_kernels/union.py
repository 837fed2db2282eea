"""Order statistics of a union of sorted lists, each shifted (and scaled) by the row.

The end of a cross-conformal interval is the r-th smallest of all sums

    base[i, k] + scale[i, k] * s,   s in list k,   k = 1, ..., K,

one such union for every row i. A row costs a few binary searches in each list, not a
pass over the union: no array of rows times scores exists at any time.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._union_kernels import select_rows

__all__ = ["union_select"]


def union_select(
    bases: NDArray[np.float64],
    shifts: NDArray[np.float64],
    stops: NDArray[np.intp],
    rank: int,
    scales: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    r"""Select, row by row, the r-th smallest sum of shifted lists.

    .. math:: \text{the } r\text{-th smallest of } \bigcup_{k=1}^{K}
              \{ b_{ik} + c_{ik} s : s \in S_k \}

    Parameters
    ----------
    bases : ndarray of shape (n_rows, n_lists), float64
        The b, without NaN. +-inf is legal, and added to its opposite counts as +inf.

    shifts : ndarray of shape (n_shifts,), float64
        The lists S, one after the other, each non-decreasing and without NaN.

    stops : ndarray of shape (n_lists,), int
        Where each list ends in `shifts`; the last is n_shifts.

    rank : int
        The r, between 1 and n_shifts.

    scales : ndarray of shape (n_rows, n_lists), float64, default=None
        The c, at least 0; None multiplies by nothing. Where a product is undefined,
        0 times infinity, it is the shift.

    Returns
    -------
    ndarray of shape (n_rows,), float64
        One of the sums of the row, rounded as NumPy rounds it; never -0.0.

    Raises
    ------
    ValueError
        If `rank` is not between 1 and n_shifts, or the shapes do not fit.

    Notes
    -----
    The first cut is where the answer would be if all lists came from one law; a
    correction by the quantile function of the pooled lists, and secants after it, bring
    it within a few elements, and those are walked over. Where that fails to converge,
    as with ties, random pivots finish: on average they halve what is left, whatever the
    lists are. Extra memory: O(n_shifts + n_lists).

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.union import union_select
    >>> lists = np.array([0.0, 2.0, 4.0, 1.0, 3.0])
    >>> union_select(np.array([[0.0, 10.0]]), lists, np.array([3, 5]), 4)
    array([11.])
    """
    bases = np.ascontiguousarray(bases, dtype=np.float64)
    flat = np.ascontiguousarray(shifts, dtype=np.float64)
    ends = np.ascontiguousarray(stops, dtype=np.intp)
    scaled = scales is not None
    factors = np.ascontiguousarray(
        scales if scaled else np.ones((0, ends.size)), dtype=np.float64
    )
    _check(bases, flat, ends, rank, factors if scaled else bases)
    pooled = np.sort(flat)
    out = np.empty(bases.shape[0], dtype=np.float64)
    select_rows(bases, factors, scaled, flat, ends, pooled, int(rank), out)
    return out


def _check(
    bases: NDArray[np.float64],
    flat: NDArray[np.float64],
    stops: NDArray[np.intp],
    rank: int,
    scales: NDArray[np.float64],
) -> None:
    """Refuse what the kernel would read outside of its arrays."""
    n_lists = stops.size
    fits = bases.ndim == 2 and bases.shape[1] == n_lists and bases.shape == scales.shape
    starts = np.concatenate([[0], stops])
    if not fits or np.any(np.diff(starts) < 0) or starts[-1] != flat.size:
        raise ValueError(
            f"bases {bases.shape} and scales {scales.shape} must have one column for "
            f"each of the {n_lists} lists, and stops must increase to the number of "
            f"shifts, {flat.size}; got stops {stops.tolist()}."
        )
    if not 1 <= rank <= flat.size:
        raise ValueError(f"rank={rank} must be between 1 and {flat.size} shifts.")
