r"""Smoothed linear quantile regression: the start of the exact solvers.

With |e| replaced by sqrt(e^2 + h^2) in psi_tau(e) = (tau - 1/2) e + |e| / 2,

    F_h(b) = sum_i c_i ((tau_i - 1/2) e_i + s_i / 2),   s_i = sqrt(e_i^2 + h^2),
    -grad  = X'a,    a_i = c_i (tau_i - 1/2 + e_i / (2 s_i)),
    Hess   = X' diag(c h^2 / (2 s^3)) X,

which is at most h / 2 above F. Newton's method goes from one bandwidth h to a tenth of
it as soon as its step moves the fitted values by less than h (their root mean square,
the rows being orthonormal), until hardly more rows than columns lie within h of the
fit: from there on the rows that are fitted exactly, and not their density, decide.

Where most rows lie on one side, as at extreme levels, this gets close to the optimum
in far fewer steps than an interior point, whose steps end where the first of the many
rows that have to change sides meets the end of its box.
"""

import numpy as np

from uqlib._core.pinball_program import Program
from uqlib._typing import FloatArray

_SHRINK = 0.1  # factor of the bandwidth
_MAX_STEPS = 60
_SMALLEST = 1e-10  # bandwidth, and trusted length relative to it
_FAR = 30.0  # bandwidths beyond which a row adds less than 1e-4 to the curvature
_RIDGE = 1e-9  # of the curvature: rows near the fit need not span all columns


def smooth(
    program: Program, b: FloatArray, bandwidth: float, rows_per_column: float
) -> tuple[FloatArray, float]:
    """Minimize smoothed losses of ever smaller bandwidth.

    Parameters
    ----------
    program : Program
        Orthonormal rows.
    b : ndarray of shape (n_columns,)
        Where to start.
    bandwidth : float
        The first one.
    rows_per_column : float
        The last bandwidth is the first that has fewer rows than this times the number
        of columns within it.

    Returns
    -------
    b : ndarray of shape (n_columns,)
        The solution at the last bandwidth.
    bandwidth : float
        The last one.
    """
    n_columns, radius = program.design.shape[1], bandwidth
    value, slope, curvature, n_near = _expand(program, b, bandwidth)
    for _ in range(_MAX_STEPS):
        step, whole = _trusted_step(curvature, slope, radius)
        length = float(np.linalg.norm(step))
        if whole and length <= bandwidth:
            b = b + step
            if n_near < rows_per_column * n_columns or bandwidth < _SMALLEST:
                break
            bandwidth *= _SHRINK
            value, slope, curvature, n_near = _expand(program, b, bandwidth)
            continue
        expected = float(slope @ step - 0.5 * step @ curvature @ step)
        found = _expand(program, b + step, bandwidth)
        share = (value - found[0]) / expected
        if share > 1e-4:
            b, (value, slope, curvature, n_near) = b + step, found
        if not share > 0.25:
            radius = 0.25 * length
        elif share > 0.75 and not whole:
            radius = 2 * length
        if not radius > _SMALLEST * bandwidth:
            break
    return b, bandwidth


def _trusted_step(
    curvature: FloatArray, slope: FloatArray, radius: float
) -> tuple[FloatArray, bool]:
    """Return the Newton step, or the best one of length `radius` if it is longer.

    The second is (H + lambda I)^-1 g; lambda by Newton's method on 1 / length.
    """
    ridge = _RIDGE * float(np.trace(curvature)) + 1e-100
    step = np.linalg.solve(curvature + ridge * np.eye(slope.size), slope)
    length = float(np.linalg.norm(step))
    if length <= radius:
        return step, True
    values, vectors = np.linalg.eigh(curvature)
    values = np.maximum(values, 0.0) + ridge
    along, shift = slope @ vectors, 0.0
    for _ in range(_MAX_STEPS):
        step = along / (values + shift)
        length = float(np.linalg.norm(step))
        if length <= 1.1 * radius:
            break
        slowness = float(step @ (step / (values + shift))) / length**2
        shift += (length / radius - 1) / slowness
    return vectors @ step, False


def _expand(
    program: Program, b: FloatArray, bandwidth: float
) -> tuple[float, FloatArray, FloatArray, int]:
    """Return the smoothed loss, its negative gradient, its Hessian, and a count.

    The count is that of the rows within the bandwidth.
    """
    n_columns = program.design.shape[1]
    value, slope, n_near = 0.0, np.zeros(n_columns), 0
    curvature = np.zeros((n_columns, n_columns))
    for part, rows in program.design.blocks():
        cost, tilt = program.cost[part], program.tau[part] - 0.5
        error = program.y[part] - rows @ b
        root = np.sqrt(error * error + bandwidth * bandwidth)
        value += float(cost @ (tilt * error + 0.5 * root))
        slope += (cost * (tilt + 0.5 * error / root)) @ rows
        n_near += int(np.count_nonzero(np.abs(error) <= bandwidth))
        near = np.flatnonzero(root < _FAR * bandwidth)
        if 4 * near.size < root.size:
            rows, cost, root = rows[near], cost[near], root[near]
        weight = np.sqrt(0.5 * cost / root) * (bandwidth / root)
        scaled = rows * weight[:, None]
        curvature += scaled.T @ scaled
    return value, slope, curvature, n_near
