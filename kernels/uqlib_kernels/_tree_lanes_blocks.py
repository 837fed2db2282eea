r"""Thresholds in blocks of 16, for a search that compares with 16 at a time.

The thresholds of a column lie in blocks of 16, filled up with +inf. Above them lie
those that end a block, again in blocks of 16, and so on until one block is left. With

    c_l = #{thresholds of level l below x},

the block c_{l+1} of level l is the first whose last threshold is not below x, so

    c_l = 16 c_{l+1} + #{thresholds of this block below x},

and c_0 is the bin. Every column gets the same number of levels: 2 for bins of 8 bits.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import BinArrays
from uqlib_kernels._tree_portable_bins import TABLE, column_fields

__all__ = ["BLOCK", "LEVELS", "SearchBlocks", "search_blocks"]

BLOCK = 16  # thresholds of a block
LEVELS = (
    3  # field of a column where the first blocks of its levels begin, the top first
)


class SearchBlocks(NamedTuple):
    """The columns of an ensemble, laid out for the search.

    Attributes
    ----------
    columns : ndarray of shape (n_columns, 8)
        Fields of the columns, int64.
    keys : ndarray of shape (n_blocks, 16)
        Thresholds in blocks, in their type; blocks begin at multiples of 64 bytes.
    n_levels : int
        Of every column, 1 to 4.
    """

    columns: NDArray[np.int64]
    keys: NDArray[Any]
    n_levels: int


def search_blocks(columns: BinArrays, at_least: int) -> SearchBlocks:
    """Return columns laid out for the search.

    Parameters
    ----------
    columns : BinArrays
        What the bins are.
    at_least : int
        Levels.

    Returns
    -------
    SearchBlocks
        Holds copies.
    """
    counts = np.diff(columns.threshold_start)
    most, n_levels = int(counts.max(initial=0)), 1
    while most >= BLOCK:
        most, n_levels = most // BLOCK, n_levels + 1
    n_levels = max(n_levels, at_least)
    fields = column_fields(columns)
    blocks: list[NDArray[Any]] = []
    first = 0
    for column in np.flatnonzero(fields[:, 1] != TABLE):
        start, stop = columns.threshold_start[column : column + 2]
        thresholds = columns.thresholds[start:stop]
        for level in range(n_levels):
            part = thresholds[BLOCK**level - 1 :: BLOCK**level]
            fields[column, LEVELS + n_levels - 1 - level] = first
            blocks.append(_padded(part))
            first += len(blocks[-1])
    keys = _aligned((max(first, 1), BLOCK), columns.thresholds.dtype)
    if blocks:
        np.concatenate(blocks, out=keys)
    return SearchBlocks(fields, keys, n_levels)


def _padded(thresholds: NDArray[Any]) -> NDArray[Any]:
    """Return thresholds in blocks; the last one ends in infinity."""
    out = np.full((thresholds.size // BLOCK + 1, BLOCK), np.inf, thresholds.dtype)
    out.reshape(-1)[: thresholds.size] = thresholds
    return out


def _aligned(shape: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """Return an array that begins at a multiple of 64 bytes."""
    nbytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    raw = np.empty(nbytes + 64, dtype=np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + nbytes].view(dtype).reshape(shape)
