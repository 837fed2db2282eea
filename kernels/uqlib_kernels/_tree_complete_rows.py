"""Few rows in trees of any size: a vector search for bins, then walks side by side."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_lanes_bins import search_bins
from uqlib_kernels._tree_lanes_kernels import add_leaves
from uqlib_kernels._tree_portable_bins import FIELDS, bin_categories
from uqlib_kernels._tree_portable_nodes import BIN_SHIFT, TILE
from uqlib_kernels._tree_portable_walk import chunk_of, step

__all__ = ["predict_few"]

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)


@row_jit
def _search(
    values: NDArray[Any],
    start: int,
    n_rows: int,
    plan: NDArray[np.int64],
    data: NDArray[np.uint8],
    bins: NDArray[np.uint32],
) -> None:
    """Write the bins of at most 8 rows as one tile."""
    x_step = np.int64(values.shape[1] * values.itemsize)
    x = np.int64(values.ctypes.data) + start * x_step
    data_at, bins_at = np.int64(data.ctypes.data), np.int64(bins.ctypes.data)
    at, n = data_at + plan[4], (plan[5] - plan[4]) // (8 * FIELDS)
    keys, row, column = data_at + plan[6], np.int64(4), np.int64(4 * TILE)
    one, u32, rows = values.dtype.type(0), np.uint32(0), np.int64(n_rows)
    if plan[3] == 2:
        search_bins(x, x_step, rows, at, n, keys, bins_at, row, column, 2, one, u32)
    elif plan[3] == 3:
        search_bins(x, x_step, rows, at, n, keys, bins_at, row, column, 3, one, u32)
    else:
        search_bins(x, x_step, rows, at, n, keys, bins_at, row, column, 4, one, u32)
    if plan[9] > plan[8]:
        categories = data[plan[8] : plan[9]].view(np.int64)
        tables = data[plan[10] : plan[11]]
        bin_categories(
            values, start, n_rows, categories, tables, bins, 0, TILE, BIN_SHIFT
        )


@row_jit
def _reach(
    groups: NDArray[np.uint64],
    nodes: NDArray[np.uint64],
    leaf_of: NDArray[np.uint32],
    bins: NDArray[np.uint32],
    row: np.uint64,
    leaves: NDArray[np.uint32],
) -> None:
    """Write the leaves that a row of a tile reaches in all trees.

    `groups` has for every eight trees the places of their roots and their steps.
    """
    for group in range(groups.size // 9):
        t, at = 8 * group, 9 * group
        a, b, c, d = groups[at], groups[at + 1], groups[at + 2], groups[at + 3]
        e, f, g, h = groups[at + 4], groups[at + 5], groups[at + 6], groups[at + 7]
        steps: Any = np.int64(groups[at + 8])
        chunk = chunk_of(steps)
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
            # Places only grow on the way, so that all have arrived if the sum stays.
            if steps > 0 and a + b + c + d + e + f + g + h == before:
                break
        leaves[t], leaves[t + 1] = leaf_of[a], leaf_of[b]
        leaves[t + 2], leaves[t + 3] = leaf_of[c], leaf_of[d]
        leaves[t + 4], leaves[t + 5] = leaf_of[e], leaf_of[f]
        leaves[t + 6], leaves[t + 7] = leaf_of[g], leaf_of[h]


@row_jit
def predict_few(
    values: NDArray[Any],
    start: int,
    stop: int,
    plan: NDArray[np.int64],
    data: NDArray[np.uint8],
    out: NDArray[Any],
) -> None:
    """Write the predictions of rows, one after the other; `_packed` makes the plan."""
    width, divisor, n_columns = plan[0], plan[1], plan[2]
    nodes = data[plan[12] : plan[13]].view(np.uint64)
    leaf_of = data[plan[14] : plan[15]].view(np.uint32)
    groups = data[plan[16] : plan[17]].view(np.uint64)
    tree_output = data[plan[18] : plan[19]].view(np.int32)
    leaf_value = data[plan[20] : plan[21]].view(out.dtype)
    baseline = data[plan[22] : plan[23]].view(out.dtype)
    n_trees = tree_output.size

    bins = np.empty(TILE * max(n_columns, 1), dtype=np.uint32)
    leaves = np.empty(8 * (groups.size // 9), dtype=np.uint32)
    for i in range(start, stop):
        if (i - start) % TILE == 0:
            _search(values, i, min(TILE, stop - i), plan, data, bins)
        _reach(groups, nodes, leaf_of, bins, np.uint64((i - start) % TILE), leaves)
        if width == 1 and baseline.size == 1:
            total = baseline[0]
            for t in range(np.uint64(n_trees)):
                total += leaf_value[leaves[t]]
            out[i, 0] = total
        else:
            add_leaves(
                leaves, n_trees, width, tree_output, leaf_value, baseline, out[i]
            )
        if divisor > 1:
            for k in range(out.shape[1]):
                out[i, k] /= out.dtype.type(divisor)
