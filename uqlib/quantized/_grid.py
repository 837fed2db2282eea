r"""The values that a weight may take, whatever the number format.

A grid gives every row and every group of consecutive columns of a matrix its own scale
s and zero point z over one increasing codebook C that all share:

    w = (C[q] - z) s,        q = 0, ..., n_levels - 1 .

All formats are of this form. Integers of b bits are C[q] = q (asymmetric, z an integer)
or C[q] = q - (2^(b-1) - 1) (symmetric, z = 0); one bit is C = (-1, 1) with s = alpha
and z = -mu / alpha; ternary weights, NF4, FP4, FP8, power exponents and learned values
are codebooks with z = 0; block floating point is integers with powers of two as scales.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray

Codes = NDArray[np.uint8]
MAX_LEVELS = 256  # codes are bytes
_HALF = np.finfo(np.float16)


@dataclass(frozen=True, eq=False)
class Grid:
    """The legal values of a weight matrix of shape (n_out, n_in).

    Parameters
    ----------
    codebook : ndarray of shape (n_levels,)
        Increasing, float32.
    scale : ndarray of shape (1, 1), (n_out, 1) or (n_out, n_groups)
        Positive; float16 or float32, as it is stored (see `stored`). int8 stands for
        the exponents of powers of two.
    zero_point : ndarray of the shape of scale, or None
        uint8, float16 or float32, as it is stored; None stands for zeros.
    group_size : int
        Columns in a group; the last group may have fewer.
    n_in : int
        Columns of the matrix.
    """

    codebook: FloatArray
    scale: FloatArray
    zero_point: NDArray[Any] | None
    group_size: int
    n_in: int

    @property
    def n_levels(self) -> int:
        """Number of values in the codebook."""
        return int(self.codebook.size)

    @property
    def code_bits(self) -> int:
        """Bits of a stored code."""
        return max(1, (self.n_levels - 1).bit_length())

    def encode(self, values: FloatArray, columns: Any = None) -> Codes:
        """Return the codes of the nearest legal values.

        A value halfway between two integers goes to the even one, halfway between two
        values of a codebook that is not of integers to the lower one.

        Parameters
        ----------
        values : ndarray of shape (n_out, n_columns)
            Finite.
        columns : slice or ndarray of int, default=None
            Which columns of the matrix these are; None for all.

        Returns
        -------
        ndarray of shape (n_out, n_columns)
            Codes, uint8.
        """
        scale, zero_point = self.parameters(columns)
        position = values / scale + zero_point
        if self._is_integer:
            level = np.rint(position) - self.codebook[0]
            return _bytes(np.clip(level, 0, self.n_levels - 1))
        return _bytes(np.searchsorted(self._midpoints, position))

    def decode(self, codes: Codes, columns: Any = None) -> NDArray[np.float64]:
        """Return the values of codes.

        Parameters
        ----------
        codes : ndarray of shape (n_out, n_columns)
            As `encode` gives them.
        columns : slice or ndarray of int, default=None
            Which columns of the matrix these are; None for all.

        Returns
        -------
        ndarray of shape (n_out, n_columns)
            Values, float64.
        """
        scale, zero_point = self.parameters(columns)
        values: NDArray[np.float64] = (self._levels[codes] - zero_point) * scale
        return values

    def nearest(self, values: FloatArray, columns: Any = None) -> NDArray[np.float64]:
        """Return the nearest legal values.

        Parameters
        ----------
        values : ndarray of shape (n_out, n_columns)
            Finite.
        columns : slice or ndarray of int, default=None
            Which columns of the matrix these are; None for all.

        Returns
        -------
        ndarray of shape (n_out, n_columns)
            Values, float64.
        """
        return self.decode(self.encode(values, columns), columns)

    def neighbors(self, values: FloatArray) -> tuple[Codes, Codes]:
        """Return the codes of the legal values next below and next above each value.

        Both are the same where the value lies outside the grid or on it.

        Parameters
        ----------
        values : ndarray of shape (n_out, n_in)
            Finite.

        Returns
        -------
        below, above : ndarray of shape (n_out, n_in)
            Codes, uint8.
        """
        scale, zero_point = self.parameters(None)
        position = values / scale + zero_point
        top = self.n_levels - 1
        below = np.searchsorted(self._levels, position, side="right") - 1
        above = np.searchsorted(self._levels, position, side="left")
        below, above = np.clip(below, 0, top), np.clip(above, 0, top)
        return _bytes(below), _bytes(above)

    def parameters(
        self, columns: Any
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scale and zero point of every value, ready to broadcast.

        Parameters
        ----------
        columns : slice, ndarray of int or None
            Which columns of the matrix.

        Returns
        -------
        scale, zero_point : ndarray, broadcasts with (n_out, n_columns)
            Float64.
        """
        scale, zero_point = self._parameters
        if scale.shape[1] == 1:
            return scale, zero_point
        where = (
            np.arange(self.n_in) if columns is None else np.arange(self.n_in)[columns]
        )
        group = where // self.group_size
        return scale[:, group], zero_point[:, group]

    @cached_property
    def _parameters(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        scale = self.scale.astype(np.float64)
        if self.scale.dtype == np.int8:
            scale = np.ldexp(1.0, self.scale.astype(np.int64))
        if self.zero_point is None:
            return scale, np.zeros_like(scale)
        return scale, self.zero_point.astype(np.float64)

    @cached_property
    def _levels(self) -> NDArray[np.float64]:
        return self.codebook.astype(np.float64)

    @cached_property
    def _midpoints(self) -> NDArray[np.float64]:
        return (self._levels[1:] + self._levels[:-1]) / 2

    @cached_property
    def _is_integer(self) -> bool:
        first = self.codebook[:1]
        steps = np.arange(self.n_levels, dtype=self.codebook.dtype)
        return bool(np.array_equal(self.codebook, first + steps) and first % 1 == 0)


def stored(values: FloatArray) -> FloatArray:
    """Return numbers in the type that they are stored in.

    Half precision where all are normal half-precision numbers or zero, which costs a
    relative error of at most 2^-11, else single precision. Scales are rounded so before
    codes are chosen.

    Parameters
    ----------
    values : ndarray
        Finite in single precision.

    Returns
    -------
    ndarray
        float16 or float32.
    """
    size = np.abs(values)
    fits = (size == 0) | ((size >= _HALF.tiny) & (size <= _HALF.max))
    return values.astype(np.float16 if bool(fits.all()) else np.float32)


def check_codes(codes: Any, grid: Grid) -> Codes:
    """Return codes that a grid can decode.

    Parameters
    ----------
    codes : ndarray of shape (n_out, n_in)
        Of any origin, as a file.
    grid : Grid
        The grid.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        The codes, uint8.
    """
    if codes.ndim != 2 or codes.shape[1] != grid.n_in:
        raise ValueError(
            f"codes must have shape (n_out, {grid.n_in}), got shape {codes.shape}."
        )
    if codes.size and codes.max() >= grid.n_levels:
        raise ValueError(
            f"codes must be below the {grid.n_levels} levels of the grid, got "
            f"{int(codes.max())}: the weights are damaged."
        )
    return _bytes(codes)


def _bytes(codes: NDArray[Any]) -> Codes:
    return codes.astype(np.uint8, copy=False)
