r"""Ranges that are fitted to the weights block by block.

"learned" minimizes the sum of squared errors of a block over the factors by which the
two ends of its range shrink, sigma_low and sigma_high, from the whole range on: one
factor for both first, then all pairs of tenths, since the zero point is an integer and
the loss has many local minima, then each in turn with smaller and smaller steps. Last,
with the codes held, u = C[q] - z, the best scale is

    s = <w, u> / <u, u> ,

and codes and scale are renewed in turn. A step is kept where it lowers the loss of the
stored grid, so that the end is never worse than the whole range or the best common
factor.

"half_quadratic" minimizes sum abs(error)^p with p = 0.7, which cares less for the
weights that are hit worst. With e_j the part of the errors that counts as outlying,

    min over e, z of  sum abs(e_j)^p + (beta / 2) sum (w_j - (C[q_j] - z) s - e_j)^2 ,

the minimum over e is a shrinkage of the errors, that over z a mean, and beta grows from
step to step. The scale stays that of the whole range and the zero point becomes a
float; a format without a zero point has its scale fitted, by the formula above with
w - e for w. Errors are measured in steps of the grid of the whole range (the median
one where they differ), so that the result does not depend on the unit of the weights.
The iterate with the least mean abs(error) is kept, block by block.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from uqlib._typing import FloatArray
from uqlib.quantized._clip_blocks import (
    Blocks,
    as_stored,
    block_grid,
    block_loss,
    merged,
    power_of_two_grid,
)
from uqlib.quantized._clips import RangeFitter, shrunk_grid
from uqlib.quantized._grid import Grid

_COARSE_FACTORS = np.arange(1, 11) / 10
_STEPS = (0.05, 0.025, 0.0125, 0.00625)
_ROUNDS = 4  # at each step
_LEAST_FACTOR = 0.05
_REFITS = 20
_HQQ_STEPS = 20
_HQQ_NORM = 0.7
_HQQ_BETA = 10.0
_HQQ_GROWTH = 1.01
_HALF_LEVELS = 32  # up to here a half-precision zero point errs by 1/128 of a step


def learned_grid(fitter: RangeFitter) -> Grid:
    """Return the grids of fitted ranges.

    Parameters
    ----------
    fitter : RangeFitter
        Weights and levels.

    Returns
    -------
    Grid
        Of the blocks; the squared error of none is above that of its whole range.

    References
    ----------
    Shao et al. (2024), arXiv:2308.13137 (factors of both ends).
    Tang et al. (2024), arXiv:2403.02775 (scale of least squared error).
    """
    grid, loss, factor = shrunk_grid(fitter, 2)
    if fitter.asymmetric:
        grid, loss = _each_end(fitter, grid, loss, factor)
    return _refitted(grid, loss, fitter.blocks)


class _Found(NamedTuple):
    """The best grid so far, its losses, and its factors, shape (2, n_blocks, 1)."""

    grid: Grid
    loss: FloatArray
    factors: FloatArray


def _each_end(
    fitter: RangeFitter, best: Grid, loss: FloatArray, factor: FloatArray
) -> tuple[Grid, FloatArray]:
    found = _Found(best, loss, np.stack([factor, factor]))
    for pair in product(_COARSE_FACTORS, repeat=2):
        trial = np.broadcast_to(np.reshape(pair, (2, 1, 1)), found.factors.shape)
        found = _better_of(found, trial, fitter)
    for step in np.repeat(_STEPS, _ROUNDS):
        for move in step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]):
            trial = found.factors + move[:, None, None]
            found = _better_of(found, np.clip(trial, _LEAST_FACTOR, 1.0), fitter)
    return found.grid, found.loss


def _better_of(found: _Found, trial: FloatArray, fitter: RangeFitter) -> _Found:
    low, high = fitter.whole()
    kind = found.grid.scale.dtype
    grid = fitter.grid(trial[0] * low, trial[1] * high, kind)
    loss = block_loss(grid, fitter.blocks, 2)
    better = loss < found.loss
    return _Found(
        merged(better, grid, found.grid),
        np.where(better, loss, found.loss),
        np.where(better, trial, found.factors),
    )


def _refitted(grid: Grid, loss: FloatArray, blocks: Blocks) -> Grid:
    for _ in range(_REFITS):
        scale = least_squares_scale(grid, blocks, blocks.values)
        kind = grid.scale.dtype
        new = block_grid(grid.codebook, as_stored(scale, kind), grid.zero_point)
        new_loss = block_loss(new, blocks, 2)
        better = new_loss < loss
        if not better.any():
            break
        grid, loss = merged(better, new, grid), np.where(better, new_loss, loss)
    return grid


def least_squares_scale(grid: Grid, blocks: Blocks, target: FloatArray) -> FloatArray:
    """Return the scales of least squared error for the codes that a grid gives.

    Parameters
    ----------
    grid : Grid
        Of the blocks.
    blocks : Blocks
        Weights, whose codes are held.
    target : ndarray of shape (n_blocks, n_columns)
        What codes times scale should be.

    Returns
    -------
    ndarray of shape (n_blocks, 1)
        Float64; that of the grid where all codes stand for 0.
    """
    scale, _ = grid.parameters(None)
    units = np.where(blocks.counted, grid.nearest(blocks.values) / scale, 0.0)
    square = np.sum(units**2, axis=1, keepdims=True)
    along = np.sum(units * (target / blocks.size), axis=1, keepdims=True)
    fitted = along / np.where(square > 0, square, 1.0) * blocks.size
    return np.where(fitted > 0, fitted, scale)


def half_quadratic_grid(fitter: RangeFitter, power_of_two: bool = False) -> Grid:
    """Return grids of small errors but for some large ones.

    Parameters
    ----------
    fitter : RangeFitter
        Weights and levels.
    power_of_two : bool, default=False
        Whether zero points are fitted for scales that are powers of two.

    Returns
    -------
    Grid
        Of the blocks; the mean abs(error) of none is above that of its whole range.

    References
    ----------
    Badri and Shaji (2023), "Half-Quadratic Quantization of Large Machine Learning
    Models".
    """
    blocks = fitter.blocks
    current = fitter.grid(*fitter.whole())
    if power_of_two:
        current = power_of_two_grid(current, blocks)
    if fitter.asymmetric:
        current = _with_zero_point(current, current.parameters(None)[1])
    step = current.parameters(None)[0]
    if not fitter.asymmetric:
        step = step * np.median(np.diff(fitter.levels))
    best, loss = current, block_loss(current, blocks, 1)
    beta = _HQQ_BETA
    for _ in range(_HQQ_STEPS):
        error = (blocks.values - current.nearest(blocks.values)) / step
        target = blocks.values - step * _shrunk(error, beta)
        current = _half_quadratic_step(current, blocks, target)
        new = block_loss(current, blocks, 1)
        better = new < loss
        best, loss = merged(better, current, best), np.where(better, new, loss)
        beta *= _HQQ_GROWTH
    return best


def _half_quadratic_step(grid: Grid, blocks: Blocks, target: FloatArray) -> Grid:
    if grid.zero_point is None:
        scale = least_squares_scale(grid, blocks, target)
        kind = grid.scale.dtype
        return block_grid(grid.codebook, as_stored(scale, kind), None)
    levels = grid.codebook.astype(np.float64)[grid.encode(blocks.values)]
    scale, zero_point = grid.parameters(None)
    n = blocks.counted.sum(axis=1, keepdims=True)
    gap = np.where(blocks.counted, levels - target / scale, 0.0)
    mean = gap.sum(axis=1, keepdims=True) / np.maximum(n, 1)
    # A block of zeros stays as it is: 0 is exact there.
    return _with_zero_point(grid, np.where(blocks.is_zero, zero_point, mean))


def _with_zero_point(grid: Grid, zero_point: FloatArray) -> Grid:
    kind = np.float16 if grid.n_levels <= _HALF_LEVELS else np.float32
    return block_grid(grid.codebook, grid.scale, zero_point.astype(kind))


def _shrunk(x: FloatArray, beta: float) -> FloatArray:
    """Return sign(x) max(abs(x) - abs(x)^(p-1) / beta, 0)."""
    size = np.abs(x)
    safe = np.where(size > 0, size, 1.0)
    kept = np.maximum(safe - safe ** (_HQQ_NORM - 1) / beta, 0.0)
    return np.where(size > 0, np.sign(x) * kept, 0.0)
