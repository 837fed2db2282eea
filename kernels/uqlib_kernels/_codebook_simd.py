"""Products of float rows with packed weights, in vector instructions.

A word of a tile holds, for 16 outputs, the codes of some columns: eight of 4 bits. One
permutation takes the low four bits of each lane as the number of a value in a table of
16, which stays in a register, and does not look at the bits above them. So a shift by
s bits alone brings a code to its place, and any codebook is as fast as integers. Codes
of 2 and of 1 bit are looked up in tables that repeat; those of 8 bits are converted.

The looked-up vector is multiplied with one activation, copied into all lanes, and
added. The code at bit s is the one at bit s mod 8 = bits j of byte i = s div 8, so of
column 4 j + i of the word.

Two tiles share the activations; one row has four sums a tile, so that additions do not
wait for one another, and more rows share what is looked up.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from uqlib_kernels._codebook_plan import field
from uqlib_kernels._integer_plan import PLAN, ROWS
from uqlib_kernels._ir import (
    F32,
    F32X16,
    I32X16,
    I64,
    add_bytes,
    call,
    constant,
    counted,
    load,
    require_version,
    splat,
    store,
    variable,
)
from uqlib_kernels._jit import only_form, row_jit
from uqlib_kernels._packed import LANES, columns_of_word

__all__ = ["float_product"]

KERNEL_VERSION = 2
require_version(KERNEL_VERSION)

I1 = ir.IntType(1)
TILES = 2
MOST_ROWS = 8
# Rows that are copied at a time, to lie as the columns of the weight do.
BLOCK_ROWS = 128
_LINE = 64

_N_OUT, _N_IN, _N_GROUPS = field("n_out"), field("n_in"), field("n_groups")
_PADDED, _INNER, _PARTS = field("padded_group"), field("inner_group"), field("parts")
_GROUP, _NO_BIAS = field("group_size"), field("no_bias")

Floats = NDArray[np.float32]
Plan = NDArray[np.int64]


def _type_two_tiles(
    typing: Any,
    plan: Any,
    tile: Any,
    second: Any,
    x: Any,
    x_step: Any,
    bias: Any,
    out: Any,
    out_step: Any,
    rows: Any,
    bits: Any,
) -> Any:
    """Write the products of 1, 4 or 8 rows of x with the tiles `tile` and `second`.

    All but `bits`, a literal, are int64: `plan`, `x`, `bias` and `out` are addresses,
    the latter two of the first tile, and steps are the bytes from a row to the next.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _write_two_tiles(builder, arguments[:8], arguments[8], bits.literal_value)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9, bits), generate


# The type checker takes an intrinsic for what it is in Python, where it has one more
# argument.
_two_tiles: Any = intrinsic(prefer_literal=True)(_type_two_tiles)


def _write_two_tiles(builder: Any, arguments: Any, rows: Any, bits: int) -> None:
    """Write the code for 1, 4 and 8 rows, and the choice among them."""

    def write(n_rows: int, zeros: bool = True) -> None:
        _Block(builder, arguments, bits, n_rows, zeros).write()

    many = builder.icmp_signed(">", rows, constant(I64, 4))
    with builder.if_else(many) as (eight, fewer):
        with eight:
            write(8)
        with fewer:
            several = builder.icmp_signed(">", rows, constant(I64, 1))
            with builder.if_else(several) as (four, one):
                with four:
                    write(4)
                with one:
                    # Here zero points would take time where there are none.
                    step = _planned(builder, arguments[0], "zero_step")
                    alike = builder.icmp_signed("==", step, constant(I64, 0))
                    alike = builder.and_(alike, constant(I1, int(bits < 8)))
                    with builder.if_else(alike) as (plain, own):
                        with plain:
                            write(1, zeros=False)
                        with own:
                            write(1)


def _planned(builder: Any, plan: Any, name: str) -> Any:
    """Return a number of the plan."""
    return load(builder, add_bytes(builder, plan, 8 * field(name)), I64, 8)


