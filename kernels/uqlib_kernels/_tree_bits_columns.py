r"""Columns of bins of 8 bits, whatever the number of thresholds.

The thresholds of all columns of a feature are merged, so that one search serves columns
that differ in their missing values only. They are then dealt out in runs of 255, a
column each. For a threshold t_k of the run t_a, ..., t_b (b < a + 255)

    x <= t_k    if and only if    #{j in a, ..., b : t_j < x} <= k - a ,

since the thresholds before the run are below t_k. A missing value of the bin m of all
thresholds has the bin b - a + 1 of each run, and one of the bin 0 has 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import BinArrays, TreeArrays

__all__ = ["MAX_BIN", "with_small_bins"]

MAX_BIN = 255

_Thresholds = dict[int, NDArray[Any]]


def with_small_bins(
    trees: TreeArrays, columns: BinArrays
) -> tuple[BinArrays, NDArray[np.int64], NDArray[np.int64]]:
    """Return columns of at most 255 thresholds, and column and bin of every node.

    Parameters
    ----------
    trees : TreeArrays
        The trees.
    columns : BinArrays
        What their bins are.

    Returns
    -------
    columns : BinArrays
        The new columns, only those that nodes look at.
    node_column : ndarray of shape (n_nodes,)
        int64.
    node_bin : ndarray of shape (n_nodes,)
        Rows with a bin up to this one go left, int64 up to 255.
    """
    merged = _merged(columns)
    column = np.asarray(trees.node_column, dtype=np.int64)
    node_bin = np.array(trees.node_bin, dtype=np.int64)
    run = np.zeros(column.size, dtype=np.int64)
    for c in np.unique(column).tolist():
        nodes = np.flatnonzero(column == c)
        run[nodes], node_bin[nodes] = _dealt(columns, c, node_bin[nodes], merged)
    has_table = np.diff(columns.table_start) > 0
    table = np.where(has_table, np.arange(has_table.size), np.int64(-1))
    described = np.stack(
        [columns.feature[column], columns.missing[column], run, table[column]]
    )
    found, node_column = np.unique(described, axis=1, return_inverse=True)
    return _columns(found, columns, merged), node_column.reshape(-1), node_bin


def _merged(columns: BinArrays) -> _Thresholds:
    """Return the thresholds of every feature."""
    parts: dict[int, list[NDArray[Any]]] = {}
    for column, feature in enumerate(columns.feature.tolist()):
        own = _part(columns.threshold_start, columns.thresholds, column)
        parts.setdefault(feature, []).append(own)
    return {feature: np.unique(np.concatenate(p)) for feature, p in parts.items()}


def _part(starts: NDArray[np.int32], values: NDArray[Any], column: int) -> NDArray[Any]:
    return values[starts[column] : starts[column + 1]]


def _dealt(
    columns: BinArrays, column: int, bins: NDArray[np.int64], merged: _Thresholds
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return run and bin for bins that nodes compare with in a column."""
    run = np.zeros(bins.size, dtype=np.int64)
    if _part(columns.table_start, columns.tables, column).size:
        return run, np.minimum(bins, MAX_BIN)
    own = _part(columns.threshold_start, columns.thresholds, column)
    moved = np.full(bins.size, MAX_BIN)  # all rows go left beyond the thresholds
    inside = bins < own.size
    of_feature = merged[int(columns.feature[column])]
    place = np.searchsorted(of_feature, own[bins[inside]])
    run[inside], moved[inside] = place // MAX_BIN, place % MAX_BIN
    return run, moved


def _columns(
    described: NDArray[np.int64], columns: BinArrays, merged: _Thresholds
) -> BinArrays:
    """Return columns from feature, missing, run, and number of a table or -1."""
    numbers, tables = [columns.thresholds[:0]], [columns.tables[:0]]
    for feature, _, run, table in described.T.tolist():
        first = MAX_BIN * run
        own = merged[feature][first : first + MAX_BIN]
        numbers.append(own if table < 0 else numbers[0])
        held = tables[0]
        if table >= 0:
            held = _part(columns.table_start, columns.tables, table)
        tables.append(held)
    return BinArrays(
        described[0].astype(np.int32),
        described[1].astype(np.uint8),
        np.cumsum([part.size for part in numbers], dtype=np.int32),
        np.concatenate(numbers),
        np.cumsum([part.size for part in tables], dtype=np.int32),
        np.concatenate(tables),
    )
