"""Integer products on tiles: rows of bytes with a packed weight of any bits.

Sixteen rows of the weight, 64 columns of them, are 1024 bytes that lie in a packed
weight of 8 bits just as a tile wants them; codes of fewer bits are written as bytes
first, once for all rows.
"""

import threading
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._amx_loops import fill_results, memory_bytes
from uqlib_kernels._packed import PackedWeight, aligned_empty
from uqlib_kernels._packing import packed_weight
from uqlib_kernels._threads import in_parts

__all__ = ["amx_product", "amx_works", "takes"]

_PANEL = 32  # rows of two tiles
_STEP = 64  # columns of a tile
_FEWEST_ROWS = 4  # fewer leave most of a tile empty: vectors are faster
_BLOCK_BYTES = 2**20
_SPREAD_BYTES = 2**19  # of codes written as bytes, beside the codes that are read
_FEW_ROWS = 64
_SPEED = 8  # products of tiles in the time of one of vectors

Codes = NDArray[np.int8]
Sums = NDArray[np.int32]
Floats = NDArray[np.float32]


def takes(packed: PackedWeight, n_rows: int) -> bool:
    """Return whether `amx_product` is for this product.

    Parameters
    ----------
    packed : PackedWeight
        A weight.
    n_rows : int
        Rows of activations.

    Returns
    -------
    bool
        False for few rows, a codebook, and groups that no whole number of tiles
        covers.
    """
    return (
        n_rows >= _FEWEST_ROWS
        and packed.codebook is None
        and packed.padded_group % _STEP == 0
    )


def amx_product(
    codes: Codes,
    sums: Sums,
    row_scale: Floats,
    packed: PackedWeight,
    bias: Floats | None,
    *,
    emulated: bool = False,
) -> Floats:
    """Multiply rows of bytes with a packed weight, on tiles.

    Parameters
    ----------
    codes : ndarray of shape (n_rows, n_padded), int8
        Rows, C-contiguous, with zeros in the padding.
    sums : ndarray of shape (n_rows, n_groups), int32
        Sums of the codes of each group, C-contiguous.
    row_scale : ndarray of shape (n_rows,), float32
        Scale of each row.
    packed : PackedWeight
        A weight that `takes` accepts, for any number of rows.
    bias : ndarray of shape (n_out,), float32, or None
        Added.
    emulated : bool, default=False
        Do without the instructions, in memory and slowly, on any machine.

    Returns
    -------
    ndarray of shape (n_rows, n_out)
        float32.
    """
    n_rows, n_out = codes.shape[0], packed.n_out
    out = aligned_empty((n_rows, n_out), np.float32)
    if n_rows == 0:
        return out
    plan: _Plan = packed.kept("_amx_plan", _plan_of)
    if bias is None or n_out % 16:
        bias = _padded_bias(plan, bias)
    tail = codes if n_rows % 16 == 0 else _tail(codes)
    block = _tiles_of_block(plan, n_rows)
    # Each thread has its own rows, or its own columns of the results.
    by_rows = n_rows > n_out

    def part(start: int, stop: int) -> None:
        bounds = (start, stop, 0, plan.n_tiles)
        if not by_rows:
            bounds = (0, n_rows, start, stop)
        memory = _memory_of(plan, block)
        registers = memory if emulated else None
        fill_results(
            *(codes, tail, sums, row_scale, bias, out, plan.weight, plan.bits),
            *(plan.scale, plan.zero, plan.twice_zero),
            *(memory, registers, block, *bounds),
        )

    work = n_rows * n_out * plan.n_padded / _SPEED
    if by_rows:
        in_parts(part, n_rows, work, multiple=_PANEL)
    else:
        in_parts(part, plan.n_tiles, work, multiple=2)
    return out


@cache
def amx_works() -> bool:
    """Return whether products of tiles come out right here; found once.

    It runs instructions of tiles: the process must have the permission, see
    `_amx_permission`.

    Returns
    -------
    bool
        False if a product of small integers differs from the exact one.
    """
    rng = np.random.default_rng(0)
    for bits, n_rows, n_out, n_in in ((8, 37, 50, 200), (4, 20, 16, 128)):
        q = rng.integers(0, 2**bits, size=(n_out, n_in))
        a = rng.integers(-127, 128, size=(n_rows, n_in)).astype(np.int8)
        packed = packed_weight(q, bits, None, 1.0, None)
        codes = np.zeros((n_rows, packed.n_padded), dtype=np.int8)
        codes[:, packed.columns] = a
        sums = a.sum(axis=1, keepdims=True, dtype=np.int32)
        ones = np.ones(n_rows, dtype=np.float32)
        # All are integers below 2^24: single precision holds them.
        exact = a.astype(np.int64) @ (q - 2 ** (bits - 1)).T
        if not np.array_equal(amx_product(codes, sums, ones, packed, None), exact):
            return False
    return True


class _Plan(NamedTuple):
    """What the kernel takes of a packed weight: sizes, and addresses of its arrays."""

    bits: int
    n_out: int
    n_padded: int
    n_tiles: int
    weight: int
    scale: int
    zero: int | None  # None where all zero points are twice_zero / 2
    twice_zero: int


def _plan_of(packed: PackedWeight) -> _Plan:
    """Return the plan of a weight."""
    zero = packed.zero_point
    return _Plan(
        packed.bits,
        packed.n_out,
        packed.n_padded,
        packed.n_tiles,
        int(packed.codes.ctypes.data),
        int(packed.scale.ctypes.data),
        None if zero is None else int(zero.ctypes.data),
        packed.twice_zero,
    )


def _tail(codes: Codes) -> Codes:
    """Return the rows of the last panel, padded to whole tiles."""
    rows = codes.shape[0] % _PANEL
    tail = aligned_empty((-(-rows // 16) * 16, codes.shape[1]), np.int8)
    tail[:rows] = codes[-rows:]
    tail[rows:] = 0
    return tail


def _padded_bias(plan: _Plan, bias: Floats | None) -> Floats:
    padded = np.zeros(16 * plan.n_tiles, dtype=np.float32)
    if bias is not None:
        padded[: plan.n_out] = bias
    return padded


def _tiles_of_block(plan: _Plan, n_rows: int) -> int:
    """Return how many tiles of the weight, an even number, go over all rows at once."""
    if plan.bits == 8:
        size = _BLOCK_BYTES
    else:
        # Few rows read what was spread once or twice: then it best stays close.
        size = 0 if n_rows <= _FEW_ROWS else _SPREAD_BYTES
    tiles = size // (16 * plan.n_padded) // 2 * 2
    return min(max(2, tiles), plan.n_tiles + plan.n_tiles % 2)


_scratch = threading.local()


def _memory_of(plan: _Plan, block: int) -> int:
    """Return where this thread keeps registers, products, totals and bytes."""
    size = memory_bytes(plan.bits, plan.n_padded, block)
    if getattr(_scratch, "size", 0) < size:
        _scratch.array = aligned_empty((size,), np.uint8)
        _scratch.size, _scratch.address = size, int(_scratch.array.ctypes.data)
    address: int = _scratch.address
    return address
