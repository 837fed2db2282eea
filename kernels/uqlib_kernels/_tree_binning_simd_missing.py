"""What a search does not settle: missing values, sets of categories, and copies."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numpy.typing import NDArray

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

__all__ = [
    "copy_number",
    "finish_targets",
    "look_up_tables",
    "lowest_bit",
    "number_at",
    "read_byte",
    "read_word",
    "write_bin",
]

_ROWS = 64  # whose bins of 8 bits fill a vector


@_intrinsic(prefer_literal=True)
def _rows_of_bin_0(typingctx: Any, bins: Any, width: Any) -> Any:
    """Return the rows among 64 with bin 0 as bits, the first row lowest."""
    size = width.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        kind = v.vector(ir.IntType(8 * size), _ROWS)
        zero = b.icmp_unsigned("==", v.load(b, args[0], kind), v.constant(kind, 0))
        return b.bitcast(zero, v.I64)

    return types.int64(types.int64, width), codegen


@_intrinsic(prefer_literal=True)
def _copy(typingctx: Any, source: Any, target: Any, width: Any) -> Any:
    """Copy 64 bins."""
    kind = v.vector(v.I8, _ROWS * width.literal_value)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        v.store(b, v.load(b, args[0], kind), args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, width), codegen


@_intrinsic(prefer_literal=True)
def _number(typingctx: Any, address: Any, key_bytes: Any) -> Any:
    """Return the number at an address as float64."""
    size = key_bytes.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        if size == 4:
            return b.fpext(v.load(b, args[0], v.F32), v.F64)
        return v.load(b, args[0], v.F64)

    return types.float64(types.int64, key_bytes), codegen


@_intrinsic(prefer_literal=True)
def _write(typingctx: Any, address: Any, value: Any, width: Any) -> Any:
    """Write a bin."""
    size = width.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        v.store(b, b.trunc(args[1], ir.IntType(8 * size)), args[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, width), codegen


@_intrinsic
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """Return the place of the lowest bit that is set."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        undefined_at_0 = v.constant(ir.IntType(1), 1)
        return v.call(b, "llvm.cttz.i64", v.I64, args[0], undefined_at_0)

    return types.int64(types.int64), codegen


@_intrinsic
def read_byte(typingctx: Any, address: Any) -> Any:
    """Return the byte at an address."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.zext(v.load(b, args[0], v.I8), v.I64)

    return types.int64(types.int64), codegen


@_intrinsic
def read_word(typingctx: Any, address: Any) -> Any:
    """Return the two bytes at an address as a number."""

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        return b.zext(v.load(b, args[0], v.I16), v.I64)

    return types.int64(types.int64), codegen


@_intrinsic(prefer_literal=True)
def _copy_number(typingctx: Any, source: Any, target: Any, key_bytes: Any) -> Any:
    """Copy a number."""
    kind = v.F32 if key_bytes.literal_value == 4 else v.F64

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        v.store(b, v.load(b, args[0], kind), args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, key_bytes), codegen


@row_jit
def copy_number(source: int, target: int, size: int) -> None:
    """Copy a number of 4 or 8 bytes."""
    if size == 4:
        _copy_number(source, target, 4)
    else:
        _copy_number(source, target, 8)


@row_jit
def number_at(address: int, size: int) -> float:
    """Return the number of 4 or 8 bytes at an address."""
    return _number(address, 4) if size == 4 else _number(address, 8)


@row_jit
def write_bin(address: int, value: int, width: int) -> None:
    """Write a bin of 1 or 2 bytes."""
    if width == 1:
        _write(address, value, 1)
    else:
        _write(address, value, 2)


@row_jit
def _bits_below(count: int) -> int:
    """Return a number of which only the lowest bits are set, at most 64."""
    one: Any = np.int64(1)
    return -one if count >= 64 else (one << count) - one


@row_jit
def finish_targets(
    fields: NDArray[np.int64], begin: int, end: int, x: int, stride: int, n_rows: int,
    out: int, out_stride: int, size: int, width: int, may_have_nan: bool,
) -> None:  # fmt: skip
    """Copy bins to all columns that want them, and mend these.

    `begin` and `end` are the targets in `BinPlan.fields`; the first one has the bins.
    """
    found = out + fields[begin, 0] * out_stride
    for t in range(begin + 1, end):
        copy = out + fields[t, 0] * out_stride
        for first in range(0, n_rows, _ROWS):
            if width == 1:
                _copy(found + first, copy + first, 1)
            else:
                _copy(found + 2 * first, copy + 2 * first, 2)
    for t in range(begin, end):
        if fields[t, 3] != 0 or (fields[t, 2] != 0 and may_have_nan):
            column = out + fields[t, 0] * out_stride
            for first in range(0, n_rows, _ROWS):
                _mend_missing(
                    x + first * stride, stride, n_rows - first, column + first * width,
                    fields[t, 1], fields[t, 3], size, width,
                )  # fmt: skip


@row_jit
def _mend_missing(
    x: int, stride: int, n_rows: int, out: int, missing: int, zero_too: int,
    size: int, width: int,
) -> None:  # fmt: skip
    """Give missing values their bin; every search gives them 0."""
    rows = np.int64(-1)
    if zero_too == 0:
        rows = _rows_of_bin_0(out, 1) if width == 1 else _rows_of_bin_0(out, 2)
    rows &= _bits_below(n_rows)
    while rows != 0:
        r = lowest_bit(rows)
        rows &= rows - 1
        number = number_at(x + r * stride, size)
        if np.isnan(number) or (zero_too != 0 and number == 0):
            write_bin(out + r * width, missing, width)


@row_jit
def look_up_tables(
    fields: NDArray[np.int64], data: NDArray[np.uint8], x: int, row_stride: int,
    column_stride: int, n_rows: int, out: int, out_stride: int, width: int,
) -> None:  # fmt: skip
    """Write the bins of categories; their numbers are cut off toward 0."""
    first = 1 + fields[0, 0] + fields[0, 1]
    size = fields[0, 3]
    for t in range(first, first + fields[0, 2]):
        at, column = x + fields[t, 1] * column_stride, out + fields[t, 0] * out_stride
        begin, n_categories = fields[t, 2], fields[t, 3]
        for r in range(n_rows):
            number = number_at(at + r * row_stride, size)
            found = fields[t, 4]
            if number > -1 and number < n_categories:
                found = np.int64(data[begin + np.int64(number)])
            write_bin(column + r * width, found, width)
