"""Round a matrix to the levels of a grid and put its codes in the packed order."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._packed import (
    LANES,
    Codes,
    Floats,
    PackedWeight,
    aligned_empty,
    column_places,
    columns_of_word,
    inner_group,
)

__all__ = ["DEFAULT_ZERO", "packed_weight"]

DEFAULT_ZERO = {8: 128.0, 4: 8.0, 2: 1.5, 1: 0.5}


def packed_weight(
    weight: Any,
    bits: int,
    group_size: int | None,
    scale: Any,
    zero_point: Any,
    codebook: Floats | None = None,
) -> PackedWeight:
    """Return a matrix of floats or of codes packed; see `pack.pack_w8`."""
    matrix = np.asarray(weight)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"weight must have shape (n_out, n_in), both at least 1, got shape "
            f"{matrix.shape}."
        )
    n_in = matrix.shape[1]
    group = n_in if group_size is None else group_size
    if not isinstance(group, Integral) or group < 1:
        raise ValueError(
            f"group_size={group_size!r} must be an integer of at least 1, or None for "
            "one group."
        )
    group = min(int(group), n_in)
    groups = -(-n_in // group)
    if matrix.dtype.kind in "iub":
        codes, scales, zeros = _given_codes(
            matrix, bits, groups, scale, zero_point, codebook
        )
    else:
        if scale is not None or zero_point is not None:
            raise ValueError(
                "scale and zero_point belong to codes: pass integer codes, or leave "
                "them out for a weight of floats."
            )
        codes, scales, zeros = _rounded(matrix, bits, group, codebook)
    return _assembled(codes, scales, zeros, bits, group, codebook)


def _given_codes(
    codes: NDArray[Any],
    bits: int,
    groups: int,
    scale: Any,
    zero_point: Any,
    codebook: Floats | None,
) -> tuple[Codes, NDArray[np.float64], NDArray[np.float64]]:
    levels = 2**bits if codebook is None else codebook.size
    if codes.min() < 0 or codes.max() >= levels:
        raise ValueError(
            f"Codes must lie between 0 and {levels - 1}, got {int(codes.min())} to "
            f"{int(codes.max())}. Add the zero point to signed values."
        )
    if scale is None:
        raise ValueError(
            "scale is missing: codes need it; a weight of floats does not."
        )
    if zero_point is None:
        zero_point = DEFAULT_ZERO[bits] if codebook is None else 0.0
    shape = (codes.shape[0], groups)
    parts = []
    for name, values in (("scale", scale), ("zero_point", zero_point)):
        given = np.asarray(values, dtype=np.float64)
        try:
            part = np.broadcast_to(given, shape)
        except ValueError:
            raise ValueError(
                f"{name} must broadcast to (n_out, n_groups) = {shape}, got shape "
                f"{given.shape}."
            ) from None
        parts.append(_stored(name, part))
    return codes.astype(np.uint8), parts[0], parts[1]


def _stored(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return values in the single precision in which they are stored."""
    with np.errstate(over="ignore", under="ignore"):
        single = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise ValueError(
            f"{name} must be finite in single precision, got "
            f"{float(values[~np.isfinite(single)][0])!r}: divide the weight, and "
            "multiply the product."
        )
    return single.astype(np.float64)


def _rounded(
    weight: NDArray[Any], bits: int, group: int, codebook: Floats | None
) -> tuple[Codes, NDArray[np.float64], NDArray[np.float64]]:
    """Round to the nearest level of a symmetric grid."""
    w = weight.astype(np.float64)
    if not np.isfinite(w).all():
        raise ValueError("weight must be finite, got infinite values or NaN.")
    n_out, n_in = w.shape
    groups = -(-n_in // group)
    starts = np.arange(0, n_in, group)
    if bits == 1 and codebook is None:
        sizes = np.minimum(group, n_in - starts)
        with np.errstate(over="ignore"):
            scale = 2 * np.add.reduceat(np.abs(w), starts, axis=1) / sizes
    else:
        top = {8: 127.0, 4: 7.0, 2: 1.5}[bits] if codebook is None else None
        reach = float(np.abs(codebook).max()) if codebook is not None else top
        scale = np.maximum.reduceat(np.abs(w), starts, axis=1) / (reach or 1.0)
    # Codes are chosen for the scale that is stored. Groups of zeros have scale 0, since
    # not every grid has the level 0.
    scale = _stored("The scale of weight", scale)
    where = np.arange(n_in) // group
    position = w / np.where(scale == 0, 1.0, scale)[:, where]
    if codebook is not None:
        book = codebook.astype(np.float64)
        codes = np.searchsorted((book[1:] + book[:-1]) / 2, position)
        return codes.astype(np.uint8), scale, np.zeros((n_out, groups))
    zero = DEFAULT_ZERO[bits]
    codes = np.clip(np.rint(position + zero), 0, 2**bits - 1)
    if bits == 1:
        codes = (w >= 0).astype(np.float64)
    return codes.astype(np.uint8), scale, np.full((n_out, groups), zero)


def _assembled(
    codes: Codes,
    scale: NDArray[np.float64],
    zero: NDArray[np.float64],
    bits: int,
    group: int,
    codebook: Floats | None,
) -> PackedWeight:
    n_out, n_in = codes.shape
    inner = inner_group(group, n_in)
    groups = scale.shape[1] * inner.parts
    tiles = -(-n_out // LANES)
    per_word = columns_of_word(bits)
    padded = np.zeros((tiles * LANES, groups, inner.padded), dtype=np.uint8)
    places = column_places(n_in, group, inner.size)
    padded[:n_out, places // inner.size, places % inner.size] = codes
    # tile, lane, group, word, part, byte -> tile, group, word, lane, byte
    parts = padded.reshape(tiles, LANES, groups, inner.padded // per_word, 8 // bits, 4)
    packed = aligned_empty(
        (tiles, groups, inner.padded // per_word, LANES, 4), np.uint8
    )
    packed[:] = 0
    for part in range(8 // bits):
        packed |= parts[..., part, :].transpose(0, 2, 3, 1, 4) << np.uint8(bits * part)
    scale = np.repeat(scale, inner.parts, axis=1)
    zero = np.repeat(zero, inner.parts, axis=1)
    first = float(zero.flat[0])
    uniform = bool((zero == first).all()) and (2 * first) % 1 == 0 and abs(first) <= 255
    if codebook is not None:
        uniform = not zero.any()
        codebook = np.concatenate(
            [codebook, np.repeat(codebook[-1:], 16 - codebook.size)]
        )
    return PackedWeight(
        bits,
        n_out,
        n_in,
        group,
        packed,
        _tiled(scale),
        twice_zero=int(2 * first) if uniform else 0,
        zero_point=None if uniform else _tiled(zero),
        codebook=codebook,
    )


def _tiled(rows: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
    """Return (n_tiles, n_groups, 16) of (n_out, n_groups), 0 in the padding."""
    n_out, groups = rows.shape
    tiles = max(1, -(-n_out // LANES))
    padded = np.zeros((tiles * LANES, groups), dtype=dtype)
    padded[:n_out] = rows
    out = aligned_empty((tiles, groups, LANES), dtype)
    out[:] = padded.reshape(tiles, LANES, groups).transpose(0, 2, 1)
    return out
