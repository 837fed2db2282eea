"""Predictions of tree ensembles in plain loops, for every machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_arrays import BinArrays, TreeArrays, TreeKernel
from uqlib_kernels._tree_portable_bins import bin_rows, search_trees
from uqlib_kernels._tree_portable_nodes import BIN_SHIFT, TILE, pack_nodes, packs
from uqlib_kernels._tree_portable_walk import add_walks_by_row, add_walks_by_tree

__all__ = ["FEW_ROWS", "PortableTrees", "plain_blocks"]

BLOCK_BYTES = 1 << 15  # of bins, which stay in the first cache
_COPIED_ROWS = 4096
FEW_ROWS = 6  # up to which trees, not rows, walk side by side


class PortableTrees(TreeKernel):
    """Trees walked by several rows at a time, bit-equal to the reference.

    Parameters
    ----------
    trees : TreeArrays
        The trees.
    columns : BinArrays
        What their bins are.
    """

    def __init__(self, trees: TreeArrays, columns: BinArrays) -> None:
        packed, search = pack_nodes(trees), search_trees(columns)
        self.n_outputs = int(trees.baseline.size)
        self.dtype = trees.baseline.dtype
        self._arguments = (
            *search,
            *packed,
            np.ascontiguousarray(trees.tree_output),
            np.ascontiguousarray(trees.leaf_value),
            np.ascontiguousarray(trees.baseline),
            int(trees.divisor),
        )

    @staticmethod
    def takes(trees: TreeArrays, columns: BinArrays) -> bool:
        """Return whether columns and nodes are few enough: 2^13, and 2^32 places."""
        return packs(trees, columns)

    def fill(
        self, values: NDArray[Any], start: int, stop: int, out: NDArray[Any]
    ) -> None:
        """Write the raw predictions of the rows start, ..., stop - 1."""
        for block, first, last, rows in plain_blocks(values, start, stop, out):
            _predict(block, first, last, *self._arguments, rows)


def plain_blocks(
    values: NDArray[Any],
    start: int,
    stop: int,
    out: NDArray[Any],
    dtype: Any = None,
) -> Any:
    """Yield rows in the one layout for which kernels are compiled.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_features)
        Of any strides, maybe read-only.
    start, stop : int
        Rows.
    out : ndarray of shape (n_samples, n_outputs)
        Where their results go.
    dtype : dtype, default=None
        Type of the rows that come out; None keeps that of `values`.

    Yields
    ------
    tuple
        An array of rows that is aligned, writable and C-contiguous, its first and its
        last row, and the rows of `out` that belong to all of it.
    """
    if values.flags.carray and (dtype is None or values.dtype == dtype):
        yield values, start, stop, out
        return
    for first in range(start, stop, _COPIED_ROWS):
        last = min(stop, first + _COPIED_ROWS)
        block = np.array(values[first:last], dtype=dtype, order="C")
        yield block, 0, last - first, out[first:last]


@row_jit
def _predict(
    values: NDArray[Any],
    start: int,
    stop: int,
    columns: NDArray[np.int64],
    keys: NDArray[Any],
    tables: NDArray[np.uint8],
    nodes: NDArray[np.uint64],
    leaf_of: NDArray[np.uint32],
    roots: NDArray[np.int64],
    depths: NDArray[np.int64],
    tree_output: NDArray[np.int32],
    leaf_value: NDArray[Any],
    baseline: NDArray[Any],
    divisor: int,
    out: NDArray[Any],
) -> None:
    n_columns = columns.shape[0]
    step = TILE * max(n_columns, 1)  # a tree without nodes takes no step
    few = stop - start <= FEW_ROWS
    block = min(max(BLOCK_BYTES // (4 * step), 8), 128) * TILE
    n_tiles = (min(block, stop - start) + TILE - 1) // TILE
    bins = np.empty(n_tiles * step, dtype=np.uint32)
    for first in range(start, stop, block):
        n_rows = min(block, stop - first)
        bin_rows(
            values, first, n_rows, columns, keys, tables, bins, step, TILE,
            BIN_SHIFT,
        )  # fmt: skip
        for r in range(first, first + n_rows):
            out[r] = baseline
        if few:
            add_walks_by_row(
                bins, n_rows, step, nodes, leaf_of, roots, depths,
                tree_output, leaf_value, out, first,
            )  # fmt: skip
        else:
            add_walks_by_tree(
                bins, n_rows, step, nodes, leaf_of, roots, depths,
                tree_output, leaf_value, out, first,
            )  # fmt: skip
        if divisor > 1:
            for r in range(first, first + n_rows):
                for k in range(out.shape[1]):
                    out[r, k] /= baseline.dtype.type(divisor)
