"""Codes of 1 to 8 bits as bytes, as they lie in a file.

Every row begins at a byte, so that rows can be read alone; within a row code k takes
the bits k b, ..., k b + b - 1 of the little-endian stream of bits.
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def packed_size(shape: tuple[int, ...], bits: int) -> int:
    """Return the number of bytes of packed codes.

    Parameters
    ----------
    shape : tuple (n_rows, n_columns)
        Of the codes.
    bits : int
        Bits of a code, 1 to 8.

    Returns
    -------
    int
        Every row is padded to a whole byte.
    """
    n_rows, n_columns = shape
    return n_rows * -(-n_columns * bits // 8)


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Return codes side by side without gaps.

    Parameters
    ----------
    codes : ndarray of shape (n_rows, n_columns)
        Each below 2^bits, uint8.
    bits : int
        Bits of a code, 1 to 8.

    Returns
    -------
    ndarray of shape (n_rows, n_bytes)
        Packed rows, uint8.
    """
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(
            f"codes must be below 2**{bits}={2**bits}, got {int(codes.max())}."
        )
    n_rows, n_columns = codes.shape
    stream = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little")
    flat = stream.reshape(n_rows, n_columns * bits)
    return np.packbits(flat, axis=1, bitorder="little")


def unpack_codes(packed: Bytes, bits: int, n_columns: int) -> Bytes:
    """Return the codes of packed rows.

    Parameters
    ----------
    packed : ndarray of shape (n_rows, n_bytes)
        As `pack_codes` gives them.
    bits : int
        Bits of a code, 1 to 8.
    n_columns : int
        Codes in a row.

    Returns
    -------
    ndarray of shape (n_rows, n_columns)
        Codes, uint8.
    """
    if packed.ndim != 2 or packed.shape[1] != packed_size((1, n_columns), bits):
        raise ValueError(
            f"{n_columns} codes of {bits} bits take "
            f"{packed_size((1, n_columns), bits)} bytes a row, got shape "
            f"{packed.shape}."
        )
    flat = np.unpackbits(packed, axis=1, count=n_columns * bits, bitorder="little")
    stream = flat.reshape(len(packed), n_columns, bits)
    return np.packbits(stream, axis=2, bitorder="little")[:, :, 0]
