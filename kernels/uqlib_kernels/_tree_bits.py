"""Trees of up to 64 leaves: 64 rows a vector, nodes looked up six at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_arrays import BinArrays, TreeArrays, TreeKernel
from uqlib_kernels._tree_binning_simd import BinPlan, bin_block, bin_plan
from uqlib_kernels._tree_bits_columns import MAX_BIN, with_small_bins
from uqlib_kernels._tree_bits_kernels import add_leaves, in_row_order, walk_trees
from uqlib_kernels._tree_bits_layout import (
    BLOCK,
    CHUNK,
    MAX_LEAVES,
    tree_program,
)

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

__all__ = ["BitVectorTrees"]

_VECTOR = 64  # rows
_MAX_COLUMNS = 4096  # whose bins of a block take 2 MiB


class BitVectorTrees(TreeKernel):
    """Trees of few leaves, bit-equal to the reference.

    Parameters
    ----------
    trees : TreeArrays
        The trees.
    columns : BinArrays
        What their bins are.
    """

    def __init__(self, trees: TreeArrays, columns: BinArrays) -> None:
        self._made_of = trees, columns
        self.n_outputs = int(trees.baseline.size)
        self.dtype = trees.baseline.dtype
        small, node_column, node_bin = with_small_bins(trees, columns)
        self._columns = small
        self._plans: dict[np.dtype[Any], BinPlan] = {}
        self._program = tree_program(trees, node_column, node_bin)
        self._baseline = np.ascontiguousarray(trees.baseline)
        self._divisor = int(trees.divisor)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy of what is laid out here would not keep its alignment.
        return BitVectorTrees, self._made_of

    @staticmethod
    def takes(trees: TreeArrays, columns: BinArrays) -> bool | str:
        """Return True, or why these trees are for another kernel."""
        most = int(np.diff(trees.leaf_start).max(initial=0))
        if trees.leaf_value.shape[1] != 1:
            return f"leaves hold {trees.leaf_value.shape[1]} values, more than 1"
        if trees.leaf_value.dtype != trees.baseline.dtype:
            return f"leaves of {trees.leaf_value.dtype} add to {trees.baseline.dtype}"
        if trees.baseline.dtype not in (np.float32, np.float64):
            return f"sums are of {trees.baseline.dtype}, not float32 or float64"
        if most > MAX_LEAVES:
            return f"a tree has {most} leaves, more than {MAX_LEAVES}"
        n_columns = columns.feature.size + columns.thresholds.size // MAX_BIN
        if n_columns > _MAX_COLUMNS:
            return f"nodes look at up to {n_columns} columns, more than {_MAX_COLUMNS}"
        return True

    def fill(
        self, values: NDArray[Any], start: int, stop: int, out: NDArray[Any]
    ) -> None:
        """Write the raw predictions of the rows start, ..., stop - 1."""
        plan = self._plans.get(values.dtype) or self._plan(values.dtype)
        program = self._program
        if plan.fields[0, 3] != values.itemsize:
            values, out = values[start:stop].astype(np.float64), out[start:stop]
            start, stop = 0, len(values)
        row_stride, column_stride = values.strides
        _predict(
            _address(values), row_stride, column_stride, values.shape[1], start, stop,
            out, plan.fields, plan.data, program.forms, program.code,
            program.n_chunks, program.n_tables, self._baseline, self._divisor,
        )  # fmt: skip

    def _plan(self, dtype: np.dtype[Any]) -> BinPlan:
        """Return how numbers of a type are compared: in the wider of two types."""
        if dtype not in (np.float32, np.float64):
            raise TypeError(
                f"values must be float32 or float64, got {dtype}: convert them, as "
                "values.astype(np.float64) does."
            )
        thresholds = self._columns.thresholds
        wide = thresholds.astype(np.promote_types(thresholds.dtype, dtype))
        plan = bin_plan(self._columns._replace(thresholds=wide))
        self._plans[dtype] = plan
        return plan


@row_jit
def _address(values: NDArray[Any]) -> int:
    """Return where an array begins: so one kernel serves all layouts."""
    begin: Any = np.int64(values.ctypes.data)
    return begin


@row_jit
def _predict(
    values: int,
    row_stride: int,
    column_stride: int,
    n_features: int,
    start: int,
    stop: int,
    out: NDArray[Any],
    fields: NDArray[np.int64],
    data: NDArray[np.uint8],
    forms: NDArray[np.int32],
    code: NDArray[np.uint8],
    n_chunks: int,
    n_tables: int,
    baseline: NDArray[Any],
    divisor: int,
) -> None:
    n_columns = fields[0, 4]
    room = np.empty(BLOCK * (n_columns + CHUNK) + 64, dtype=np.uint8)
    bins: Any = (np.int64(room.ctypes.data) + 63) & ~np.int64(63)
    states = bins + BLOCK * n_columns
    sums_room = np.empty(BLOCK + 16, dtype=out.dtype)
    skip = (-np.int64(sums_room.ctypes.data) & 63) // out.itemsize
    sums = sums_room[skip : skip + BLOCK]
    forms_at: Any = np.int64(forms.ctypes.data)
    code_at: Any = np.int64(code.ctypes.data)
    for first in range(start, stop, BLOCK):
        n_rows = min(BLOCK, stop - first)
        bin_block(
            values + first * row_stride, row_stride, column_stride, n_features,
            n_rows, fields, data, bins, BLOCK, 1,
        )  # fmt: skip
        group, chunk = code_at, 0
        for output in range(baseline.size):
            sums[:] = baseline[output]
            while chunk < n_chunks and forms[chunk, 0] == output:
                n_trees: Any = np.int64(forms[chunk, 1])
                walks = forms_at + 16 * forms[chunk, 2]
                group = _walk(walks, n_trees, group, bins, states, n_rows)
                leaves = code_at + forms[chunk, 3]
                _add(states, n_trees, leaves, sums, n_tables, n_rows)
                chunk += 1
            _write(sums, n_rows, out[first : first + n_rows, output], divisor)
    room[0] = 0  # Numba frees an array after its last use, whoever has its address


@row_jit
def _walk(
    walks: int, n_trees: int, groups: int, bins: int, states: int, n_rows: int
) -> int:
    """Write the leaves of rows and return the end of the groups.

    Vectors of rows share what is read of a tree, so that eight cost about as much as
    five times one, and four as three.
    """
    end, first = groups, 0
    while first < n_rows:
        rows, to = bins + first, states + first
        if n_rows - first > 5 * _VECTOR:
            end = walk_trees(walks, n_trees, groups, rows, to, 8)
            first += 8 * _VECTOR
        elif n_rows - first > 2 * _VECTOR:
            end = walk_trees(walks, n_trees, groups, rows, to, 4)
            first += 4 * _VECTOR
        else:
            end = walk_trees(walks, n_trees, groups, rows, to, 1)
            first += _VECTOR
    return end


@row_jit
def _add(
    states: int, n_trees: int, leaves: int, sums: NDArray[Any], n_tables: int,
    n_rows: int,
) -> None:  # fmt: skip
    """Add the leaves of trees to sums."""
    for first in range(0, n_rows, _VECTOR):
        at: Any = np.int64(sums.ctypes.data) + first * sums.itemsize
        if sums.itemsize == 4:
            if n_tables == 1:
                add_leaves(states + first, n_trees, leaves, at, 1, 1)
            else:
                add_leaves(states + first, n_trees, leaves, at, 1, 2)
        elif n_tables == 1:
            add_leaves(states + first, n_trees, leaves, at, 2, 1)
        else:
            add_leaves(states + first, n_trees, leaves, at, 2, 2)


@row_jit
def _write(sums: NDArray[Any], n_rows: int, out: NDArray[Any], divisor: int) -> None:
    """Write sums in the order of rows, divided."""
    if sums.itemsize == 8:
        for first in range(0, n_rows, _VECTOR):
            in_row_order(np.int64(sums.ctypes.data) + 8 * first)
    if divisor > 1:
        for r in range(n_rows):
            out[r] = sums[r] / sums.dtype.type(divisor)
    else:
        for r in range(n_rows):
            out[r] = sums[r]
