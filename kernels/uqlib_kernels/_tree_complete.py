"""Forests and other trees of any size: the upper levels for 64 rows at a time.

The first six levels of a tree are completed to a full tree, whose 63 comparisons are
cheap for 64 rows in a vector; that leaves each row at one of 64 places, from which it
walks on. See `_tree_complete_kernels` and `_tree_portable_nodes`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import BinArrays, TreeArrays, TreeKernel, bin_dtype
from uqlib_kernels._tree_binning_simd import bin_plan
from uqlib_kernels._tree_complete_kernels import TOP_LEVELS, predict_blocks
from uqlib_kernels._tree_complete_rows import predict_few
from uqlib_kernels._tree_lanes_bins import VectorSearch
from uqlib_kernels._tree_lanes_pack import pack_arrays
from uqlib_kernels._tree_portable import plain_blocks
from uqlib_kernels._tree_portable_nodes import (
    BIN_SHIFT,
    CHILD_SHIFT,
    TILE,
    PackedNodes,
    pack_nodes,
    packs,
)

__all__ = ["CompleteTrees"]

_FEW = 24  # rows up to which trees walk side by side, not rows


class CompleteTrees(TreeKernel):
    """Trees with their upper levels in vectors, bit-equal to the reference.

    Parameters
    ----------
    trees : TreeArrays
        The trees.
    columns : BinArrays
        What their bins are.
    """

    def __init__(self, trees: TreeArrays, columns: BinArrays) -> None:
        self.n_outputs = int(trees.baseline.size)
        self.dtype = trees.baseline.dtype
        self._columns, self._compared = columns, columns.thresholds.dtype
        packed = pack_nodes(trees)
        leaf_value = trees.leaf_value.astype(self.dtype, order="C")
        self._few: Any = _packed(trees, columns, packed)
        self._plan: Any = bin_plan(columns)
        self._wide: CompleteTrees | None = None
        self._source = trees
        tops, exits = _tops(packed)
        depths = np.maximum(packed.depths - TOP_LEVELS, 0)
        self._many: Any = (
            int(columns.feature.size),
            np.dtype(bin_dtype(columns)).itemsize,
            tops,
            exits,
            packed.nodes,
            packed.leaf_of,
            packed.roots,
            depths,
            np.ascontiguousarray(trees.tree_output),
            leaf_value,
            np.ascontiguousarray(trees.baseline),
            int(trees.divisor),
        )

    def __reduce__(self) -> Any:
        # Copied arrays would not keep their alignment.
        return type(self), (self._source, self._columns)

    @staticmethod
    def takes(trees: TreeArrays, columns: BinArrays) -> bool:
        """Return whether columns and nodes are few enough: 2^13, and 2^32 places."""
        return packs(trees, columns)

    def fill(
        self, values: NDArray[Any], start: int, stop: int, out: NDArray[Any]
    ) -> None:
        """Write the raw predictions of the rows start, ..., stop - 1."""
        # Most calls come in the one form for which kernels are compiled.
        if values.dtype is self._compared and values.flags.carray:
            self._fill(values, start, stop, out)
            return
        compared = np.promote_types(values.dtype, self._compared)
        kernel = self if compared == self._compared else self._wider(compared)
        for block, first, last, rows in plain_blocks(
            values, start, stop, out, compared
        ):
            kernel._fill(block, first, last, rows)

    def _fill(
        self, values: NDArray[Any], start: int, stop: int, out: NDArray[Any]
    ) -> None:
        if stop - start <= _FEW:
            plan, data = self._few
            predict_few(values, start, stop, plan, data, out)
        else:
            arguments: Any = (*self._plan, *self._many, out)
            predict_blocks(values, start, stop, *arguments)

    def _wider(self, compared: np.dtype[Any]) -> "CompleteTrees":
        """Return the same trees with thresholds in double precision."""
        if self._wide is None:
            thresholds = self._columns.thresholds.astype(compared)
            columns = self._columns._replace(thresholds=thresholds)
            self._wide = CompleteTrees(self._source, columns)
        return self._wide


def _packed(
    trees: TreeArrays, columns: BinArrays, packed: PackedNodes
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return what `predict_few` needs, in its order."""
    search = VectorSearch(columns, at_least=2)
    n_trees = packed.roots.size
    groups = np.zeros((-(-n_trees // 8), 9), dtype=np.uint64)
    padded = np.zeros((len(groups), 8), dtype=np.int64)
    padded.reshape(-1)[:n_trees] = packed.roots  # trees that are none repeat the first
    groups[:, :8] = padded
    padded[:] = 0
    padded.reshape(-1)[:n_trees] = packed.depths
    groups[:, 8] = padded.max(axis=1, initial=0)
    width, n_columns = trees.leaf_value.shape[1], columns.feature.size
    numbers = [width, int(trees.divisor), n_columns, search.n_levels]
    parts = [
        search.numbers,
        search.keys,
        search.categories,
        search.tables,
        packed.nodes,
        packed.leaf_of,
        groups,
        trees.tree_output,
        trees.leaf_value.astype(trees.baseline.dtype),
        trees.baseline,
    ]
    return pack_arrays(numbers, parts)


def _tops(packed: PackedNodes) -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """Return the completed upper levels of trees and where they lead.

    A leaf above the last level is repeated below itself: no bin exceeds its own.

    Returns
    -------
    tops : ndarray of shape (n_trees, 63, 4)
        Column, 0, bin and number in heap order of the nodes,
        uint16. Nodes are ordered by column, whose bins then are at hand.
    exits : ndarray of shape (n_trees, 64)
        Places, from left to right, uint32.
    """
    places = packed.roots[:, None]
    levels = []
    for _ in range(TOP_LEVELS):
        nodes = packed.nodes[places]
        levels.append(nodes)
        left = (nodes >> np.uint64(CHILD_SHIFT)).astype(np.int64)
        right = left + (left != places)
        places = np.stack([left, right], axis=2).reshape(
            left.shape[0], 2 * left.shape[1]
        )
    nodes = np.concatenate(levels, axis=1)
    low = np.uint64((1 << BIN_SHIFT) - 1)
    columns = (nodes & low) // np.uint64(TILE)
    order = np.argsort(columns, axis=1, kind="stable")
    tops = np.zeros((*nodes.shape, 4), dtype=np.uint16)
    tops[:, :, 0] = np.take_along_axis(columns, order, axis=1)
    bins = low - (nodes >> np.uint64(BIN_SHIFT) & low)
    tops[:, :, 2] = np.take_along_axis(bins, order, axis=1)
    tops[:, :, 3] = order
    return tops, places.astype(np.uint32)
