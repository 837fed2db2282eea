r"""Bins of 8 bits: the thresholds of a column stay in registers, 16 rows a vector.

A search compares single-precision *keys*, which order numbers as far as they can. With
R(x) the smallest number in single precision that is not below x,

    t < x  implies  R(t) <= R(x),    and    R(t) < R(x)  implies  t < x .

So #{k : R(t_k) < R(x)} is the bin of x unless R(t_k) = R(x) for some k, which is all
but impossible for numbers that are not in single precision, and then is settled by
comparing the numbers themselves. If all thresholds are in single precision it is the
bin in any case, since x <= t is the same as R(x) <= t for such a t.

At most 255 thresholds t_0 < t_1 < ... are searched in eight steps. The first five are
on the pivots P[p] = t_{8p+7}, which fill two registers that one instruction looks up:

    p = 0, and for s = 16, 8, 4, 2, 1:    p = p + s  where  P[p + s - 1] < x .

The last three are among t_{8p}, ..., t_{8p+6}, the entries p of seven more pairs of
registers. Up to 31 thresholds are their own pivots and take five steps.
"""

from typing import Any

from llvmlite import ir
from numba import extending, types

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

__all__ = ["KEY_ROWS", "WINDOW", "search_keys", "write_keys"]

WINDOW = 16  # features whose keys are made together
KEY_ROWS = 128
_LANES = 16


def _joined(builder: Any, first: Any, second: Any, places: list[int]) -> Any:
    order = v.constant(v.vector(v.I32, len(places)), places)
    return builder.shuffle_vector(first, second, order)


