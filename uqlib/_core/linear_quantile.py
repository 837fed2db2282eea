r"""Linear quantile regression: one program, or all levels of a regression.

The programs of `uqlib._core.pinball_program` are put in the units of their solvers: X
centered and orthonormal (`uqlib._core.linear_design`), y centered at its median and
divided by its mean absolute value. A level starts at the fit of the level before it,
raised to the right share of rows below.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.linear_design import OrthonormalDesign
from uqlib._core.pinball_program import (
    Certificate,
    Program,
    certify,
    correlate,
    reach_of,
    row_norms,
)
from uqlib._core.quantile_interior_point import solve_in_memory
from uqlib._core.quantile_preprocessing import solve_by_preprocessing
from uqlib._typing import ArrayLike, FloatArray

SOLVERS = ("auto", "frisch_newton", "preprocessing")
_MANY_ROWS = 2_000  # "auto": fewer are solved as they are
_MANY_ROWS_PER_COLUMN = 100
_SHARE_ROWS = 20_000  # on which the share of rows below a start is counted


class LinearQuantileFit(NamedTuple):
    """Coefficients, their loss, a bound on its excess, interior-point steps."""

    coef: FloatArray
    loss: float
    gap: float
    n_iter: int


class LinearQuantileFits(NamedTuple):
    """The fits of several levels.

    `coef` has shape (n_quantiles, n_features), the others (n_quantiles,). `loss` is the
    objective, penalty included, `gap` the bound on its excess over the optimum, and
    `relative_gap` the gap as it is compared with `tol`.
    """

    coef: FloatArray
    intercept: FloatArray
    loss: FloatArray
    gap: FloatArray
    relative_gap: FloatArray
    n_iter: NDArray[np.int64]


def fit_linear_quantile(
    X: FloatArray,
    y: FloatArray,
    level: ArrayLike,
    row_weight: FloatArray,
    *,
    tol: float = 1e-8,
    max_iter: int = 100,
    start: FloatArray | None = None,
) -> LinearQuantileFit:
    """Minimize the weighted mean pinball loss of a linear combination of columns.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
        The columns, finite. There is no intercept but a column of ones.
    y : ndarray of shape (n_rows,)
        The target, finite.
    level : ndarray of shape (n_rows,) or float
        Level of the pinball loss of each row, from 0 to 1.
    row_weight : ndarray of shape (n_rows,)
        Non-negative, with a positive sum.
    tol : float, default=1e-8
        The gap asked for, relative to the loss, or to a millionth of the weighted mean
        of abs(y) where the fit is closer than that.
    max_iter : int, default=100
        Largest number of interior-point steps.
    start : ndarray of shape (n_columns,), default=None
        Coefficients near the solution; None starts at least squares.

    Returns
    -------
    LinearQuantileFit
        Coefficients (n_columns,), their weighted mean loss, a certified bound on its
        excess over the optimum (in the units of y) and the number of steps.
    """
    kept = row_weight > 0
    X, y, cost = X[kept], y[kept], row_weight[kept] / row_weight[kept].sum()
    tau = np.broadcast_to(np.asarray(level, dtype=np.float64), kept.shape)[kept]
    scale = float(cost @ np.abs(y)) or 1.0
    design = OrthonormalDesign(X, cost)
    program = Program(design, y / scale, tau, cost)
    fitted = program.y if start is None else X @ start / scale
    b = correlate(program, cost * fitted)
    solution = solve_in_memory(program, b, tol, max_iter)
    reach = reach_of(row_norms(design), tau)
    loss, gap = certify(program, solution.b, solution.a, reach)
    coef, _ = design.coefficients(solution.b * scale)
    return LinearQuantileFit(coef, loss * scale, gap * scale, solution.n_iter)


def fit_linear_quantiles(
    X: FloatArray,
    y: FloatArray,
    quantiles: FloatArray,
    row_weight: FloatArray | None = None,
    *,
    alpha: float = 0.0,
    fit_intercept: bool = True,
    solver: str = "auto",
    tol: float = 1e-8,
    max_iter: int = 100,
) -> LinearQuantileFits:
    """Fit linear quantile regressions at several levels.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        float32 or float64, finite; blocks of it are converted, never the whole.
    y : ndarray of shape (n_rows,)
        The target, finite.
    quantiles : ndarray of shape (n_quantiles,)
        Increasing levels, strictly between 0 and 1.
    row_weight : ndarray of shape (n_rows,), default=None
        Non-negative, with a positive sum; None stands for equal ones.
    alpha : float, default=0.0
        Weight of the sum of the absolute coefficients, the intercept left out.
    fit_intercept : bool, default=True
        Whether there is an intercept.
    solver : {"auto", "frisch_newton", "preprocessing"}, default="auto"
        The interior point on all rows, or on those that decide.
    tol : float, default=1e-8
        The gap asked for, relative to the objective, or to a millionth of the mean
        absolute deviation of y from its median where the fit is closer than that.
    max_iter : int, default=100
        Largest number of interior-point steps for each program.

    Returns
    -------
    LinearQuantileFits
        Fits, objectives and certificates.
    """
    if row_weight is None:
        row_weight = np.ones(y.size)
    elif not row_weight.all():
        kept = row_weight > 0
        X, y, row_weight = X[kept], y[kept], row_weight[kept]
    cost = row_weight / row_weight.sum()
    center = float(np.median(y)) if fit_intercept else 0.0
    scale = float(cost @ np.abs(y - center)) or 1.0
    design = OrthonormalDesign(X, cost, intercept=fit_intercept, alpha=alpha)
    levels = _Levels(design, (y - center) / scale, cost, solver, tol, max_iter)
    found = [levels.fit(float(tau)) for tau in quantiles]
    unscaled = [design.coefficients(level.b * scale) for level in found]
    return LinearQuantileFits(
        np.array([coef for coef, _ in unscaled]),
        np.array([intercept + center for _, intercept in unscaled]),
        np.array([level.certificate.loss * scale for level in found]),
        np.array([level.certificate.gap * scale for level in found]),
        np.array([level.certificate.gap / level.certificate.unit for level in found]),
        np.array([level.n_iter for level in found]),
    )


class _Level(NamedTuple):
    """What remains of the fit of a level; its multipliers, one a row, do not."""

    b: FloatArray
    n_iter: int
    certificate: Certificate


class _Levels:
    """The rows that all levels share, and the fit that the next one starts at."""

    def __init__(
        self,
        design: OrthonormalDesign,
        y: FloatArray,
        cost: FloatArray,
        solver: str,
        tol: float,
        max_iter: int,
    ) -> None:
        n_penalties = design.penalty_cost.size
        self.design, self.tol, self.max_iter = design, tol, max_iter
        self.y, self.cost = y, cost
        if n_penalties:
            self.y = np.concatenate([y, np.zeros(n_penalties)])
            self.cost = np.concatenate([cost, design.penalty_cost])
        self.norms = row_norms(design)
        rank = design.shape[1]
        many = y.size > max(_MANY_ROWS, _MANY_ROWS_PER_COLUMN * rank)
        self.reduce = rank > 0 and (
            solver == "preprocessing" or (solver == "auto" and many)
        )
        numbers = np.arange(0, y.size, -(-y.size // _SHARE_ROWS))
        self.few = design.take(numbers), y[numbers]
        least_squares = Program(design, self.y, self.y, self.cost)
        self.b = correlate(least_squares, self.cost * self.y)

    def fit(self, tau: float) -> _Level:
        """Return the fit of one level."""
        tau_of_rows = np.full(self.y.size, tau)
        tau_of_rows[self.design.n_samples :] = 0.5
        program = Program(self.design, self.y, tau_of_rows, self.cost)
        start, n_iter = self._start(tau), 0
        if self.reduce:
            solution, certificate = solve_by_preprocessing(
                program,
                self.design.n_samples,
                start,
                self.norms,
                self.tol,
                self.max_iter,
            )
            n_iter = solution.n_iter
        if not self.reduce or not certificate.holds(self.tol):
            solution = solve_in_memory(program, start, self.tol, self.max_iter)
            n_iter += solution.n_iter
            reach = reach_of(self.norms, tau_of_rows)
            certificate = certify(program, solution.b, solution.a, reach)
        self.b = solution.b
        return _Level(solution.b, n_iter, certificate)

    def _start(self, tau: float) -> FloatArray:
        """Return the last fit, raised to have about a share tau of the rows below."""
        if self.design.constant is None:
            return self.b
        rows, y = self.few
        error = y - rows @ self.b
        rank = min(int(tau * error.size), error.size - 1)
        shift = float(np.partition(error, rank)[rank])
        return np.asarray(self.b + shift * self.design.constant)
