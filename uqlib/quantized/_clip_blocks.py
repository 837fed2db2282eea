"""Weights in blocks that share a scale, one block a row.

The whole matrix, its rows, or groups of columns of its rows: in each case the blocks
are rows of another matrix, and a grid with one scale for each row is fitted there with
the arithmetic of `Grid` itself, so that what is searched is what is stored.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._grid import Grid, stored

SINGLE = np.finfo(np.float32)
SCALE_EXPONENTS = (-126, 127)  # powers of two that are normal in single precision


class Blocks(NamedTuple):
    """Weights, one block a row.

    `values` has shape (n_blocks, n_columns) and is 0 where `counted`, of the same
    shape, is false: at weights that the range need not respect, and at the padding of a
    ragged last group. `size` of shape (n_blocks, 1) is the largest magnitude of a
    block, 1 where all are 0. `shape` is that of a scale in the matrix, `group_size`
    its columns in a group.
    """

    values: FloatArray
    counted: BoolArray
    size: FloatArray
    shape: tuple[int, int]
    group_size: int

    @property
    def is_zero(self) -> BoolArray:
        """Whether all counted weights of a block are 0, shape (n_blocks, 1)."""
        zero: BoolArray = np.all(self.values == 0, axis=1, keepdims=True)
        return zero


def cut_blocks(
    weight: FloatArray,
    granularity: str,
    group_size: int | None = None,
    included: BoolArray | None = None,
) -> Blocks:
    """Return the blocks of a matrix.

    Parameters
    ----------
    weight : ndarray of shape (n_out, n_in)
        Finite where included.
    granularity : {"tensor", "channel", "group"}
        What a block is: all, a row, or group_size columns of a row.
    group_size : int, default=None
        Columns in a group; the last one may have fewer.
    included : ndarray of shape (n_out, n_in), default=None
        Which weights count, bool; None for all.

    Returns
    -------
    Blocks
        In float64.
    """
    n_out, n_in = weight.shape
    counted = np.ones(weight.shape, bool) if included is None else included
    values = np.where(counted, weight, 0.0)
    width = n_in
    shape = (1, 1) if granularity == "tensor" else (n_out, 1)
    if granularity == "group" and group_size is not None and group_size < n_in:
        width = group_size
        shape = (n_out, -(-n_in // width))
        gap = ((0, 0), (0, shape[1] * width - n_in))
        values, counted = np.pad(values, gap), np.pad(counted, gap)
    n_blocks = shape[0] * shape[1]
    values = values.reshape(n_blocks, -1)
    size = np.abs(values).max(axis=1, initial=0.0, keepdims=True)
    return Blocks(
        values,
        counted.reshape(n_blocks, -1),
        np.where(size > 0, size, 1.0),
        shape,
        width,
    )


def block_grid(levels: FloatArray, scale: FloatArray, zero_point: Any) -> Grid:
    """Return a grid of blocks.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        Increasing.
    scale : ndarray of shape (n_blocks, 1)
        As it is stored.
    zero_point : ndarray of shape (n_blocks, 1) or None
        As it is stored.

    Returns
    -------
    Grid
        For a matrix with one block a row.
    """
    return Grid(levels.astype(np.float32), scale, zero_point, 1, 1)


def joined(grid: Grid, blocks: Blocks, n_in: int) -> Grid:
    """Return the grid of the matrix whose blocks these are.

    Parameters
    ----------
    grid : Grid
        Of the blocks.
    blocks : Blocks
        Cut from the matrix.
    n_in : int
        Columns of the matrix.

    Returns
    -------
    Grid
        With scales of the shape that the granularity asks for.
    """
    zero_point = grid.zero_point
    return Grid(
        grid.codebook,
        grid.scale.reshape(blocks.shape),
        None if zero_point is None else zero_point.reshape(blocks.shape),
        blocks.group_size,
        n_in,
    )


def as_stored(scale: FloatArray, kind: Any) -> FloatArray:
    """Return positive scales in a type, at its ends where they lie beyond.

    Parameters
    ----------
    scale : ndarray
        Positive, float64.
    kind : dtype
        float16 or float32.

    Returns
    -------
    ndarray of the shape of scale
        Positive and finite in that type.
    """
    limits = np.finfo(kind)
    rounded: FloatArray = np.clip(scale, limits.tiny, limits.max).astype(kind)
    return rounded


def scale_type(scale: FloatArray) -> Any:
    """Return the type that scales are stored in.

    Parameters
    ----------
    scale : ndarray
        Positive, float64.

    Returns
    -------
    dtype
        float16 or float32.
    """
    return stored(np.clip(scale, SINGLE.tiny, SINGLE.max)).dtype


def block_loss(grid: Grid, blocks: Blocks, norm: float) -> NDArray[np.float64]:
    """Return the sum of abs(error)^norm in each block, in units of its size.

    Parameters
    ----------
    grid : Grid
        Of the blocks.
    blocks : Blocks
        What is rounded.
    norm : float
        Positive.

    Returns
    -------
    ndarray of shape (n_blocks, 1)
        At least 0; of counted weights alone.
    """
    error = np.abs(grid.nearest(blocks.values) - blocks.values) / blocks.size
    error = error * error if norm == 2 else error**norm
    loss: NDArray[np.float64] = np.sum(
        error, axis=1, keepdims=True, where=blocks.counted
    )
    return loss


def merged(better: BoolArray, new: Grid, old: Grid) -> Grid:
    """Return the new grid for some blocks and the old one for the others.

    Parameters
    ----------
    better : ndarray of shape (n_blocks, 1)
        Which blocks take the new one, bool.
    new, old : Grid
        With the same codebook and the same types.

    Returns
    -------
    Grid
        Of the blocks.
    """
    zero_point = None
    if new.zero_point is not None and old.zero_point is not None:
        zero_point = np.where(better, new.zero_point, old.zero_point)
    return block_grid(old.codebook, np.where(better, new.scale, old.scale), zero_point)


def power_of_two_grid(grid: Grid, blocks: Blocks) -> Grid:
    """Return the grid with the power of two below or above each scale.

    The one with the smaller squared error; a scale that is a power of two stays.

    Parameters
    ----------
    grid : Grid
        Of the blocks.
    blocks : Blocks
        What is rounded.

    Returns
    -------
    Grid
        With the same zero points.
    """
    fraction, exponent = np.frexp(grid.scale.astype(np.float64))
    below = block_grid(grid.codebook, power_scale(exponent - 1), grid.zero_point)
    above = block_grid(
        grid.codebook, power_scale(exponent - (fraction == 0.5)), grid.zero_point
    )
    better = block_loss(above, blocks, 2) < block_loss(below, blocks, 2)
    return merged(better, above, below)


def power_scale(exponent: NDArray[Any]) -> FloatArray:
    """Return powers of two as scales.

    Parameters
    ----------
    exponent : ndarray of int
        Clipped to those of normal numbers in single precision.

    Returns
    -------
    ndarray of the shape of exponent
        Exact, float32.
    """
    clipped = np.clip(exponent, *SCALE_EXPONENTS)
    scale: FloatArray = np.ldexp(np.float32(1), clipped)
    return scale
