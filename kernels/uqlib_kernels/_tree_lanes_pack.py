"""All arrays of a kernel as one: a call takes longer with every array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack_arrays"]

_ALIGN = 64


def pack_arrays(
    numbers: list[int], arrays: list[NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return numbers and arrays as a plan and one array of bytes.

    Parameters
    ----------
    numbers : list of int
        Read as `plan[0]`, `plan[1]`, ...
    arrays : list of ndarray
        The bytes of array k lie between the two numbers after `numbers` and those of
        the arrays before it.

    Returns
    -------
    plan : ndarray of shape (n_numbers + 2 n_arrays,)
        int64.
    data : ndarray of shape (n_bytes,)
        uint8; every array begins at a multiple of 64 bytes.
    """
    sizes = [part.nbytes for part in arrays]
    rooms = [-(-size // _ALIGN) * _ALIGN for size in sizes]
    starts = np.concatenate([[0], np.cumsum(rooms, dtype=np.int64)])
    raw = np.zeros(int(starts[-1]) + _ALIGN, dtype=np.uint8)
    skip = -raw.ctypes.data % _ALIGN
    data = raw[skip : skip + int(starts[-1])]
    bounds = []
    for part, start, size in zip(arrays, starts.tolist(), sizes, strict=False):
        flat = np.ascontiguousarray(part).reshape(-1)
        data[start : start + size] = flat.view(np.uint8)
        bounds += [start, start + size]
    return np.array([*numbers, *bounds], dtype=np.int64), data