class _Block:
    """The code of `_two_tiles`."""

    def __init__(
        self, builder: Any, arguments: Any, bits: int, rows: int, zeros: bool
    ) -> None:
        self.builder = builder
        self.bits, self.rows, self.zeros = bits, rows, zeros
        self.chains = 4 if rows == 1 else 1
        plan, first, second, x, x_step, bias, out, self.out_step = arguments[:8]

        def planned(name: str) -> Any:
            return _planned(builder, plan, name)

        self.n_groups, self.n_words = planned("n_groups"), planned("n_words")
        self.zero_step = planned("zero_step")
        lines = builder.shl(self.n_groups, constant(I64, 6))
        tiles = (first, second)
        self.codes, self.scale, self.zero = (
            [builder.add(planned(name), builder.mul(tile, tile_step)) for tile in tiles]
            for name, tile_step in (
                ("codes", builder.mul(lines, self.n_words)),
                ("scale", lines),
                ("zero_point", planned("zero_tile")),
            )
        )
        lanes = builder.shl(builder.sub(second, first), constant(I64, 6))
        self.bias = [bias, builder.add(bias, lanes)]
        self.out = [out, builder.add(out, lanes)]
        self.x = [x]
        for _ in range(rows - 1):
            self.x.append(builder.add(self.x[-1], x_step))
        self.levels = load(builder, planned("levels"), F32X16, _LINE)

    def write(self) -> None:
        builder = self.builder
        totals = [self._sums(self.rows) for _ in range(TILES)]
        with counted(builder, self.n_groups) as group:
            sums = [self._sums(self.rows * self.chains) for _ in range(TILES)]
            self._add_words(group, sums)
            line = builder.shl(group, constant(I64, 6))
            for tile in range(TILES):
                scale = self._line(self.scale[tile], line)
                for row in range(self.rows):
                    self._add(totals[tile][row], self._whole(sums[tile], row), scale)
        for tile in range(TILES):
            bias, to = load(builder, self.bias[tile], F32X16), self.out[tile]
            for row in range(self.rows):
                store(builder, builder.fadd(builder.load(totals[tile][row]), bias), to)
                to = builder.add(to, self.out_step)

    def _sums(self, count: int) -> list[Any]:
        zero = constant(F32X16, 0.0)
        return [variable(self.builder, zero) for _ in range(count)]

    def _line(self, start: Any, step: Any, kind: Any = F32X16) -> Any:
        return load(self.builder, self.builder.add(start, step), kind, _LINE)

    def _add(self, total: Any, left: Any, right: Any) -> None:
        """Add left * right to a sum."""
        builder = self.builder
        name = "llvm.fma.v16f32"
        value = call(builder, name, F32X16, left, right, builder.load(total))
        builder.store(value, total)

    def _whole(self, sums: list[Any], row: int) -> Any:
        parts = sums[self.chains * row : self.chains * (row + 1)]
        values = [self.builder.load(part) for part in parts]
        while len(values) > 1:
            halves = zip(values[::2], values[1::2], strict=True)
            values = [self.builder.fadd(left, right) for left, right in halves]
        return values[0]

    def _add_words(self, group: Any, sums: list[list[Any]]) -> None:
        """Add the products of a group."""
        builder = self.builder
        step = builder.mul(group, self.zero_step)
        zeros = [self._line(zero, step) for zero in self.zero]
        start = builder.mul(group, self.n_words)
        per_word = columns_of_word(self.bits)
        with counted(builder, self.n_words) as word:
            place = builder.add(start, word)
            line = builder.shl(place, constant(I64, 6))
            columns = builder.mul(place, constant(I64, 4 * per_word))
            codes = [self._line(at, line, I32X16) for at in self.codes]
            x = [builder.add(at, columns) for at in self.x]
            for shift in range(0, 32, self.bits):
                values = [self._values(one, shift) for one in codes]
                if self.zeros:
                    both = zip(values, zeros, strict=True)
                    values = [builder.fsub(value, zero) for value, zero in both]
                self._add_column(values, x, shift, sums)

    def _values(self, codes: Any, shift: int) -> Any:
        """Return the values of the codes that begin at a bit."""
        builder = self.builder
        if shift:
            codes = builder.lshr(codes, constant(I32X16, shift))
        if self.bits == 8:
            codes = builder.and_(codes, constant(I32X16, 255))
            return builder.sitofp(codes, F32X16)
        name = "llvm.x86.avx512.permvar.sf.512"
        return call(builder, name, F32X16, self.levels, codes)

    def _add_column(
        self, values: list[Any], x: list[Any], shift: int, sums: list[list[Any]]
    ) -> None:
        """Add the products of one column of the word."""
        builder = self.builder
        column = 4 * (shift % 8 // self.bits) + shift // 8
        for row in range(self.rows):
            one = load(builder, add_bytes(builder, x[row], 4 * column), F32, 4)
            activations = splat(builder, one, LANES)
            which = self.chains * row + shift // self.bits % self.chains
            for tile in range(TILES):
                self._add(sums[tile][which], values[tile], activations)


@cache
def float_product(bits: int) -> Any:
    """Return the kernel for codes of some bits, compiled.

    Parameters
    ----------
    bits : {8, 4, 2, 1}
        Bits.

    Returns
    -------
    callable (plan, x, bias, out, first, stop) -> int
        Writes the outputs of the tiles first, ..., stop - 1: `x` is of shape (n_rows,
        n_in), float32 with any strides, `bias` of shape (n_out,) or (0,), and `out` of
        shape (n_rows, n_out) in C order.
    """
    arguments = (
        *(PLAN, ROWS, types.Array(types.float32, 1, "C", readonly=True)),
        *(types.Array(types.float32, 2, "C"), types.int64, types.int64),
    )
    return only_form(_compiled(bits), arguments)


# What a function of functions closes over is part of its key in the cache on disk: a
# number is the same in every process, another kernel is not. So all is one kernel here
# but what serves all bits.
def _compiled(bits: int) -> Any:
    @row_jit
    def product(
        plan: Plan, x: Floats, bias: Floats, out: Floats, first: int, stop: int
    ) -> int:
        n_rows, n_out = out.shape
        n_padded = plan[_N_GROUPS] * plan[_PADDED]
        copied = not (n_rows == 1 and plan[_N_IN] == n_padded and x.strides[1] == 4)
        # A line more in each row: rows that are a power of two apart would share their
        # places in the cache.
        shape = (min(n_rows, BLOCK_ROWS) + MOST_ROWS - 1) * copied, n_padded + 16
        padded = np.zeros(shape, dtype=np.float32)
        spare = np.zeros((MOST_ROWS + 1, TILES * LANES), dtype=np.float32)
        # Addresses, because each use of an array in these loops counts its owners.
        weight, at_out = np.int64(plan.ctypes.data), np.int64(out.ctypes.data)
        at_spare, spare_step = np.int64(spare.ctypes.data), TILES * _LINE
        at_bias = np.int64(bias.ctypes.data) if bias.shape[0] else plan[_NO_BIAS]
        at, step = np.int64(x.ctypes.data), np.int64(x.strides[0])
        if copied:
            at, step = np.int64(padded.ctypes.data), np.int64(padded.strides[0])
        for block in range(0, n_rows, BLOCK_ROWS):
            end = min(block + BLOCK_ROWS, n_rows)
            if copied:
                _copy_padded(x[block:end], plan, padded)
            for tile in range(first, stop, TILES):
                # Of a single tile both halves are the same tile.
                last = min(tile + 1, stop - 1)
                lanes = n_out - LANES * tile
                full = lanes >= TILES * LANES or lanes == LANES
                added = at_bias + _LINE * tile
                if not full:
                    _copy_bias(bias, tile, spare)
                    added = at_spare + MOST_ROWS * spare_step
                row = block
                while row < end:
                    left = end - row
                    rows = 1 if left == 1 else 4 if left <= 4 else 8
                    # Results of lanes and rows that are not there go elsewhere.
                    direct = full and rows <= left
                    to, to_step = at_spare, np.int64(spare_step)
                    if direct:
                        to, to_step = (
                            at_out + 4 * (row * n_out) + _LINE * tile,
                            4 * n_out,
                        )
                    _two_tiles(
                        weight,
                        tile,
                        last,
                        at + (row - block) * step,
                        step,
                        added,
                        to,
                        to_step,
                        rows,
                        bits,
                    )
                    if not direct:
                        _copy_spare(spare, out, row, rows, tile)
                    row += rows
        return padded.size + spare.size  # an array is alive until it is used last

    return product


@row_jit
def _copy_padded(x: Floats, plan: Plan, padded: Floats) -> None:
    """Copy the columns of each group to where the codes of the weight have them."""
    n_in = plan[_N_IN]
    for group in range(plan[_N_GROUPS]):
        whole = group // plan[_PARTS] * plan[_GROUP]
        start = whole + group % plan[_PARTS] * plan[_INNER]
        stop = min(start + plan[_INNER], whole + plan[_GROUP], n_in)
        to = group * plan[_PADDED]
        for row in range(x.shape[0]):
            for column in range(stop - start):
                padded[row, to + column] = x[row, start + column]


@row_jit
def _copy_bias(bias: Floats, tile: int, spare: Floats) -> None:
    """Copy the bias of tiles that have not all lanes to the last row of `spare`."""
    start = LANES * tile
    for lane in range(min(TILES * LANES, bias.shape[0] - start)):
        spare[MOST_ROWS, lane] = bias[start + lane]


@row_jit
def _copy_spare(spare: Floats, out: Floats, row: int, rows: int, tile: int) -> None:
    """Copy the lanes and rows that are there from `spare`."""
    start = LANES * tile
    for r in range(min(rows, out.shape[0] - row)):
        for lane in range(min(TILES * LANES, out.shape[1] - start)):
            out[row + r, start + lane] = spare[r, lane]