def _row_keys(builder: Any, address: Any, size: int) -> Any:
    """Return the keys of 16 features of a row."""
    if size == 4:
        return v.load(builder, address, v.F32X16)
    half = v.vector(v.F32, 8)
    none = ir.Constant(half, ir.Undefined)
    keys = [
        v.call(
            builder,
            "llvm.x86.avx512.mask.cvtpd2ps.512",
            half,
            v.load(builder, v.add_bytes(builder, address, 64 * n), v.F64X8),
            none,
            v.constant(v.I8, -1),
            v.constant(v.I32, 10),  # upward, without exceptions
        )
        for n in range(2)
    ]
    return _joined(builder, keys[0], keys[1], list(range(16)))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Return the columns of 16 vectors of 16 lanes."""

    def pairs(places: list[int]) -> list[int]:
        return [4 * quarter + place for quarter in range(4) for place in places]

    low, high = pairs([0, 16, 1, 17]), pairs([2, 18, 3, 19])
    couples = [
        (_joined(builder, a, b, low), _joined(builder, a, b, high))
        for a, b in zip(rows[::2], rows[1::2], strict=True)
    ]
    # fours[g][c] has, in its quarter q, feature 4 q + c of the rows 4 g, ..., 4 g + 3.
    low, high = pairs([0, 1, 16, 17]), pairs([2, 3, 18, 19])
    fours = [
        [
            _joined(builder, a, b, order)
            for a, b in zip(first, second, strict=True)
            for order in (low, high)
        ]
        for first, second in zip(couples[::2], couples[1::2], strict=True)
    ]
    columns: list[Any] = [None] * 16
    for c in range(4):
        even, odd = [
            [
                _quarters(builder, fours[g][c], fours[g + 1][c], [side, side + 2])
                for g in (0, 2)
            ]
            for side in (0, 1)
        ]
        for quarter, (upper, lower) in enumerate((even, odd, even, odd)):
            columns[4 * quarter + c] = _quarters(
                builder, upper, lower, [quarter // 2, quarter // 2 + 2]
            )
    return columns


def _quarters(builder: Any, first: Any, second: Any, places: list[int]) -> Any:
    """Return two quarters of a vector and the same two of another."""
    lanes = [4 * place + lane for place in places for lane in range(4)]
    return _joined(builder, first, second, [*lanes, *(16 + lane for lane in lanes)])


@_intrinsic(prefer_literal=True)
def _columns_of_keys(
    typingctx: Any, x: Any, stride: Any, n_rows: Any, out: Any, size: Any
) -> Any:
    """Write the keys of 16 features, 128 keys a feature, as `write_keys` says."""
    key_size = size.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        x, stride, n_rows, out, _ = args
        last = b.sub(n_rows, v.constant(v.I64, 1))
        with v.counted(b, n_rows, _LANES) as first:
            rows = []
            for lane in range(_LANES):
                row = b.add(first, v.constant(v.I64, lane))
                row = b.select(b.icmp_signed("<", row, last), row, last)
                at = v.add_bytes(b, x, b.mul(row, stride))
                rows.append(_row_keys(b, at, key_size))
            at = v.add_bytes(b, out, b.shl(first, v.constant(v.I64, 2)))
            for feature, keys in enumerate(_transposed(b, rows)):
                place = v.add_bytes(b, at, 4 * KEY_ROWS * feature)
                v.store(b, keys, place, align=64)
        return context.get_dummy_value()

    long = types.int64
    return types.void(long, long, long, long, size), codegen


def _looked_up(builder: Any, table: tuple[Any, Any], index: Any) -> Any:
    """Return entries of a table of 32 numbers (``vpermi2ps``)."""
    name = "llvm.x86.avx512.vpermi2var.ps.512"
    return v.call(builder, name, v.F32X16, table[0], index, table[1])


class _Searched:
    """A vector of keys on its way through the thresholds.

    `next_above` is the smallest threshold looked at that is not below.
    """

    def __init__(self, builder: Any, keys: Any, place: Any, next_above: Any) -> None:
        self.builder, self.keys = builder, keys
        self.place, self.next_above = place, next_above

    def compare(self, entries: Any) -> Any:
        """Return where entries are below the keys."""
        builder = self.builder
        below = builder.fcmp_ordered("<", entries, self.keys)
        self.next_above = builder.select(below, self.next_above, entries)
        return below

    def move(self, below: Any, step: int) -> None:
        """Go on by a step where entries were below."""
        builder = self.builder
        moved = builder.add(self.place, v.constant(v.I32X16, step))
        self.place = builder.select(below, moved, self.place)


def _search_pivots(builder: Any, pivots: Any, vectors: list[_Searched]) -> None:
    """Settle the upper five bits, of all vectors step by step, so that they overlap."""
    for step in (16, 8, 4, 2, 1):
        ahead = v.constant(v.I32X16, step - 1)
        for one in vectors:
            index = builder.add(one.place, ahead)
            one.move(one.compare(_looked_up(builder, pivots, index)), step)


def _search_between(builder: Any, tables: Any, one: _Searched) -> None:
    """Settle the last three bits; seven tables hold what lies between pivots."""
    entries = [_looked_up(builder, table, one.place) for table in tables]
    one.place = builder.shl(one.place, v.constant(v.I32X16, 3))
    for step in (4, 2, 1):
        below = one.compare(entries[step - 1])
        one.move(below, step)
        halves = zip(entries[step:], entries[: step - 1], strict=True)
        entries = [builder.select(below, high, low) for high, low in halves]


@_intrinsic(prefer_literal=True)
def _search_keys(
    typingctx: Any,
    keys: Any,
    tables: Any,
    out: Any,
    room: Any,
    kind: Any,
    large: Any,
    n_vectors: Any,
) -> Any:
    """Write the bins of keys; return which rows need another look, see `search_keys`.

    The first half is a pass of its own: all vectors at once would not leave room for
    the tables of the second half in the registers.
    """
    is_large, count = bool(large.literal_value), n_vectors.literal_value

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        keys, tables_at, out, room, kind, *_ = args

        def table(n: int) -> tuple[Any, Any]:
            at = v.add_bytes(b, tables_at, 128 * n)
            low = v.load(b, at, v.F32X16, align=64)
            return low, v.load(b, v.add_bytes(b, at, 64), v.F32X16, align=64)

        zero = v.constant(v.I32X16, 0)
        infinity = v.constant(v.F32X16, float("inf"))
        vectors = [
            _Searched(
                b,
                v.load(b, v.add_bytes(b, keys, 64 * n), v.F32X16, align=64),
                zero,
                infinity,
            )
            for n in range(count)
        ]
        _search_pivots(b, table(0), vectors)
        for n, one in enumerate(vectors):
            v.store(b, one.place, v.add_bytes(b, room, 128 * n), align=64)
            v.store(b, one.next_above, v.add_bytes(b, room, 128 * n + 64), align=64)
        tables = [table(n) for n in range(1, 8 if is_large else 1)]
        again = v.variable(b, v.constant(v.I64, 0))
        bit = b.and_(kind, v.constant(v.I64, 2))
        is_exact = b.icmp_signed("==", bit, v.constant(v.I64, 0))
        with v.counted(b, v.constant(v.I64, count)) as n:
            at = v.add_bytes(b, room, b.shl(n, v.constant(v.I64, 7)))
            key_at = v.add_bytes(b, keys, b.shl(n, v.constant(v.I64, 6)))
            one = _Searched(
                b,
                v.load(b, key_at, v.F32X16, align=64),
                v.load(b, at, v.I32X16, align=64),
                v.load(b, v.add_bytes(b, at, 64), v.F32X16, align=64),
            )
            if is_large:
                _search_between(b, tables, one)
            bins = b.trunc(one.place, v.vector(v.I8, _LANES))
            v.store(b, bins, v.add_bytes(b, out, b.shl(n, v.constant(v.I64, 4))))
            # Unordered comparisons are true for NaN. No number but -inf equals -inf.
            lowest = v.constant(v.F32X16, float("-inf"))
            other = b.select(is_exact, lowest, one.next_above)
            equal = b.bitcast(b.fcmp_unordered("==", other, one.keys), v.I16)
            v.store(b, equal, at)
            b.store(b.or_(b.load(again), b.zext(equal, v.I64)), again)
        return b.load(again)

    long = types.int64
    return long(long, long, long, long, long, large, n_vectors), codegen


@row_jit
def search_keys(
    keys: int, tables: int, out: int, room: int, kind: int, n_rows: int
) -> int:
    """Write the bins of up to 128 keys.

    Parameters
    ----------
    keys, tables : int
        Addresses of keys, and of those of the thresholds in a `BinPlan`.
    out : int
        Address of the bins.
    room : int
        Address of 1024 bytes. Number n of every 16 rows writes to byte 128 n, a bit
        each, which of its rows need another look: their key is NaN, or equals that of a
        threshold if different numbers may have equal keys.
    kind : int
        Of the search, see `BinPlan`.
    n_rows : int
        Number of keys; 64 or 128 bins are written.

    Returns
    -------
    int
        0 if no row needs another look.
    """
    if n_rows <= KEY_ROWS // 2:
        if kind & 1 == 0:
            return _search_keys(keys, tables, out, room, kind, 0, 4)
        return _search_keys(keys, tables, out, room, kind, 1, 4)
    if kind & 1 == 0:
        return _search_keys(keys, tables, out, room, kind, 0, 8)
    return _search_keys(keys, tables, out, room, kind, 1, 8)


@row_jit
def write_keys(x: int, stride: int, n_rows: int, out: int, size: int) -> None:
    """Write the keys of 16 features of up to 128 rows, 128 keys a feature.

    Parameters
    ----------
    x, stride : int
        Address of the first row, whose features are contiguous, and bytes to the next.
    n_rows : int
        At least 1; the last row is repeated until there is a multiple of 16.
    out : int
        Address of the keys.
    size : {4, 8}
        Bytes of a number.
    """
    if size == 4:
        _columns_of_keys(x, stride, n_rows, out, 4)
    else:
        _columns_of_keys(x, stride, n_rows, out, 8)
