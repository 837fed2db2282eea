r"""Products of bytes with a weight of one bit, by looking up sums of four.

Four bits of a weight choose one of the 16 sums that four activations a can have:

    T[v] = sum_t v_t a_t,      v = sum_t 2^t v_t,  t = 0, ..., 3,

which is a signed byte if abs(a) <= 31. The nibble h of byte i of a word holds the
columns 16 h + 4 t + i, t = 0, ..., 3 (pack.py). A vector of 64 bytes holds the tables
of one h and i = 0, ..., 3, and one permutation of bytes looks up the 64 nibbles h of 16
outputs: the number of an entry is the nibble, and the two bits above it are the number
i of the table. A product of bytes with ones then adds the four bytes of each lane to
its sum of 32 bits. So some five instructions take 256 weights of one row; more rows
share the numbers of the entries.

All but these sums of a group is as in `_dot`, and gives the same bits.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from uqlib_kernels._dot import TILES, _Block
from uqlib_kernels._integer_plan import PLAN, ROWS, field
from uqlib_kernels._ir import (
    I8X64,
    I32,
    I32X16,
    I64,
    add_bytes,
    call,
    constant,
    counted,
    dot_bytes,
    load,
    require_version,
    store,
    variable,
    vector,
)
from uqlib_kernels._jit import only_form, row_jit
from uqlib_kernels._quantize_rows_vectors import quantize_part

__all__ = ["TOP", "lookup_kernel"]

KERNEL_VERSION = 2
require_version(KERNEL_VERSION)

TOP = 31  # the largest code of which four are a signed byte
# Tables of some rows are made at a time, to stay in the second cache.
TABLE_BYTES = 2**18
_SIZES = (1, 4)  # rows of a block
_LINE = 64
_HALVES = 2  # nibbles of a byte
_COLUMNS = 16  # of a vector of tables

_N_OUT, _N_GROUPS = field("n_out"), field("n_groups")
_PADDED, _ZERO_BIAS = field("padded_group"), field("zero_bias")

Floats = NDArray[np.float32]
Plan = NDArray[np.int64]


def _type_make_tables(typing: Any, codes: Any, count: Any, tables: Any) -> Any:
    """Write `count` vectors of tables, of 16 codes of activations each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        codes, count, tables = arguments
        sixteen = vector(I8X64.element, _COLUMNS)
        four_times = constant(vector(I32, _LINE), [*range(_COLUMNS)] * 4)
        shuffle = "llvm.x86.avx512.pshuf.b.512"
        with counted(builder, count) as index:
            at = builder.add(codes, builder.shl(index, constant(I64, 4)))
            once = load(builder, at, sixteen)
            source = builder.shuffle_vector(once, once, four_times)
            parts = [
                call(builder, shuffle, I8X64, source, constant(I8X64, _of_entries(t)))
                for t in range(4)
            ]
            both = builder.add(*parts[:2]), builder.add(*parts[2:])
            to = builder.add(tables, builder.shl(index, constant(I64, 6)))
            store(builder, builder.add(*both), to)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


# The type checker takes an intrinsic for what it is in Python, where it has one more
# argument.
_make_tables: Any = intrinsic(_type_make_tables)


def _of_entries(t: int) -> list[int]:
    """Return which activation the entries 16 i + v get: 4 t + i where v has bit t.

    The others get 0, which a shuffle writes where the highest bit of a number is set.
    """
    return [
        4 * t + entry // 16 if entry >> t & 1 else 128 for entry in range(I8X64.count)
    ]


