r"""The one door to the rounding of a layer: from its problem to codes.

The grid is fitted on the weights themselves, so that the scales do not depend on the
rows of calibration. Only where the target W* outgrows them,

    max abs(W*) > 1.2 max abs(W),

and the grid would cut it, it is fitted on the target. Rounding to nearest uses no data:
it takes the weights and never W*, which is right in the metric of G only.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._coordinate_descent import coordinate_descent_codes
from uqlib.quantized._formats import fit_grid
from uqlib.quantized._gptq import DAMPING, gptq_codes
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._layers import Outliers
from uqlib.quantized._learned_interpolation import better_rows
from uqlib.quantized._outliers import (
    dense,
    descend_with_outliers,
    deviations,
    largest,
    outliers_at,
    without_outliers,
)
from uqlib.quantized._problem import LayerProblem
from uqlib.quantized._scheme import QuantizationScheme

CD_SWEEPS = 30
SWEEPS_AFTER_GPTQ = 5
REFIT_FROM = 1.2  # times the largest weight
_DESCENTS = ("cd", "gptq+cd")


@dataclass(frozen=True, eq=False)
class Rounded:
    """Legal weights of a layer.

    Parameters
    ----------
    codes : ndarray of shape (n_out, n_in)
        Codes, uint8, in C order.
    grid : Grid
        Their values.
    outliers : Outliers or None
        Added to them.
    """

    codes: Codes
    grid: Grid
    outliers: Outliers | None = None

    def weight(self) -> NDArray[np.float64]:
        """Return the values with the outliers.

        Returns
        -------
        ndarray of shape (n_out, n_in)
            Float64.
        """
        outliers = dense(self.outliers, self.codes.shape)
        return np.asarray(self.grid.decode(self.codes) + outliers, dtype=np.float64)


def round_layer(
    problem: LayerProblem,
    weight: FloatArray,
    scheme: QuantizationScheme,
    random_state: Any,
) -> Rounded:
    """Round a layer as its scheme says.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.
    weight : ndarray of shape (n_out, n_in)
        The weights themselves, float64.
    scheme : QuantizationScheme
        Format, clip, rounding and share of outliers.
    random_state : RandomState or None
        For learned rounding.

    Returns
    -------
    Rounded
        Codes, grid and outliers.

    Raises
    ------
    ValueError
        If the inputs of the layer in calibration were not finite.
    """
    _check_finite(problem)
    if scheme.rounding == "rtn":
        problem = LayerProblem(weight, problem.gram, problem.n_rows)
    if scheme.outliers:
        return _with_outliers(problem, weight, scheme, random_state)
    grid = fitted_grid(problem, weight, scheme)
    return Rounded(*_codes(problem, grid, scheme.rounding, random_state))


def damped(problem: LayerProblem) -> LayerProblem:
    """Return the problem with all inputs a little more varied than calibration shows.

    An input that is constant in calibration, or a combination of others, costs nothing
    there wherever its weights go, and everything in a new row that moves it. So each
    input is given noise of a small part of the mean square of all.

    Parameters
    ----------
    problem : LayerProblem
        Target and Gram matrix.

    Returns
    -------
    LayerProblem
        With a ridge on the diagonal, as GPTQ has it.
    """
    ridge = DAMPING[0] * float(np.mean(np.diag(problem.gram)))
    gram = problem.gram + ridge * np.eye(len(problem.gram))
    return LayerProblem(problem.weight, gram, problem.n_rows)


def fitted_grid(
    problem: LayerProblem,
    weight: FloatArray,
    scheme: QuantizationScheme,
    included: BoolArray | None = None,
) -> Grid:
    """Return the grid of the weights, or of the target where that outgrows them.

    Parameters
    ----------
    problem : LayerProblem
        With the target.
    weight : ndarray of shape (n_out, n_in)
        The weights themselves.
    scheme : QuantizationScheme
        Format and clip.
    included : ndarray of shape (n_out, n_in), default=None
        Weights that are not outliers; None for all.

    Returns
    -------
    Grid
        Legal values.
    """
    shown = slice(None) if included is None else included
    reach = np.abs(weight[shown]).max(initial=0.0)
    wanted = np.abs(problem.weight[shown]).max(initial=0.0)
    source = problem.weight if wanted > REFIT_FROM * reach else weight
    grid: Grid = fit_grid(source, scheme, included=included)
    return grid


def _codes(
    problem: LayerProblem, grid: Grid, rounding: str, random_state: Any
) -> tuple[Codes, Grid]:
    if rounding == "rtn":
        return grid.encode(problem.weight), grid
    if rounding == "gptq":
        return gptq_codes(problem, grid), grid
    if rounding == "cd":
        codes = coordinate_descent_codes(
            damped(problem), grid, n_sweeps=CD_SWEEPS, relaxed=True
        )
        return better_rows(problem, grid, codes, grid.encode(problem.weight)), grid
    if rounding == "gptq+cd":
        start = gptq_codes(problem, grid)
        codes = coordinate_descent_codes(
            damped(problem), grid, start=start, n_sweeps=SWEEPS_AFTER_GPTQ
        )
        return better_rows(problem, grid, codes, start), grid
    from uqlib.quantized._learned_rounding import learned_codes

    learned: tuple[Codes, Grid] = learned_codes(
        damped(problem), grid, rounding, random_state
    )
    return learned


def _with_outliers(
    problem: LayerProblem,
    weight: FloatArray,
    scheme: QuantizationScheme,
    random_state: Any,
) -> Rounded:
    """Outliers follow the data where the rounding is a descent, else they are fixed."""
    descends = scheme.rounding in _DESCENTS
    size = np.abs(problem.weight) if descends else deviations(problem.weight)
    places = largest(size, scheme.outliers)
    grid = fitted_grid(problem, weight, scheme, ~places)
    base = grid.nearest(np.zeros_like(weight))
    fixed = outliers_at(places, problem.weight - base)
    others = without_outliers(problem, fixed)
    if not descends:
        codes, grid = _codes(others, grid, scheme.rounding, random_state)
        return Rounded(codes, grid, fixed)
    start, n_sweeps = None, CD_SWEEPS
    if scheme.rounding == "gptq+cd":
        codes = gptq_codes(others, grid)
        start = grid.decode(codes) + dense(fixed, codes.shape)
        n_sweeps = SWEEPS_AFTER_GPTQ
    codes, outliers = descend_with_outliers(
        damped(problem), grid, places, start=start, n_sweeps=n_sweeps
    )
    return Rounded(codes, grid, outliers)


def _check_finite(problem: LayerProblem) -> None:
    if not np.isfinite(problem.gram).all() or not np.isfinite(problem.weight).all():
        raise ValueError(
            "X makes inputs of a layer that are infinite or NaN. Scale its columns or "
            "leave out the rows that do."
        )
