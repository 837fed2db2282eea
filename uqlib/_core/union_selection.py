"""Order statistics of a union of sorted lists that each row shifts and scales."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.kernels import compiled_kernels
from uqlib._typing import FloatArray

# Rows are taken in blocks, so that arrays stay near so many elements.
_BLOCK = 2**18
# About so many sums are looked at for a row and a list.
_SUMS_PER_LIST = 16


def union_order_statistic(
    bases: FloatArray,
    shifts: list[FloatArray],
    rank: int,
    scales: FloatArray | None = None,
) -> FloatArray:
    r"""Return, row by row, an order statistic of a union of sorted, shifted lists.

    .. math:: \text{the } r\text{-th smallest of }
              \bigcup_k \{ b_k + c_k s : s \in S_k \},

    with the sum of two opposite infinities counted as +inf and an undefined product,
    0 times infinity, as the shift.

    Parameters
    ----------
    bases : ndarray of shape (n_rows, n_lists)
        The b of each row and list, without NaN.
    shifts : list of ndarray
        The lists S, each non-decreasing and without NaN.
    rank : int
        The r, between 1 and the number n of shifts.
    scales : ndarray of shape (n_rows, n_lists), default=None
        The c, at least 0; None stands for 1.

    Returns
    -------
    ndarray of shape (n_rows,)
        One of the sums, as it is rounded, never -0.0: the same bits whether compiled
        code is there or not. Memory does not grow with n_rows times n.
    """
    flat = np.concatenate(shifts)
    stop = np.cumsum([values.size for values in shifts])
    return union_of_lists(bases, flat, stop, rank, scales)


def union_of_lists(
    bases: FloatArray,
    flat: FloatArray,
    stop: NDArray[np.intp],
    rank: int,
    scales: FloatArray | None = None,
) -> FloatArray:
    """Do the same for lists that lie one after the other in one array.

    Parameters
    ----------
    bases : ndarray of shape (n_rows, n_lists)
        The b of each row and list, without NaN.
    flat : ndarray of shape (n,)
        The lists, each non-decreasing and without NaN.
    stop : ndarray of shape (n_lists,)
        Where each list ends.
    rank : int
        The r, between 1 and n.
    scales : ndarray of shape (n_rows, n_lists), default=None
        The c, at least 0; None stands for 1.

    Returns
    -------
    ndarray of shape (n_rows,)
        The order statistics.
    """
    few = flat.size <= _few(stop.size)
    compiled = compiled_kernels("union", 0 if few else bases.size * _SUMS_PER_LIST)
    if compiled is not None:
        selected: FloatArray = compiled.union_select(bases, flat, stop, rank, scales)
        return selected
    length = np.diff(stop, prepend=0)
    owner = np.repeat(np.arange(stop.size), length)
    n_rows = max(1, _BLOCK // min(flat.size, _few(stop.size)))
    result = np.empty(bases.shape[0])
    for first in range(0, result.size, n_rows):
        rows = slice(first, first + n_rows)
        scale = None if scales is None else scales[rows]
        if few:
            every = _sums(_columns(bases[rows], owner), _columns(scale, owner), flat)
            result[rows] = np.partition(every, rank - 1, axis=1)[:, rank - 1]
        else:
            result[rows] = _select(bases[rows], scale, flat, stop - length, stop, rank)
    return result + 0.0


# A pivot step on every row at once. Each list has a window [low, high) that still can
# hold the answer. The pivot is the weighted median of the middles of the windows: of
# the elements in all windows, a quarter up to the rounding of the middles come before
# it and a quarter do not, so one of the two quarters is dropped. Elements are ordered
# by (sum, list, position), in which no two are equal, so that ties need no case of
# their own, and a bisection in each window finds how many come before the pivot. No
# sum is ever solved for a shift: what is compared is what is returned.


def _few(n_lists: int) -> int:
    # Above this size a pivot step drops something, however the middles are rounded.
    return 4 * n_lists


def _select(
    bases: FloatArray,
    scales: FloatArray | None,
    flat: FloatArray,
    start: NDArray[np.intp],
    stop: NDArray[np.intp],
    rank: int,
) -> FloatArray:
    low, high = np.tile(start, (len(bases), 1)), np.tile(stop, (len(bases), 1))
    left = np.full(len(bases), rank)
    many = np.arange(len(bases))
    while True:
        many = many[(high[many] - low[many]).sum(axis=1) > _few(bases.shape[1])]
        if many.size == 0:
            return _sort_windows(bases, scales, flat, low, high, left)
        scale = None if scales is None else scales[many]
        cut = _cut_at_pivot(bases[many], scale, flat, low[many], high[many])
        before = (cut - low[many]).sum(axis=1)
        inside = left[many] <= before
        high[many[inside]] = cut[inside]
        low[many[~inside]] = cut[~inside]
        left[many[~inside]] -= before[~inside]


def _cut_at_pivot(
    bases: FloatArray,
    scales: FloatArray | None,
    flat: FloatArray,
    low: NDArray[np.intp],
    high: NDArray[np.intp],
) -> NDArray[np.intp]:
    """Return for each window the position of its first element not before the pivot."""
    rows = np.arange(len(bases))
    length = high - low
    middle = (low + high) // 2
    values = _sums(bases, scales, flat[np.minimum(middle, flat.size - 1)])
    values[length == 0] = np.inf
    order = np.argsort(values, axis=1, kind="stable")
    mass = np.cumsum(np.take_along_axis(length, order, axis=1), axis=1)
    pivot = order[rows, np.argmax(2 * mass > mass[:, -1:], axis=1)]
    value = values[rows, pivot][:, None]
    ties_before = np.arange(bases.shape[1]) < pivot[:, None]
    cut, end = low.copy(), high.copy()
    for _ in range(int(length.max()).bit_length()):
        probe = (cut + end) // 2
        open_ = cut < end
        sums = _sums(bases, scales, flat[np.minimum(probe, flat.size - 1)])
        before = (sums < value) | ((sums == value) & ties_before)
        cut = np.where(open_ & before, probe + 1, cut)
        end = np.where(open_ & ~before, probe, end)
    cut[rows, pivot] = middle[rows, pivot]
    return cut


def _sort_windows(
    bases: FloatArray,
    scales: FloatArray | None,
    flat: FloatArray,
    low: NDArray[np.intp],
    high: NDArray[np.intp],
    left: NDArray[np.intp],
) -> FloatArray:
    length = high - low
    total = length.sum(axis=1)
    values = np.full((len(bases), int(total.max(initial=1))), np.inf)
    window = np.repeat(np.arange(length.size), length.ravel())
    before = np.cumsum(length.ravel()) - length.ravel()
    position = np.arange(window.size) - before[window] + low.ravel()[window]
    scale = None if scales is None else scales.ravel()[window]
    values[np.arange(values.shape[1]) < total[:, None]] = _sums(
        bases.ravel()[window], scale, flat[position]
    )
    values.sort(axis=1)
    chosen: FloatArray = values[np.arange(len(bases)), left - 1]
    return chosen


def _columns(values: Any, owner: NDArray[np.intp]) -> Any:
    return None if values is None else values[:, owner]


def _sums(base: FloatArray, scale: FloatArray | None, shift: FloatArray) -> Any:
    with np.errstate(invalid="ignore", over="ignore"):
        if scale is not None:
            product = scale * shift
            shift = np.where(np.isnan(product), shift, product)
        total = base + shift
    return np.where(np.isnan(total), np.inf, total)
