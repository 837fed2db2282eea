r"""Bins of up to 65535 thresholds by counting, for any strides and few rows too.

The sorted thresholds of a column lie in buckets of 16, padded with infinity, which is
below no number. The last threshold of every bucket but the last one is a pivot; pivots
lie in buckets of 16 in turn, until one bucket holds all. A search compares a number
with the 16 entries of a bucket at once and counts: if p entries of a bucket are below
x, then bucket p of the next level is the one in which x falls, as the p-th pivot is the
first that is not below x. At the last level

    bin(x) = 16 * (bucket) + #{entries of the bucket below x} .

Nothing branches on the data and nothing is gathered, so searches of several rows
overlap. There are at most four levels.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_binning_simd_plan import BUCKET

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

__all__ = ["search_buckets"]

_TOGETHER = 4  # rows whose searches are written side by side


def _bucket(builder: Any, address: Any, element: Any) -> list[Any]:
    """Load the 16 entries of a bucket."""
    lanes = 512 // (32 if element is v.F32 else 64)
    kind = v.vector(element, lanes)
    return [
        v.load(builder, v.add_bytes(builder, address, 64 * part), kind, align=64)
        for part in range(BUCKET // lanes)
    ]


def _count_below(builder: Any, bucket: list[Any], x: Any) -> Any:
    """Return how many entries of a bucket are below a number, an int64."""
    masks = [
        builder.fcmp_ordered("<", part, v.splat(builder, x, part.type.count))
        for part in bucket
    ]
    if len(masks) == 2:
        order = v.constant(v.vector(v.I32, BUCKET), list(range(BUCKET)))
        masks = [builder.shuffle_vector(*masks, order)]
    bits = builder.zext(builder.bitcast(masks[0], v.I16), v.I32)
    return builder.zext(v.call(builder, "llvm.ctpop.i32", v.I32, bits), v.I64)


@_intrinsic(prefer_literal=True)
def _search_buckets(
    typingctx: Any,
    x: Any,
    stride: Any,
    n_rows: Any,
    field: Any,
    data: Any,
    out: Any,
    key_bytes: Any,
    width: Any,
) -> Any:
    """Write the bins of numbers at x, x + stride, ... as `width` bytes each.

    `field` is the address of a search in `BinPlan.fields`.
    """
    key_size, size = key_bytes.literal_value, width.literal_value
    element = v.F32 if key_size == 4 else v.F64
    bucket_shift = v.constant(v.I64, 6 if key_size == 4 else 7)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        x, stride, n_rows, field, data, out, _, _ = args
        levels = v.add_bytes(b, field, 8 * 8)
        top = _bucket(b, b.add(data, v.load(b, levels, v.I64)), element)
        n_levels = v.load(b, v.add_bytes(b, field, 8 * 2), v.I64)
        n_lower = b.sub(n_levels, v.constant(v.I64, 1))

        def rows(first: Any, count: int) -> None:
            order = [b.add(first, v.constant(v.I64, r)) for r in range(count)]
            numbers = [
                v.load(b, v.add_bytes(b, x, b.mul(row, stride)), element)
                for row in order
            ]
            found = [v.variable(b, _count_below(b, top, number)) for number in numbers]
            with v.counted(b, n_lower) as level:
                place = b.shl(level, v.constant(v.I64, 3))
                begin = v.load(b, v.add_bytes(b, levels, 8, place), v.I64)
                buckets = b.add(data, begin)
                for number, count_of_row in zip(numbers, found, strict=True):
                    above = b.load(count_of_row)
                    at = v.add_bytes(b, buckets, b.shl(above, bucket_shift))
                    below = _count_below(b, _bucket(b, at, element), number)
                    scaled = b.shl(above, v.constant(v.I64, 4))
                    b.store(b.add(scaled, below), count_of_row)
            for row, count_of_row in zip(order, found, strict=True):
                at = v.add_bytes(b, out, b.mul(row, v.constant(v.I64, size)))
                bins = b.trunc(b.load(count_of_row), ir.IntType(8 * size))
                v.store(b, bins, at)

        whole = b.and_(n_rows, v.constant(v.I64, -_TOGETHER))
        with v.counted(b, whole, _TOGETHER) as first:
            rows(first, _TOGETHER)
        with v.counted(b, b.sub(n_rows, whole)) as rest:
            rows(b.add(whole, rest), 1)
        return context.get_dummy_value()

    long = types.int64
    return types.void(long, long, long, long, long, long, key_bytes, width), codegen


@row_jit
def search_buckets(
    x: int, stride: int, n_rows: int, field: int, data: int, out: int, size: int,
    width: int,
) -> None:  # fmt: skip
    """Write the bins of numbers at x, x + stride, ...; missing ones get 0.

    Parameters
    ----------
    x, stride, n_rows : int
        Address of the first number, bytes to the next one, and how many there are.
    field, data : int
        Addresses of a search in the fields of a plan and of its data.
    out : int
        Address of the bins.
    size : {4, 8}
        Bytes of a number.
    width : {1, 2}
        Bytes of a bin.
    """
    if size == 8:
        if width == 1:
            _search_buckets(x, stride, n_rows, field, data, out, 8, 1)
        else:
            _search_buckets(x, stride, n_rows, field, data, out, 8, 2)
    elif width == 1:
        _search_buckets(x, stride, n_rows, field, data, out, 4, 1)
    else:
        _search_buckets(x, stride, n_rows, field, data, out, 4, 2)
