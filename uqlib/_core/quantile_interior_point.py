r"""Linear quantile regression by a primal-dual interior point.

In the symbols of `uqlib._core.pinball_program`, with u, v >= 0 for the parts of the
residual and f = c tau - a, g = c (1 - tau) + a for the distances of a to the ends of
its box, a pair of points is optimal if and only if

    X b + u - v = y,    X'a = 0,    f u = 0,    g v = 0.

A Mehrotra predictor-corrector method drives f u and g v to 0 along the central path
f u = g v = k mu. With D = u / f + v / g and right-hand sides p, q of the last two
conditions, a step solves

    (X' D^-1 X) db = X'a - X' D^-1 h,    h = p / f - q / g,    da = -D^-1 (X db + h),

one product X' D^-1 X and one Cholesky factor for predictor and corrector together. The
path starts beside a smoothed solution (`uqlib._core.quantile_smoothing`), where f u =
g v = k mu holds in every row and only X'a = 0 is left to do. With k = c a row of weight
2 is the same as two rows.

At the end of the path a vertex is tried: the rows that are fitted exactly, as many as
there are columns, give b without the last error of the path, and the remaining a lie
at the ends of their boxes. The certificate decides.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg

from uqlib._core.linear_design import DenseDesign, IntArray, row_slices
from uqlib._core.pinball_program import (
    EXACT_FIT,
    Certificate,
    Program,
    Solution,
    certify,
    reach_of,
    residuals,
    row_norms,
)
from uqlib._core.quantile_smoothing import smooth
from uqlib._typing import FloatArray

_BEYOND = 1e-4  # share of the gap asked for at which the path ends in any case
_STEP = 0.9995  # share of the way to the boundary
_ROWS_PER_COLUMN = 2.0  # within the last bandwidth of the smoothing
_EPS = float(np.finfo(np.float64).eps)


def solve_in_memory(
    program: Program, b: FloatArray, tol: float, max_iter: int
) -> Solution:
    """Minimize a sum of pinball losses by the interior point, all rows in memory.

    Parameters
    ----------
    program : Program
        Orthonormal rows; the weighted mean of abs(y) is of the order of 1.
    b : ndarray of shape (n_columns,)
        Where to start.
    tol : float
        The gap asked for, as `Certificate.holds` takes it.
    max_iter : int
        Largest number of interior-point steps.

    Returns
    -------
    Solution
        The best points found.
    """
    if b.size == 0:
        upper = program.cost * program.tau
        return Solution(b, np.where(program.y > 0, upper, upper - program.cost), 0)
    program = program._replace(design=DenseDesign(program.design.in_memory()))
    spread = float(program.cost @ np.abs(residuals(program, b)))
    if spread <= tol * EXACT_FIT:
        return Solution(b, np.zeros_like(program.y), 0)
    b, bandwidth = smooth(program, b, spread, _ROWS_PER_COLUMN)
    reach = reach_of(row_norms(program.design), program.tau)
    return interior_point(program, b, bandwidth, reach, tol, max_iter)


def interior_point(
    program: Program,
    b: FloatArray,
    bandwidth: float,
    reach: float,
    tol: float,
    max_iter: int,
    *,
    barrier: FloatArray | None = None,
) -> Solution:
    """Follow the central path from a point near it, and try the vertex at its end.

    Parameters
    ----------
    program : Program
        Rows in memory.
    b : ndarray of shape (n_columns,)
        Where to start.
    bandwidth : float
        Distance of b from the solution, in the units of the residuals.
    reach : float
        As `certify` takes it.
    tol, max_iter : float, int
        As `solve_in_memory` takes them.
    barrier : ndarray of shape (n_rows,), default=None
        Weights k of the rows in the central path f u = g v = k mu; None takes c.

    Returns
    -------
    Solution
        The best points found.
    """
    path = _Path(program, b, bandwidth, program.cost if barrier is None else barrier)
    n_iter, best = 0, certify(program, path.b, path.a, reach)
    b, a, advanced = path.b, path.a, True
    with np.errstate(all="ignore"):  # at the very end u / f leaves the range of floats
        while True:
            # Far beyond the gap asked for, nothing is left to gain but the vertex.
            spent = path.complementarity() <= _BEYOND * tol * best.unit
            last = spent or n_iter == max_iter or not advanced
            if last or best.holds(tol):
                vertex, found = _vertex(program, b, a, reach)
                if last or found.holds(_BEYOND * tol):
                    return vertex._replace(n_iter=n_iter)
            advanced = path.advance()
            n_iter += advanced
            certificate = certify(program, path.b, path.a, reach)
            if certificate.gap < best.gap:
                b, a, best = path.b, path.a, certificate


class _Path:
    """An iterate of the interior-point method."""

    def __init__(
        self, program: Program, b: FloatArray, mu: float, barrier: FloatArray
    ) -> None:
        # The point with f u = g v = k mu in all rows: the smaller of f / c and g / c
        # solves a quadratic equation, written so that nothing cancels.
        self.b, self.rows, self.barrier = b, program.design.in_memory(), barrier
        cost, error = program.cost, program.y - self.rows @ b
        width = mu * barrier / cost
        near = 2 * width / (np.abs(error) + 2 * width + np.hypot(error, 2 * width))
        self.f = cost * np.where(error > 0, near, 1 - near)
        self.g = cost * np.where(error > 0, 1 - near, near)
        self.u = width / (1 - near) + np.maximum(error, 0.0)
        self.v = width / (1 - near) + np.maximum(-error, 0.0)
        self.a = cost * program.tau - self.f

    def complementarity(self) -> float:
        """Return the sum of f u and g v."""
        return float(self.f @ self.u + self.g @ self.v)

    def advance(self) -> bool:
        """Take a predictor-corrector step; return False when the digits are spent."""
        u, v, f, g = self.u, self.v, self.f, self.g
        inverse = 1.0 / (u / f + v / g)
        normal = _cholesky(_gram(self.rows, inverse))
        infeasible = self.a @ self.rows

        def direction(p: FloatArray, q: FloatArray) -> tuple[FloatArray, ...]:
            h = p / f - q / g
            db = normal(infeasible - (inverse * h) @ self.rows)
            da = -inverse * (self.rows @ db + h)
            return db, (p + u * da) / f, (q - v * da) / g, da

        # Predictor: aim at complementarity 0; corrector: at sigma mu, second order.
        fu, gv = f * u, g * v
        _, du, dv, da = direction(-fu, -gv)
        primal, dual = _length(1.0, u, du, v, dv), _length(1.0, f, -da, g, da)
        left = (f - dual * da) @ (u + primal * du) + (g + dual * da) @ (v + primal * dv)
        total = float(fu.sum() + gv.sum())
        mu = total / (2 * float(self.barrier.sum()))
        center = (float(left) / total) ** 3 * mu * self.barrier
        db, du, dv, da = direction(center - fu + da * du, center - gv - da * dv)
        primal, dual = _length(_STEP, u, du, v, dv), _length(_STEP, f, -da, g, da)
        if not np.isfinite(primal + dual + float(db.sum())):
            return False
        self.b = self.b + primal * db
        self.u, self.v = u + primal * du, v + primal * dv
        self.a = self.a + dual * da
        self.f, self.g = f - dual * da, g + dual * da
        return True


def _gram(rows: FloatArray, weight: FloatArray) -> FloatArray:
    matrix, root = np.zeros((rows.shape[1], rows.shape[1])), np.sqrt(weight)
    for part in row_slices(*rows.shape):
        scaled = rows[part] * root[part, None]
        matrix += scaled.T @ scaled
    return matrix


def _cholesky(matrix: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Return the solution of a positive definite system as a function."""
    # At the end of the path the entries span many orders of magnitude: scale to a unit
    # diagonal, and add to it what rounding may have taken from it.
    scale = 1.0 / np.sqrt(np.diag(matrix))
    scaled = matrix * np.outer(scale, scale)
    for ridge in (_EPS * scale.size, 1e-12, 1e-9):
        scaled[np.diag_indices_from(scaled)] = 1.0 + ridge
        factor, failed = scipy.linalg.lapack.dpotrf(scaled, lower=True)
        if not failed:
            break

    def apply(right: FloatArray) -> FloatArray:
        solution, _ = scipy.linalg.lapack.dpotrs(factor, scale * right, lower=True)
        return np.asarray(scale * solution)

    return apply


