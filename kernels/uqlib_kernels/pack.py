r"""Weight matrices of 8, 4, 2 and 1 bits in the order in which the kernels read them.

A weight is one of the levels of a grid,

    w[n, k] = (q[n, k] - z[n, g]) s[n, g],      g = k // group_size,

with codes q = 0, ..., 2^bits - 1, or C[q] in the place of q for a codebook C of at most
16 values. Any uniform grid has this form: 8 bits with z = 128 are signed bytes, 4 bits
with z = 8 are -8, ..., 7, two bits with z = 1.5 are the levels -1.5, -.5, .5, 1.5 and
one bit with z = .5 is a sign.

Layout. Sixteen rows of the matrix, the lanes, lie side by side, so that a vector of 512
bits holds the same columns of 16 rows and no sum ever crosses lanes:

    codes[tile, group, word, lane, byte],        n = 16 tile + lane.

The four bytes of a word hold the codes of 4, 8, 16 or 32 consecutive columns of a
group, of which `columns_of_word` is the map: with b bits, bits b j, ..., b j + b - 1 of
byte i hold column 4 j + i of the word. So a mask and a shift by b j leave the columns
4 j, ..., 4 j + 3 of every lane, one a byte, which is what a product of bytes takes.
A group is padded to whole words, and to 64 columns if it is longer; its activations are
zeros there. Rows are padded to whole tiles with scales of 0.

Zero points that all are equal are kept as one integer, twice the zero point: the
kernels compute 2 sum(q x) - twice_zero sum(x) exactly in integers.
"""

from typing import Any

import numpy as np

from uqlib_kernels._packed import (
    LANES,
    Floats,
    PackedWeight,
    aligned_empty,
    dequantized,
    unpack_codes,
)
from uqlib_kernels._packed import MAX_GROUP as MAX_GROUP
from uqlib_kernels._packed import columns_of_word as columns_of_word
from uqlib_kernels._packing import DEFAULT_ZERO as DEFAULT_ZERO
from uqlib_kernels._packing import packed_weight

__all__ = [
    "LANES",
    "PackedWeight",
    "aligned_empty",
    "dequantized",
    "pack_codebook",
    "pack_w1",
    "pack_w2",
    "pack_w4",
    "pack_w8",
    "unpack_codebook",
    "unpack_codes",
    "unpack_w1",
    "unpack_w2",
    "unpack_w4",
    "unpack_w8",
]


def pack_w8(
    weight: Any,
    group_size: int | None = None,
    *,
    scale: Any = None,
    zero_point: Any = None,
) -> PackedWeight:
    """Pack a matrix in 8 bits.

    Parameters
    ----------
    weight : array-like of shape (n_out, n_in)
        Floats, which are rounded to the nearest level; or the codes 0 to 255 as
        integers, with `scale`.
    group_size : int, default=None
        Columns that share a scale; None for all.
    scale : array-like, broadcasts to (n_out, n_groups), default=None
        Scales of codes; of floats they are chosen: the largest absolute value of the
        group over 127.
    zero_point : array-like, broadcasts to (n_out, n_groups), default=None
        Zero points of codes; None for 128.

    Returns
    -------
    PackedWeight
        The matrix.

    Raises
    ------
    ValueError
        If a value is not finite, a code is too large, or shapes do not fit.

    See Also
    --------
    unpack_w8 : The way back.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.pack import pack_w8, unpack_w8
    >>> weight = np.array([[-127.0, 3.0], [127.0, 0.0]])
    >>> unpack_w8(pack_w8(weight)).tolist()
    [[-127.0, 3.0], [127.0, 0.0]]
    """
    return packed_weight(weight, 8, group_size, scale, zero_point)


def pack_w4(
    weight: Any,
    group_size: int | None = None,
    *,
    scale: Any = None,
    zero_point: Any = None,
) -> PackedWeight:
    """Pack a matrix in 4 bits; as `pack_w8`, with codes 0 to 15 and zero point 8.

    Parameters
    ----------
    weight : array-like of shape (n_out, n_in)
        Floats or codes.
    group_size : int, default=None
        Columns that share a scale; None for all.
    scale, zero_point : array-like, broadcast to (n_out, n_groups), default=None
        Of codes.

    Returns
    -------
    PackedWeight
        The matrix.

    Raises
    ------
    ValueError
        As `pack_w8`.

    See Also
    --------
    unpack_w4 : The way back.
    """
    return packed_weight(weight, 4, group_size, scale, zero_point)


def pack_w2(
    weight: Any,
    group_size: int | None = None,
    *,
    scale: Any = None,
    zero_point: Any = None,
) -> PackedWeight:
    """Pack a matrix in 2 bits; as `pack_w8`, with codes 0 to 3 and zero point 1.5.

    Parameters
    ----------
    weight : array-like of shape (n_out, n_in)
        Floats or codes.
    group_size : int, default=None
        Columns that share a scale; None for all.
    scale, zero_point : array-like, broadcast to (n_out, n_groups), default=None
        Of codes.

    Returns
    -------
    PackedWeight
        The matrix.

    Raises
    ------
    ValueError
        As `pack_w8`.

    See Also
    --------
    unpack_w2 : The way back.
    """
    return packed_weight(weight, 2, group_size, scale, zero_point)


