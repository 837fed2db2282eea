r"""Programs of pinball losses: residuals, losses, and the certificate.

Symbols: rows x_i, targets y_i, levels tau_i in [0, 1], weights c_i > 0, all i = 1..n;
coefficients b; residuals e = y - X b.

    primal:  minimize_b  F(b) = sum_i c_i psi_{tau_i}(y_i - x_i'b),
    dual:    maximize_a  y'a   s.t.   X'a = 0,   c (tau - 1) <= a <= c tau.

As psi_tau(e) is the largest a e over a in [tau - 1, tau], any a in its box with
X'a = 0 certifies any b, by a sum of terms none of which is negative:

    F(b) - min F  <=  gap = sum_i (c_i psi_{tau_i}(e_i) - a_i e_i).

Rounding leaves X'a = r instead of 0. What the gap then lacks is r'(b* - b), with the
optimum b* unknown. Let the weighted rows be orthonormal and m the largest norm of one:

    |b* - b|^2 = sum c (x'(b* - b))^2 <= m |b* - b| sum c |x'(b* - b)|,

where x'(b* - b) is the difference of two residuals, so that the last sum is at most
(F(b) + F(b*)) / min(tau, 1 - tau) <= 2 F(b) / min(tau, 1 - tau). Hence

    |r'(b* - b)|  <=  |r| reach F(b),    reach = 2 m / min(tau, 1 - tau),

which is added to the gap. Nothing in the certificate is a tolerance.
"""

from typing import NamedTuple

import numpy as np

from uqlib._core.linear_design import Design
from uqlib._typing import FloatArray

EXACT_FIT = 1e-6  # a loss below this share of the mean of abs(y) is judged by it


class Program(NamedTuple):
    """Rows, targets (n,), levels (n,) and weights (n,) of a sum of pinball losses."""

    design: Design
    y: FloatArray
    tau: FloatArray
    cost: FloatArray


class Solution(NamedTuple):
    """A primal point (n_columns,), a dual point (n_rows,), interior-point steps."""

    b: FloatArray
    a: FloatArray
    n_iter: int


class Certificate(NamedTuple):
    """The loss of a point, and a bound on its excess over the optimum."""

    loss: float
    gap: float

    @property
    def unit(self) -> float:
        """What the gap is relative to: the loss, or `EXACT_FIT` if that is larger."""
        return max(self.loss, EXACT_FIT)

    def holds(self, tol: float) -> bool:
        """Return whether the relative gap is at most `tol`."""
        return self.gap <= tol * self.unit


def certify(
    program: Program, b: FloatArray, a: FloatArray, reach: float
) -> Certificate:
    """Return the loss of b, and the bound on its excess that a gives.

    Parameters
    ----------
    program : Program
        Orthonormal rows.
    b : ndarray of shape (n_columns,)
        Coefficients.
    a : ndarray of shape (n_rows,)
        Multipliers with X'a = 0 up to rounding; those outside their box are moved in.
    reach : float
        As `reach_of` returns it.

    Returns
    -------
    Certificate
        With a gap that is at most the loss.
    """
    return certify_residuals(program, residuals(program, b), a, reach)


def certify_residuals(
    program: Program, error: FloatArray, a: FloatArray, reach: float
) -> Certificate:
    """Do what `certify` does, with residuals that are at hand.

    Parameters
    ----------
    program : Program
        Orthonormal rows.
    error : ndarray of shape (n_rows,)
        Residuals of the coefficients.
    a, reach : ndarray of shape (n_rows,), float
        As `certify` takes them.

    Returns
    -------
    Certificate
        With a gap that is at most the loss.
    """
    a = np.clip(a, program.cost * (program.tau - 1), program.cost * program.tau)
    losses = program.cost * pinball(error, program.tau)
    loss = float(losses.sum())
    gap = float(np.maximum(losses - a * error, 0.0).sum())
    gap += float(np.linalg.norm(correlate(program, a))) * reach * loss
    return Certificate(loss, min(gap, loss))


def reach_of(norms: FloatArray, tau: FloatArray) -> float:
    """Return the bound on the distance to the optimum, relative to the loss.

    Parameters
    ----------
    norms : ndarray of shape (n_rows,)
        Norms of orthonormal rows, as `row_norms` returns them.
    tau : ndarray of shape (n_rows,)
        Levels. Those of 0 and 1, which bound nothing, are left aside.

    Returns
    -------
    float
        As this module derives it.
    """
    inner = np.minimum(tau, 1 - tau)
    return 2 * float(norms.max()) / float(inner[inner > 0].min(initial=0.5))


def pinball(error: FloatArray, tau: FloatArray) -> FloatArray:
    """Return the loss of each row.

    Parameters
    ----------
    error, tau : ndarray of shape (n_rows,)
        Residuals and levels.

    Returns
    -------
    ndarray of shape (n_rows,)
        max(tau e, (tau - 1) e).
    """
    return np.asarray(np.maximum(tau * error, (tau - 1) * error))


def residuals(program: Program, b: FloatArray) -> FloatArray:
    """Return y - X b.

    Parameters
    ----------
    program : Program
        The rows.
    b : ndarray of shape (n_columns,)
        Coefficients.

    Returns
    -------
    ndarray of shape (n_rows,)
        The residuals.
    """
    error = np.empty_like(program.y)
    for part, rows in program.design.blocks():
        error[part] = program.y[part] - rows @ b
    return error


def correlate(program: Program, values: FloatArray) -> FloatArray:
    """Return X'v for one or several vectors v over the rows.

    Parameters
    ----------
    program : Program
        The rows.
    values : ndarray of shape (n_rows,) or (n_rows, n_vectors)
        The vectors.

    Returns
    -------
    ndarray of shape (n_columns,) or (n_columns, n_vectors)
        The sums.
    """
    total = np.zeros((program.design.shape[1], *values.shape[1:]))
    for part, rows in program.design.blocks():
        total += rows.T @ values[part]
    return total


def row_norms(design: Design) -> FloatArray:
    """Return the norm of each row.

    Parameters
    ----------
    design : Design
        The rows.

    Returns
    -------
    ndarray of shape (n_rows,)
        The square roots of the leverages, where rows are orthonormal.
    """
    norms = np.empty(design.shape[0])
    for part, rows in design.blocks():
        norms[part] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return norms
