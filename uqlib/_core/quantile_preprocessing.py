r"""Linear quantile regression on many rows: the sure rows become two.

A linear quantile fit is decided by the rows close to it. Of a row that is surely
above the fit, or surely below, only the side matters: as long as it stays there its
loss is linear in b, and the losses of all sure rows of one side add up to that of one
row, their weighted mean x with their total weight C,

    sum_i c_i tau (y_i - x_i'b) = C tau (y - x'b)     (above; below with tau - 1).

What remains is a program of the rows in the middle and these two. Its multipliers give
the rows of a side a_i = c_i a / C, which is inside their boxes and keeps X'a = 0: a
certificate for the program of all rows, whether or not a row changed its side. A row
that did adds its |e_i| c_i to the gap; such rows join the middle, and that is solved
again.

Where the middle lies is found by smoothing (`uqlib._core.quantile_smoothing`), on a
sample first and then on all rows; at the last bandwidth h only tens of rows a column
are within h of the fit, and rows that are many h away keep their sides. Distances are
divided by the norms of the orthonormal rows, as the error of a fitted value grows with
them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from uqlib._core.linear_design import DenseDesign, IntArray
from uqlib._core.pinball_program import (
    EXACT_FIT,
    Certificate,
    Program,
    Solution,
    certify,
    certify_residuals,
    correlate,
    reach_of,
    residuals,
)
from uqlib._core.quantile_interior_point import interior_point
from uqlib._core.quantile_smoothing import smooth
from uqlib._typing import BoolArray, FloatArray

_SAMPLE_ROWS_PER_COLUMN = 2.0  # within the last bandwidth on the sample
_ROWS_PER_COLUMN = 20.0  # within the last bandwidth on all rows
_MIDDLE_ROWS_PER_COLUMN = 40  # at first
_MAX_ROUNDS = 10


def solve_by_preprocessing(
    program: Program,
    n_samples: int,
    b: FloatArray,
    norms: FloatArray,
    tol: float,
    max_iter: int,
) -> tuple[Solution, Certificate]:
    """Minimize a sum of pinball losses by a program of few of its rows.

    Parameters
    ----------
    program : Program
        Orthonormal rows; the weighted mean of abs(y) is of the order of 1.
    n_samples : int
        Number of the first rows, all of one level; the other rows stay in the middle.
    b : ndarray of shape (n_columns,)
        Where to start.
    norms : ndarray of shape (n_rows,)
        Norms of the rows.
    tol : float
        The gap asked for, as `Certificate.holds` takes it.
    max_iter : int
        Largest number of interior-point steps for each of the smaller programs.

    Returns
    -------
    Solution, Certificate
        The last points found. If the certificate does not hold, another solver is
        needed.
    """
    reach = reach_of(norms, program.tau)
    sample = _sample(program, n_samples)
    spread = float(sample.cost @ np.abs(residuals(sample, b)))
    if spread <= tol * EXACT_FIT:
        exact = Solution(b, np.zeros_like(program.y), 0)
        return exact, certify(program, exact.b, exact.a, reach)
    if sample is not program:
        b, spread = smooth(sample, b, spread, _SAMPLE_ROWS_PER_COLUMN)
    b, bandwidth = smooth(program, b, spread, _ROWS_PER_COLUMN)
    error, n_iter = residuals(program, b), 0
    above, middle = error > 0, _nearest(program, n_samples, error, norms)
    for _ in range(_MAX_ROUNDS):
        solution = _solve_reduced(
            program, middle, above, b, bandwidth, reach, 0.1 * tol, max_iter
        )
        b, n_iter = solution.b, n_iter + solution.n_iter
        error = residuals(program, b)
        certificate = certify_residuals(program, error, solution.a, reach)
        changed = ~middle & ((error > 0) != above) & (error != 0)
        middle |= changed
        hopeless = not changed.any() or solution.n_iter == max_iter
        if certificate.holds(tol) or hopeless or 2 * middle.sum() > middle.size:
            break
    return solution._replace(n_iter=n_iter), certificate


def _solve_reduced(
    program: Program, middle: BoolArray, above: BoolArray, b: FloatArray, *options: Any
) -> Solution:
    """Solve the program of the middle and the sides; a is that of all rows."""
    numbers = np.flatnonzero(middle)
    sides = [np.flatnonzero(~middle & side) for side in (above, ~above)]
    sides = [side for side in sides if side.size]
    reduced = _reduce(program, numbers, sides)
    # In the central path the row of a side, however heavy, is one row.
    barrier = reduced.cost.copy()
    barrier[numbers.size :] = np.median(barrier)
    solution = interior_point(reduced, b, *options, barrier=barrier)
    return solution._replace(a=_spread(program, solution.a, numbers, sides))


def _sample(program: Program, n_samples: int) -> Program:
    """Return about sqrt(d) n^(2/3) of the n rows, or all if these are not many fewer.

    The sample is always the same: it decides how fast the solution is found, not which.
    """
    n_rows, n_columns = program.design.shape
    size = int(np.sqrt(n_columns) * n_samples ** (2 / 3))
    if 4 * size > n_samples:
        return program
    drawn = np.unique(np.random.default_rng(0).integers(n_samples, size=size))
    numbers = np.concatenate([drawn, np.arange(n_samples, n_rows)])
    cost = program.cost[numbers]
    cost[: drawn.size] *= program.cost[:n_samples].sum() / cost[: drawn.size].sum()
    design = DenseDesign(program.design.take(numbers))
    return Program(design, program.y[numbers], program.tau[numbers], cost)


def _nearest(
    program: Program, n_samples: int, error: FloatArray, norms: FloatArray
) -> BoolArray:
    """Return which rows are in the middle: the nearest ones, and those that must."""
    middle = np.ones(error.size, dtype=bool)
    distance = np.abs(error[:n_samples]) / np.maximum(norms[:n_samples], 1e-300)
    last = min(_MIDDLE_ROWS_PER_COLUMN * program.design.shape[1], n_samples) - 1
    middle[:n_samples] = distance <= np.partition(distance, last)[last]
    return middle


def _reduce(program: Program, numbers: IntArray, sides: Sequence[IntArray]) -> Program:
    """Return the program of some rows, and one row for each side."""
    total = [float(program.cost[side].sum()) for side in sides]
    weight = np.zeros((program.y.size, len(sides)))
    for k, side in enumerate(sides):
        weight[side, k] = program.cost[side] / total[k]
    rows = np.vstack([program.design.take(numbers), correlate(program, weight).T])
    level = np.full(len(sides), program.tau[0])
    return Program(
        DenseDesign(rows),
        np.concatenate([program.y[numbers], program.y @ weight]),
        np.concatenate([program.tau[numbers], level]),
        np.concatenate([program.cost[numbers], total]),
    )


def _spread(
    program: Program, a: FloatArray, numbers: IntArray, sides: Sequence[IntArray]
) -> FloatArray:
    """Return the multipliers of all rows."""
    spread = np.empty_like(program.y)
    spread[numbers] = a[: numbers.size]
    for side, of_side in zip(sides, a[numbers.size :], strict=True):
        spread[side] = program.cost[side] * (of_side / program.cost[side].sum())
    return spread
