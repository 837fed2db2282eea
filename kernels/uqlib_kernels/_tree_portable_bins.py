r"""Bins of numbers in plain loops: a search down a complete binary tree.

The thresholds of a column, with +inf after them until there are 2^L - 1, are the nodes
of a complete tree in heap order: the root has place 1, and the children of place i have
the places 2 i and 2 i + 1. A number x goes to

    i = 2 i + (threshold at i < x)

and after L steps i - 2^L is the number of thresholds below x, its bin. Nothing branches
on data, so searches of 8 rows fill the time that each of them waits.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_arrays import (
    LEFT,
    ZERO,
    ZERO_LEFT,
    ZERO_RIGHT,
    BinArrays,
)

__all__ = [
    "FIELDS",
    "ITSELF",
    "NUMBER",
    "TABLE",
    "ZERO_IS_MISSING",
    "SearchTrees",
    "bin_categories",
    "bin_rows",
    "column_fields",
    "search_trees",
]

# Kinds of columns.
NUMBER, ZERO_IS_MISSING, TABLE = range(3)

# Fields of a column: its feature, its kind, the bin of a missing value (of any unknown
# category), two fields of the search or start and size of its table; its own number.
FIELDS, ITSELF = 8, 7


class SearchTrees(NamedTuple):
    """The columns of an ensemble, laid out for the search.

    Attributes
    ----------
    columns : ndarray of shape (n_columns, 8)
        Fields as above, int64; those of the search are the place before the tree and L.
    keys : ndarray of shape (n_keys,)
        The trees of thresholds.
    tables : ndarray of shape (n_entries + 1,)
        Tables of categories, uint8; never empty.
    """

    columns: NDArray[np.int64]
    keys: NDArray[Any]
    tables: NDArray[np.uint8]


def column_fields(columns: BinArrays) -> NDArray[np.int64]:
    """Return the fields of columns, those of the search empty.

    Parameters
    ----------
    columns : BinArrays
        What the bins are.

    Returns
    -------
    ndarray of shape (n_columns, 8)
        int64.
    """
    fields = np.zeros((columns.feature.size, FIELDS), dtype=np.int64)
    fields[:, 0] = columns.feature
    fields[:, ITSELF] = np.arange(columns.feature.size)
    for column, field in enumerate(fields):
        start, stop = columns.threshold_start[column : column + 2]
        first, last = columns.table_start[column : column + 2]
        missing = int(columns.missing[column])
        if last > first:
            field[1:5] = TABLE, missing != LEFT, first, last - first
        else:
            zero_too = missing in (ZERO_LEFT, ZERO_RIGHT)
            field[1] = ZERO_IS_MISSING if zero_too else NUMBER
            field[2] = _missing_bin(columns.thresholds[start:stop], missing)
    return fields


def _missing_bin(thresholds: NDArray[Any], missing: int) -> int:
    if missing in (LEFT, ZERO_LEFT):
        return 0
    if missing == ZERO:
        zero = thresholds.dtype.type(0)
        return int(np.searchsorted(thresholds, zero, side="left"))
    return int(thresholds.size)


def search_trees(columns: BinArrays) -> SearchTrees:
    """Return columns laid out for the search.

    Parameters
    ----------
    columns : BinArrays
        What the bins are.

    Returns
    -------
    SearchTrees
        Holds copies.
    """
    fields = column_fields(columns)
    trees, start = [np.empty(0, columns.thresholds.dtype)], 0
    for column in np.flatnonzero(fields[:, 1] != TABLE):
        first, last = columns.threshold_start[column : column + 2]
        tree = _heap(columns.thresholds[first:last])
        fields[column, 3:5] = start - 1, int(tree.size).bit_length()
        trees.append(tree)
        start += tree.size
    tables = np.append(columns.tables, np.uint8(0))
    return SearchTrees(fields, np.concatenate(trees), tables)


def _heap(thresholds: NDArray[Any]) -> NDArray[Any]:
    """Return thresholds, filled up with infinity, in heap order from place 1 on."""
    levels = int(thresholds.size).bit_length()
    filled = np.full((1 << levels) - 1, np.inf, dtype=thresholds.dtype)
    filled[: thresholds.size] = thresholds
    # Level k of the tree holds every 2^(levels - k)-th number.
    steps = [1 << (levels - k) for k in range(levels)]
    parts = [filled[step // 2 - 1 :: step] for step in steps]
    return np.concatenate([filled[:0], *parts])


# Unsigned, so that Numba neither wraps indices around nor makes floats of sums.
_ONE = np.uint64(1)


@row_jit
def _descend(keys: NDArray[Any], first: np.uint64, place: np.uint64, x: float) -> Any:
    below = np.uint64(keys[first + place] < x)
    return (place << _ONE) + below


@row_jit
def _bin(x: float, place: np.uint64, levels: int, kind: int, missing: int) -> Any:
    if np.isnan(x) or (kind == ZERO_IS_MISSING and x == 0):
        return missing
    return np.int64(place) - (np.int64(1) << levels)


@row_jit
def bin_categories(
    values: NDArray[Any],
    start: int,
    n_rows: int,
    fields: NDArray[np.int64],
    tables: NDArray[np.uint8],
    bins: NDArray[Any],
    tile_step: int,
    column_step: int,
    shift: int,
) -> None:
    """Write the bins of columns of categories as `bin_rows` does.

    `fields` holds those of all columns, one after the other.
    """
    for c in range(0, fields.size, FIELDS):
        feature, missing = fields[c], fields[c + 2]
        table, size = fields[c + 3], fields[c + 4]
        to = fields[c + ITSELF] * column_step
        for r in range(n_rows):
            x = values[start + r, feature]
            found = missing
            if x > -1 and x < size:  # cut off toward 0; false for NaN
                found = np.int64(tables[table + np.int64(x)])
            bins[(r >> 3) * tile_step + (r & 7) + to] = found << shift


@row_jit
def bin_rows(
    values: NDArray[Any],
    start: int,
    n_rows: int,
    columns: NDArray[np.int64],
    keys: NDArray[Any],
    tables: NDArray[np.uint8],
    bins: NDArray[Any],
    tile_step: int,
    column_step: int,
    shift: int,
) -> None:
    """Write the bins of the rows start, ..., start + n_rows - 1.

    Rows lie in tiles of 8: the bin of row start + r in column c goes to
    `bins[(r // 8) tile_step + c column_step + r % 8]`, moved up by `shift` bits.
    """
    last = start + n_rows - 1
    for c in range(columns.shape[0]):
        f, kind, missing = columns[c, 0], columns[c, 1], columns[c, 2]
        to = columns[c, ITSELF] * column_step
        if kind == TABLE:
            one = columns[c : c + 1].reshape(-1)
            bin_categories(
                values, start, n_rows, one, tables, bins, tile_step, column_step, shift
            )
            continue
        first, levels = np.uint64(columns[c, 3]), columns[c, 4]
        for r in range(0, n_rows, 8):
            # A row that is none repeats the last one.
            i = start + r
            x0, x1 = values[i, f], values[min(i + 1, last), f]
            x2, x3 = values[min(i + 2, last), f], values[min(i + 3, last), f]
            x4, x5 = values[min(i + 4, last), f], values[min(i + 5, last), f]
            x6, x7 = values[min(i + 6, last), f], values[min(i + 7, last), f]
            p0 = p1 = p2 = p3 = p4 = p5 = p6 = p7 = _ONE
            for _ in range(levels):
                p0, p1 = _descend(keys, first, p0, x0), _descend(keys, first, p1, x1)
                p2, p3 = _descend(keys, first, p2, x2), _descend(keys, first, p3, x3)
                p4, p5 = _descend(keys, first, p4, x4), _descend(keys, first, p5, x5)
                p6, p7 = _descend(keys, first, p6, x6), _descend(keys, first, p7, x7)
            at = (r >> 3) * tile_step + to
            bins[at] = _bin(x0, p0, levels, kind, missing) << shift
            bins[at + 1] = _bin(x1, p1, levels, kind, missing) << shift
            bins[at + 2] = _bin(x2, p2, levels, kind, missing) << shift
            bins[at + 3] = _bin(x3, p3, levels, kind, missing) << shift
            bins[at + 4] = _bin(x4, p4, levels, kind, missing) << shift
            bins[at + 5] = _bin(x5, p5, levels, kind, missing) << shift
            bins[at + 6] = _bin(x6, p6, levels, kind, missing) << shift
            bins[at + 7] = _bin(x7, p7, levels, kind, missing) << shift
