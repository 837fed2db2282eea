r"""Vector instructions of fused networks: round a row, multiply it, bend it.

A row of floats x becomes codes a = clip(rint(x / t), -top, top). Adding 1.5 2^23 to a
number below 2^22 rounds it to an integer, halves to even, and leaves that integer in
the low bits of the sum: so one fused multiplication and addition scales and rounds, the
lowest byte is the code, and the sum of the bits tells that of the codes.

The sum s of the codes corrects for zero points z = 0, ..., 255 of the weights in one
instruction, which adds two products of 16 bits: with -s = 128 h + l, 0 <= l < 128,

    sum_k (q_k - z) a_k = sum_k q_k a_k + l z + h (128 z),

where z and 128 z are below 2^15, and so is h while a row has less than 2^15 columns.

A row with an infinite value or NaN gets the scale NaN, so that all that comes after it
in this row is NaN.
"""

from typing import Any

from llvmlite import binding
from numba import types
from numba.extending import intrinsic

from uqlib_kernels import _ir as v
from uqlib_kernels._mlp_functions import (
    FUNCTIONS,
    absolute_bits,
    fma,
    greater,
    smaller,
)

__all__ = ["bend_row", "multiply_rows", "number_at", "read_row", "round_row"]

_instructions: Any = intrinsic(prefer_literal=True)
_ADDRESS = types.int64
_INFINITE = 0x7F800000  # bits of an infinite value; those of NaN are above
_NAN = 0x7FC00000
_SMALLEST = 1.1754943508222875e-38  # normal number in single precision
_MAGIC, _MAGIC_BITS = 12582912.0, 0x4B400000
_LINE = 6  # 2^6 bytes in a vector
# From LLVM 22 on the operands are of 16 bits; before, of 32.
_WORD_OPERANDS = binding.llvm_version_info[0] >= 22


@_instructions
def number_at(typingctx: Any, source: Any, itemsize: Any) -> Any:
    """Return a number of 4 or 8 bytes as one of 4."""
    wide = itemsize.literal_value == 8

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        found = v.load(b, args[0], v.F64 if wide else v.F32)
        return b.fptrunc(found, v.F32) if wide else found

    return types.float32(_ADDRESS, itemsize), codegen


@_instructions
def read_row(
    typingctx: Any,
    source: Any,
    divisor: Any,
    n_columns: Any,
    target: Any,
    itemsize: Any,
) -> Any:
    """Write n_columns >= 16 numbers of 4 or 8 bytes over their divisors as floats.

    The last 16 may overlap with those before.
    """
    wide = itemsize.literal_value == 8

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        source, divisor, n_columns, target, _ = args

        def part(at: Any) -> None:
            four = b.shl(at, v.constant(v.I64, 2))
            if wide:
                place = v.add_bytes(b, source, b.shl(at, v.constant(v.I64, 3)))
                numbers = v.load(b, place, v.vector(v.F64, 16))
                numbers = b.fptrunc(numbers, v.F32X16)
            else:
                numbers = v.load(b, v.add_bytes(b, source, four), v.F32X16)
            by = v.load(b, v.add_bytes(b, divisor, four), v.F32X16)
            v.store(b, b.fdiv(numbers, by), v.add_bytes(b, target, four))

        last = b.sub(n_columns, v.constant(v.I64, 16))
        with v.counted(b, last, 16) as at:
            part(at)
        part(last)
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 4, itemsize), codegen


