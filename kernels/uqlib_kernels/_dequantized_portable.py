"""Make floats of some tiles of a packed weight, in plain loops."""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from uqlib_kernels._jit import only_form, row_jit
from uqlib_kernels._packed import LANES

__all__ = ["fill_panel", "panel_kernel"]

Floats = NDArray[np.float32]


@row_jit
def fill_panel(
    words: NDArray[np.int32],
    scale: Floats,
    zero_point: Floats,
    levels: Floats,
    bits: int,
    group_size: int,
    inner: int,
    parts: int,
    first: int,
    stop: int,
    panel: Floats,
) -> None:
    """Write the tiles first, ..., stop - 1, transposed: one column of floats an output.

    Parameters
    ----------
    words : ndarray of shape (n_tiles, n_groups, n_words, 16)
        int32, of which the byte i is bits 8 i, ..., 8 i + 7.
    scale : ndarray of shape (n_tiles, n_groups, 16)
        Scales.
    zero_point : ndarray of shape (n_tiles, n_groups, 16) or (1, 1, 16)
        Zero points, of which a single one is that of all groups.
    levels : ndarray of shape (16,) or (0,)
        Codebook; empty for integers.
    bits : int
        Bits of a code.
    group_size, inner, parts : int
        Columns of a group, of an inner group, and inner groups of a group.
    first, stop : int
        Tiles.
    panel : ndarray of shape (n_in, n_columns)
        Written, at least 16 (stop - first) columns.
    """
    n_in = panel.shape[0]
    lanes = LANES * words.shape[2]
    # What a group has 16 of, once a word: so the loops over them are long and plain.
    many_zeros = np.empty(lanes, dtype=np.float32)
    many_scales = np.empty(lanes, dtype=np.float32)
    values = np.empty((32 // bits, lanes), dtype=np.float32)
    for tile in range(first, stop):
        to = LANES * (tile - first)
        for group in range(words.shape[1]):
            whole = group // parts * group_size
            start = whole + group % parts * inner
            end = min(start + inner, whole + group_size, n_in)
            if start >= end:
                continue
            zero = zero_point[0, 0]
            if zero_point.shape[0] > 1 or zero_point.shape[1] > 1:
                zero = zero_point[tile, group]
            for lane in range(lanes):
                many_zeros[lane] = zero[lane % LANES]
                many_scales[lane] = scale[tile, group, lane % LANES]
            codes = words[tile, group].reshape(lanes)
            _fill_values(codes, bits, levels, many_zeros, many_scales, values)
            _copy_columns(values, panel[start:end, to : to + LANES])


@cache
def panel_kernel() -> Any:
    """Return `fill_panel`, compiled.

    Returns
    -------
    callable
        The kernel.
    """

    def given(kind: Any, n_axes: int) -> Any:
        return types.Array(kind, n_axes, "C", readonly=True)

    arguments = (
        *(given(types.int32, 4), given(types.float32, 3), given(types.float32, 3)),
        *(given(types.float32, 1), *(types.int64,) * 6),
        types.Array(types.float32, 2, "C"),
    )
    return only_form(fill_panel, arguments)


@row_jit
def _fill_values(
    codes: NDArray[np.int32],
    bits: int,
    levels: Floats,
    zero: Floats,
    scale: Floats,
    values: Floats,
) -> None:
    """Write the values of a group; those of one place of all words are a row."""
    mask = np.int32((1 << bits) - 1)
    for place in range(values.shape[0]):
        # Bits b j, ..., b j + b - 1 of byte i hold column 4 j + i of a word.
        shift = np.int32(8 * (place % 4) + bits * (place // 4))
        # Integers stay in 32 bits only where each result is made so.
        if levels.shape[0]:
            for lane in range(codes.shape[0]):
                code = np.int32(np.int32(codes[lane] >> shift) & mask)
                values[place, lane] = (levels[code] - zero[lane]) * scale[lane]
        else:
            for lane in range(codes.shape[0]):
                code = np.int32(np.int32(codes[lane] >> shift) & mask)
                values[place, lane] = (np.float32(code) - zero[lane]) * scale[lane]


@row_jit
def _copy_columns(values: Floats, panel: Floats) -> None:
    per_word = values.shape[0]
    for column in range(panel.shape[0]):
        place, start = column % per_word, LANES * (column // per_word)
        for lane in range(LANES):
            panel[column, lane] = values[place, start + lane]
