r"""How wide the range of a block of weights is.

A format with a range puts its levels C over [low, high], which holds 0. Where there is
a zero point z (asymmetric integers of n + 1 levels)

    s = (high - low) / n,       z = round(-low n / (high - low)),

otherwise high = -low and s = high / C[-1]. A range narrower than the weights cuts some
of them off and represents the others more finely. With [lo, hi] the range of the
weights and 0, or what the largest magnitude spans:

- "minmax": [lo, hi].
- "mse": [p lo, p hi] with the p = 1, 0.99, ..., 0.21 of the least
  sum of abs(error)^2.4.
- "percentile": 1 % of the weights of a block lie beyond, half of them on each side
  where there is a zero point.
- "learned", "half_quadratic": see `_learned_clip`.

Formats without a range take no clip: one bit, ternary and learned values have a scale
of least squared error, block floating point one that follows from its largest weight.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from uqlib._typing import FloatArray
from uqlib.quantized._clip_blocks import (
    Blocks,
    as_stored,
    block_grid,
    block_loss,
    merged,
    scale_type,
)
from uqlib.quantized._grid import Grid

MSE_NORM = 2.4  # with the 80 factors below as in the code of arXiv:2210.17323
SHRINK_FACTORS = 1 - np.arange(80) / 100
BEYOND_PERCENTILE = 0.01


@dataclass(frozen=True, eq=False)
class RangeFitter:
    """Puts the levels of a format over ranges of blocks.

    Parameters
    ----------
    blocks : Blocks
        Weights.
    levels : ndarray of shape (n_levels,)
        Increasing, with 0 among them.
    asymmetric : bool
        Whether there is a zero point; the levels are 0, 1, ... then.
    """

    blocks: Blocks
    levels: FloatArray
    asymmetric: bool

    def whole(self) -> tuple[FloatArray, FloatArray]:
        """Return the range of all weights and 0.

        Returns
        -------
        low, high : ndarray of shape (n_blocks, 1)
            At most 0 and at least 0.
        """
        values = self.blocks.values
        low = values.min(axis=1, initial=0.0, keepdims=True)
        high = values.max(axis=1, initial=0.0, keepdims=True)
        if self.asymmetric:
            return low, high
        largest = np.maximum(-low, high)
        return -largest, largest

    def grid(self, low: FloatArray, high: FloatArray, kind: Any = None) -> Grid:
        """Return the grid over ranges.

        Parameters
        ----------
        low, high : ndarray of shape (n_blocks, 1)
            At most 0 and at least 0; where both are 0 the scale is 1.
        kind : dtype, default=None
            Of the scales; None takes the smallest that they fit.

        Returns
        -------
        Grid
            Of the blocks.
        """
        # In units of the size of a block nothing can overflow.
        low, high = low / self.blocks.size, high / self.blocks.size
        zero_point = None
        if self.asymmetric:
            top = self.levels.size - 1
            span = high - low
            share = -low / np.where(span > 0, span, 1.0)
            zero_point = np.rint(share * top).astype(np.uint8)
            scale = span / top
        else:
            scale = np.maximum(-low, high) / self.levels[-1]
        scale = np.where(scale > 0, scale * self.blocks.size, 1.0)
        kind = scale_type(scale) if kind is None else kind
        return block_grid(self.levels, as_stored(scale, kind), zero_point)


def shrunk_grid(
    fitter: RangeFitter, norm: float
) -> tuple[Grid, FloatArray, FloatArray]:
    """Return the grids of the best common factor of both ends of each range.

    Parameters
    ----------
    fitter : RangeFitter
        Weights and levels.
    norm : float
        Exponent of the errors that are summed.

    Returns
    -------
    grid : Grid
        Of the blocks.
    loss : ndarray of shape (n_blocks, 1)
        Of each block; never above that of the whole range.
    factor : ndarray of shape (n_blocks, 1)
        The largest of those with the least loss.
    """
    low, high = fitter.whole()
    best = fitter.grid(low, high)
    loss = block_loss(best, fitter.blocks, norm)
    factor = np.ones_like(loss)
    for p in SHRINK_FACTORS[1:]:
        # Same type as the whole range: a grid is judged as it would be stored.
        grid = fitter.grid(p * low, p * high, best.scale.dtype)
        new = block_loss(grid, fitter.blocks, norm)
        better = new < loss
        best, loss = merged(better, grid, best), np.where(better, new, loss)
        factor = np.where(better, p, factor)
    return best, loss, factor


def percentile_grid(fitter: RangeFitter) -> Grid:
    """Return the grids of ranges that leave out 1 % of the weights.

    Parameters
    ----------
    fitter : RangeFitter
        Weights and levels.

    Returns
    -------
    Grid
        Of the blocks.
    """
    blocks, (low, high) = fitter.blocks, fitter.whole()
    if fitter.asymmetric:
        share = BEYOND_PERCENTILE / 2
        inner_low, inner_high = _quantiles(blocks.values, blocks, (share, 1 - share))
        inner_low, inner_high = np.minimum(inner_low, 0), np.maximum(inner_high, 0)
    else:
        share = 1 - BEYOND_PERCENTILE
        (inner_high,) = _quantiles(np.abs(blocks.values), blocks, (share,))
        inner_low = -inner_high
    # Where nearly all weights are 0 their percentiles are no range.
    empty = inner_high == inner_low
    return fitter.grid(
        np.where(empty, low, inner_low), np.where(empty, high, inner_high)
    )


def _quantiles(
    values: FloatArray, blocks: Blocks, shares: tuple[float, ...]
) -> list[FloatArray]:
    """Return quantiles of the counted values of each block, linear between them."""
    ordered = np.sort(np.where(blocks.counted, values, np.inf), axis=1)
    ordered = np.where(np.isfinite(ordered), ordered, 0.0)
    last = np.maximum(blocks.counted.sum(axis=1, keepdims=True) - 1, 0)
    found = []
    for share in shares:
        position = share * last
        below = np.floor(position).astype(int)
        above = np.minimum(below + 1, last)
        at_below = np.take_along_axis(ordered, below, axis=1)
        at_above = np.take_along_axis(ordered, above, axis=1)
        part = position - below
        found.append((1 - part) * at_below + part * at_above)
    return found
