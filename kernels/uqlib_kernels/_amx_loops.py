"""The loops around the products of tiles.

Blocks of the weight that fit the second cache are outermost,
then panels of 32 rows, then pairs of tiles of the weight: so a panel stays in the first
cache while it goes over the block, and the results of a panel are written in order.
"""

from typing import Any

import numpy as np

from uqlib_kernels import _ir
from uqlib_kernels._amx import (
    REGISTER_BYTES,
    TILE_BYTES,
    begin_tiles,
    end_tiles,
    tile_block,
)
from uqlib_kernels._amx_vectors import add_group, spread_codes
from uqlib_kernels._jit import row_jit

__all__ = ["KERNEL_VERSION", "fill_results", "memory_bytes"]

KERNEL_VERSION = 2
_ir.require_version(KERNEL_VERSION)

_PRODUCTS = 4 * TILE_BYTES  # those of a panel with two tiles of the weight


def memory_bytes(bits: int, n_padded: int, block: int) -> int:
    """Return the bytes that `fill_results` works in.

    They hold emulated registers, products, totals, and the codes of a block of the
    weight as bytes.
    """
    spread = 0 if bits == 8 else block * 16 * n_padded
    return REGISTER_BYTES + 2 * _PRODUCTS + spread


@row_jit
def _spread(source: Any, n_vectors: Any, target: Any, bits: Any) -> None:
    if bits == 4:
        spread_codes(source, n_vectors, target, 4)
    elif bits == 2:
        spread_codes(source, n_vectors, target, 2)
    else:
        spread_codes(source, n_vectors, target, 1)


@row_jit
def _multiply(
    a: Any,
    a_stride: Any,
    w: Any,
    w_stride: Any,
    n_steps: Any,
    out: Any,
    registers: Any,
    rows: Any,
    pair: Any,
) -> None:
    if rows > 16 and pair == 2:
        tile_block(a, a_stride, w, w_stride, n_steps, out, registers, 2, 2)
    elif rows > 16:
        tile_block(a, a_stride, w, w_stride, n_steps, out, registers, 2, 1)
    elif pair == 2:
        tile_block(a, a_stride, w, w_stride, n_steps, out, registers, 1, 2)
    else:
        tile_block(a, a_stride, w, w_stride, n_steps, out, registers, 1, 1)


@row_jit
def _add(
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
    pair: Any,
) -> None:
    if pair == 2:
        add_group(
            products,
            totals,
            n_rows,
            sums,
            sums_stride,
            scale,
            zero,
            at_group,
            tile_stride,
            twice_zero,
            is_first,
            is_last,
            row_scale,
            bias,
            out,
            out_stride,
            n_valid,
            2,
        )
    else:
        add_group(
            products,
            totals,
            n_rows,
            sums,
            sums_stride,
            scale,
            zero,
            at_group,
            tile_stride,
            twice_zero,
            is_first,
            is_last,
            row_scale,
            bias,
            out,
            out_stride,
            n_valid,
            1,
        )


@row_jit
def fill_results(
    codes: Any,
    tail: Any,
    sums: Any,
    row_scale: Any,
    bias: Any,
    out: Any,
    weight: Any,
    bits: Any,
    scale: Any,
    zero: Any,
    twice_zero: Any,
    memory: Any,
    registers: Any,
    block_tiles: Any,
    row_start: Any,
    row_stop: Any,
    tile_start: Any,
    tile_stop: Any,
) -> None:
    """Write the results of the rows and tiles of the ranges.

    `weight`, `scale`, `zero` (or None) and `memory` are addresses; `registers` is None
    or an address, see `_amx`.
    """
    n_padded, n_groups, n_out = codes.shape[1], sums.shape[1], out.shape[1]
    group = n_padded // n_groups
    tile_bytes = 16 * n_padded
    vectors = n_padded * bits // 32
    products = memory + REGISTER_BYTES
    totals, spread = products + _PRODUCTS, products + 2 * _PRODUCTS
    codes_at, tail_at = np.int64(codes.ctypes.data), np.int64(tail.ctypes.data)
    sums_at, row_at = np.int64(sums.ctypes.data), np.int64(row_scale.ctypes.data)
    bias_at, out_at = np.int64(bias.ctypes.data), np.int64(out.ctypes.data)

    begin_tiles(registers)
    for block in range(tile_start, tile_stop, block_tiles):
        stop = min(block + block_tiles, tile_stop)
        w_at = weight + block * vectors * 64
        if bits != 8:
            _spread(w_at, (stop - block) * vectors, spread, bits)
            w_at = spread
        for row in range(row_start, row_stop, 32):
            rows = min(32, row_stop - row)
            a_at = tail_at if rows % 16 else codes_at + row * n_padded
            for tile in range(block, stop, 2):
                pair = min(2, stop - tile)
                w = w_at + (tile - block) * tile_bytes
                for g in range(n_groups):
                    _multiply(
                        a_at + g * group,
                        n_padded,
                        w + g * group * 16,
                        tile_bytes,
                        group // 64,
                        products,
                        registers,
                        rows,
                        pair,
                    )
                    _add(
                        products,
                        totals,
                        rows,
                        sums_at + (row * n_groups + g) * 4,
                        n_groups * 4,
                        scale,
                        zero,
                        (tile * n_groups + g) * 64,
                        n_groups * 64,
                        twice_zero,
                        np.int64(g == 0),
                        np.int64(g == n_groups - 1),
                        row_at + row * 4,
                        bias_at + tile * 64,
                        out_at + (row * n_out + tile * 16) * 4,
                        n_out * 4,
                        n_out - tile * 16,
                        pair,
                    )
    end_tiles(registers)
