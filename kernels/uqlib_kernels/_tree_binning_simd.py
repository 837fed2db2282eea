"""Bins of rows with vector instructions: bin(x) = #{k : t_k < x}.

Columns of at most 255 thresholds are searched in registers, 128 rows at a time; all
others, and few rows, by counting in buckets of 16 thresholds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_binning_simd_buckets import search_buckets
from uqlib_kernels._tree_binning_simd_keys import (
    KEY_ROWS,
    WINDOW,
    search_keys,
    write_keys,
)
from uqlib_kernels._tree_binning_simd_missing import (
    copy_number,
    finish_targets,
    look_up_tables,
    lowest_bit,
    number_at,
    read_byte,
    read_word,
    write_bin,
)
from uqlib_kernels._tree_binning_simd_plan import FIELDS, BinPlan, bin_plan

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

__all__ = ["BinPlan", "bin_block", "bin_plan"]

_FEW = 12  # rows up to which it does not pay to make keys of 64
_KEY_BYTES = 4 * WINDOW * KEY_ROWS
_AGAIN_BYTES = 8 * KEY_ROWS


@row_jit
def bin_block(
    x: int,
    row_stride: int,
    column_stride: int,
    n_features: int,
    n_rows: int,
    fields: NDArray[np.int64],
    data: NDArray[np.uint8],
    out: int,
    out_stride: int,
    width: int,
) -> None:
    """Write the bins of a block of rows, column after column.

    Parameters
    ----------
    x : int
        Address of the first row: numbers in the type of the thresholds.
    row_stride, column_stride : int
        Bytes from one row, and from one feature, to the next.
    n_features, n_rows : int
        Size of the block.
    fields, data : ndarray
        Of a `BinPlan`.
    out : int
        Address of the bins. Those of a column are contiguous, with room for `n_rows`
        rounded up to a multiple of 64.
    out_stride : int
        Bytes from one column of bins to the next.
    width : {1, 2}
        Bytes of a bin: 1 if no column has more than 255 thresholds.
    """
    for first in range(0, n_rows, KEY_ROWS):
        count = min(KEY_ROWS, n_rows - first)
        rows, bins = x + first * row_stride, out + first * width
        if width == 1 and count > _FEW:
            _bins_by_keys(
                rows, row_stride, column_stride, n_features, count, fields, data, bins,
                out_stride,
            )  # fmt: skip
        else:
            _bins_by_buckets(
                rows, row_stride, column_stride, count, fields, data, bins, out_stride,
                width,
            )  # fmt: skip
        look_up_tables(
            fields, data, rows, row_stride, column_stride, count, bins, out_stride,
            width,
        )  # fmt: skip


@row_jit
def _bins_by_buckets(
    x: int, row_stride: int, column_stride: int, n_rows: int,
    fields: NDArray[np.int64], data: NDArray[np.uint8], out: int, out_stride: int,
    width: int,
) -> None:  # fmt: skip
    n_searches, size = fields[0, 0], fields[0, 3]
    data_at: Any = np.int64(data.ctypes.data)
    field: Any = np.int64(fields.ctypes.data)
    for s in range(1, 1 + n_searches):
        at = x + fields[s, 0] * column_stride
        begin = 1 + n_searches + fields[s, 4]
        found = out + fields[begin, 0] * out_stride
        search_buckets(
            at, row_stride, n_rows, field + 8 * FIELDS * s, data_at, found, size, width
        )
        finish_targets(
            fields, begin, begin + fields[s, 5], at, row_stride, n_rows, out,
            out_stride, size, width, True,
        )  # fmt: skip


@row_jit
def _bins_by_keys(
    x: int, row_stride: int, column_stride: int, n_features: int, n_rows: int,
    fields: NDArray[np.int64], data: NDArray[np.uint8], out: int, out_stride: int,
) -> None:  # fmt: skip
    n_searches, size = fields[0, 0], fields[0, 3]
    data_at: Any = np.int64(data.ctypes.data)
    room = np.empty(3 * _KEY_BYTES + _AGAIN_BYTES + 64, dtype=np.uint8)
    keys: Any = (np.int64(room.ctypes.data) + 63) & ~np.int64(63)
    again_at = keys + _KEY_BYTES
    window: Any = np.int64(-WINDOW)
    wide = min(n_features, WINDOW)
    for s in range(1, 1 + n_searches):
        feature: Any = fields[s, 0]
        if feature >= window + WINDOW:
            window = max(0, min(feature, n_features - WINDOW))
            _keys_of_window(
                x + window * column_stride, row_stride, column_stride,
                wide, n_rows, keys, again_at + _AGAIN_BYTES, size,
            )  # fmt: skip
        at = x + feature * column_stride
        begin = 1 + n_searches + fields[s, 4]
        found = out + fields[begin, 0] * out_stride
        own = keys + 4 * KEY_ROWS * (feature - window)
        tables, kind = data_at + fields[s, 6], fields[s, 1]
        again = search_keys(own, tables, found, again_at, kind, n_rows)
        if again != 0:
            _settle(
                again_at, at, row_stride, n_rows, found, data_at + fields[s, 7],
                fields[s, 3], size,
            )  # fmt: skip
        finish_targets(
            fields, begin, begin + fields[s, 5], at, row_stride, n_rows, out,
            out_stride, size, 1, again != 0,
        )  # fmt: skip
    room[0] = 0  # Numba frees an array after its last use, whoever has its address


@row_jit
def _keys_of_window(
    x: int, row_stride: int, column_stride: int, n_features: int, n_rows: int,
    keys: int, copies: int, size: int,
) -> None:  # fmt: skip
    """Write the keys of up to 16 features, copied first if not so many are in a row."""
    if column_stride == size and n_features == WINDOW:
        write_keys(x, row_stride, n_rows, keys, size)
        return
    for r in range(n_rows):
        for f in range(n_features):
            source = x + r * row_stride + f * column_stride
            copy_number(source, copies + (r * WINDOW + f) * size, size)
    write_keys(copies, WINDOW * size, n_rows, keys, size)


@row_jit
def _settle(
    again: int, x: int, stride: int, n_rows: int, out: int, thresholds: int,
    n_thresholds: int, size: int,
) -> None:  # fmt: skip
    """Move the bins of some rows on to where the numbers themselves belong."""
    for first in range(0, n_rows, 16):
        rows: Any = read_word(again + 8 * first)
        while rows != 0:
            r = first + lowest_bit(rows)
            rows &= rows - 1
            if r < n_rows:
                number = number_at(x + r * stride, size)
                found = read_byte(out + r)
                while found < n_thresholds and (
                    number_at(thresholds + found * size, size) < number
                ):
                    found += 1
                write_bin(out + r, found, 1)
