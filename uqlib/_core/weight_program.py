r"""Aggregation weights that are coupled between levels by a crossing penalty.

Symbols: n rows, m levels, C_k of shape (n, p_k) the columns that level k is built of
(its models; for the fine resolution also their other levels), w_k its weights, which
may be the same for all levels, c_i row weights with sum 1, (a, b) pairs of levels with
a < b and margins delta_ab >= 0.

    Q[:, k] = C_k w_k,    minimize_w

    sum_i c_i [ sum_k psi_{tau_k}(y_i - Q[i, k]) / m
                + lambda sum_(a,b) max(Q[i, a] - Q[i, b] + delta_ab, 0) / n_pairs ]

    s.t.  1'w_k = 1 and w_k >= 0 ("simplex"), or 1'w_k = 1, or nothing.

max(e, 0) = psi_1(e): the penalty is made of pinball rows of level 1, whose target is
delta_ab and whose prediction is Q[i, b] - Q[i, a]. So the whole is one program

    minimize  sum_r cost_r psi_{tau_r}(t_r - (A w)_r)   s.t.  E w = 1,  w >= 0,

with the optimality conditions and the primal-dual steps of `aggregation.py`. A is never
formed: it is applied block by block, and the normal matrix A' D^-1 A has the blocks

    (k, k): C_k' diag(d_k + sum of h over the pairs of k) C_k,
    (a, b): -C_a' diag(h_ab) C_b.

Weights that need only sum to one are free weights of the differences to the first
column. The dual needs a point inside its box with A'a + E'b = -s. With signed weights
any a and b low enough will do. With free ones s = 0 and there is no b: half the box for
the penalty rows, times t, is balanced by the least-norm a on the pinball rows, which
span the same space, and t is chosen small enough for the box.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from uqlib._typing import FloatArray

CONSTRAINTS = ("simplex", "sum_to_one", "free")
_STEP = 0.99995
_MAX_ITER = 200
_TOLERANCE = 1e-11  # of the gap, relative to the loss
_RIDGE = 1e-15  # of the scaled normal matrix: collinear columns


class CoupledFit(NamedTuple):
    """Weights of each level, their loss with the penalty, and its certified excess.

    `crossing` is the largest amount by which a margin is missed.
    """

    weights: list[FloatArray]
    loss: float
    gap: float
    crossing: float


def fit_coupled_weights(
    columns: list[FloatArray],
    y: FloatArray,
    quantiles: FloatArray,
    row_weight: FloatArray,
    *,
    penalty: float,
    pairs: list[tuple[int, int]],
    margins: FloatArray,
    constraint: str = "simplex",
    shared: bool = False,
) -> CoupledFit:
    """Solve for the weights of all levels at once.

    Parameters
    ----------
    columns : list of n_quantiles ndarrays of shape (n_samples, n_columns)
        What each level is a combination of, finite.
    y : ndarray of shape (n_samples,)
        The target, finite.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.
    row_weight : ndarray of shape (n_samples,)
        Non-negative, with a positive sum.
    penalty : float
        Factor of the crossing penalty; infinity makes it a constraint on the training
        rows, kept wherever it can be.
    pairs : list of (int, int)
        Which levels must not cross, the lower first.
    margins : ndarray of shape (n_pairs,)
        How far apart they must be.
    constraint : {"simplex", "sum_to_one", "free"}, default="simplex"
        What the weights of a level must satisfy.
    shared : bool, default=False
        All levels have the same weights.

    Returns
    -------
    CoupledFit
        The weights, one array a level.
    """
    kept = row_weight > 0
    columns, y, row_weight = [c[kept] for c in columns], y[kept], row_weight[kept]
    base = _base(columns, constraint)
    first = 1 if constraint == "sum_to_one" else 0
    differences = [
        c[:, first:] - q[:, None] for c, q in zip(columns, base, strict=True)
    ]
    targets = [y - q for q in base]
    targets += [
        margin - (base[b] - base[a])
        for (a, b), margin in zip(pairs, margins, strict=True)
    ]
    cost = row_weight / row_weight.sum()
    scale = float(np.abs(targets[: len(columns)]).mean(axis=0) @ cost) or 1.0
    strength = penalty if np.isfinite(penalty) else 1.0
    while True:
        program = _Program(
            [d / scale for d in differences],
            np.array(targets) / scale,
            quantiles,
            cost,
            strength,
            pairs,
            shared,
        )
        fit = _solve(program, constraint == "simplex")
        crossing = fit.crossing
        # A constraint is an exact penalty: from some factor on nothing is violated.
        if np.isfinite(penalty) or crossing <= 1e-10 or strength >= 1e6:
            break
        strength *= 10.0
    weights = fit.weights
    if constraint == "sum_to_one":
        weights = [np.concatenate([[1.0 - w.sum()], w]) for w in weights]
    return CoupledFit(weights, *(scale * value for value in fit[1:]))


def _base(columns: list[FloatArray], constraint: str) -> FloatArray:
    # What 1'w = 1 lets one subtract from every row: nothing else conditions as well.
    if constraint == "simplex":
        center = np.mean([c.mean(axis=1) for c in columns], axis=0)
        return np.tile(center, (len(columns), 1))
    if constraint == "sum_to_one":
        return np.array([c[:, 0] for c in columns])
    return np.zeros((len(columns), columns[0].shape[0]))


class _Program:
    """The rows of the program: applied, never formed."""

    def __init__(
        self,
        columns: list[FloatArray],
        target: FloatArray,
        quantiles: FloatArray,
        cost: FloatArray,
        penalty: float,
        pairs: list[tuple[int, int]],
        shared: bool,
    ) -> None:
        self.columns, self.pairs, self.target = columns, pairs, target
        self.n_levels, n_pairs = len(columns), len(pairs)
        sizes = [c.shape[1] for c in columns]
        starts = np.zeros(len(sizes), dtype=int) if shared else np.cumsum(sizes) - sizes
        self.blocks = [
            slice(int(start), int(start) + size)
            for start, size in zip(starts, sizes, strict=True)
        ]
        self.simplexes = self.blocks[:1] if shared else self.blocks
        self.n_weights = self.blocks[-1].stop
        self.level = np.concatenate([quantiles, np.ones(n_pairs)])[:, None]
        factors = np.full(self.n_levels + n_pairs, 1.0 / self.n_levels)
        factors[self.n_levels :] = penalty / max(n_pairs, 1)
        self.cost = np.outer(factors, cost)

    def apply(self, w: FloatArray) -> FloatArray:
        """Return A w, of shape (n_levels + n_pairs, n_rows)."""
        result = np.empty_like(self.target)
        for k, block in enumerate(self.blocks):
            result[k] = self.columns[k] @ w[block]
        for r, (a, b) in enumerate(self.pairs, start=self.n_levels):
            result[r] = result[b] - result[a]
        return result

    def adjoint(self, rows: FloatArray) -> FloatArray:
        """Return A'a, of shape (n_weights,)."""
        total = rows[: self.n_levels].copy()
        for r, (a, b) in enumerate(self.pairs, start=self.n_levels):
            total[b] += rows[r]
            total[a] -= rows[r]
        result = np.zeros(self.n_weights)
        for k, block in enumerate(self.blocks):
            result[block] += self.columns[k].T @ total[k]
        return result

    def normal(self, inverse_d: FloatArray) -> FloatArray:
        """Return A' D^-1 A, of shape (n_weights, n_weights)."""
        result = np.zeros((self.n_weights, self.n_weights))
        diagonal = inverse_d[: self.n_levels].copy()
        for r, (a, b) in enumerate(self.pairs, start=self.n_levels):
            diagonal[a] += inverse_d[r]
            diagonal[b] += inverse_d[r]
            cross = (self.columns[a].T * inverse_d[r]) @ self.columns[b]
            result[self.blocks[a], self.blocks[b]] -= cross
            result[self.blocks[b], self.blocks[a]] -= cross.T
        for k, block in enumerate(self.blocks):
            result[block, block] += (self.columns[k].T * diagonal[k]) @ self.columns[k]
        return result

    def loss(self, w: FloatArray) -> float:
        error = self.target - self.apply(w)
        return float(
            (self.cost * np.maximum(self.level * error, (self.level - 1) * error)).sum()
        )

    def crossing(self, w: FloatArray) -> float:
        """Return the largest amount by which a margin is missed."""
        missed = (self.target - self.apply(w))[self.n_levels :]
        return float(np.max(missed, initial=0.0))

    def sums(self) -> FloatArray:
        """Return E, of shape (n_simplexes, n_weights)."""
        result = np.zeros((len(self.simplexes), self.n_weights))
        for row, block in zip(result, self.simplexes, strict=True):
            row[block] = 1.0
        return result

    def dual_start(self, signed: bool) -> FloatArray:
        """Return a point inside the box, with A'a = 0 if the weights are free."""
        start = self.cost * (self.level - 0.5)
        if signed:
            return start
        # Pinball rows at 0 are inside their box and balance nothing.
        start[: self.n_levels] = 0.0
        unbalanced = self.adjoint(start)
        for block in self.simplexes:
            levels = [k for k, other in enumerate(self.blocks) if other == block]
            stacked = np.hstack([self.columns[k].T for k in levels])
            balance = np.linalg.lstsq(stacked, -unbalanced[block], rcond=None)[0]
            start[levels] = balance.reshape(len(levels), -1)
        room = (self.cost * np.minimum(self.level, 1 - self.level))[: self.n_levels]
        used = np.abs(start[: self.n_levels]) / room
        return start / max(1.0, 2.0 * float(used.max(initial=0.0)))


