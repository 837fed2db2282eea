"""Sorting the crossing rows of a cache-resident block, and only those.

Two ways to sort the listed rows, by their width:

- Narrow rows: a fixed sequence of compare-exchanges (Batcher's odd-even merge
  network) on a transposed tile, one row a SIMD lane. The tile is filled from the
  listed rows and emptied into them, so gathering them costs nothing extra.
- Wide rows: the network's n log(n)^2 exchanges lose to :func:`numpy.sort`, which
  vectorizes within a row. Then the listed rows are gathered, sorted and scattered.

References
----------
Batcher (1968), "Sorting networks and their applications", AFIPS Spring Joint
Computer Conference.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["RowSorter", "merge_network"]

# Where network and numpy.sort (plus gathering) take equal time for float64.
_WIDEST_NETWORK = 24

# Rows side by side in a tile: 64 x 24 float64 take 12 KiB of the first-level cache.
_TILE_ROWS = 64

# Moving a wide row to scratch and back costs about a quarter of sorting it: above
# this share of crossing rows the block is sorted whole and its other rows restored.
_MOSTLY_CROSSING = 0.82


class RowSorter:
    """Sorts blocks of rows in place, leaving non-decreasing rows untouched.

    Parameters
    ----------
    n_rows : int
        Most rows in a block.

    n_quantiles : int
        Length of a row.

    dtype : dtype
        float32 or float64.
    """

    def __init__(self, n_rows: int, n_quantiles: int, dtype: DTypeLike) -> None:
        self._crossing = np.empty(n_rows, dtype=np.intp)
        self._narrow = n_quantiles <= _WIDEST_NETWORK
        if self._narrow:
            self._network = merge_network(n_quantiles)
            # Zeros, because the unused lanes of the last tile are compared as well.
            self._scratch = np.zeros((n_quantiles, _TILE_ROWS), dtype=dtype)
        else:
            self._scratch = np.empty((n_rows, n_quantiles), dtype=dtype)

    def __call__(self, block: NDArray[Any]) -> None:
        """Sort the rows of `block`, C-contiguous, in place."""
        n_crossing = list_crossing(block, self._crossing)
        if n_crossing == 0:
            return
        crossing = self._crossing[:n_crossing]
        if any_nan(block, crossing):
            raise ValueError("q contains NaN, which has no place in an order.")
        if self._narrow:
            exchange_rows(block, crossing, self._network, self._scratch)
        elif n_crossing <= _MOSTLY_CROSSING * len(block):
            gather_rows(block, crossing, self._scratch)
            self._scratch[:n_crossing].sort(axis=1)
            scatter_rows(block, crossing, self._scratch)
        else:
            self._sort_whole(block, crossing)

    def _sort_whole(self, block: NDArray[Any], crossing: NDArray[np.intp]) -> None:
        """Sort all rows, then put back the bits of those that did not cross."""
        monotone = np.ones(len(block), dtype=np.bool_)
        monotone[crossing] = False
        kept = np.flatnonzero(monotone)
        gather_rows(block, kept, self._scratch)
        block.sort(axis=1)
        scatter_rows(block, kept, self._scratch)


def merge_network(width: int) -> NDArray[np.intp]:
    """Return Batcher's odd-even merge sort as pairs of positions.

    Exchanging each pair in turn so that the first is the smaller sorts any row.

    Parameters
    ----------
    width : int
        Number of positions, at least 0.

    Returns
    -------
    ndarray of shape (n_exchanges, 2)
        Pairs (low, high) with low < high.

    Examples
    --------
    >>> from uqlib_kernels._row_sort import merge_network
    >>> merge_network(3).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    pairs = []
    merged = 1  # runs of this length are sorted
    while merged < width:
        distance = merged
        while distance >= 1:
            for start in range(distance % merged, width - distance, 2 * distance):
                for low in range(start, min(start + distance, width - distance)):
                    high = low + distance
                    # Both ends lie in the same pair of runs being merged.
                    if low // (2 * merged) == high // (2 * merged):
                        pairs.append((low, high))
            distance //= 2
        merged *= 2
    return np.array(pairs, dtype=np.intp).reshape(-1, 2)


@row_jit
def list_crossing(rows: NDArray[Any], crossing: NDArray[np.intp]) -> int:
    """List the rows with a descent; return their number.

    No early exit and no branch: the inner loop is vectorized, and the list grows by
    writing always and moving its end only if the row belongs there.
    """
    n_samples, n_quantiles = rows.shape
    count = 0
    for i in range(n_samples):
        descents = 0
        for k in range(1, n_quantiles):
            # Not `<`: a row with NaN is listed too, so only listed rows are checked.
            descents += not (rows[i, k] >= rows[i, k - 1])
        crossing[count] = i
        count += descents > 0
    return count


@row_jit
def any_nan(rows: NDArray[Any], listed: NDArray[np.intp]) -> bool:
    """Return whether one of the listed rows holds NaN."""
    for i in listed:
        found = False
        for k in range(rows.shape[1]):
            found |= rows[i, k] != rows[i, k]
        if found:
            return True
    return False


@row_jit
def exchange_rows(
    rows: NDArray[Any],
    listed: NDArray[np.intp],
    network: NDArray[np.intp],
    tile: NDArray[Any],
) -> None:
    """Sort the listed rows, a tile of them at a time, level by level in a lane."""
    n_listed = len(listed)
    n_quantiles, n_lanes = tile.shape
    for first in range(0, n_listed, n_lanes):
        n_used = min(n_lanes, n_listed - first)
        for lane in range(n_used):
            row = rows[listed[first + lane]]
            for k in range(n_quantiles):
                tile[k, lane] = row[k]
        for pair in range(len(network)):
            low = tile[network[pair, 0]]
            high = tile[network[pair, 1]]
            for lane in range(n_lanes):
                a = low[lane]
                b = high[lane]
                # One comparison decides both, so equal values (0.0 and -0.0 are)
                # are exchanged or kept together and none is lost.
                low[lane] = b if b < a else a
                high[lane] = a if b < a else b
        for lane in range(n_used):
            row = rows[listed[first + lane]]
            for k in range(n_quantiles):
                row[k] = tile[k, lane]


@row_jit
def gather_rows(
    rows: NDArray[Any], listed: NDArray[np.intp], scratch: NDArray[Any]
) -> None:
    """Copy the listed rows to the top of `scratch`."""
    for j in range(len(listed)):
        for k in range(rows.shape[1]):
            scratch[j, k] = rows[listed[j], k]


@row_jit
def scatter_rows(
    rows: NDArray[Any], listed: NDArray[np.intp], scratch: NDArray[Any]
) -> None:
    """Undo `gather_rows`: put the top of `scratch` back in the listed rows."""
    for j in range(len(listed)):
        for k in range(rows.shape[1]):
            rows[listed[j], k] = scratch[j, k]