@_instructions
def round_row(
    typingctx: Any,
    row: Any,
    n_vectors: Any,
    codes: Any,
    state: Any,
    top: Any,
    fixed: Any,
    exact: Any,
) -> Any:
    """Write the codes of a row; at `state` its scale and its sum for `multiply_rows`.

    `fixed` is the scale, or 0 for that of the row itself. With `exact` every number is
    divided by the scale, else multiplied by its inverse, a bit of the code differs then
    in rare cases.
    """
    divides = bool(exact.literal_value)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        row, n_vectors, codes, state, top, fixed, _ = args
        largest = _largest(b, row, n_vectors)
        scale, factor = _scale(b, largest, top, fixed, divides)
        by, high = v.splat(b, factor, 16), v.splat(b, top, 16)
        low = b.fneg(high)
        magic = v.constant(v.F32X16, _MAGIC)
        total = v.variable(b, v.constant(v.I32X16, 0))
        with v.counted(b, n_vectors) as i:
            at = b.shl(i, v.constant(v.I64, _LINE))
            x = v.load(b, v.add_bytes(b, row, at), v.F32X16)
            level = b.fdiv(x, by) if divides else b.fmul(x, by)
            level = greater(b, smaller(b, level, high), low)
            bits = b.bitcast(b.fadd(level, magic), v.I32X16)
            place = v.add_bytes(b, codes, b.shl(i, v.constant(v.I64, 4)))
            v.store(b, b.trunc(bits, v.vector(v.I8, 16)), place)
            b.store(b.add(b.load(total), bits), total)
        found = v.call(b, "llvm.vector.reduce.add.v16i32", v.I32, b.load(total))
        count = b.shl(b.trunc(n_vectors, v.I32), v.constant(v.I32, 4))
        added = b.mul(count, v.constant(v.I32, _MAGIC_BITS))
        v.store(b, scale, state)
        pair = _halves(b, b.sub(added, found))
        v.store(b, pair, v.add_bytes(b, state, 4))
        return context.get_dummy_value()

    kinds = [*[_ADDRESS] * 4, types.float32, types.float32, exact]
    return types.void(*kinds), codegen


def _largest(b: Any, row: Any, n_vectors: Any) -> Any:
    """Return the bits of the largest absolute value; NaN is above all."""
    place = v.variable(b, v.constant(v.I32X16, 0))
    with v.counted(b, n_vectors) as i:
        at = v.add_bytes(b, row, b.shl(i, v.constant(v.I64, _LINE)))
        bits = absolute_bits(b, v.load(b, at, v.F32X16))
        found = v.call(b, "llvm.smax.v16i32", v.I32X16, b.load(place), bits)
        b.store(found, place)
    return v.call(b, "llvm.vector.reduce.smax.v16i32", v.I32, b.load(place))


def _scale(
    b: Any, largest: Any, top: Any, fixed: Any, divides: bool
) -> tuple[Any, Any]:
    """Return the scale of a row, and what its numbers are divided or multiplied by."""
    one = v.constant(v.F32, 1.0)
    least = v.constant(v.F32, 0.0 if divides else _SMALLEST)
    own = b.fdiv(b.bitcast(largest, v.F32), top)
    small = b.fcmp_ordered("<=" if divides else "<", own, least)
    own = b.select(small, one, own)
    is_fixed = b.fcmp_ordered(">", fixed, v.constant(v.F32, 0.0))
    scale = b.select(is_fixed, fixed, own)
    factor = scale if divides else b.fdiv(one, scale)
    finite = b.icmp_signed("<", largest, v.constant(v.I32, _INFINITE))
    nan = b.bitcast(v.constant(v.I32, _NAN), v.F32)
    return b.select(finite, scale, nan), factor


def _halves(b: Any, number: Any) -> Any:
    """Return 16 bits of l and 16 of h, number = 128 h + l."""
    low = b.and_(number, v.constant(v.I32, 127))
    high = b.ashr(number, v.constant(v.I32, 7))
    return b.or_(low, b.shl(high, v.constant(v.I32, 16)))


