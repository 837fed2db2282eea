r"""Convex weights of least pinball loss, solved to optimality.

Symbols: n rows, p columns; z_i is row i of Z, tau_i the level of its loss, and c_i
are row weights with sum 1.

    minimize_w  sum_i c_i psi_{tau_i}(y_i - z_i'w)   s.t.  1'w = 1,  w >= 0.

With u, v >= 0 for the positive and negative part of the residual and multipliers
a (rows), b (sum), s (signs), the optimality conditions are

    Z w + u - v = y,   1'w = 1,                        (primal)
    s = -Z'a - b 1 >= 0,                                (dual)
    f = c tau - a >= 0,   g = c (1 - tau) + a >= 0,     (dual)
    s w = 0,   f u = 0,   g v = 0.                      (complementarity)

A Mehrotra predictor-corrector method keeps all but the last line exact: a dual point
is at hand (a = c (tau - 1/2), b negative enough) and so is a primal one. Eliminating
u, v and a leaves a system with as many unknowns as models,

    (diag(s / w) + Z' D^-1 Z) dw - 1 db = rhs,   1'dw = 0,   D = u / f + v / g,

so that a step costs O(n p^2). As b can be chosen best for any a in its box,

    gap = sum_i c_i psi_{tau_i}(y_i - z_i'w) - (y'a - max_j (Z'a)_j) >= 0

certifies the distance to the optimum at each step without any tolerance of its own. In
the last steps rounding can push a out of its box, where the bound would not hold: the
certificate is taken at the nearest point of the box.
"""

from typing import NamedTuple

import numpy as np

from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user

_STEP = 0.99995  # share of the way to the boundary
_MAX_ITER = 100
_TOLERANCE = 1e-12  # of the gap, relative to the loss
_ROUNDING = 64 * np.finfo(np.float64).eps
_INEXACT = 1e-6  # a gap that the user should know of, relative to the best model


class SimplexFit(NamedTuple):
    """Weights on the simplex, their loss, and a bound on its excess."""

    weights: FloatArray
    loss: float
    gap: float


def fit_simplex_weights(
    predictions: FloatArray,
    y: FloatArray,
    level: FloatArray | float,
    row_weight: FloatArray,
) -> SimplexFit:
    """Minimize the weighted mean pinball loss over convex combinations of columns.

    Parameters
    ----------
    predictions : ndarray of shape (n_rows, n_models)
        One column a model, finite.
    y : ndarray of shape (n_rows,)
        The target, finite.
    level : ndarray of shape (n_rows,) or float
        Level of the pinball loss of each row.
    row_weight : ndarray of shape (n_rows,)
        Non-negative, with a positive sum.

    Returns
    -------
    SimplexFit
        Weights (n_models,), loss, and a certified bound on the excess of the loss
        over the optimum. The loss is never above that of the best column.

    Warns
    -----
    UncertaintyWarning
        If the bound is above a millionth of the loss of the best column.
    """
    n_models = predictions.shape[1]
    kept = row_weight > 0  # f and g vanish identically in a row without weight
    predictions, y, row_weight = predictions[kept], y[kept], row_weight[kept]
    tau = np.broadcast_to(level, kept.shape)[kept]
    cost = row_weight / row_weight.sum()
    # 1'w = 1 lets every row be centered at the best single model, whose loss is the
    # natural unit even if another model is off by many orders of magnitude.
    losses = [_pinball(y - column, tau, cost) for column in predictions.T]
    best = int(np.argmin(losses))
    vertex = np.eye(n_models)[best]
    center = predictions[:, best]
    spread, residual = predictions - center[:, None], y - center
    scale = float(cost @ np.abs(residual))
    if n_models == 1:
        return SimplexFit(vertex, losses[best], 0.0)
    if scale <= _ROUNDING * float(cost @ np.abs(y)):  # nothing left but rounding
        return SimplexFit(vertex, losses[best], losses[best])
    # In the last steps u / f and s / w leave the range of floats; such a step is
    # recognized by its result and not taken.
    with np.errstate(all="ignore"):
        inner, bound = _interior_point(spread / scale, residual / scale, tau, cost)
    # An interior point never has exact zeros. Weights that the optimum does not use
    # become zeros where that costs nothing, and no model alone is ever better.
    sparse = np.where(inner < 1e-7, 0.0, inner)
    candidates = (vertex, sparse / sparse.sum(), inner)
    found = [_pinball(residual - spread @ w, tau, cost) for w in candidates]
    chosen = int(np.flatnonzero(np.array(found) <= min(found) * (1 + 1e-11))[0])
    excess = max(found[chosen] - bound * scale, 0.0)
    if excess > _INEXACT * losses[best]:
        warn_user(
            "The weights of the models are optimal only up to "
            f"{excess / losses[best]:.1g} of the best model's loss: some model is off "
            "by many orders of magnitude. Drop it or repair its predictions.",
            UncertaintyWarning,
        )
    return SimplexFit(candidates[chosen], found[chosen], excess)


def _pinball(error: FloatArray, tau: FloatArray, cost: FloatArray) -> float:
    return float(cost @ np.maximum(tau * error, (tau - 1) * error))


