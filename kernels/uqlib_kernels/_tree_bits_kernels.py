"""Two micro-kernels: states of rows from bits of nodes, and sums of leaves from states.

See `_tree_bits_layout` for what they read.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types

from uqlib_kernels import _ir as v
from uqlib_kernels._tree_bits_layout import BLOCK, GROUP, MAX_PIECES

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

__all__ = ["add_leaves", "in_row_order", "walk_trees"]

_ROWS = 64  # of a vector of bytes
_HEAD = 64  # bytes of a group before its tables
_HALF = 32  # leaves of a table


def _repeated(builder: Any, address: Any) -> Any:
    """Return a vector of a byte that lies four times at an address."""
    word = v.splat(builder, v.load(builder, address, v.I32), 16)
    return builder.bitcast(word, v.I8X64)


def _powers(builder: Any) -> list[Any]:
    """Return 1, 2, 4, ... in all bytes, one vector for each node of a group.

    They go through an empty piece of assembly. LLVM would see that sums of them have no
    carries and write `or` for the sum, which has no form with a mask of bytes: three
    instructions for a node instead of two.
    """
    kind = ir.FunctionType(v.I8X64, [v.I8X64])
    return [
        builder.asm(kind, "", "=v,0", [v.constant(v.I8X64, 1 << node)], False)
        for node in range(GROUP)
    ]


def _bits(builder: Any, group: Any, bins: Any, powers: Any, count: int) -> list[Any]:
    """Return for every row the number whose bit j is set if its bin is above node j's.

    A comparison leaves a mask, under which the bit is added: two instructions for a
    node and 64 rows.
    """
    found: list[Any] = [v.constant(v.I8X64, 0)] * count
    for node, bit in enumerate(powers):
        at = v.add_bytes(builder, group, 8 * node)
        column = builder.add(bins, builder.sext(v.load(builder, at, v.I32), v.I64))
        limit = _repeated(builder, v.add_bytes(builder, at, 4))
        for n, number in enumerate(found):
            row_bins = v.load(
                builder, v.add_bytes(builder, column, _ROWS * n), v.I8X64, align=64
            )
            above = builder.icmp_unsigned(">", row_bins, limit)
            found[n] = builder.select(above, builder.add(number, bit), number)
    return found


def _entry(builder: Any, table: Any, index: Any) -> Any:
    """Return entries of a table of 64 bytes (``vpermb``)."""
    name = "llvm.x86.avx512.permvar.qi.512"
    return v.call(builder, name, v.I8X64, table, index)


def _piece(
    builder: Any, group: Any, piece: int, bits: list[Any], states: list[Any]
) -> list[Any]:
    """Return the states after a piece: new ones for the rows that are in it."""
    table = _table(builder, group, piece)
    own = _repeated(builder, v.add_bytes(builder, group, 8 * GROUP + 4 * piece))
    after = []
    for number, state in zip(bits, states, strict=True):
        is_here = builder.icmp_unsigned("==", state, own)
        after.append(builder.select(is_here, _entry(builder, table, number), state))
    return after


def _table(builder: Any, group: Any, piece: int) -> Any:
    at = v.add_bytes(builder, group, _HEAD * (1 + piece))
    return v.load(builder, at, v.I8X64, align=64)


@_intrinsic(prefer_literal=True)
def walk_trees(
    typingctx: Any,
    trees: Any,
    n_trees: Any,
    groups: Any,
    bins: Any,
    states: Any,
    n_vectors: Any,
) -> Any:
    """Write the leaves that 64 `n_vectors` rows reach; return the end of the groups.

    `trees` and `groups` are addresses in a `Program`; bins lie in columns and states in
    trees of 512 bytes each.
    """
    count = n_vectors.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        trees, n_trees, groups, bins, states, _ = args
        powers = _powers(b)
        group = v.variable(b, groups)
        places = [v.variable(b, v.constant(v.I8X64, 0)) for _ in range(count)]

        def go_on(n_pieces: int) -> None:
            moved = v.add_bytes(b, b.load(group), _HEAD * (1 + n_pieces))
            b.store(moved, group)

        with v.counted(b, n_trees) as tree:
            form = v.add_bytes(b, trees, b.shl(tree, v.constant(v.I64, 4)))
            at = b.load(group)
            table = _table(b, at, 0)
            for place, bits in zip(
                places, _bits(b, at, bins, powers, count), strict=True
            ):
                b.store(_entry(b, table, bits), place)
            go_on(1)
            for n_pieces in range(1, MAX_PIECES + 1):
                word = v.load(b, v.add_bytes(b, form, 4 * n_pieces), v.I32)
                n_groups = b.sext(word, v.I64)
                if n_pieces == 1:
                    n_groups = b.sub(n_groups, v.constant(v.I64, 1))
                with v.counted(b, n_groups):
                    at = b.load(group)
                    bits = _bits(b, at, bins, powers, count)
                    now = [b.load(place) for place in places]
                    for piece in range(n_pieces):
                        now = _piece(b, at, piece, bits, now)
                    for place, state in zip(places, now, strict=True):
                        b.store(state, place)
                    go_on(n_pieces)
            row = b.sext(v.load(b, form, v.I32), v.I64)
            out = b.add(states, b.mul(row, v.constant(v.I64, BLOCK)))
            for n, place in enumerate(places):
                v.store(b, b.load(place), v.add_bytes(b, out, _ROWS * n), align=64)
        return b.load(group)

    long = types.int64
    return long(long, long, long, long, long, n_vectors), codegen


def _halves(builder: Any, tables: Any, part: int, words: int, index: Any) -> Any:
    """Return 32-bit parts of the values of leaves, 16 rows a vector.

    Each part of 32 values fills two registers.
    """
    name = "llvm.x86.avx512.vpermi2var.d.512"
    n_tables = len(tables) // (2 * words)
    found = []
    for table in range(n_tables):
        low, high = tables[2 * (table * words + part) :][:2]
        found.append(v.call(builder, name, v.I32X16, low, index, high))
    if n_tables == 1:
        return found[0]
    bit = builder.and_(index, v.constant(v.I32X16, _HALF))
    is_high = builder.icmp_unsigned("!=", bit, v.constant(v.I32X16, 0))
    return builder.select(is_high, found[1], found[0])


# Which of 16 rows the two vectors hold that come from joining low and high halves
# within quarters of a register.
_FIRST = [0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29]
_SECOND = [place + 2 for place in _FIRST]


def _values(builder: Any, tables: Any, words: int, index: Any) -> list[Any]:
    """Return the values of the leaves of 16 rows, as one or two vectors."""
    parts = [_halves(builder, tables, part, words, index) for part in range(words)]
    if words == 1:
        return [builder.bitcast(parts[0], v.F32X16)]
    order = v.vector(v.I32, 16)
    return [
        builder.bitcast(
            builder.shuffle_vector(*parts, v.constant(order, places)), v.F64X8
        )
        for places in (_FIRST, _SECOND)
    ]


@_intrinsic(prefer_literal=True)
def add_leaves(
    typingctx: Any,
    states: Any,
    n_trees: Any,
    leaves: Any,
    sums: Any,
    words: Any,
    n_tables: Any,
) -> Any:
    """Add the leaves of trees to the sums of 64 rows, in the order of the trees.

    `words` is 1 for single precision and 2 for double, whose sums are not in the order
    of rows.
    """
    size, count = words.literal_value, n_tables.literal_value
    kind = v.F32X16 if size == 1 else v.F64X8
    n_sums = _ROWS * size // 16
    n_loaded = 2 * size * count

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        states, n_trees, leaves, sums, _, _ = args
        places = [v.add_bytes(b, sums, 64 * n) for n in range(n_sums)]
        totals = [v.variable(b, v.load(b, at, kind, align=64)) for at in places]
        with v.counted(b, n_trees) as tree:
            row = v.add_bytes(b, states, b.mul(tree, v.constant(v.I64, BLOCK)))
            at = v.add_bytes(b, leaves, b.mul(tree, v.constant(v.I64, 64 * n_loaded)))
            tables = [
                v.load(b, v.add_bytes(b, at, 64 * n), v.I32X16, align=64)
                for n in range(n_loaded)
            ]
            for quarter in range(_ROWS // 16):
                state = v.load(b, v.add_bytes(b, row, 16 * quarter), v.vector(v.I8, 16))
                index = b.zext(state, v.I32X16)
                for n, values in enumerate(_values(b, tables, size, index)):
                    total = totals[size * quarter + n]
                    b.store(b.fadd(b.load(total), values), total)
        for total, at in zip(totals, places, strict=True):
            v.store(b, b.load(total), at, align=64)
        return context.get_dummy_value()

    long = types.int64
    return types.void(long, long, long, long, words, n_tables), codegen


@_intrinsic
def in_row_order(typingctx: Any, sums: Any) -> Any:
    """Bring 64 sums in double precision into the order of rows."""
    rows = [0, 1, 8, 9, 2, 3, 10, 11]

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        for quarter in range(_ROWS // 16):
            places = [v.add_bytes(b, args[0], 128 * quarter, 64 * n) for n in (0, 1)]
            pair = [v.load(b, at, v.F64X8, align=64) for at in places]
            for n, at in enumerate(places):
                order = v.constant(v.vector(v.I32, 8), [row + 4 * n for row in rows])
                v.store(b, b.shuffle_vector(*pair, order), at, align=64)
        return context.get_dummy_value()

    return types.void(types.int64), codegen
