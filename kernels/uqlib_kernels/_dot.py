"""The innermost block of an integer matrix product, in vector instructions.

A block is some rows of bytes times two tiles of 16 outputs each. Its sums stay in
registers while the weights of the two tiles stream by once: the bytes of one word of a
tile (pack.py) are multiplied with four bytes of each row, which are copied into all
lanes.

With code sums p = sum(q a) and row sums s = sum(a) of a group, and twice the zero point
in the parts i (an integer) and f (the rest, 0 if zero points are equal),

    y = row_scale * sum_g scale_g (2 p_g - i_g s_g - f_g s_g) / 2 + bias.

2 p - i s is exact in 32 bits (pack.MAX_GROUP). What follows is rounded to single
precision after each operation, in this order and never fused, so that every level of
instructions and every number of rows gives the same bits.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types

from uqlib_kernels._integer_plan import FIELDS, ZERO_REACH
from uqlib_kernels._ir import (
    F32,
    F32X16,
    I8,
    I32,
    I32X16,
    I64,
    add_bytes,
    call,
    constant,
    counted,
    dot_bytes,
    first_lanes,
    load,
    load_some,
    require_version,
    splat,
    store,
    store_some,
    variable,
)

__all__ = ["MOST_ROWS", "TILES", "dot_block", "whole_and_rest"]

KERNEL_VERSION = 2
require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

TILES = 2
_SIZES = (1, 4, 8)  # rows of a block
MOST_ROWS = _SIZES[-1]
_LINE = 64
_SUMS = 16  # sums of 32 bits that a block keeps in registers
# How many bytes ahead weights are asked for. The processor's own prefetching does not
# look far enough where a line takes many instructions, and stops at the end of a page.
# With one row, bytes are fast enough for it, and with 4 bits asking costs more than it
# gives for weights that stay in the second cache.
_AHEAD = 2048
_NEAR_BYTES = 2**20


@_intrinsic(prefer_literal=True)
def dot_block(
    typing: Any,
    plan: Any,
    tile: Any,
    codes: Any,
    sums: Any,
    row_scale: Any,
    bias: Any,
    out: Any,
    n_rows: Any,
    bits: Any,
) -> Any:
    """Write the outputs of the tiles `tile` and `tile` + 1 for 1 to `MOST_ROWS` rows.

    `bits` is a literal, the others are int64, of which `codes`, `sums`, `row_scale` and
    `out` are the addresses of the first row. There are blocks of some sizes only: rows
    that are missing repeat the last one, a tile that is missing repeats the one before,
    and write what is there already.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def write(sizes: tuple[int, ...]) -> None:
            if len(sizes) == 1:
                _Block(builder, arguments, bits.literal_value, sizes[0]).write()
                return
            few = constant(I64, sizes[0])
            fits = builder.icmp_signed("<=", arguments[7], few)
            with builder.if_else(fits) as (smallest, larger):
                with smallest:
                    write(sizes[:1])
                with larger:
                    write(sizes[1:])

        write(_SIZES)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8, bits), generate