def _lower_bound(
    Z: FloatArray, y: FloatArray, tau: FloatArray, cost: FloatArray, a: FloatArray
) -> float:
    inside = np.clip(a, cost * (tau - 1), cost * tau)
    return float(y @ inside - (Z.T @ inside).max())


def _interior_point(
    Z: FloatArray, y: FloatArray, tau: FloatArray, cost: FloatArray
) -> tuple[FloatArray, float]:
    """Return the best weights met on the way and the best lower bound of the loss."""
    p = Z.shape[1]
    w = 1.0 / (1.0 + cost @ np.abs(Z))  # less of a model that is far from the best
    w /= w.sum()
    a = cost * (tau - 0.5)
    correlation = Z.T @ a
    b = -correlation.max() - max(1.0, float(np.ptp(correlation)))
    # Carried along rather than computed from a and b: rounding cannot turn a small
    # slack negative.
    s, f, g = -correlation - b, cost * tau - a, cost * (1 - tau) + a
    error = y - Z @ w
    u, v = np.maximum(error, 0.0) + 0.5, np.maximum(-error, 0.0) + 0.5
    best, best_loss, best_bound = w, np.inf, -np.inf
    for _ in range(_MAX_ITER):
        loss = _pinball(y - Z @ w, tau, cost)
        if loss < best_loss:
            best, best_loss = w, loss
        best_bound = max(best_bound, _lower_bound(Z, y, tau, cost, a))
        # Relative to the loss, or to a ten-thousandth of the best model's.
        if best_loss - best_bound <= _TOLERANCE * max(best_loss, 1e-4):
            break
        step = _Newton(Z, w, u, v, s, f, g)
        pairs = ((s, w), (f, u), (g, v))
        mu = sum(float(dual @ primal) for dual, primal in pairs) / (p + 2 * y.size)
        # Predictor: aim at complementarity 0; corrector: at sigma mu, second order.
        dw, du, dv, ds, da = step.solve(-s * w, -f * u, -g * v)
        primal_length = _length((w, u, v), (dw, du, dv), 1.0)
        dual_length = _length((s, f, g), (ds, -da, da), 1.0)
        mu_affine = (
            (s + dual_length * ds) @ (w + primal_length * dw)
            + (f - dual_length * da) @ (u + primal_length * du)
            + (g + dual_length * da) @ (v + primal_length * dv)
        ) / (p + 2 * y.size)
        center = mu * (mu_affine / mu) ** 3
        dw, du, dv, ds, da = step.solve(
            center - s * w - ds * dw, center - f * u + da * du, center - g * v - da * dv
        )
        primal_length = _length((w, u, v), (dw, du, dv), _STEP)
        dual_length = _length((s, f, g), (ds, -da, da), _STEP)
        if not np.isfinite(primal_length + dual_length + dw.sum()):
            break  # the last digits are spent
        w = w + primal_length * dw
        w /= w.sum()
        u, v = u + primal_length * du, v + primal_length * dv
        a = a + dual_length * da
        s, f, g = s + dual_length * ds, f - dual_length * da, g + dual_length * da
    return best, best_bound


class _Newton:
    """The Newton system of one iterate, factored once for predictor and corrector."""

    def __init__(
        self,
        Z: FloatArray,
        w: FloatArray,
        u: FloatArray,
        v: FloatArray,
        s: FloatArray,
        f: FloatArray,
        g: FloatArray,
    ) -> None:
        self.Z, self.w, self.s = Z, w, s
        self.u, self.v, self.f, self.g = u, v, f, g
        self.inverse_d = 1.0 / (u / f + v / g)
        matrix = (Z.T * self.inverse_d) @ Z
        matrix[np.diag_indices_from(matrix)] += s / w
        # s / w spans many orders of magnitude at the end: scale to a unit diagonal.
        self.scaling = 1.0 / np.sqrt(np.diag(matrix))
        self.matrix = matrix * np.outer(self.scaling, self.scaling)
        self.ones = self._apply_inverse(np.ones_like(w))

    def solve(
        self, rw: FloatArray, ru: FloatArray, rv: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return (dw, du, dv, ds, da) for the three complementarity residuals."""
        h = ru / self.f - rv / self.g
        free = self._apply_inverse(rw / self.w - self.Z.T @ (self.inverse_d * h))
        db = -float(free.sum() / self.ones.sum())
        dw = free + db * self.ones
        da = -self.inverse_d * (self.Z @ dw + h)
        du, dv = (ru + self.u * da) / self.f, (rv - self.v * da) / self.g
        return dw, du, dv, -self.Z.T @ da - db, da

    def _apply_inverse(self, right: FloatArray) -> FloatArray:
        scaled = self.scaling * right
        try:
            solution = np.linalg.solve(self.matrix, scaled)
        except np.linalg.LinAlgError:
            solution = np.linalg.lstsq(self.matrix, scaled, rcond=None)[0]
        return np.asarray(self.scaling * solution)


def _length(
    point: tuple[FloatArray, ...], direction: tuple[FloatArray, ...], share: float
) -> float:
    # The longest step <= 1 that keeps every coordinate positive.
    longest = 1.0 / share
    for value, change in zip(point, direction, strict=True):
        falling = change < 0
        if falling.any():
            longest = min(longest, float((value[falling] / -change[falling]).min()))
    return min(1.0, share * longest)
