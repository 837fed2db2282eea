"""Rows that walk down trees, several at a time, in plain loops.

A step of one row waits for two loads; those of other rows, or of the same row in other
trees, fill that time.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_portable_nodes import BIN_SHIFT, CHILD_SHIFT

__all__ = ["add_walks_by_row", "add_walks_by_tree", "chunk_of", "step"]

# Unsigned integers all the way: Numba wraps signed indices around at the end of an
# array, and makes floats of a sum of signed and unsigned ones.
_COLUMN_MASK, _CHILD_SHIFT = np.uint64((1 << BIN_SHIFT) - 1), np.uint64(CHILD_SHIFT)
_1, _2, _3, _4, _5, _6, _7 = (np.uint64(k) for k in range(1, 8))


@row_jit
def chunk_of(depth: int) -> int:
    """Return after how many steps to see whether all rows have arrived.

    Trees that are not pruned are far deeper than most of their leaves.
    """
    return 4 if depth > 9 else max(depth, 1)


@row_jit
def step(
    nodes: NDArray[np.uint64],
    bins: NDArray[np.uint32],
    row: np.uint64,
    place: np.uint64,
) -> np.uint64:
    """Return the place after one step; the bins of the row begin at `row`."""
    node = nodes[place]
    return (node + np.uint64(bins[row + (node & _COLUMN_MASK)])) >> _CHILD_SHIFT


@row_jit
def add_walks_by_tree(
    bins: NDArray[np.uint32],
    n_rows: int,
    tile_step: int,
    nodes: NDArray[np.uint64],
    leaf_of: NDArray[np.uint32],
    roots: NDArray[np.int64],
    depths: NDArray[np.int64],
    tree_output: NDArray[np.int32],
    leaf_value: NDArray[Any],
    out: NDArray[Any],
    start: int,
) -> None:
    """Add the leaves of many rows, tree after tree, a tile of 8 rows at a time.

    Rows of the last tile that are none have any bins: no sum of a node and a bin
    carries more than 1, and at a leaf none does, so that they stay in the tree.
    """
    n_tiles = (n_rows + 7) // 8
    leaves = np.empty(8 * n_tiles, dtype=np.uint32)
    for tree in range(roots.size):
        root, depth = np.uint64(roots[tree]), depths[tree]
        chunk = chunk_of(depth)
        for tile in range(n_tiles):
            row = np.uint64(tile * tile_step)
            a = b = c = d = e = f = g = h = root
            steps = depth
            while steps > 0:
                for _ in range(min(steps, chunk) - 1):
                    a, b = step(nodes, bins, row, a), step(nodes, bins, row + _1, b)
                    c, d = (
                        step(nodes, bins, row + _2, c),
                        step(nodes, bins, row + _3, d),
                    )
                    e, f = (
                        step(nodes, bins, row + _4, e),
                        step(nodes, bins, row + _5, f),
                    )
                    g, h = (
                        step(nodes, bins, row + _6, g),
                        step(nodes, bins, row + _7, h),
                    )
                before = a + b + c + d + e + f + g + h
                a, b = step(nodes, bins, row, a), step(nodes, bins, row + _1, b)
                c, d = step(nodes, bins, row + _2, c), step(nodes, bins, row + _3, d)
                e, f = step(nodes, bins, row + _4, e), step(nodes, bins, row + _5, f)
                g, h = step(nodes, bins, row + _6, g), step(nodes, bins, row + _7, h)
                steps -= chunk
                # Places only grow on the way: all have arrived if the sum stays.
                if steps > 0 and a + b + c + d + e + f + g + h == before:
                    break
            r = 8 * tile
            leaves[r], leaves[r + 1] = leaf_of[a], leaf_of[b]
            leaves[r + 2], leaves[r + 3] = leaf_of[c], leaf_of[d]
            leaves[r + 4], leaves[r + 5] = leaf_of[e], leaf_of[f]
            leaves[r + 6], leaves[r + 7] = leaf_of[g], leaf_of[h]
        # A loop of its own: as a function of one leaf it would count references.
        output = tree_output[tree]
        if leaf_value.shape[1] == 1:
            for r in range(n_rows):
                out[start + r, output] += leaf_value[leaves[r], 0]
        else:
            for r in range(n_rows):
                for k in range(leaf_value.shape[1]):
                    out[start + r, k] += leaf_value[leaves[r], k]


@row_jit
def add_walks_by_row(
    bins: NDArray[np.uint32],
    n_rows: int,
    tile_step: int,
    nodes: NDArray[np.uint64],
    leaf_of: NDArray[np.uint32],
    roots: NDArray[np.int64],
    depths: NDArray[np.int64],
    tree_output: NDArray[np.int32],
    leaf_value: NDArray[Any],
    out: NDArray[Any],
    start: int,
) -> None:
    """Add the leaves of few rows, row after row, eight trees at a time."""
    whole = roots.size - roots.size % 8
    leaves = np.empty(roots.size, dtype=np.uint32)
    for r in range(n_rows):
        row = np.uint64((r // 8) * tile_step + r % 8)
        for t in range(0, whole, 8):
            depth = depths[t]
            for k in range(1, 8):
                depth = max(depth, depths[t + k])
            a, b = np.uint64(roots[t]), np.uint64(roots[t + 1])
            c, d = np.uint64(roots[t + 2]), np.uint64(roots[t + 3])
            e, f = np.uint64(roots[t + 4]), np.uint64(roots[t + 5])
            g, h = np.uint64(roots[t + 6]), np.uint64(roots[t + 7])
            steps, chunk = depth, chunk_of(depth)
            while steps > 0:
                for _ in range(min(steps, chunk) - 1):
                    a, b = step(nodes, bins, row, a), step(nodes, bins, row, b)
                    c, d = step(nodes, bins, row, c), step(nodes, bins, row, d)
                    e, f = step(nodes, bins, row, e), step(nodes, bins, row, f)
                    g, h = step(nodes, bins, row, g), step(nodes, bins, row, h)
                before = a + b + c + d + e + f + g + h
                a, b = step(nodes, bins, row, a), step(nodes, bins, row, b)
                c, d = step(nodes, bins, row, c), step(nodes, bins, row, d)
                e, f = step(nodes, bins, row, e), step(nodes, bins, row, f)
                g, h = step(nodes, bins, row, g), step(nodes, bins, row, h)
                steps -= chunk
                if steps > 0 and a + b + c + d + e + f + g + h == before:
                    break
            leaves[t], leaves[t + 1] = leaf_of[a], leaf_of[b]
            leaves[t + 2], leaves[t + 3] = leaf_of[c], leaf_of[d]
            leaves[t + 4], leaves[t + 5] = leaf_of[e], leaf_of[f]
            leaves[t + 6], leaves[t + 7] = leaf_of[g], leaf_of[h]
        for t in range(whole, roots.size):
            a = np.uint64(roots[t])
            for _ in range(depths[t]):
                a = step(nodes, bins, row, a)
            leaves[t] = leaf_of[a]
        if leaf_value.shape[1] == 1:
            for t in range(roots.size):
                out[start + r, tree_output[t]] += leaf_value[leaves[t], 0]
        else:
            for t in range(roots.size):
                for k in range(leaf_value.shape[1]):
                    out[start + r, k] += leaf_value[leaves[t], k]