def pack_w1(
    weight: Any,
    group_size: int | None = None,
    *,
    scale: Any = None,
    zero_point: Any = None,
) -> PackedWeight:
    """Pack a matrix in one bit; as `pack_w8`, with codes 0 and 1 and zero point 0.5.

    The scale of floats is twice their mean absolute value in the group, which makes the
    squared error of sign(w) scale / 2 smallest.

    Parameters
    ----------
    weight : array-like of shape (n_out, n_in)
        Floats or codes.
    group_size : int, default=None
        Columns that share a scale; None for all.
    scale, zero_point : array-like, broadcast to (n_out, n_groups), default=None
        Of codes.

    Returns
    -------
    PackedWeight
        The matrix.

    Raises
    ------
    ValueError
        As `pack_w8`.

    See Also
    --------
    unpack_w1 : The way back.
    """
    return packed_weight(weight, 1, group_size, scale, zero_point)


def pack_codebook(
    weight: Any,
    codebook: Any,
    group_size: int | None = None,
    *,
    scale: Any = None,
    zero_point: Any = None,
) -> PackedWeight:
    """Pack a matrix in 4 bits that number the values of a codebook.

    Parameters
    ----------
    weight : array-like of shape (n_out, n_in)
        Floats, which are rounded to the nearest value; or codes as integers, with
        `scale`.
    codebook : array-like of shape (n_levels,)
        Increasing, at most 16 values: integers, NF4, learned ones.
    group_size : int, default=None
        Columns that share a scale; None for all.
    scale, zero_point : array-like, broadcast to (n_out, n_groups), default=None
        Of codes; w = (codebook[code] - zero_point) * scale, zero points are 0 if None.
        The scale of floats maps the largest absolute value to that of the codebook.

    Returns
    -------
    PackedWeight
        The matrix.

    Raises
    ------
    ValueError
        If the codebook is no increasing list of 1 to 16 finite values, or as
        `pack_w8` says.

    See Also
    --------
    unpack_codebook : The way back.
    """
    with np.errstate(over="ignore"):
        values = np.asarray(codebook, dtype=np.float32)
    if (
        values.ndim != 1
        or not 1 <= values.size <= 16
        or not np.isfinite(values).all()
        or (np.diff(values) <= 0).any()
    ):
        raise ValueError(
            f"codebook={codebook!r} must be an increasing list of 1 to 16 values that "
            "are finite in single precision."
        )
    return packed_weight(weight, 4, group_size, scale, zero_point, values)


def unpack_w8(packed: PackedWeight) -> Floats:
    """Return the float matrix of one packed in 8 bits.

    Parameters
    ----------
    packed : PackedWeight
        Of `pack_w8`.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        float32; the products are made in float64 and rounded once.

    Raises
    ------
    ValueError
        If `packed` is of another kind.

    See Also
    --------
    pack_w8 : The way there.
    """
    return _unpack(packed, 8, False)


def unpack_w4(packed: PackedWeight) -> Floats:
    """Return the float matrix of one packed in 4 bits.

    Parameters
    ----------
    packed : PackedWeight
        Of `pack_w4`.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        float32; the products are made in float64 and rounded once.

    Raises
    ------
    ValueError
        If `packed` is of another kind.

    See Also
    --------
    pack_w4 : The way there.
    """
    return _unpack(packed, 4, False)


def unpack_w2(packed: PackedWeight) -> Floats:
    """Return the float matrix of one packed in 2 bits.

    Parameters
    ----------
    packed : PackedWeight
        Of `pack_w2`.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        float32; the products are made in float64 and rounded once.

    Raises
    ------
    ValueError
        If `packed` is of another kind.

    See Also
    --------
    pack_w2 : The way there.
    """
    return _unpack(packed, 2, False)


def unpack_w1(packed: PackedWeight) -> Floats:
    """Return the float matrix of one packed in one bit.

    Parameters
    ----------
    packed : PackedWeight
        Of `pack_w1`.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        float32; the products are made in float64 and rounded once.

    Raises
    ------
    ValueError
        If `packed` is of another kind.

    See Also
    --------
    pack_w1 : The way there.
    """
    return _unpack(packed, 1, False)


def unpack_codebook(packed: PackedWeight) -> Floats:
    """Return the float matrix of one packed with a codebook.

    Parameters
    ----------
    packed : PackedWeight
        Of `pack_codebook`.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        float32; the products are made in float64 and rounded once.

    Raises
    ------
    ValueError
        If `packed` is of another kind.

    See Also
    --------
    pack_codebook : The way there.
    """
    return _unpack(packed, 4, True)


def _unpack(packed: PackedWeight, bits: int, codebook: bool) -> Floats:
    if packed.bits != bits or (packed.codebook is not None) != codebook:
        kind = "a codebook" if packed.codebook is not None else f"{packed.bits} bits"
        raise ValueError(f"packed holds {kind}: use the function of that name.")
    return dequantized(packed)
