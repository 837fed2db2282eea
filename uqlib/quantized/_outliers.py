r"""A few weights of a layer beside the grid.

A share of the weights gets a term O of its own, and the grid is fitted on the others:

    w = What + O,      O = 0 but at floor(share n_out n_in + 1/2) places S .

Data-free (EasyQuant, arXiv:2403.02775): S are the weights with the largest abs(w) in
standard deviations of their row.

With data (QuantEase, arXiv:2309.01885): S starts at the largest abs(w). A sweep of
coordinate descent moves the values in S freely and the others on the grid. Then one
step of iterative hard thresholding chooses S anew,

    O <- the largest entries of  O - (What + O - W) G / lambda ,

with lambda the largest eigenvalue of G. Half the gradient of the loss in O is
(What + O - W) G, which is lambda-Lipschitz, so that neither part increases the loss.
"""

from dataclasses import replace

import numpy as np
from scipy.linalg import eigh

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._coordinate_descent import (
    Descent,
    coordinate_descent_codes,
    is_relaxed,
)
from uqlib.quantized._grid import Codes, Grid, stored
from uqlib.quantized._layers import Outliers
from uqlib.quantized._problem import LayerProblem

_LAST_SWEEPS = 5  # of the codes, once the outliers are rounded to their storage type


def largest(size: FloatArray, share: float) -> BoolArray:
    """Return the places of the largest numbers.

    Parameters
    ----------
    size : ndarray of shape (n_out, n_in)
        At least 0.
    share : float
        How many of them, in [0, 1].

    Returns
    -------
    ndarray of shape (n_out, n_in)
        True at the share of places, rounded to whole numbers. Of equal numbers the
        first ones are taken.
    """
    count, flat = int(share * size.size + 0.5), size.reshape(-1)
    chosen = np.zeros(flat.size, dtype=bool)
    if count:
        least = np.partition(flat, flat.size - count)[flat.size - count]
        chosen = flat > least
        tied = np.flatnonzero(flat == least)[: count - np.count_nonzero(chosen)]
        chosen[tied] = True
    return chosen.reshape(size.shape)


def deviations(weight: FloatArray) -> FloatArray:
    """Return abs(w) in standard deviations of its row.

    Parameters
    ----------
    weight : ndarray of shape (n_out, n_in)
        Weights.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        0 where all weights of a row are the same.
    """
    spread = weight.std(axis=1, keepdims=True)
    return np.abs(weight) / np.where(spread > 0, spread, np.inf)


def outliers_at(places: BoolArray, values: FloatArray) -> Outliers | None:
    """Return terms O as they are stored.

    Parameters
    ----------
    places : ndarray of shape (n_out, n_in)
        Where there is one.
    values : ndarray of shape (n_out, n_in)
        The terms.

    Returns
    -------
    Outliers or None
        Those that are not 0; None where there are none.
    """
    positions = np.flatnonzero(places & (values != 0)).astype(np.int32)
    if not positions.size:
        return None
    return Outliers(positions, stored(values.reshape(-1)[positions]))


def dense(outliers: Outliers | None, shape: tuple[int, ...]) -> FloatArray:
    """Return the matrix O.

    Parameters
    ----------
    outliers : Outliers or None
        None stands for 0.
    shape : tuple of int
        Of the layer.

    Returns
    -------
    ndarray of shape (n_out, n_in)
        Float64.
    """
    matrix = np.zeros(shape)
    if outliers is not None:
        matrix.reshape(-1)[outliers.positions] = outliers.values
    return matrix


def without_outliers(problem: LayerProblem, outliers: Outliers | None) -> LayerProblem:
    """Return the problem of the codes beside given outliers.

    Parameters
    ----------
    problem : LayerProblem
        Of the layer.
    outliers : Outliers or None
        The terms O.

    Returns
    -------
    LayerProblem
        With the target W - O.
    """
    target = problem.weight - dense(outliers, problem.weight.shape)
    return replace(problem, weight=target)


def descend_with_outliers(
    problem: LayerProblem,
    grid: Grid,
    places: BoolArray,
    *,
    start: FloatArray | None = None,
    n_sweeps: int,
) -> tuple[Codes, Outliers | None]:
    """Return codes and outliers by coordinate descent and hard thresholding.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    grid : Grid
        Legal values, fitted without the outliers.
    places : ndarray of shape (n_out, n_in)
        Where they are at first; their number is kept.
    start : ndarray of shape (n_out, n_in), default=None
        Values, legal but at these places; None goes the way of QuantEase.
    n_sweeps : int
        Number of sweeps.

    Returns
    -------
    codes : ndarray of shape (n_out, n_in)
        Codes, uint8.
    outliers : Outliers or None
        None where no place was given.
    """
    base = grid.nearest(np.zeros_like(problem.weight))
    values, places = _descend(problem, grid, base, places, start, n_sweeps)
    outliers = outliers_at(places, values - base)
    codes = grid.encode(np.where(places, base, values))
    codes = coordinate_descent_codes(
        without_outliers(problem, outliers), grid, start=codes, n_sweeps=_LAST_SWEEPS
    )
    return codes, outliers


def _descend(
    problem: LayerProblem,
    grid: Grid,
    base: FloatArray,
    places: BoolArray,
    start: FloatArray | None,
    n_sweeps: int,
) -> tuple[FloatArray, BoolArray]:
    """Return the best values What + O and the places of O."""
    relaxed, top = start is None, _largest_eigenvalue(problem.gram)
    nearest = np.where(places, problem.weight, grid.nearest(problem.weight))
    descent = Descent(problem, grid, nearest if start is None else start)
    best, lowest = (descent.values.T.copy(), places), problem.loss(descent.values.T)
    if relaxed:
        descent.free_all()
    for sweep in range(n_sweeps):
        free = relaxed and is_relaxed(sweep, n_sweeps)
        descent.sweep(free or np.ascontiguousarray(places.T))
        if free:
            continue
        loss = float(descent.row_losses().sum())
        if loss < lowest:
            best, lowest = (descent.values.T.copy(), places), loss
        elif not relaxed:
            break
        if sweep < n_sweeps - 1 and top > 0:
            places = _rethreshold(descent, base, places, top)
    return best


def _rethreshold(
    descent: Descent, base: FloatArray, places: BoolArray, top: float
) -> BoolArray:
    """Take one step of hard thresholding; return the new places."""
    values = descent.values.T
    coded = np.where(places, base, values)
    wanted = values - coded - descent.slope().T / top
    size = np.abs(wanted)
    dead = np.delete(np.arange(size.shape[1]), descent.live)
    size[:, dead] = np.where(places[:, dead], np.inf, 0.0)  # no sweep would move them
    chosen = largest(size, places.mean())
    descent.set_values(coded + np.where(chosen, wanted, 0.0))
    return chosen


def _largest_eigenvalue(gram: FloatArray) -> float:
    last = len(gram) - 1
    values = eigh(gram, eigvals_only=True, subset_by_index=(last, last))
    return float(values[0])
