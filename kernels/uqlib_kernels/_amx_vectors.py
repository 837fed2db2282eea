"""What surrounds the products of tiles: codes made bytes, and integers made results.

With code sums p = sum(q a) and row sums s = sum(a) of a group, and twice the zero point
in the parts i (an integer) and f (the rest, 0 if zero points are equal),

    y = row_scale * sum_g scale_g (2 p_g - i_g s_g - f_g s_g) / 2 + bias,

where 2 p - i s is exact and all that follows is rounded operation by operation, in the
order of `_dot`: the bits of a result do not depend on the level of instructions.
"""

from typing import Any

from numba import extending, types

from uqlib_kernels import _ir as v
from uqlib_kernels._dot import whole_and_rest

__all__ = ["KERNEL_VERSION", "add_group", "spread_codes"]

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic


@_intrinsic(prefer_literal=True)
def spread_codes(
    typing: Any, source: Any, n_vectors: Any, target: Any, bits: Any
) -> Any:
    """Write codes of `bits` bits as bytes: 8 / bits vectors for each one read."""
    width = bits.literal_value
    mask = v.constant(v.I32X16, (2**width - 1) * 0x01010101)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, n_vectors, target, _ = arguments
        with v.counted(builder, n_vectors) as index:
            at = builder.mul(index, v.constant(v.I64, 64))
            codes = v.load(builder, v.add_bytes(builder, source, at), v.I32X16)
            out = builder.mul(at, v.constant(v.I64, 8 // width))
            out = v.add_bytes(builder, target, out)
            for part in range(8 // width):
                down = v.constant(v.I32X16, width * part)
                piece = builder.and_(builder.lshr(codes, down), mask)
                v.store(builder, piece, v.add_bytes(builder, out, 64 * part))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, bits), write


@_intrinsic(prefer_literal=True)
def add_group(
    typing: Any,
    products: Any,
    totals: Any,
    n_rows: Any,
    sums: Any,
    sums_stride: Any,
    scale: Any,
    zero: Any,
    at_group: Any,
    tile_stride: Any,
    twice_zero: Any,
    is_first: Any,
    is_last: Any,
    row_scale: Any,
    bias: Any,
    out: Any,
    out_stride: Any,
    n_valid: Any,
    w_tiles: Any,
) -> Any:
    """Add one group to the totals of a block of rows; write results after the last.

    Products and totals are those of `tile_block`. The scales of weight tile j are at
    scale + at_group + j tile_stride, the zero points at zero + ..., or `zero` is None
    and all are twice_zero / 2. Of the last group, the results of row m go to
    out + m out_stride, `n_valid` numbers at most.
    """
    columns = w_tiles.literal_value
    with_zeros = not isinstance(zero, types.NoneType)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _Block(builder, arguments, columns, with_zeros)
        with builder.if_else(_is_true(builder, arguments[11])) as (last, other):
            with last:
                block.write_rows(True)
            with other:
                block.write_rows(False)
        return context.get_dummy_value()

    given = [types.int64] * 17
    given[6] = types.int64 if with_zeros else zero
    return types.void(*given, w_tiles), write


def _is_true(builder: Any, number: Any) -> Any:
    return builder.icmp_signed("!=", number, v.constant(v.I64, 0))


class _Block:
    """Writes the code of `add_group`."""

    def __init__(
        self, builder: Any, arguments: Any, columns: int, with_zeros: bool
    ) -> None:
        self.b, self.columns = builder, columns
        self.products, self.totals, self.n_rows = arguments[:3]
        self.sums, self.sums_stride = arguments[3:5]
        scale, zero, at_group, tile_stride, twice_zero = arguments[5:10]
        self.is_first = _is_true(builder, arguments[10])
        self.row_scale, self.bias, self.out = arguments[12:15]
        self.out_stride, self.n_valid = arguments[15:17]
        self.scale = self._vectors(v.add_bytes(builder, scale, at_group), tile_stride)
        self.twice_zero = builder.trunc(twice_zero, v.I32)
        self.zeros: list[tuple[Any, Any]] = []
        if with_zeros:
            zero = v.add_bytes(builder, zero, at_group)
            found = self._vectors(zero, tile_stride)
            self.zeros = [whole_and_rest(builder, vector) for vector in found]

    def write_rows(self, last: bool) -> None:
        """Write the loop over the rows."""
        b = self.b
        bias = self._vectors(self.bias, v.constant(v.I64, 64)) if last else []
        with v.counted(b, self.n_rows) as row:
            at = b.mul(row, v.constant(v.I64, 64 * self.columns))
            four = b.mul(row, v.constant(v.I64, 4))
            place = v.add_bytes(b, self.sums, b.mul(row, self.sums_stride))
            row_sum = v.load(b, place, v.I32)
            for j in range(self.columns):
                total = self._total(v.add_bytes(b, at, 64 * j), row_sum, j)
                if not last:
                    v.store(b, total, v.add_bytes(b, self.totals, at, 64 * j))
                    continue
                factor = v.load(b, v.add_bytes(b, self.row_scale, four), v.F32)
                halved = b.fmul(total, v.constant(v.F32X16, 0.5))
                result = b.fadd(b.fmul(halved, v.splat(b, factor, 16)), bias[j])
                place = v.add_bytes(b, self.out, b.mul(row, self.out_stride), 64 * j)
                self._put(result, place, 16 * j)

    def _total(self, at: Any, row_sum: Any, j: int) -> Any:
        """Return the total of one row and tile with this group."""
        b = self.b
        product = v.load(b, v.add_bytes(b, self.products, at), v.I32X16)
        value = self._value(b.add(product, product), row_sum, j)
        before = v.load(b, v.add_bytes(b, self.totals, at), v.F32X16)
        before = b.select(self.is_first, v.constant(v.F32X16, 0.0), before)
        return b.fadd(before, b.fmul(value, self.scale[j]))

    def _value(self, doubled: Any, row_sum: Any, j: int) -> Any:
        """Return 2 p - i s - f s."""
        b = self.b
        if not self.zeros:
            offset = v.splat(b, b.mul(self.twice_zero, row_sum), 16)
            return b.sitofp(b.sub(doubled, offset), v.F32X16)
        whole, rest = self.zeros[j]
        many = v.splat(b, row_sum, 16)
        exact = b.sitofp(b.sub(doubled, b.mul(whole, many)), v.F32X16)
        return b.fsub(exact, b.fmul(rest, b.sitofp(many, v.F32X16)))

    def _put(self, value: Any, place: Any, before: int) -> None:
        """Write 16 numbers, or those that the matrix has."""
        b = self.b
        left = b.sub(self.n_valid, v.constant(v.I64, before))
        whole = b.icmp_signed(">=", left, v.constant(v.I64, 16))
        with b.if_else(whole, likely=True) as (all_of_them, some):
            with all_of_them:
                v.store(b, value, place, align=4)
            with some:
                memory = b.ptrtoint(v.variable(b, value), v.I64)
                with v.counted(b, left) as index:
                    four = b.mul(index, v.constant(v.I64, 4))
                    number = v.load(b, v.add_bytes(b, memory, four), v.F32)
                    v.store(b, number, v.add_bytes(b, place, four), align=4)

    def _vectors(self, address: Any, stride: Any) -> list[Any]:
        loaded = []
        for _ in range(self.columns):
            loaded.append(v.load(self.b, address, v.F32X16))
            address = self.b.add(address, stride)
        return loaded
