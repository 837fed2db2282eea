"""Rounding rows of floats to bytes, in vector instructions."""

from typing import Any

import numpy as np
from numba import extending, types
from numpy.typing import NDArray

from uqlib_kernels._integer_plan import field
from uqlib_kernels._ir import (
    F32X16,
    I8,
    I32,
    I32X16,
    I64,
    add_bytes,
    call,
    constant,
    counted,
    first_lanes,
    load,
    load_some,
    require_version,
    splat,
    store,
    variable,
    vector,
)
from uqlib_kernels._jit import row_jit

__all__ = ["quantize_part"]

KERNEL_VERSION = 2
require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

_N_IN, _GROUP_SIZE = field("n_in"), field("group_size")
_INNER, _PADDED = field("inner_group"), field("padded_group")

_ABSOLUTE = 0x7FFFFFFF
_INFINITE = 0x7F800000  # bits of infinity; those of NaN are larger
_STEP = 16
_UNROLL = 4


@row_jit
def quantize_part(
    plan: NDArray[np.int64],
    x: NDArray[np.float32],
    codes: NDArray[np.int8],
    sums: NDArray[np.int32],
    row_scale: NDArray[np.float32],
    start: int,
    stop: int,
    top: float,
    static_scale: float,
) -> None:
    """Round rows start, ..., stop - 1 of x to rows 0, ... of the other arrays.

    `static_scale` is 0 where each row has a scale of its own.
    """
    n_in, n_groups = plan[_N_IN], sums.shape[1]
    group_size, inner, padded = plan[_GROUP_SIZE], plan[_INNER], plan[_PADDED]
    at_x, at_codes = np.int64(x.ctypes.data), np.int64(codes.ctypes.data)
    row_step, column_step = x.strides[0], x.strides[1]
    largest_code = np.float32(top)
    strided = column_step != 4 and n_in > 1
    row = np.empty(n_in if strided else 0, dtype=np.float32)
    for m in range(start, stop):
        if strided:
            for k in range(n_in):
                row[k] = x[m, k]
            at = np.int64(row.ctypes.data)
        else:
            at = at_x + m * row_step
        bits = largest_bits(at, n_in)
        finite = bits < _INFINITE
        scale = np.float32(static_scale)
        if static_scale == 0.0:
            scale = float_of_bits(bits) / largest_code
        if scale == 0.0 or not finite:
            scale = np.float32(1.0)
        row_scale[m - start] = scale if finite else np.float32(np.nan)
        group = 0
        at_code = at_codes + (m - start) * n_groups * padded
        for whole in range(0, n_in, group_size):
            for part in range(0, group_size, inner):
                first = whole + part
                count = min(inner, group_size - part, n_in - first)
                if not finite or count < 0:
                    count = 0
                sums[m - start, group] = quantize_group(
                    at + 4 * first, count, padded, scale, largest_code, at_code
                )
                at_code += padded
                group += 1


@_intrinsic
def float_of_bits(typing: Any, bits: Any) -> Any:
    """Return the float of which `bits` are the bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], F32X16.element)

    return types.float32(types.int32), generate


@_intrinsic
def largest_bits(typing: Any, x: Any, count: Any) -> Any:
    """Return the largest of the bits of abs(x), as an integer.

    Integers order the bits of positive floats as the floats, and NaN above infinity.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        b = builder
        x, count = arguments
        ones = constant(I32X16, _ABSOLUTE)
        most = [variable(b, constant(I32X16, 0)) for _ in range(_UNROLL)]

        def add(place: Any, address: Any, mask: Any = None) -> None:
            bits = _load(b, address, I32X16, mask)
            bits, now = b.and_(bits, ones), b.load(place)
            b.store(b.select(b.icmp_signed(">", bits, now), bits, now), place)

        done = b.and_(count, constant(I64, -_STEP * _UNROLL))
        with counted(b, done, _STEP * _UNROLL) as k:
            for u, place in enumerate(most):
                add(place, add_bytes(b, x, b.mul(k, constant(I64, 4)), 64 * u))
        left = b.sub(count, done)
        with counted(b, left, _STEP) as k:
            mask = first_lanes(b, b.sub(left, k))
            column = b.add(done, k)
            add(most[0], add_bytes(b, x, b.mul(column, constant(I64, 4))), mask)
        found = b.load(most[0])
        for place in most[1:]:
            other = b.load(place)
            found = b.select(b.icmp_signed(">", other, found), other, found)
        return call(b, "llvm.vector.reduce.smax.v16i32", I32, found)

    return types.int32(types.int64, types.int64), generate


@_intrinsic
def quantize_group(
    typing: Any, x: Any, count: Any, padded: Any, scale: Any, top: Any, out: Any
) -> Any:
    """Write clip(rint(x / scale), -top, top) of `count` columns, then zeros.

    `padded` is a multiple of 32. Returns the sum of the codes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        b = builder
        x, count, padded, scale, top, out = arguments
        scale, top = splat(b, scale, _STEP), splat(b, top, _STEP)
        least = b.fneg(top)
        sums = [variable(b, constant(I32X16, 0)) for _ in range(_UNROLL)]

        def add(place: Any, column: Any, mask: Any = None) -> None:
            at = b.add(x, b.mul(column, constant(I64, 4)))
            value = b.fdiv(_load(b, at, F32X16, mask), scale)
            value = b.select(b.fcmp_ordered("<", value, top), value, top)
            value = b.select(b.fcmp_ordered(">", value, least), value, least)
            code = b.fptosi(call(b, "llvm.rint.v16f32", F32X16, value), I32X16)
            b.store(b.add(b.load(place), code), place)
            store(b, b.trunc(code, vector(I8, _STEP)), b.add(out, column))

        done = b.and_(count, constant(I64, -_STEP * _UNROLL))
        with counted(b, done, _STEP * _UNROLL) as k:
            for u, place in enumerate(sums):
                add(place, b.add(k, constant(I64, _STEP * u)))
        with counted(b, b.sub(padded, done), _STEP) as k:
            column = b.add(done, k)
            add(sums[0], column, first_lanes(b, b.sub(count, column)))
        total = b.load(sums[0])
        for place in sums[1:]:
            total = b.add(total, b.load(place))
        return call(b, "llvm.vector.reduce.add.v16i32", I32, total)

    given = (types.int64,) * 3 + (types.float32,) * 2 + (types.int64,)
    return types.int32(*given), generate


def _load(builder: Any, address: Any, kind: Any, mask: Any) -> Any:
    """Return 16 numbers, zero where there is a mask that lacks them."""
    if mask is None:
        return load(builder, address, kind)
    return load_some(builder, address, kind, mask)
