"""The search for bins with vectors: 16 thresholds in one or two compares.

See `_tree_lanes_blocks` for the search. Compares with NaN are false, so a missing
value finds bin 0 and gets that of its column afterwards.
"""

from typing import Any

import numpy as np
from numba import extending, types

from uqlib_kernels import _ir as v
from uqlib_kernels._tree_arrays import BinArrays
from uqlib_kernels._tree_lanes_blocks import BLOCK, LEVELS, search_blocks
from uqlib_kernels._tree_portable_bins import (
    FIELDS,
    ITSELF,
    TABLE,
    ZERO_IS_MISSING,
)
from uqlib_kernels._tree_portable_nodes import BIN_SHIFT

__all__ = ["VectorSearch", "search_bins"]

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel


class VectorSearch:
    """The columns of an ensemble, numbers apart from categories.

    Parameters
    ----------
    columns : BinArrays
        What the bins are.
    at_least : int
        Levels.

    Attributes
    ----------
    numbers, categories : ndarray of shape (n_columns of a kind, 8)
        Fields of the columns, int64.
    keys : ndarray of shape (n_blocks, 16)
        Thresholds.
    tables : ndarray of shape (n_entries,)
        Tables of categories, uint8.
    n_levels : int
        Levels of the search.
    """

    def __init__(self, columns: BinArrays, at_least: int) -> None:
        search = search_blocks(columns, at_least)
        is_table = search.columns[:, 1] == TABLE
        self.numbers = np.ascontiguousarray(search.columns[~is_table])
        self.categories = np.ascontiguousarray(search.columns[is_table])
        self.keys, self.n_levels = search.keys, search.n_levels
        self.tables = columns.tables


@_intrinsic(prefer_literal=True)
def search_bins(
    typingctx: Any,
    x: Any,
    x_step: Any,
    n_rows: Any,
    columns: Any,
    n_columns: Any,
    keys: Any,
    bins: Any,
    row_step: Any,
    column_step: Any,
    n_levels: Any,
    of_values: Any,
    of_bins: Any,
) -> Any:
    """Write the bins of rows at the address `x`, which lie `x_step` bytes apart.

    The bin of row r in column c goes to the address bins + r row_step + c column_step.
    `n_levels` is a literal; `of_values` and `of_bins` are numbers of the types of
    values (and keys) and of bins: uint8, or uint32 that hold bins times 2^16.
    """
    levels = n_levels.literal_value
    number = v.F32 if of_values.bitwidth == 32 else v.F64
    size, bin_bits = of_values.bitwidth // 8, of_bins.bitwidth

    def codegen(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        x, x_step, n_rows, columns, n_columns, keys, bins = arguments[:7]
        row_step, column_step = arguments[7:9]
        at = [v.constant(v.I64, 8 * field) for field in range(FIELDS)]
        with v.counted(b, n_columns) as c:
            column = b.add(columns, b.mul(c, v.constant(v.I64, 8 * FIELDS)))
            field = [v.load(b, b.add(column, step), v.I64) for step in at]
            x_at = b.add(x, b.mul(field[0], v.constant(v.I64, size)))
            zero_too = b.icmp_signed("==", field[1], v.constant(v.I64, ZERO_IS_MISSING))
            bins_at = b.add(bins, b.mul(field[ITSELF], column_step))
            first = [
                b.add(keys, b.mul(start, v.constant(v.I64, BLOCK * size)))
                for start in field[LEVELS : LEVELS + levels]
            ]
            with v.counted(b, n_rows) as r:
                value = v.load(b, b.add(x_at, b.mul(r, x_step)), number)
                found = _found(b, first, v.splat(b, value, BLOCK), size)
                is_nan = b.fcmp_unordered("uno", value, value)
                is_zero = b.fcmp_ordered("==", value, v.constant(number, 0.0))
                is_missing = b.or_(is_nan, b.and_(is_zero, zero_too))
                found = b.select(is_missing, field[2], found)
                if bin_bits == 8:
                    code = b.trunc(found, v.I8)
                else:
                    code = b.trunc(b.shl(found, v.constant(v.I64, BIN_SHIFT)), v.I32)
                v.store(b, code, b.add(bins_at, b.mul(r, row_step)))
        return context.get_dummy_value()

    addresses = [types.int64] * 9
    return types.void(*addresses, n_levels, of_values, of_bins), codegen


def _found(b: Any, first: Any, values: Any, size: int) -> Any:
    """Return the number of thresholds below a value, of which all lanes are."""
    found = v.constant(v.I64, 0)
    for start in first:
        block_at = b.add(start, b.mul(found, v.constant(v.I64, BLOCK * size)))
        block = v.load(b, block_at, values.type)
        below = b.bitcast(b.fcmp_ordered("<", block, values), v.I16)
        count = b.zext(v.call(b, "llvm.ctpop.i16", v.I16, below), v.I64)
        found = b.add(b.mul(found, v.constant(v.I64, BLOCK)), count)
    return found