def _solve(program: _Program, signed: bool) -> CoupledFit:
    w = np.zeros(program.n_weights)
    a = program.dual_start(signed)
    f, g = program.cost * program.level - a, program.cost * (1 - program.level) + a
    s = np.zeros(program.n_weights)
    if signed:
        correlation = program.adjoint(a)
        for k in program.simplexes:
            w[k] = 1.0 / w[k].size
            lowest = max(1e-3, float(np.ptp(correlation[k])))
            s[k] = correlation[k].max() + lowest - correlation[k]
    error = program.target - program.apply(w)
    u, v = np.maximum(error, 0.0) + 0.5, np.maximum(-error, 0.0) + 0.5
    best, best_loss, best_bound = w, np.inf, -np.inf
    n_products = 2 * u.size + (w.size if signed else 0)
    for _ in range(_MAX_ITER):
        loss = program.loss(w)
        if loss < best_loss:
            best, best_loss = w, loss
        best_bound = max(best_bound, _lower_bound(program, a, best, signed))
        if best_loss - best_bound <= _TOLERANCE * max(best_loss, 1e-4):
            break
        # In the last steps u / f and s / w leave the range of floats; such a step is
        # recognized by its result and not taken.
        with np.errstate(all="ignore"):
            newton = _Newton(program, w, u, v, s, f, g, signed)
            mu = ((u * f).sum() + (v * g).sum() + s @ w) / n_products
            # Predictor: aim at complementarity 0; corrector: second order, at sigma mu.
            dw, du, dv, ds, da = newton.solve(-s * w, -f * u, -g * v)
            primal = _length([u, v] + [w] * signed, [du, dv] + [dw] * signed, 1.0)
            dual = _length([f, g] + [s] * signed, [-da, da] + [ds] * signed, 1.0)
            ahead = (
                ((u + primal * du) * (f - dual * da)).sum()
                + ((v + primal * dv) * (g + dual * da)).sum()
                + (s + dual * ds) @ (w + primal * dw)
            ) / n_products
            center = mu * (ahead / mu) ** 3
            dw, du, dv, ds, da = newton.solve(
                center - s * w - ds * dw,
                center - f * u + da * du,
                center - g * v - da * dv,
            )
            primal = _length([u, v] + [w] * signed, [du, dv] + [dw] * signed, _STEP)
            dual = _length([f, g] + [s] * signed, [-da, da] + [ds] * signed, _STEP)
        if not np.isfinite(primal + dual + dw.sum() + da.sum()):
            break  # the last digits are spent
        w = w + primal * dw
        u, v = u + primal * du, v + primal * dv
        a = a + dual * da
        s, f, g = s + dual * ds, f - dual * da, g + dual * da
    if signed:
        best, best_loss = _sparsified(program, best, best_loss)
    weights = [best[block] for block in program.blocks]
    gap = max(best_loss - best_bound, 0.0)
    return CoupledFit(weights, best_loss, gap, program.crossing(best))


