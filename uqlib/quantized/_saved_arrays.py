"""Many small arrays as a few large ones, one of each type.

A header that names every array of a model would be as large as some of them. So arrays
of a type lie side by side, and a line of text tells what they are:

    codes U8 256x10, scale F16 256x1, bias F32 256

Read back in the same order they are cut off again, and nothing may be left.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib.quantized._safetensors import type_name

Arrays = dict[str, NDArray[Any]]
_ITEM = re.compile(r"([\w.]+) ([A-Z]+\d*)(?: (\d{1,15}(?:x\d{1,15}){0,7}))?", re.ASCII)
_SEPARATOR = ", "


class ArrayWriter:
    """Collects arrays."""

    def __init__(self) -> None:
        self._chunks: dict[str, list[NDArray[Any]]] = {}

    def put(self, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Collect arrays.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Names are letters, digits, dots and underscores.

        Returns
        -------
        str
            The line that `ArrayReader.take` needs.
        """
        items = []
        for name, array in arrays.items():
            kind = type_name(array.dtype)
            items.append(f"{name} {kind} {'x'.join(map(str, array.shape))}".rstrip())
            if not _ITEM.fullmatch(items[-1]):
                raise ValueError(f"{items[-1]!r} is no name and shape of an array.")
            self._chunks.setdefault(kind, []).append(array.reshape(-1))
        return _SEPARATOR.join(items)

    def tensors(self) -> Arrays:
        """Return what was collected.

        Returns
        -------
        dict of str to ndarray of shape (n_numbers,)
            By the names of types.
        """
        return {kind: np.concatenate(chunks) for kind, chunks in self._chunks.items()}


class ArrayReader:
    """Cuts arrays off, in the order in which they were collected."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self._tensors, self._read = tensors, dict.fromkeys(tensors, 0)
        for kind, tensor in tensors.items():
            if tensor.ndim != 1 or type_name(tensor.dtype) != kind:
                raise ValueError(f"the tensor {kind!r} is no row of that type.")

    def take(self, line: Any) -> Arrays:
        """Return the next arrays.

        Parameters
        ----------
        line : str
            As `ArrayWriter.put` gave it, of any origin.

        Returns
        -------
        dict of str to ndarray
            Copies.

        Raises
        ------
        ValueError
            If the line is none or asks for more than is left.
        """
        if not isinstance(line, str):
            raise ValueError(f"{line!r} is no list of arrays.")
        arrays: Arrays = {}
        for item in line.split(_SEPARATOR) if line else ():
            match = _ITEM.fullmatch(item)
            if match is None or match[1] in arrays:
                raise ValueError(f"{item!r} is no new array.")
            shape = tuple(int(side) for side in (match[3] or "").split("x") if side)
            arrays[match[1]] = self._cut(match[2], math.prod(shape)).reshape(shape)
        return arrays

    def check_empty(self) -> None:
        """Raise a `ValueError` if a number was not read."""
        for kind, tensor in self._tensors.items():
            if self._read[kind] != tensor.size:
                raise ValueError(f"the tensor {kind!r} has numbers that nothing uses.")

    def _cut(self, kind: str, size: int) -> NDArray[Any]:
        start = self._read.get(kind, 0)
        if kind not in self._tensors or start + size > self._tensors[kind].size:
            raise ValueError(f"the tensor {kind!r} has too few numbers.")
        self._read[kind] = start + size
        return self._tensors[kind][start : start + size].copy()