def _length(share: float, *pairs: FloatArray) -> float:
    # The longest step <= 1 that goes at most a share of the way to the boundary.
    steepest = min(
        float((change / value).min())
        for value, change in zip(pairs[::2], pairs[1::2], strict=True)
    )
    return min(1.0, -share / steepest) if steepest < 0 else 1.0


def _restore(program: Program, a: FloatArray) -> FloatArray:
    """Return multipliers whose X'a = 0 is not lost to the rounding of the last steps.

    The smallest change that does it, relative to the room that each has in its box.
    """
    rows = program.design.in_memory()
    room = _room(program, a)
    change = _cholesky(_gram(rows, room * room))(a @ rows)
    restored = a - room * room * (rows @ change)
    return restored if np.isfinite(restored).all() else a


def _room(program: Program, a: FloatArray) -> FloatArray:
    lower, upper = program.cost * (program.tau - 1), program.cost * program.tau
    return np.asarray(np.maximum(np.minimum(a - lower, upper - a), 0.0))


def _vertex(
    program: Program, b: FloatArray, a: FloatArray, reach: float
) -> tuple[Solution, Certificate]:
    """Return the vertex near a point, if it is no worse than the point, certified."""

    def best(b: FloatArray, *duals: FloatArray) -> tuple[Solution, Certificate]:
        found = [(Solution(b, a, 0), certify(program, b, a, reach)) for a in duals]
        return min(found, key=lambda pair: pair[1].gap)

    here = best(b, a, _restore(program, a))
    a = here[0].a
    rows, basis = program.design.in_memory(), _basis(program, b, a)
    if basis is None:
        return here
    vertex = np.linalg.solve(rows[basis], program.y[basis])
    error = residuals(program, vertex)
    upper = program.cost * program.tau
    ends = np.where(error > 0, upper, upper - program.cost)
    tied = np.abs(error) <= 64 * _EPS * (1.0 + np.abs(program.y))
    ends[tied] = a[tied]
    ends[basis] = 0.0
    ends[basis] = np.linalg.solve(rows[basis].T, -(ends @ rows))
    there = best(vertex, ends, a)
    return there if there[1].loss <= here[1].loss * (1 + 1e-12) else here


def _basis(program: Program, b: FloatArray, a: FloatArray) -> IntArray | None:
    """Return as many independent rows as columns that b seems to fit exactly."""
    rows = program.design.in_memory()
    n_columns = rows.shape[1]
    # In a row that is fitted exactly a is inside its box; elsewhere it is at an end.
    room = _room(program, a) / program.cost
    score = room / (np.abs(residuals(program, b)) + _EPS)
    n_likely = min(2 * n_columns + 32, score.size)
    likely = np.argpartition(-score, n_likely - 1)[:n_likely]
    weighted = (rows[likely] * room[likely, None]).T
    triangle, pivots = scipy.linalg.qr(weighted, mode="r", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    if sizes.size < n_columns or not sizes[-1] > 1e-12 * sizes[0]:
        return None
    return np.asarray(likely[pivots[:n_columns]])