def _lower_bound(
    program: _Program, a: FloatArray, w: FloatArray, signed: bool
) -> float:
    # For any a in its box: the least of -(A'a)'w over the simplexes. Free weights leave
    # nothing but rounding, charged as for weights up to twice the best so far.
    level = program.level
    inside = np.clip(a, program.cost * (level - 1), program.cost * level)
    value = float((program.target * inside).sum())
    correlation = program.adjoint(inside)
    if signed:
        return value - sum(float(correlation[k].max()) for k in program.simplexes)
    return value - 2.0 * float(np.abs(correlation) @ np.abs(w))


def _sparsified(
    program: _Program, w: FloatArray, loss: float
) -> tuple[FloatArray, float]:
    # An interior point has no exact zeros: set those that cost nothing.
    sparse = np.where(w < 1e-7, 0.0, w)
    for block in program.simplexes:
        sparse[block] /= sparse[block].sum()
    found = program.loss(sparse)
    if found <= loss * (1 + 1e-11):
        return sparse, found
    return w, loss


class _Newton:
    """The Newton system of one iterate, factored once for predictor and corrector."""

    def __init__(
        self,
        program: _Program,
        w: FloatArray,
        u: FloatArray,
        v: FloatArray,
        s: FloatArray,
        f: FloatArray,
        g: FloatArray,
        signed: bool,
    ) -> None:
        self.program, self.signed = program, signed
        self.w, self.u, self.v, self.s, self.f, self.g = w, u, v, s, f, g
        self.inverse_d = 1.0 / (u / f + v / g)
        matrix = program.normal(self.inverse_d)
        if signed:
            matrix[np.diag_indices_from(matrix)] += s / w
        # s / w spans many orders of magnitude at the end: scale to a unit diagonal.
        diagonal = np.diag(matrix)
        self.scaling = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        matrix *= np.outer(self.scaling, self.scaling)
        matrix[np.diag_indices_from(matrix)] += _RIDGE
        self.matrix = matrix
        if signed:
            self.sums = program.sums()
            self.directions = self._apply_inverse(self.sums.T)
            self.schur = self.sums @ self.directions

    def solve(
        self, rw: FloatArray, ru: FloatArray, rv: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return (dw, du, dv, ds, da) for the three complementarity residuals."""
        h = ru / self.f - rv / self.g
        right = -self.program.adjoint(self.inverse_d * h)
        ds = np.zeros_like(right)
        if self.signed:
            dw = self._apply_inverse(right + rw / self.w)
            db = -_solved(self.schur, self.sums @ dw)
            dw = dw + self.directions @ db
        else:
            dw = self._apply_inverse(right)
        da = -self.inverse_d * (self.program.apply(dw) + h)
        du, dv = (ru + self.u * da) / self.f, (rv - self.v * da) / self.g
        if self.signed:
            ds = -self.program.adjoint(da) - self.sums.T @ db
        return dw, du, dv, ds, da

    def _apply_inverse(self, right: FloatArray) -> FloatArray:
        scaling = self.scaling if right.ndim == 1 else self.scaling[:, None]
        return np.asarray(scaling * _solved(self.matrix, scaling * right))


def _solved(matrix: FloatArray, right: FloatArray) -> FloatArray:
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        return np.full_like(right, np.nan)  # a step that is not taken
    try:
        return np.asarray(np.linalg.solve(matrix, right))
    except np.linalg.LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def _length(
    points: Sequence[FloatArray], directions: Sequence[FloatArray], share: float
) -> float:
    # The longest step <= 1 that keeps every coordinate positive.
    longest = 1.0 / share
    for value, change in zip(points, directions, strict=True):
        falling = change < 0
        if falling.any():
            longest = min(longest, float((value[falling] / -change[falling]).min()))
    return min(1.0, share * longest)
