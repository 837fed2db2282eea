r"""Cyclic coordinate descent over the codes of a layer.

With all columns but j fixed, the loss tr(E G E^T), E = What - W, is a parabola in each
entry of column j, with its least value at

    beta_j = What_j - (E G)_j / G_jj ,

and a legal value v there costs G_jj (v - beta_j)^2 more. So the best legal column is
nearest(beta_j), for all rows at once, and a sweep of all columns never increases the
loss of a row that is legal. A row that a sweep leaves as it is cannot be improved by
any change of one code. (E G)_j is the product with the columns of past sweeps and
blocks, taken once a block of columns, plus that with those moved in the own block: one
sweep costs O(n_out n_in^2).

QuantEase (arXiv:2309.01885) starts from the target itself and leaves the values free in
every third sweep, which lets it cross to other codes but may increase the loss. Then
the best legal values of each row are kept.
"""

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._gptq import live_inputs
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._problem import LayerProblem

RELAXED_SWEEPS = 25  # from there on, all sweeps give legal values
_BLOCK = 64


def coordinate_descent_codes(
    problem: LayerProblem,
    grid: Grid,
    *,
    start: Codes | None = None,
    n_sweeps: int,
    relaxed: bool = False,
) -> Codes:
    """Return codes that cyclic coordinate descent cannot improve, or the last ones.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    grid : Grid
        Legal values.
    start : ndarray of shape (n_out, n_in), default=None
        Codes, uint8; None takes the nearest ones.
    n_sweeps : int
        Sweeps at most; it stops where no row improves.
    relaxed : bool, default=False
        Whether to go the way of QuantEase. The start is then only what the result must
        not be worse than.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        Codes, uint8. No row has a larger loss than with `start`. Those of dead inputs
        are the ones of `start`.
    """
    start = grid.encode(problem.weight) if start is None else start
    descent = Descent(problem, grid, grid.decode(start))
    best, lowest = descent.values.copy(), descent.row_losses()
    if relaxed:
        descent.free_all()
    for sweep in range(n_sweeps):
        settle = not relaxed or sweep >= RELAXED_SWEEPS
        if settle:  # from the best rows on, each sweep improves a row or is the last
            descent.set_values(best.T)
        free = relaxed and is_relaxed(sweep, n_sweeps)
        descent.sweep(free)
        if free:
            continue
        losses = descent.row_losses()
        better = losses < lowest
        best[:, better], lowest[better] = descent.values[:, better], losses[better]
        if settle and not better.any():
            break
    return np.ascontiguousarray(grid.encode(best.T))


def is_relaxed(sweep: int, n_sweeps: int) -> bool:
    """Return whether a sweep of QuantEase leaves the values off the grid.

    Parameters
    ----------
    sweep : int
        Its number, from 0.
    n_sweeps : int
        Number of all sweeps; the last one is never relaxed.

    Returns
    -------
    bool
        True for every third one.
    """
    return sweep % 3 == 1 and sweep < min(RELAXED_SWEEPS, n_sweeps - 1)


class Descent:
    """Values of a layer that move one column at a time.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    grid : Grid
        Legal values.
    values : ndarray of shape (n_out, n_in)
        The start.

    Attributes
    ----------
    values : ndarray of shape (n_in, n_out)
        The present values, transposed.
    """

    def __init__(self, problem: LayerProblem, grid: Grid, values: FloatArray) -> None:
        self.grid, self.gram = grid, problem.gram
        self.live = np.flatnonzero(live_inputs(problem.gram))
        self._target = np.ascontiguousarray(problem.weight.T)
        self.set_values(values)

    def set_values(self, values: FloatArray) -> None:
        """Continue from other values.

        Parameters
        ----------
        values : ndarray of shape (n_out, n_in)
            On the grid or off it.
        """
        self.values = values.T.copy(order="C")
        self._error = self.values - self._target

    def free_all(self) -> None:
        """Put the columns of live inputs at the target, where the loss is 0."""
        self.values[self.live] = self._target[self.live]
        self._error[self.live] = 0.0

    def row_losses(self) -> FloatArray:
        """Return the loss of each row.

        Returns
        -------
        ndarray of shape (n_out,)
            They sum to the loss of the problem.
        """
        losses: FloatArray = np.sum(self.slope() * self._error, axis=0)
        return losses

    def slope(self) -> FloatArray:
        """Return E G, half the gradient of the loss.

        Returns
        -------
        ndarray of shape (n_in, n_out)
            Transposed, as the values.
        """
        slope: FloatArray = self.gram @ self._error
        return slope

    def sweep(self, free: bool | BoolArray = False) -> None:
        """Move every column of a live input to its best values, in their order.

        Parameters
        ----------
        free : bool or ndarray of shape (n_in, n_out), default=False
            Which values need not be legal.
        """
        for first in range(0, len(self.live), _BLOCK):
            self._move(self.live[first : first + _BLOCK], free)

    def _move(self, block: NDArray[np.intp], free: bool | BoolArray) -> None:
        slope = self.gram[block] @ self._error
        inner = self.gram[np.ix_(block, block)]
        for k, j in enumerate(block):
            best = self.values[j] - slope[k] / inner[k, k]
            if free is not True:
                legal = self.grid.nearest(best[:, None], block[k : k + 1])[:, 0]
                best = legal if free is False else np.where(free[j], best, legal)
            moved = best - self.values[j]
            self.values[j] = best
            self._error[j] = best - self._target[j]
            slope[k + 1 :] += inner[k + 1 :, k, None] * moved
