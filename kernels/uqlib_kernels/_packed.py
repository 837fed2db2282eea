"""What a packed weight is, and the order of its columns; `pack` says the layout."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LANES",
    "MAX_GROUP",
    "Codes",
    "Floats",
    "InnerGroup",
    "PackedWeight",
    "aligned_empty",
    "column_places",
    "columns_of_word",
    "dequantized",
    "inner_group",
    "padded_codes",
    "unpack_codes",
]

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

LANES = 16
# A sum in 32 bits: 2 * 255 * 127 * 2^14, twice the largest product of bytes, and as
# much for the zero point, stay below 2^31. Longer groups are split in equal scales.
MAX_GROUP = 2**14
_LINE = 64  # bytes of a vector, and of a line of the cache


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight matrix of low bits as the kernels read it; see the module.

    Parameters
    ----------
    bits : {8, 4, 2, 1}
        Bits of a code.
    n_out, n_in : int
        Shape of the matrix.
    group_size : int
        Columns that share a scale; the last group may have fewer.
    codes : ndarray of shape (n_tiles, n_groups, n_words, 16, 4)
        uint8; as all arrays here, it begins at a multiple of 64 bytes (it is copied if
        it does not).
    scale : ndarray of shape (n_tiles, n_groups, 16)
        float32.
    twice_zero : int
        Twice the zero point of all groups; 0 if `zero_point` is not None, and for a
        codebook.
    zero_point : ndarray of shape (n_tiles, n_groups, 16), or None
        float32, where they differ.
    codebook : ndarray of shape (16,), or None
        float32, None for integers.
    """

    bits: int
    n_out: int
    n_in: int
    group_size: int
    codes: Codes
    scale: Floats
    twice_zero: int = 0
    zero_point: Floats | None = None
    codebook: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n_out, n_in) of the matrix."""
        return self.n_out, self.n_in

    @property
    def n_tiles(self) -> int:
        """Number of blocks of 16 rows."""
        return int(self.codes.shape[0])

    @property
    def n_groups(self) -> int:
        """Number of groups of columns."""
        return int(self.codes.shape[1])

    @property
    def inner_group(self) -> int:
        """Columns of a group without its padding; the last may have fewer."""
        return inner_group(self.group_size, self.n_in).size

    @cached_property
    def columns(self) -> NDArray[np.intp]:
        """Where column k lies among the padded ones, of shape (n_in,)."""
        inner = inner_group(self.group_size, self.n_in)
        places = column_places(self.n_in, self.group_size, inner.size)
        return places // inner.size * inner.padded + places % inner.size

    @property
    def padded_group(self) -> int:
        """Columns of a group with its padding."""
        return int(self.codes.shape[2]) * columns_of_word(self.bits)

    @property
    def n_padded(self) -> int:
        """Columns of all groups with their padding: codes of a row of activations."""
        return self.n_groups * self.padded_group

    @cached_property
    def expanded(self) -> Codes:
        """Codes a byte each, (n_out, n_padded): for machines without permutations."""
        return np.ascontiguousarray(padded_codes(self)[: self.n_out])

    @cached_property
    def dequantized(self) -> Floats:
        """The float matrix (n_out, n_in), kept for products with many rows."""
        return dequantized(self)

    def kept(self, name: str, make: Callable[["PackedWeight"], Any]) -> Any:
        """Return what a kernel makes of the weight once, under a name of its own.

        All threads get the same: addresses in it may be held already. It is no part of
        a copy or a pickle.
        """
        found = self.__dict__.get(name)
        return self.__dict__.setdefault(name, make(self)) if found is None else found

    def __post_init__(self) -> None:
        self.__setstate__(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        # What is made from the fields is made again where it is needed.
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # An array that was pickled or read from a file may begin anywhere.
        self.__dict__.update((name, _aligned(part)) for name, part in state.items())

    @property
    def nbytes(self) -> int:
        """Bytes held, without what is kept for other machines or many rows."""
        parts = (self.codes, self.scale, self.zero_point, self.codebook)
        return sum(part.nbytes for part in parts if part is not None)


def columns_of_word(bits: int) -> int:
    """Return the columns whose codes a word of four bytes holds."""
    return 32 // bits


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array that begins at a multiple of 64 bytes.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    dtype : data type
        Its type.

    Returns
    -------
    ndarray of shape `shape`
        Not initialized.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _LINE, dtype=np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % _LINE)


def _aligned(part: Any) -> Any:
    """Return an array that begins at a multiple of 64 bytes and is contiguous."""
    if not isinstance(part, np.ndarray):
        return part
    if part.ctypes.data % _LINE == 0 and part.flags.c_contiguous:
        return part
    moved = aligned_empty(part.shape, part.dtype)
    moved[...] = part
    return moved


def unpack_codes(packed: PackedWeight) -> Codes:
    """Return the codes of a packed matrix.

    Parameters
    ----------
    packed : PackedWeight
        Any.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        uint8.
    """
    rows = padded_codes(packed)[: packed.n_out]
    return np.ascontiguousarray(rows[:, packed.columns])


def padded_codes(packed: PackedWeight) -> Codes:
    """Return all codes, those of the padding too: (16 n_tiles, n_padded)."""
    shifts = np.arange(0, 8, packed.bits, dtype=np.uint8)
    mask = np.uint8(2**packed.bits - 1)
    parts = packed.codes[..., None, :] >> shifts[:, None] & mask
    # tile, group, word, lane, part, byte -> tile, lane, group, column of the group
    rows = parts.transpose(0, 3, 1, 2, 4, 5)
    return rows.reshape(packed.n_tiles * LANES, packed.n_padded)


def dequantized(packed: PackedWeight) -> Floats:
    """Return the float matrix of a packed one.

    Parameters
    ----------
    packed : PackedWeight
        Any.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        float32; the products are made in float64 and rounded once.
    """
    codes = unpack_codes(packed)
    values = codes.astype(np.float64)
    if packed.codebook is not None:
        values = packed.codebook.astype(np.float64)[codes]
    where = _group_of_column(packed)
    scale = _rows_of(packed.scale, packed.n_out)[:, where]
    zero: Any = packed.twice_zero / 2
    if packed.zero_point is not None:
        zero = _rows_of(packed.zero_point, packed.n_out)[:, where]
    return ((values - zero) * scale).astype(np.float32)


def _group_of_column(packed: PackedWeight) -> NDArray[np.intp]:
    return np.asarray(packed.columns // packed.padded_group)


def _rows_of(tiled: Floats, n_out: int) -> NDArray[np.float64]:
    """Return (n_out, n_groups) of (n_tiles, n_groups, 16)."""
    flat = tiled.transpose(0, 2, 1).reshape(-1, tiled.shape[1])
    return flat[:n_out].astype(np.float64)


# What the caller calls a group may be too long for a sum in 32 bits; it is then
# split into inner groups that have its scale. All inner groups have the same size, the
# last one of each group may have fewer columns, as may the last group.


@dataclass(frozen=True)
class InnerGroup:
    """How a group of columns is split and padded."""

    size: int  # columns of an inner group
    padded: int  # with its padding
    parts: int  # inner groups of a group


def inner_group(group_size: int, n_in: int) -> InnerGroup:
    """Return how the groups of a matrix are split."""
    whole = max(1, min(group_size, n_in))
    parts = -(-whole // MAX_GROUP)
    # Parts of one size, so that little of the last one is padding.
    size = whole if parts == 1 else -(-whole // (64 * parts)) * 64
    multiple = 64 if size >= 64 else 32
    return InnerGroup(size, -(-size // multiple) * multiple, parts)


def column_places(n_in: int, group_size: int, size: int) -> NDArray[np.intp]:
    """Return where column k lies among the inner groups, without their padding."""
    whole = max(1, min(group_size, n_in))
    parts = -(-whole // size)
    k = np.arange(n_in)
    inner = (k // whole) * parts + (k % whole) // size
    return np.asarray(inner * size + (k % whole) % size)