def _type_lookup_block(
    typing: Any,
    plan: Any,
    tile: Any,
    tables: Any,
    sums: Any,
    row_scale: Any,
    bias: Any,
    out: Any,
    n_rows: Any,
) -> Any:
    """Write the outputs of the tiles `tile` and `tile` + 1 for 1 to 4 rows.

    As `_dot.dot_block`, with the address of tables in the place of that of codes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = builder.icmp_signed("==", arguments[7], constant(I64, _SIZES[0]))
        with builder.if_else(one) as (single, several):
            for branch, rows in zip((single, several), _SIZES, strict=True):
                with branch:
                    _LookupBlock(builder, arguments, 1, rows).write()
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


_lookup_block: Any = intrinsic(_type_lookup_block)


class _LookupBlock(_Block):
    """The code of `_lookup_block`."""

    def _rows(
        self, codes: Any, sums: Any, row_scale: Any, out: Any, n_rows: Any
    ) -> None:
        super()._rows(codes, sums, row_scale, out, n_rows)
        b = self.b
        # A row has four bytes of tables for each code.
        steps = [b.sub(place, codes) for place in self.codes]
        self.codes = [b.add(codes, b.shl(step, constant(I64, 2))) for step in steps]

    def _code_sums(self, group: Any) -> list[list[Any]]:
        """Write the loop over the words of a group; return sum(q a) of row and tile."""
        b = self.b
        zero = constant(I32X16, 0)
        sums = [
            [[variable(b, zero) for _ in range(_HALVES)] for _ in range(TILES)]
            for _ in range(self.rows)
        ]
        at_weight = b.mul(group, self.group_bytes)
        weights = [b.add(place, at_weight) for place in self.weights]
        at_table = b.shl(at_weight, constant(I64, 1))
        tables = [b.add(place, at_table) for place in self.codes]
        with counted(b, self.field["n_words"]) as word:
            line = b.shl(word, constant(I64, 6))
            words = [load(b, b.add(place, line), I32X16, _LINE) for place in weights]
            for half in range(_HALVES):
                numbers = [self._numbers(codes, half) for codes in words]
                for r in range(self.rows):
                    at = add_bytes(b, tables[r], line, line, _LINE * half)
                    table = load(b, at, I8X64, _LINE)
                    for t in range(TILES):
                        self._look_up(sums[r][t][half], table, numbers[t])
        return [[b.add(*map(b.load, halves)) for halves in row] for row in sums]

    def _numbers(self, codes: Any, half: int) -> Any:
        """Return the numbers of the entries for one nibble of each byte."""
        b = self.b
        if half:
            codes = b.lshr(codes, constant(I32X16, 4))
        nibbles = b.and_(codes, constant(I32X16, 0x0F0F0F0F))
        return b.bitcast(b.or_(nibbles, constant(I32X16, 0x30201000)), I8X64)

    def _look_up(self, total: Any, table: Any, numbers: Any) -> None:
        b = self.b
        name = "llvm.x86.avx512.permvar.qi.512"
        found = call(b, name, I8X64, table, numbers)
        ones = constant(I32X16, 0x01010101)
        b.store(dot_bytes(b, b.load(total), ones, found), total)


@row_jit
def multiply(
    plan: Plan,
    x: Floats,
    bias: Floats,
    out: Floats,
    row_start: int,
    row_stop: int,
    tile_start: int,
    tile_stop: int,
) -> int:
    """Write some rows and some tiles of the outputs.

    Parameters
    ----------
    plan : ndarray of shape (n_fields,)
        Of `_integer_plan.plan_of`.
    x : ndarray of shape (n_rows, n_in)
        Rows, of any strides.
    bias : ndarray of shape (n_out,) or (0,)
        Added.
    out : ndarray of shape (n_rows, n_out)
        Written.
    row_start, row_stop, tile_start, tile_stop : int
        The part.
    """
    n_out, n_groups = plan[_N_OUT], plan[_N_GROUPS]
    n_padded = n_groups * plan[_PADDED]
    row_bytes = 4 * n_padded  # of tables
    at_once = max(1, TABLE_BYTES // row_bytes // _SIZES[1]) * _SIZES[1]
    at_once = min(at_once, row_stop - row_start)
    codes = np.empty((at_once, n_padded), dtype=np.int8)
    sums = np.empty((at_once, n_groups), dtype=np.int32)
    row_scale = np.empty(at_once, dtype=np.float32)
    tables = np.empty(at_once * row_bytes + _LINE, dtype=np.int8)
    at_plan, at_out = np.int64(plan.ctypes.data), np.int64(out.ctypes.data)
    at_bias = plan[_ZERO_BIAS]
    if bias.shape[0] > 0:
        at_bias = np.int64(bias.ctypes.data)
    at_codes, at_sums = np.int64(codes.ctypes.data), np.int64(sums.ctypes.data)
    at_scale = np.int64(row_scale.ctypes.data)
    at_tables = (np.int64(tables.ctypes.data) + _LINE - 1) & -_LINE
    for start in range(row_start, row_stop, at_once):
        stop = min(start + at_once, row_stop)
        quantize_part(plan, x, codes, sums, row_scale, start, stop, float(TOP), 0.0)
        _make_tables(at_codes, (stop - start) * (n_padded // _COLUMNS), at_tables)
        for tile in range(tile_start, tile_stop, TILES):
            for row in range(start, stop, _SIZES[1]):
                m = row - start
                _lookup_block(
                    at_plan,
                    tile,
                    at_tables + m * row_bytes,
                    at_sums + 4 * m * n_groups,
                    at_scale + 4 * m,
                    at_bias,
                    at_out + 4 * row * n_out,
                    min(stop - row, _SIZES[1]),
                )
    # An array is alive until it is used last.
    return codes.size + sums.size + row_scale.size + tables.size


@cache
def lookup_kernel() -> Any:
    """Return `multiply`, compiled.

    Returns
    -------
    callable (plan, x, bias, out, row_start, row_stop, tile_start, tile_stop)
        The kernel.
    """
    matrix = types.Array(types.float32, 2, "C")
    some = types.Array(types.float32, 1, "C", readonly=True)
    return only_form(multiply, (PLAN, ROWS, some, matrix, *(types.int64,) * 4))
