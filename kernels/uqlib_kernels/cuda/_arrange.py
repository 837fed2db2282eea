"""Packed weights in the order in which kernels of a GPU read them.

A tile of 16 rows and 64 columns is what a warp reads at a time; where each code of it
lies is said in ``csrc/layout.cuh``, and `place_of_code` is the same in NumPy.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._packed import LANES, Codes, PackedWeight, inner_group, padded_codes

__all__ = ["DeviceColumns", "arranged_codes", "device_columns", "place_of_code"]

TILE_COLUMNS = 64


class DeviceColumns(NamedTuple):
    """How the columns of rows lie among the padded ones of a weight on a device.

    A group of `whole` columns is `parts` inner groups of `inner` columns, each padded
    to `group_columns`; zeros follow up to `n_columns`. All are numbers of columns, but
    `parts` and `n_groups`, the number of all inner groups.
    """

    n_in: int
    whole: int
    inner: int
    parts: int
    group_columns: int
    n_groups: int
    n_columns: int


def device_columns(bits: int, n_in: int, group_size: int) -> DeviceColumns:
    """Return where the columns of a weight lie on a device.

    Parameters
    ----------
    bits : {8, 4, 2, 1}
        Bits of a code.
    n_in : int
        Columns.
    group_size : int
        Columns that share a scale.

    Returns
    -------
    DeviceColumns
        Groups have a multiple of 32 columns, of 64 with 8 bits, and all columns
        together are whole steps, which are what a warp loads at once.
    """
    group = inner_group(group_size, n_in)
    whole = max(1, min(group_size, n_in))
    multiple = 64 if bits == 8 else 32
    padded = _ceil(group.padded, multiple)
    n_groups = -(-n_in // whole) * group.parts
    step = TILE_COLUMNS if bits == 8 else TILE_COLUMNS * 4 // bits
    n_columns = _ceil(n_groups * padded, step)
    return DeviceColumns(
        n_in, whole, group.size, group.parts, padded, n_groups, n_columns
    )


def place_of_code(
    bits: int, row: NDArray[np.intp], column: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return lane, word and bit of the code of a row and a column of a tile.

    Parameters
    ----------
    bits : {4, 2, 1}
        Bits of a code.
    row : ndarray of int, of any shape
        Between 0 and 15.
    column : ndarray of int, of a shape that broadcasts with that of `row`
        Between 0 and 63.

    Returns
    -------
    lane, word, bit : ndarray of int
        Of the 32 lanes, of the `bits` words that a lane holds of a tile, of 32.
    """
    t = column % 32 // 8
    half, second = column // 32, column % 8 // 4
    register = 2 * (column % 4 // 2) + row // 8
    words = {4: 2 * half + second, 2: half, 1: 0 * half}
    first = {
        4: 4 * register,
        2: 8 * second + 2 * register,
        1: 8 * second + 4 * half + register,
    }
    bit = first[bits] + 16 * (column % 2)
    return 4 * (row % 8) + t, words[bits] + 0 * row, bit


def arranged_codes(packed: PackedWeight) -> Codes:
    """Return the codes of a packed weight in the order of the device.

    Parameters
    ----------
    packed : PackedWeight
        Any.

    Returns
    -------
    ndarray of shape (n_out_padded, n_columns) or (n_tiles, n_steps, 32, 16)
        uint8. The first for 8 bits: rows of signed bytes q - 128.
    """
    columns = device_columns(packed.bits, packed.n_in, packed.group_size)
    rows = packed.n_tiles * LANES
    codes = np.zeros((rows, columns.n_columns), dtype=np.uint8)
    given = padded_codes(packed).reshape(rows, packed.n_groups, packed.padded_group)
    groups = codes[:, : columns.n_groups * columns.group_columns]
    groups = groups.reshape(rows, columns.n_groups, columns.group_columns)
    groups[..., : packed.padded_group] = given
    codes[:, : columns.n_groups * columns.group_columns] = groups.reshape(rows, -1)
    if packed.bits == 8:
        return codes ^ np.uint8(0x80)
    if packed.bits == 4 and packed.codebook is None:
        codes ^= np.uint8(8)
    return _tiles(codes, packed.bits)


def _tiles(codes: Codes, bits: int) -> Codes:
    rows, columns = codes.shape
    n_tiles = columns // TILE_COLUMNS
    row, column = np.meshgrid(np.arange(16), np.arange(TILE_COLUMNS), indexing="ij")
    lane, word, bit = place_of_code(bits, row, column)
    tiles = codes.reshape(rows // 16, 16, n_tiles, TILE_COLUMNS).swapaxes(1, 2)
    words = np.zeros((rows // 16, n_tiles, 32, bits), dtype=np.uint32)
    # The codes of one bit of a word go together: each place is written once then.
    for first in np.unique(bit):
        of_bit = bit == first
        part = tiles[:, :, row[of_bit], column[of_bit]].astype(np.uint32)
        words[:, :, lane[of_bit], word[of_bit]] |= part << np.uint32(first)
    # Tiles that follow each other, a step, lie together lane by lane.
    per_step = 4 // bits
    steps = words.reshape(rows // 16, n_tiles // per_step, per_step, 32, bits)
    steps = np.ascontiguousarray(steps.swapaxes(2, 3))
    as_bytes = steps.astype("<u4").view(np.uint8)
    return as_bytes.reshape(rows // 16, n_tiles // per_step, 32, 16)


def _ceil(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