@_instructions
def multiply_rows(
    typingctx: Any,
    weight: Any,
    constants: Any,
    n_words: Any,
    codes: Any,
    stride: Any,
    state: Any,
    out: Any,
    out_stride: Any,
    floor: Any,
    n_rows: Any,
    n_tiles: Any,
    n_sums: Any,
) -> Any:
    """Write max(t s (q - z) a + b, floor) for some rows and tiles of 16 outputs.

    `constants` is the address of z, s and b of the first tile, 64 bytes each. Of each
    product there are `n_sums` partial sums, so that none waits for the one before.
    """
    rows, tiles, sums = (part.literal_value for part in (n_rows, n_tiles, n_sums))

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        (weight, constants, n_words, codes, stride, state, out, out_stride) = args[:8]
        floor = v.splat(b, args[8], 16)
        size = b.shl(n_words, v.constant(v.I64, _LINE))
        tile_at = _multiples(b, weight, size, tiles)
        row_at = _multiples(b, codes, stride, rows)
        total = {
            key: v.variable(b, v.constant(v.I32X16, 0))
            for key in _keys(rows, tiles, sums)
        }
        with v.counted(b, n_words, sums) as word:
            for k in range(sums):
                at = b.shl(word, v.constant(v.I64, _LINE))
                q = [
                    v.load(b, v.add_bytes(b, tile, at, 64 * k), v.I32X16)
                    for tile in tile_at
                ]
                at = b.shl(word, v.constant(v.I64, 2))
                for r in range(rows):
                    four = v.load(b, v.add_bytes(b, row_at[r], at, 4 * k), v.I32)
                    a = v.splat(b, four, 16)
                    for t in range(tiles):
                        place = total[r, t, k]
                        b.store(v.dot_bytes(b, b.load(place), q[t], a), place)
        out_at = _multiples(b, out, out_stride, rows)
        for t in range(tiles):
            zero, scale, bias = (
                v.load(b, v.add_bytes(b, constants, 192 * t + 64 * part), kind)
                for part, kind in enumerate((v.I32X16, v.F32X16, v.F32X16))
            )
            for r in range(rows):
                found = b.load(total[r, t, 0])
                for k in range(1, sums):
                    found = b.add(found, b.load(total[r, t, k]))
                pair = v.load(b, v.add_bytes(b, state, 8 * r + 4), v.I32)
                found = _dot_words(b, found, zero, v.splat(b, pair, 16))
                own = v.splat(b, v.load(b, v.add_bytes(b, state, 8 * r), v.F32), 16)
                y = b.fmul(b.sitofp(found, v.F32X16), own)
                y = greater(b, fma(b, y, scale, bias), floor)
                v.store(b, y, v.add_bytes(b, out_at[r], 64 * t))
        return context.get_dummy_value()

    kinds = [*[_ADDRESS] * 8, types.float32, n_rows, n_tiles, n_sums]
    return types.void(*kinds), codegen


def _keys(rows: int, tiles: int, sums: int) -> list[tuple[int, int, int]]:
    return [(r, t, k) for r in range(rows) for t in range(tiles) for k in range(sums)]


def _multiples(b: Any, address: Any, step: Any, count: int) -> list[Any]:
    return [b.add(address, b.mul(step, v.constant(v.I64, k))) for k in range(count)]


def _dot_words(b: Any, total: Any, left: Any, right: Any) -> Any:
    """Return total + the sums of two products of signed 16 bits."""
    operand = v.I16X32 if _WORD_OPERANDS else v.I32X16
    return v.call(
        b,
        "llvm.x86.avx512.vpdpwssd.512",
        v.I32X16,
        total,
        b.bitcast(left, operand),
        b.bitcast(right, operand),
    )


@_instructions
def bend_row(
    typingctx: Any, row: Any, n_vectors: Any, factor: Any, function: Any
) -> Any:
    """Apply an activation to a row in place, and multiply by factors."""
    name = function.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        row, n_vectors, factor, _ = args
        with v.counted(b, n_vectors) as i:
            at = b.shl(i, v.constant(v.I64, _LINE))
            place = v.add_bytes(b, row, at)
            x = FUNCTIONS[name](b, v.load(b, place, v.F32X16))
            by = v.load(b, v.add_bytes(b, factor, at), v.F32X16)
            v.store(b, b.fmul(x, by), place)
        return context.get_dummy_value()

    return types.void(*[_ADDRESS] * 3, function), codegen
