"""Where the codes and the columns of an arranged weight lie.

The maps are those of ``csrc/layout.cuh``, one element at a time.
"""

# Triton reads the bodies of kernels, and their annotations but for constants must be
# absent.
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False

import triton
import triton.language as tl

__all__ = ["codes_of", "column_at", "place_of_input", "row_index"]


@triton.jit
def row_index(row, n_columns):
    """Return where a row of a matrix begins, which may be beyond 2^31."""
    return tl.cast(row, tl.int64) * n_columns


@triton.jit
def column_at(
    place,
    n_in,
    whole,
    inner,
    parts,
    group_columns,
    n_groups,
):
    """Return the column of x at a padded place, -1 for padding."""
    group, within = place // group_columns, place % group_columns
    in_whole = group % parts * inner + within
    column = group // parts * whole + in_whole
    is_column = (within < inner) & (in_whole < whole)
    is_column &= (group < n_groups) & (column < n_in)
    return tl.where(is_column, column, -1)


@triton.jit
def place_of_input(place, BITS: tl.constexpr):
    """Return the byte of a row of rounded inputs that holds a padded place."""
    if BITS == 8:
        return place
    i = place % 8
    if BITS == 4:
        i = (i & 4) | (i & 1) << 1 | (i & 2) >> 1
    else:
        i = (i & 1) << 1 | (i & 2) << 1 | (i & 4) >> 2
    return place // 64 * 64 + 16 * (place % 32 // 8) + 8 * (place % 64 // 32) + i


@triton.jit
def codes_of(
    weight,
    tile,
    row,
    place,
    n_columns,
    BITS: tl.constexpr,
    IS_CODEBOOK: tl.constexpr,
):
    """Return the codes of rows 0 to 15 of a tile at padded places.

    `weight` are signed bytes for 8 bits, else words; `row` and `place` broadcast.
    """
    if BITS == 8:
        at = row_index(16 * tile + row, n_columns) + place
        return tl.load(weight + at).to(tl.int32) + 128
    # The pair (product, register) of a lane, the word and the bit where it begins.
    t, half, second = place % 32 // 8, place % 64 // 32, place % 8 // 4
    register = 2 * (place % 4 // 2) + row // 8
    if BITS == 4:
        word, bit = 2 * half + second, 4 * register
    elif BITS == 2:
        word, bit = half, 8 * second + 2 * register
    else:
        word, bit = 0, 8 * second + 4 * half + register
    bit += 16 * (place % 2)
    lane = 4 * (row % 8) + t
    # A step is 4 / bits tiles, of which a lane holds 4 words together.
    tiles: tl.constexpr = 4 // BITS
    column_tile = place // 64
    step = row_index(tile, n_columns // (64 * tiles)) + column_tile // tiles
    at = (step * 32 + lane) * 4 + column_tile % tiles * BITS + word
    codes = (tl.load(weight + at) >> bit) & ((1 << BITS) - 1)
    if BITS == 4 and not IS_CODEBOOK:
        codes ^= 8
    return codes
