r"""FlexRound: learn what each weight is divided by before it is rounded.

With the scales s of a grid and its zero points z, a weight w_ij gets the code next to

    p_ij = w_ij exp(-a_ij - b_i) / s' + z,        s' = s exp(d),
    What_ij = (C[q_ij] - z) s' ,

where a belongs to the weight, b to its row and d to what shares a scale. All are 0 at
the start, which is rounding to nearest. Dividing lets a weight move in proportion to
its size: a large one may pass many legal values, one of 0 stays.

The slope of C[q] by p is taken for 1 where rounding does not cut p off, m_ij = 1, up to
half a gap beyond the first and the last value, else for 0. With D = dL/dWhat = 2 E G
and v_ij = w_ij exp(-a_ij - b_i),

    dL/da_ij = -D_ij m_ij v_ij,
    dL/db_i  = sum_j dL/da_ij,
    dL/dd    = sum over its weights of D_ij (What_ij - m_ij v_ij) .

Every row, or the matrix where all rows share a scale, is kept in the best state that it
had, with its scales as they are stored. Scales that are stored as powers of two stay.
"""

from dataclasses import dataclass

import numpy as np

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._adam import Adam
from uqlib.quantized._clip_blocks import as_stored
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._learned_interpolation import row_losses
from uqlib.quantized._problem import LayerProblem

N_STEPS = 1000
RATE = 0.01
SCALE_RATE = 0.001


@dataclass(frozen=True, eq=False)
class Divisors:
    """Logarithms of what weights are divided by, over those of the grid.

    Parameters
    ----------
    weight : ndarray of shape (n_out, n_in)
        a, of each weight.
    row : ndarray of shape (n_out, 1)
        b, of each row.
    scale : ndarray of the shape of the scales of the grid
        d, which the stored scales have too.
    """

    weight: FloatArray
    row: FloatArray
    scale: FloatArray

    @classmethod
    def zeros(cls, grid: Grid, shape: tuple[int, ...]) -> "Divisors":
        """Return those that leave a grid of a matrix of this shape as it is."""
        row = np.zeros((shape[0], 1))
        return cls(np.zeros(shape), row, np.zeros(grid.scale.shape))

    def grid(self, grid: Grid) -> Grid:
        """Return the grid with its scales multiplied, in the same type."""
        if _has_exponents(grid):
            return grid
        scale = grid.scale.astype(np.float64) * np.exp(self.scale)
        stored = as_stored(scale, grid.scale.dtype)
        return Grid(grid.codebook, stored, grid.zero_point, grid.group_size, grid.n_in)

    def divided(self, weight: FloatArray) -> FloatArray:
        """Return v, of the shape (n_out, n_in) of the weights."""
        return weight * np.exp(-self.weight - self.row)


def flexround_codes(
    problem: LayerProblem, grid: Grid, n_steps: int = N_STEPS
) -> tuple[Codes, Grid]:
    """Return the codes that FlexRound finds, and their grid.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    grid : Grid
        Legal values at the start.
    n_steps : int, default=1000
        Steps of Adam.

    Returns
    -------
    codes : ndarray of shape (n_out, n_in)
        Codes, uint8. No row has a larger loss than its nearest values on `grid`, or
        their sum has not where all rows share a scale.
    grid : Grid
        With the learned scales, in the type of those of `grid`.
    """
    divisors = Divisors.zeros(grid, problem.weight.shape)
    parts = (divisors.weight, divisors.row, divisors.scale)
    descents = [Adam(part.shape) for part in parts]
    unit = _units(problem, grid)
    best = _Best(problem, grid)
    for step in range(n_steps):
        gradients = divisor_gradients(problem, grid, divisors, unit)
        decay = (1 + np.cos(np.pi * step / n_steps)) / 2
        rates = (RATE, RATE, SCALE_RATE)
        for part, descent, gradient, rate in zip(
            parts, descents, gradients, rates, strict=True
        ):
            descent.move(part, gradient, rate * decay)
        best.see(divisors)
    return best.codes, best.grid()


def divisor_gradients(
    problem: LayerProblem, grid: Grid, divisors: Divisors, unit: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the gradients of the losses, with 1 for the slope of rounding.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    grid : Grid
        Legal values at the start.
    divisors : Divisors
        Where.
    unit : ndarray of shape (n_out, 1)
        Unit of the loss of each row.

    Returns
    -------
    tuple of ndarray
        By each part of the divisors, of its shape.
    """
    now = divisors.grid(grid)
    v = divisors.divided(problem.weight)
    rounded = now.nearest(v)
    through = np.where(_is_inside(now, v), v, 0.0)
    slope = 2 / unit * ((rounded - problem.weight) @ problem.gram)
    by_weight = -slope * through
    by_scale = slope * (rounded - through)
    return (
        by_weight,
        by_weight.sum(axis=1, keepdims=True),
        _sums_over_scales(by_scale, grid),
    )


class _Best:
    """The best state that each row had, or all where they share a scale."""

    def __init__(self, problem: LayerProblem, grid: Grid) -> None:
        self._problem, self._start = problem, grid
        self._shared = grid.scale.shape[0] != len(problem.weight)
        self.codes = grid.encode(problem.weight)
        self._scale = grid.scale.copy()
        self._losses = self._row_losses(grid, self.codes)

    def see(self, divisors: Divisors) -> None:
        grid = divisors.grid(self._start)
        codes = grid.encode(divisors.divided(self._problem.weight))
        losses = self._row_losses(grid, codes)
        better = losses < self._losses
        self._losses[better] = losses[better]
        self.codes[better] = codes[better]
        self._scale[better[: len(self._scale)]] = grid.scale[better[: len(self._scale)]]

    def grid(self) -> Grid:
        start = self._start
        return Grid(
            start.codebook, self._scale, start.zero_point, start.group_size, start.n_in
        )

    def _row_losses(self, grid: Grid, codes: Codes) -> FloatArray:
        losses = row_losses(self._problem, grid.decode(codes))
        return np.full_like(losses, losses.sum()) if self._shared else losses


def _is_inside(grid: Grid, values: FloatArray) -> BoolArray:
    scale, zero_point = grid.parameters(None)
    if grid.n_levels == 1:  # learned values of equal weights: a place has no slope
        return np.zeros(values.shape, dtype=bool)
    levels = grid.codebook.astype(np.float64)
    low = 1.5 * levels[0] - 0.5 * levels[1]
    high = 1.5 * levels[-1] - 0.5 * levels[-2]
    position = values / scale + zero_point
    inside: BoolArray = (position > low) & (position < high)
    return inside


def _sums_over_scales(values: FloatArray, grid: Grid) -> FloatArray:
    n_rows, n_groups = grid.scale.shape
    starts = np.arange(n_groups) * grid.group_size if n_groups > 1 else [0]
    sums: FloatArray = np.add.reduceat(values, starts, axis=1)
    return sums if n_rows == len(values) else sums.sum(axis=0, keepdims=True)


def _has_exponents(grid: Grid) -> bool:
    return bool(grid.scale.dtype == np.int8)


def _units(problem: LayerProblem, grid: Grid) -> FloatArray:
    """Return the mean cost of an error of one scale, of each row."""
    scale, _ = grid.parameters(None)
    size = np.broadcast_to(scale, problem.weight.shape) ** 2
    unit = np.mean(size * np.diag(problem.gram), axis=1, keepdims=True)
    return np.where(unit > 0, unit, 1.0)
