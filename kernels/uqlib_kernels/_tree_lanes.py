"""Trees of at most 64 leaves for a few rows: one row, 64 trees side by side.

A tree is a set of bit masks, one bit a leaf, the leftmost leaf first. Where a row goes
right at a node, the leaves of its left subtree are out of reach, and their bits are
cleared. After all nodes, in any order, the first bit that is left is the leaf that the
row reaches: leaves further left were cleared where the path turned right, and the leaf
of the path itself never is. So nothing branches, and the k-th nodes of 64 trees are
done at once: a permutation of bytes fetches their bins out of registers, a compare
gives 64 bits, and these choose which trees clear their leaves.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._tree_arrays import BinArrays, TreeArrays, TreeKernel, bin_dtype
from uqlib_kernels._tree_lanes_bins import VectorSearch
from uqlib_kernels._tree_lanes_kernels import parts_compiled, predict_rows
from uqlib_kernels._tree_lanes_pack import pack_arrays
from uqlib_kernels._tree_portable import plain_blocks

__all__ = ["LaneTrees", "leaf_masks"]

LANES = 64
MAX_COLUMNS, MAX_LEAVES = 128, 64
_PART = 16  # trees whose masks share a vector (two vectors above 32 leaves)


class LaneTrees(TreeKernel):
    """Trees side by side, bit-equal to the reference; meant for one to six rows.

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
        self._trees, self._columns = trees, columns
        self._compared = columns.thresholds.dtype
        self._packed: Any = _packed(trees, columns)
        self._wide: Any = None

    @staticmethod
    def takes(trees: TreeArrays, columns: BinArrays) -> bool:
        """Return whether leaves (64 a tree), columns (128) and bins (8 bits) fit."""
        return (
            columns.feature.size <= MAX_COLUMNS
            and bin_dtype(columns) == np.uint8
            and int(np.diff(trees.leaf_start).max(initial=0)) <= MAX_LEAVES
        )

    def fill(
        self, values: NDArray[Any], start: int, stop: int, out: NDArray[Any]
    ) -> None:
        """Write the raw predictions of the rows start, ..., stop - 1."""
        # Most calls come in the one form for which kernels are compiled.
        if values.dtype is self._compared and values.flags.carray:
            plan, data = self._packed
            predict_rows(values, start, stop, plan, data, out)
            return
        compared, (plan, data) = self._form(values.dtype)
        for block, first, last, rows in plain_blocks(
            values, start, stop, out, compared
        ):
            predict_rows(block, first, last, plan, data, rows)

    def _form(self, dtype: np.dtype[Any]) -> Any:
        """Return the type in which values are compared and what does so."""
        compared = np.promote_types(dtype, self._compared)
        if compared == self._compared:
            return compared, self._packed
        if self._wide is None:
            thresholds = self._columns.thresholds.astype(compared)
            columns = self._columns._replace(thresholds=thresholds)
            self._wide = _packed(self._trees, columns)
        return compared, self._wide


def _packed(
    trees: TreeArrays, columns: BinArrays
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    search = VectorSearch(columns, at_least=2)
    leaves = int(np.diff(trees.leaf_start).max(initial=0))
    n_tables = 1 if columns.feature.size <= 64 else 2
    bits = 32 if leaves <= 32 else 64
    groups, records = _groups(trees, bits, parts_compiled(n_tables, bits))
    numbers = [
        trees.tree_output.size,
        trees.leaf_value.shape[1],
        int(trees.divisor),
        n_tables,
        bits,
    ]
    # The order of `predict_rows`.
    parts = [
        search.numbers,
        search.keys,
        search.categories,
        search.tables,
        groups,
        records,
        trees.tree_output,
        trees.leaf_value.astype(trees.baseline.dtype),
        trees.baseline,
    ]
    return pack_arrays(numbers, parts)


def _groups(
    trees: TreeArrays, bits: int, forms: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the groups of trees and their nodes.

    Returns
    -------
    groups : ndarray of shape (n_groups, 4)
        Records of a group, its parts of 16 trees, first byte of its leaves and of its
        records, int64.
    records : ndarray of shape (n_bytes,)
        For each group the first leaves of its trees, int32; then for each k the columns
        and the bins of its k-th nodes, 64 bytes each, and the masks.
    """
    n_trees = trees.tree_output.size
    nodes = np.diff(trees.node_start)
    firsts = range(0, n_trees, LANES)
    groups = np.zeros((len(firsts), 4), dtype=np.int64)
    pieces: list[NDArray[np.uint8]] = []
    position = 0
    masks = leaf_masks(trees, bits)
    for g, first in enumerate(firsts):
        members = slice(first, min(first + LANES, n_trees))
        needed = -(-(members.stop - first) // _PART)
        n_parts = next(parts for parts in forms if parts >= needed)
        size = int(nodes[members].max(initial=0))
        leaves = np.zeros(LANES, dtype=np.int32)
        leaves[: members.stop - first] = trees.leaf_start[members]
        body = _records(trees, members, size, n_parts, masks)
        groups[g] = size, n_parts, position, position + leaves.nbytes
        pieces += [leaves.view(np.uint8), body]
        position += leaves.nbytes + body.size
    return groups, np.concatenate([np.zeros(0, np.uint8), *pieces])


def _records(
    trees: TreeArrays,
    members: slice,
    size: int,
    n_parts: int,
    masks: NDArray[Any],
) -> NDArray[np.uint8]:
    lanes = _PART * n_parts
    columns = np.zeros((size, LANES), dtype=np.uint8)
    bins = np.full((size, LANES), 255, dtype=np.uint8)  # never to the right
    keep = np.full((size, lanes), ~masks.dtype.type(0), dtype=masks.dtype)
    for lane, tree in enumerate(range(members.start, members.stop)):
        nodes = slice(*trees.node_start[tree : tree + 2])
        k = nodes.stop - nodes.start
        columns[:k, lane] = trees.node_column[nodes]
        bins[:k, lane] = trees.node_bin[nodes]
        keep[:k, lane] = masks[nodes]
    parts = [columns, bins, keep.view(np.uint8)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).reshape(-1)


def leaf_masks(trees: TreeArrays, bits: int) -> NDArray[Any]:
    """Return for each node the leaves that a turn to the right leaves in reach.

    In preorder, with leaves numbered from left to right, the left subtree of a node
    with s nodes of its own holds s + 1 leaves from the first leaf of the node on.
    """
    first, inside = _left_leaves(trees)
    kind: Any = np.uint32 if bits == 32 else np.uint64
    # Bits first, ..., first + inside - 1 from the top: fewer than there are bits.
    run = (kind(1) << inside.astype(kind)) - kind(1)
    shift = bits - first.astype(np.int64) - inside.astype(np.int64)
    masks: NDArray[Any] = ~(run << shift.astype(kind))
    return masks


def _left_leaves(trees: TreeArrays) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first leaf and number of leaves of the left subtree of every node."""
    left, right = trees.left.tolist(), trees.right.tolist()
    counts = np.diff(trees.node_start)
    offset = np.repeat(trees.node_start[:-1], counts).tolist()
    first, inside, below = ([0] * len(left) for _ in range(3))
    for node in range(len(left) - 1, -1, -1):  # children come later
        a, c = left[node], right[node]
        inside[node] = below[offset[node] + a] if a >= 0 else 1
        first[node] = first[offset[node] + a] if a >= 0 else ~a
        below[node] = inside[node] + (below[offset[node] + c] if c >= 0 else 1)
    return np.array(first, dtype=np.int64), np.array(inside, dtype=np.int64)
