r"""The upper levels of trees for blocks of rows, then walks to the leaves.

Let c_h be the bits, one a row, that say whether a row turns right at node h of the
complete upper levels (heap order: root 1, children 2 h and 2 h + 1), whether or not it
gets there. With p_d the turn of a row at level d,

    p_0 = c_1,      p_d = the c_h of the node h = 2^d + (p_0 ... p_{d-1} in binary),

and picking among the 2^d nodes of a level is a tree of 2^d - 1 choices between two: one
instruction for 512 rows each. p_0 ... p_5 in binary is where a row leaves.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numpy.typing import NDArray

from uqlib_kernels import _ir as v
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_binning_simd import bin_block
from uqlib_kernels._tree_portable_nodes import BIN_SHIFT, CHILD_SHIFT, TILE
from uqlib_kernels._tree_portable_walk import chunk_of

__all__ = ["BLOCK_ROWS", "TOP_LEVELS", "predict_blocks"]

KERNEL_VERSION = 2
v.require_version(KERNEL_VERSION)

_intrinsic: Any = extending.intrinsic  # its own types forbid the call in a kernel

TOP_LEVELS = 6
BLOCK_ROWS, PART_ROWS = 1024, 512
_SMALL_BLOCK = 64
_EXITS = 1 << TOP_LEVELS


@_intrinsic(prefer_literal=True)
def _tile_bins(
    typingctx: Any,
    bins: Any,
    column_step: Any,
    n_columns: Any,
    tiles: Any,
    n_tiles: Any,
    width: Any,
) -> Any:
    """Copy bins, column after column, into tiles of 8 rows, as 16 bits."""
    size = width.literal_value
    kind = v.vector(ir.IntType(8 * size), TILE)

    def codegen(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        bins, column_step, n_columns, tiles, n_tiles, _ = arguments
        wide = v.vector(v.I16, TILE)
        tile_size = b.mul(n_columns, v.constant(v.I64, 2 * TILE))
        with v.counted(b, n_columns) as c:
            source = b.add(bins, b.mul(c, column_step))
            target = b.add(tiles, b.mul(c, v.constant(v.I64, 2 * TILE)))
            with v.counted(b, n_tiles) as t:
                at = b.add(source, b.mul(t, v.constant(v.I64, TILE * size)))
                part = v.load(b, at, kind)
                part = b.zext(part, wide) if size == 1 else part
                v.store(b, part, b.add(target, b.mul(t, tile_size)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, width), codegen


@_intrinsic(prefer_literal=True)
def _leave_top(
    typingctx: Any,
    top: Any,
    bins: Any,
    column_step: Any,
    scratch: Any,
    exits: Any,
    ahead: Any,
    width: Any,
    n_parts: Any,
) -> Any:
    """Write for 64 `n_parts` rows, as bytes, where they leave the upper levels.

    `scratch` is the address of 4 KiB; the literal `n_parts` is at most 8. Meanwhile
    24 KiB from the address `ahead` on are brought near.
    """
    size, parts = width.literal_value, n_parts.literal_value
    element = ir.IntType(8 * size)
    kind = v.vector(element, 64)

    def codegen(context: Any, b: Any, signature: Any, arguments: Any) -> Any:
        top, bins, column_step, scratch, exits, ahead = arguments[:6]
        with v.counted(b, v.constant(v.I64, _EXITS - 1)) as h:
            node = b.add(top, b.shl(h, v.constant(v.I64, 3)))
            column = b.zext(v.load(b, node, v.I32), v.I64)
            limits = v.splat(b, v.load(b, v.add_bytes(b, node, 4), element), 64)
            slot = b.zext(v.load(b, v.add_bytes(b, node, 6), v.I16), v.I64)
            for line in range(6):
                step = 64 * _EXITS * line
                _fetch(b, v.add_bytes(b, ahead, b.shl(h, v.constant(v.I64, 6)), step))
            source = b.add(bins, b.mul(column, column_step))
            target = b.add(scratch, b.shl(slot, v.constant(v.I64, 6)))
            for part in range(parts):
                found = v.load(b, v.add_bytes(b, source, 64 * size * part), kind)
                right = b.bitcast(b.icmp_unsigned(">", found, limits), v.I64)
                v.store(b, right, v.add_bytes(b, target, 8 * part))
        turns: list[Any] = []
        for level in range(TOP_LEVELS):
            first = (1 << level) - 1
            nodes = [
                v.load(b, v.add_bytes(b, scratch, 64 * (first + j)), v.I64X8)
                for j in range(1 << level)
            ]
            turns.append(_pick(b, nodes, turns))
        for level, turn in enumerate(turns):
            v.store(b, turn, v.add_bytes(b, scratch, 64 * level))
        rows = v.vector(ir.IntType(1), 64)
        for part in range(parts):
            place = v.constant(v.I8X64, 0)
            for level in range(TOP_LEVELS):
                at = v.add_bytes(b, scratch, 64 * level + 8 * part)
                right = b.bitcast(v.load(b, at, v.I64), rows)
                more = b.add(place, v.constant(v.I8X64, _EXITS >> (level + 1)))
                place = b.select(right, more, place)
            v.store(b, place, v.add_bytes(b, exits, 64 * part))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6, width, n_parts), codegen


def _fetch(b: Any, address: Any) -> None:
    """Ask for a cache line; any address is allowed."""
    pointer = b.inttoptr(address, v.I8.as_pointer())
    module, name = b.module, "llvm.prefetch.p0"
    function = module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, v.I32, v.I32, v.I32])
        function = ir.Function(module, kind, name)
    to_read, near, data = (v.constant(v.I32, k) for k in (0, 3, 1))
    b.call(function, [pointer, to_read, near, data])


def _pick(b: Any, nodes: list[Any], turns: list[Any]) -> Any:
    """Return the bits of the node of a level that the turns above it lead to."""
    for turn in reversed(turns):
        pairs = zip(nodes[::2], nodes[1::2], strict=True)
        nodes = [b.xor(a, b.and_(turn, b.xor(a, c))) for a, c in pairs]
    return nodes[0]


# Unsigned integers all the way, see `_tree_portable_walk`.
_COLUMN_MASK, _BIN_SHIFT = np.uint64((1 << BIN_SHIFT) - 1), np.uint64(BIN_SHIFT)
_CHILD_SHIFT = np.uint64(CHILD_SHIFT)
_1, _2, _3, _4, _5, _6, _7 = (np.uint64(k) for k in range(1, 8))


@row_jit
def _step(
    nodes: NDArray[np.uint64],
    bins: NDArray[np.uint16],
    row: np.uint64,
    place: np.uint64,
) -> np.uint64:
    node = nodes[place]
    found = np.uint64(bins[row + (node & _COLUMN_MASK)]) << _BIN_SHIFT
    return (node + found) >> _CHILD_SHIFT


@row_jit
def _walk(
    tiles: NDArray[np.uint16],
    n_tiles: int,
    tile_step: int,
    left_at: NDArray[np.uint8],
    exits: NDArray[np.uint32],
    nodes: NDArray[np.uint64],
    depth: int,
    places: NDArray[np.uint32],
) -> None:
    """Write the places of the leaves of rows from where they left the upper levels."""
    chunk = chunk_of(depth)
    for tile in range(np.uint64(n_tiles)):
        row, r = tile * np.uint64(tile_step), tile * np.uint64(8)
        a, b = np.uint64(exits[left_at[r]]), np.uint64(exits[left_at[r + _1]])
        c, d = np.uint64(exits[left_at[r + _2]]), np.uint64(exits[left_at[r + _3]])
        e, f = np.uint64(exits[left_at[r + _4]]), np.uint64(exits[left_at[r + _5]])
        g, h = np.uint64(exits[left_at[r + _6]]), np.uint64(exits[left_at[r + _7]])
        steps = depth
        while steps > 0:
            for _ in range(min(steps, chunk) - 1):
                a, b = _step(nodes, tiles, row, a), _step(nodes, tiles, row + _1, b)
                c, d = (
                    _step(nodes, tiles, row + _2, c),
                    _step(nodes, tiles, row + _3, d),
                )
                e, f = (
                    _step(nodes, tiles, row + _4, e),
                    _step(nodes, tiles, row + _5, f),
                )
                g, h = (
                    _step(nodes, tiles, row + _6, g),
                    _step(nodes, tiles, row + _7, h),
                )
            before = a + b + c + d + e + f + g + h
            a, b = _step(nodes, tiles, row, a), _step(nodes, tiles, row + _1, b)
            c, d = _step(nodes, tiles, row + _2, c), _step(nodes, tiles, row + _3, d)
            e, f = _step(nodes, tiles, row + _4, e), _step(nodes, tiles, row + _5, f)
            g, h = _step(nodes, tiles, row + _6, g), _step(nodes, tiles, row + _7, h)
            steps -= chunk
            # Places only grow on the way, so that all have arrived if the sum stays.
            if steps > 0 and a + b + c + d + e + f + g + h == before:
                break
        places[r], places[r + _1], places[r + _2], places[r + _3] = a, b, c, d
        places[r + _4], places[r + _5], places[r + _6], places[r + _7] = e, f, g, h


@row_jit
def _leave(
    top: int, bins: int, column_step: int, scratch: int, exits: int, ahead: int,
    width: int, parts: int,
) -> None:  # fmt: skip
    if width == 1:
        if parts == 8:
            _leave_top(top, bins, column_step, scratch, exits, ahead, 1, 8)
        else:
            _leave_top(top, bins, column_step, scratch, exits, ahead, 1, 1)
    elif parts == 8:
        _leave_top(top, bins, column_step, scratch, exits, ahead, 2, 8)
    else:
        _leave_top(top, bins, column_step, scratch, exits, ahead, 2, 1)


@row_jit
def _block_rows(n_rows: int) -> int:
    """Return the rows of the next block, some of which may be none."""
    if n_rows > PART_ROWS:
        return BLOCK_ROWS
    return PART_ROWS if n_rows > PART_ROWS - _SMALL_BLOCK else _SMALL_BLOCK


@row_jit
def predict_blocks(
    values: NDArray[Any],
    start: int,
    stop: int,
    plan_fields: NDArray[np.int64],
    plan_data: NDArray[np.uint8],
    n_columns: int,
    width: int,
    tops: NDArray[np.uint16],
    exits: NDArray[np.uint32],
    nodes: NDArray[np.uint64],
    leaf_of: NDArray[np.uint32],
    roots: NDArray[np.int64],
    depths: NDArray[np.int64],
    tree_output: NDArray[np.int32],
    leaf_value: NDArray[Any],
    baseline: NDArray[Any],
    divisor: int,
    out: NDArray[Any],
) -> None:
    """Write the predictions of rows, 1024, 512 or 64 at a time."""
    size: Any = np.int64(values.itemsize)
    x_step = size * values.shape[1]
    x = np.int64(values.ctypes.data)
    step = TILE * max(n_columns, 1)
    room = _block_rows(stop - start)
    bins = np.zeros(room * width * max(n_columns, 1), dtype=np.uint8)
    tiles = np.empty(room // TILE * step, dtype=np.uint16)
    scratch = np.zeros(64 * _EXITS, dtype=np.uint8)
    left_at = np.empty(room, dtype=np.uint8)
    places = np.empty(room, dtype=np.uint32)
    bins_at: Any = np.int64(bins.ctypes.data)
    scratch_at: Any = np.int64(scratch.ctypes.data)
    tops_at: Any = np.int64(tops.ctypes.data)
    left_at_at: Any = np.int64(left_at.ctypes.data)
    nodes_at: Any = np.int64(nodes.ctypes.data)
    flat, n_outputs = out.reshape(-1), np.uint64(out.shape[1])
    values_of_leaf, leaf_width = leaf_value.reshape(-1), np.uint64(leaf_value.shape[1])
    first = start
    while first < stop:
        rows = _block_rows(stop - first)
        parts = 1 if rows == _SMALL_BLOCK else 8
        n_rows = min(rows, stop - first)
        column_step: Any = np.int64(rows * width)
        bin_block(
            x + first * x_step, x_step, size, values.shape[1], n_rows, plan_fields,
            plan_data, bins_at, column_step, width,
        )  # fmt: skip
        if width == 1:
            _tile_bins(
                bins_at, column_step, np.int64(n_columns),
                np.int64(tiles.ctypes.data), np.int64(rows // TILE), 1,
            )  # fmt: skip
        else:
            _tile_bins(
                bins_at, column_step, np.int64(n_columns),
                np.int64(tiles.ctypes.data), np.int64(rows // TILE), 2,
            )  # fmt: skip
        for r in range(first, first + n_rows):
            out[r] = baseline
        target = np.uint64(first) * n_outputs
        for tree in range(tree_output.size):
            top = tops_at + 8 * (_EXITS - 1) * tree
            ahead = nodes_at + 8 * roots[tree]
            for part in range(0, n_rows, PART_ROWS):
                _leave(
                    top, bins_at + part * width, column_step, scratch_at,
                    left_at_at + part, ahead, width, parts,
                )  # fmt: skip
            _walk(
                tiles, (n_rows + TILE - 1) // TILE, step, left_at, exits[tree], nodes,
                depths[tree], places,
            )  # fmt: skip
            if leaf_width == 1:
                at = target + np.uint64(tree_output[tree])
                for r in range(np.uint64(n_rows)):
                    flat[at] += values_of_leaf[leaf_of[places[r]]]
                    at += n_outputs
            else:
                at = target
                for r in range(np.uint64(n_rows)):
                    leaf = leaf_of[places[r]] * leaf_width
                    for k in range(leaf_width):
                        flat[at + k] += values_of_leaf[leaf + k]
                    at += n_outputs
        if divisor > 1:
            for r in range(first, first + n_rows):
                for k in range(out.shape[1]):
                    out[r, k] /= baseline.dtype.type(divisor)
        first += n_rows
    # Numba frees an array after its last use, and an address is none: used here, these
    # outlive the loop.
    bins[0] = scratch[0]
