r"""What lies between the two legal neighbors of every weight.

With lo_j <= w_j <= hi_j the legal values next to a weight and gap_j = hi_j - lo_j, a
place x_j in [0, 1] stands for lo_j + x_j gap_j, and the weight itself has the place

    y_j = (w_j - lo_j) / gap_j .

A row of places has the relaxed loss

    L(x) = e G e^T,     e_j = lo_j + x_j gap_j - w_j,     dL/dx_j = 2 (e G)_j gap_j.

Were this choice the only one, L would be c_j (x_j - y_j)^2 with the cost c_j of a whole
move, c_j = G_jj gap_j^2. What favors the ends of [0, 1] is counted in units of c_j, so
that all choices are made at a time: in units that all of a row share, the cheap ones,
which could repair the others, would be made first. So the methods see

    (dL/dx_j) / c_j = 2 (e G)_j / (G_jj gap_j),

twice the distance from x_j to its best place given all others. It does not depend on
the units of weights and inputs. A
weight that lies on a legal value or outside of the grid has one neighbor and, as one of
a dead input, no place to choose: it has its nearest value.
"""

from dataclasses import dataclass

import numpy as np

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._gptq import live_inputs
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._problem import LayerProblem

_NEAR = 0.01  # of an end


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The places of the weights of a layer between their neighbors.

    Parameters
    ----------
    below, above : ndarray of shape (n_out, n_in)
        Codes of the neighbors, uint8; both the nearest where there is no choice.
    free : ndarray of shape (n_out, n_in)
        Where there is a choice, bool.
    target : ndarray of shape (n_out, n_in)
        Places of the weights, 1/2 where there is no choice.
    gap : ndarray of shape (n_out, n_in)
        Distance of the neighbors, 0 where there is no choice.
    fixed_error : ndarray of shape (n_out, n_in)
        Error of the nearest value where there is no choice, else 0.
    gram : ndarray of shape (n_in, n_in)
        Of the inputs.
    cost : ndarray of shape (n_out, n_in)
        Loss of each move alone from neighbor to neighbor, 1 where there is no choice.
    """

    below: Codes
    above: Codes
    free: BoolArray
    target: FloatArray
    gap: FloatArray
    fixed_error: FloatArray
    gram: FloatArray
    cost: FloatArray

    @classmethod
    def of(cls, problem: LayerProblem, grid: Grid) -> "Interpolation":
        """Return the interpolation of a layer.

        Parameters
        ----------
        problem : LayerProblem
            Target and Gram matrix.
        grid : Grid
            Legal values.

        Returns
        -------
        Interpolation
            Of its target.
        """
        weight, gram = problem.weight, problem.gram
        below, above = grid.neighbors(weight)
        low = grid.decode(below)
        gap = grid.decode(above) - low
        cost = gap**2 * np.diag(gram)
        free = (cost > 0) & live_inputs(gram)
        nearest = grid.encode(weight)
        gap = np.where(free, gap, 0.0)
        target = np.where(free, (weight - low) / np.where(free, gap, 1.0), 0.5)
        return cls(
            below=np.where(free, below, nearest),
            above=np.where(free, above, nearest),
            free=free,
            target=np.clip(target, 0.0, 1.0),
            gap=gap,
            fixed_error=np.where(free, 0.0, grid.decode(nearest) - weight),
            gram=gram,
            cost=np.where(free, cost, 1.0),
        )

    def losses(self, place: FloatArray) -> FloatArray:
        """Return the relaxed loss of each row.

        Parameters
        ----------
        place : ndarray of shape (n_out, n_in)
            In [0, 1].

        Returns
        -------
        ndarray of shape (n_out,)
            Where all places are 0 or 1, the loss of those codes.
        """
        error = self._error(place)
        losses: FloatArray = np.sum((error @ self.gram) * error, axis=1)
        return losses

    def gradient(self, place: FloatArray) -> FloatArray:
        """Return the gradient of the relaxed losses, over the costs.

        Parameters
        ----------
        place : ndarray of shape (n_out, n_in)
            In [0, 1].

        Returns
        -------
        ndarray of shape (n_out, n_in)
            0 where there is no choice.
        """
        return 2 * (self._error(place) @ self.gram) * (self.gap / self.cost)

    def codes(self, place: FloatArray) -> Codes:
        """Return the codes of the neighbors that lie next to places.

        Parameters
        ----------
        place : ndarray of shape (n_out, n_in)
            In [0, 1].

        Returns
        -------
        ndarray of shape (n_out, n_in)
            Codes, uint8.
        """
        return np.where(place > 0.5, self.above, self.below)

    def settled(self, place: FloatArray) -> float:
        """Return the share of the choices that are made.

        Parameters
        ----------
        place : ndarray of shape (n_out, n_in)
            In [0, 1].

        Returns
        -------
        float
            Share of the places within 0.01 of 0 or 1; 1.0 where there is no choice.
        """
        near = np.minimum(place, 1 - place)[self.free] <= _NEAR
        return float(near.mean()) if near.size else 1.0

    def _error(self, place: FloatArray) -> FloatArray:
        return self.gap * (place - self.target) + self.fixed_error


def better_rows(
    problem: LayerProblem, grid: Grid, codes: Codes, others: Codes
) -> Codes:
    """Return of each row the codes with the smaller loss, of equal ones the others.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    grid : Grid
        Of both codes.
    codes, others : ndarray of shape (n_out, n_in)
        Codes, uint8.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        Codes, uint8.
    """
    better = row_losses(problem, grid.decode(codes)) < row_losses(
        problem, grid.decode(others)
    )
    return np.where(better[:, None], codes, others)


def row_losses(problem: LayerProblem, values: FloatArray) -> FloatArray:
    """Return the loss of each row.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    values : ndarray of shape (n_out, n_in)
        Weights in the place of the target.

    Returns
    -------
    ndarray of shape (n_out,)
        They sum to the loss of the problem.
    """
    error = values - problem.weight
    losses: FloatArray = np.sum((error @ problem.gram) * error, axis=1)
    return losses