class _Block:
    """Writes the instructions of one block."""

    def __init__(self, builder: Any, arguments: Any, bits: int, rows: int) -> None:
        self.b = builder
        self.bits, self.parts, self.rows = bits, 8 // bits, rows
        plan, self.tile, codes, sums, row_scale, self.bias, out, n_rows = arguments[:8]
        self.field = {
            name: load(builder, add_bytes(builder, plan, 8 * k), I64)
            for k, name in enumerate(FIELDS)
        }
        self._tiles()
        self._rows(codes, sums, row_scale, out, n_rows)

    def _tiles(self) -> None:
        """Find where the two tiles lie."""
        b, field = self.b, self.field
        self.group_bytes = b.mul(field["n_words"], constant(I64, _LINE))
        last = b.sub(field["n_tiles"], constant(I64, 1))
        following = b.add(self.tile, constant(I64, 1))
        exists = b.icmp_signed("<", following, field["n_tiles"])
        tiles = [self.tile, b.select(exists, following, last)]
        lines = [b.mul(tile, field["n_groups"]) for tile in tiles]
        self.weights = [
            b.add(field["codes"], b.mul(line, self.group_bytes)) for line in lines
        ]
        self.tile_bytes = b.mul(field["n_groups"], self.group_bytes)
        self.ends = [b.add(place, self.tile_bytes) for place in self.weights]
        weight_bytes = b.mul(field["n_tiles"], self.tile_bytes)
        self.far = b.icmp_signed(">", weight_bytes, constant(I64, _NEAR_BYTES))
        self.group_of = [b.mul(line, constant(I64, _LINE)) for line in lines]
        first = [b.mul(tile, constant(I64, 16)) for tile in tiles]
        self.columns = [b.mul(column, constant(I64, 4)) for column in first]
        self.lanes = [b.sub(field["n_out"], column) for column in first]

    def _rows(
        self, codes: Any, sums: Any, row_scale: Any, out: Any, n_rows: Any
    ) -> None:
        """Find where the rows lie."""
        b, field = self.b, self.field
        last = b.sub(n_rows, constant(I64, 1))
        n_padded = b.mul(field["n_groups"], field["padded_group"])
        index = [constant(I64, 0)]
        for r in range(1, self.rows):
            there = b.icmp_signed("<", constant(I64, r), n_rows)
            index.append(b.select(there, constant(I64, r), last))

        def places(base: Any, step: Any) -> list[Any]:
            return [b.add(base, b.mul(r, step)) for r in index]

        four = constant(I64, 4)
        self.codes = places(codes, n_padded)
        self.sums = places(sums, b.mul(field["n_groups"], four))
        self.row_scale = places(row_scale, four)
        self.out = places(out, b.mul(field["n_out"], four))

    def write(self) -> None:
        """Write the block."""
        b = self.b
        totals = [
            [variable(b, constant(F32X16, 0.0)) for _ in range(TILES)]
            for _ in range(self.rows)
        ]
        with counted(b, self.field["n_groups"]) as group:
            self._add_group(group, self._code_sums(group), totals)
        self._finish(totals)

    def _code_sums(self, group: Any) -> list[list[Any]]:
        """Write the loop over the words of a group; return p of each row and tile.

        Few sums at a time wait for one another: where there are registers, the parts of
        a byte get sums of their own. They are then multiplied where they are, as
        q 2^(b j), which a shift of the sum undoes exactly.
        """
        b = self.b
        apart = self.rows * TILES * self.parts <= _SUMS
        n_sums = self.parts if apart else 1
        unroll = max(1, _SUMS // 2 // (self.rows * TILES * n_sums))
        zero = constant(I32X16, 0)
        sums = [
            [[variable(b, zero) for _ in range(n_sums * unroll)] for _ in range(TILES)]
            for _ in range(self.rows)
        ]
        at_weight = b.mul(group, self.group_bytes)
        at_code = b.mul(group, self.field["padded_group"])
        weights = [b.add(place, at_weight) for place in self.weights]
        codes = [b.add(place, at_code) for place in self.codes]

        def walk(ahead: bool) -> None:
            with counted(b, self.field["n_words"], unroll) as word:
                if ahead:
                    self._prefetch(word, weights, unroll)
                for u in range(unroll):
                    self._word(word, u, weights, codes, sums, apart)

        if self.rows > 1 or self.bits != 4:
            walk(self.rows > 1 or self.bits < 4)
        else:
            with b.if_else(self.far) as (far, near):
                with far:
                    walk(True)
                with near:
                    walk(False)
        return [[self._joined(parts, apart) for parts in row] for row in sums]

    def _word(
        self, word: Any, u: int, weights: Any, codes: Any, sums: Any, apart: bool
    ) -> None:
        """Add the products of a word of each tile."""
        b = self.b
        at_weight = b.mul(word, constant(I64, _LINE))
        at_code = b.mul(word, constant(I64, 4 * self.parts))
        places = [add_bytes(b, place, at_weight, _LINE * u) for place in weights]
        vectors = [load(b, place, I32X16) for place in places]
        parts = [self._parts(vector, apart) for vector in vectors]
        for j in range(self.parts):
            for r in range(self.rows):
                step = 4 * (self.parts * u + j)
                bytes_ = load(b, add_bytes(b, codes[r], at_code, step), I32)
                activations = splat(b, bytes_, 16)
                for t in range(TILES):
                    place = sums[r][t][self.parts * u + j if apart else u]
                    total = dot_bytes(b, b.load(place), parts[t][j], activations)
                    b.store(total, place)

    def _prefetch(self, word: Any, weights: Any, n_lines: int) -> None:
        """Ask for what comes _AHEAD bytes after lines of both tiles.

        After the end of a tile comes that of the next block, which skips the other one.
        The address may be any.
        """
        b = self.b
        at_weight = b.mul(word, constant(I64, _LINE))
        read, keep, data = (constant(I32, k) for k in (0, 3, 1))
        for place, end in zip(weights, self.ends, strict=True):
            ahead = add_bytes(b, place, at_weight, _AHEAD)
            within = b.icmp_signed("<", ahead, end)
            ahead = b.select(within, ahead, b.add(ahead, self.tile_bytes))
            for line in range(n_lines):
                address = add_bytes(b, ahead, _LINE * line)
                pointer = b.inttoptr(address, I8.as_pointer())
                call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, read, keep, data)

    def _parts(self, vector: Any, apart: bool) -> list[Any]:
        """Return the codes of four columns each, a byte each."""
        b, low = self.b, 2**self.bits - 1
        if self.parts == 1:
            return [vector]
        found = []
        for j in range(self.parts):
            shift = self.bits * j
            if apart:
                mask = _every_byte(low << shift)
            else:
                mask = _every_byte(low)
                if shift:
                    vector_j = b.lshr(vector, constant(I32X16, shift))
                    found.append(b.and_(vector_j, constant(I32X16, mask)))
                    continue
            found.append(b.and_(vector, constant(I32X16, mask)))
        return found

    def _joined(self, places: list[Any], apart: bool) -> Any:
        """Return the sum of the parts' sums."""
        b = self.b
        step = self.parts if apart else 1
        total = None
        for j in range(step):
            part = b.load(places[j])
            for place in places[j + step :: step]:
                part = b.add(part, b.load(place))
            if apart and j:
                part = b.ashr(part, constant(I32X16, self.bits * j))
            total = part if total is None else b.add(total, part)
        return total

    def _add_group(self, group: Any, code_sums: Any, totals: Any) -> None:
        """Add scale (2 p - i s - f s) of a group to the totals."""
        b = self.b
        at_sum = b.mul(group, constant(I64, 4))
        at_scale = b.mul(group, constant(I64, _LINE))
        row_sums = [load(b, b.add(place, at_sum), I32) for place in self.sums]
        doubled = [[b.add(p, p) for p in row] for row in code_sums]
        scales = [
            load(b, add_bytes(b, self.field["scale"], place, at_scale), F32X16)
            for place in self.group_of
        ]
        zero_point = self.field["zero_point"]
        with b.if_else(b.icmp_signed("==", zero_point, constant(I64, 0))) as (one, own):
            with one:
                twice = b.trunc(self.field["twice_zero"], I32)
                for r, s in enumerate(row_sums):
                    offset = splat(b, b.mul(twice, s), 16)
                    for t in range(TILES):
                        exact = b.sub(doubled[r][t], offset)
                        value = b.sitofp(exact, F32X16)
                        self._add(totals[r][t], b.fmul(value, scales[t]))
            with own:
                for t, place in enumerate(self.group_of):
                    at_zero = add_bytes(b, zero_point, place, at_scale)
                    whole, rest = whole_and_rest(b, load(b, at_zero, F32X16))
                    for r, s in enumerate(row_sums):
                        many = splat(b, s, 16)
                        exact = b.sub(doubled[r][t], b.mul(whole, many))
                        value = b.fsub(
                            b.sitofp(exact, F32X16),
                            b.fmul(rest, b.sitofp(many, F32X16)),
                        )
                        self._add(totals[r][t], b.fmul(value, scales[t]))

    def _add(self, place: Any, value: Any) -> None:
        self.b.store(self.b.fadd(self.b.load(place), value), place)

    def _finish(self, totals: Any) -> None:
        """Scale, add the bias and write the outputs."""
        b = self.b
        half = constant(F32X16, 0.5)
        scales = [splat(b, load(b, place, F32), 16) for place in self.row_scale]
        for t in range(TILES):
            mask = first_lanes(b, self.lanes[t])
            bias = load_some(b, b.add(self.bias, self.columns[t]), F32X16, mask)
            outputs = []
            for r in range(self.rows):
                halved = b.fmul(b.load(totals[r][t]), half)
                outputs.append(b.fadd(b.fmul(halved, scales[r]), bias))
            full = b.icmp_signed(">=", self.lanes[t], constant(I64, 16))
            with b.if_else(full) as (whole, some):
                with whole:
                    for place, output in zip(self.out, outputs, strict=True):
                        store(b, output, b.add(place, self.columns[t]))
                with some:
                    for place, output in zip(self.out, outputs, strict=True):
                        store_some(b, output, b.add(place, self.columns[t]), mask)


def _every_byte(byte: int) -> int:
    """Return the signed integer of 32 bits whose four bytes are `byte`."""
    word = byte * 0x01010101
    return word - 2**32 if word >= 2**31 else word


def whole_and_rest(builder: Any, zero_point: Any) -> tuple[Any, Any]:
    """Return twice the zero points as integers and the floats that are left."""
    b = builder
    twice = b.fadd(zero_point, zero_point)
    near = call(b, "llvm.rint.v16f32", F32X16, twice)
    for comparison, bound in (("<", ZERO_REACH), (">", -ZERO_REACH)):
        limit = constant(F32X16, float(bound))
        near = b.select(b.fcmp_ordered(comparison, near, limit), near, limit)
    return b.fptosi(near, I32X16), b.fsub(twice, near)
