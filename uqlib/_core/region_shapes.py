"""The two shapes of a region around a point: what lies inside, how wide, how large."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from uqlib._core.regions import box_thresholds, ellipsoid
from uqlib._typing import BoolArray, FloatArray


@dataclass(frozen=True)
class Box:
    r"""Residuals with :math:`|e_j| \le t_j` in every output j.

    Parameters
    ----------
    thresholds : ndarray of shape (n_outputs,)
        The t, at least 0, possibly infinite.
    """

    thresholds: FloatArray

    @classmethod
    def calibrate(cls, residuals: FloatArray, level: Fraction) -> "Box":
        """Return the box of calibration residuals of shape (n, n_outputs)."""
        return cls(box_thresholds(np.abs(residuals), level))

    def contains(self, residuals: FloatArray) -> BoolArray:
        """Return which residual vectors lie inside, shape (n_samples,)."""
        return np.asarray(np.all(np.abs(residuals) <= self.thresholds, axis=1))

    def half_widths(self) -> FloatArray:
        """Return half the sides of the box, shape (n_outputs,)."""
        return self.thresholds

    def volume(self) -> float:
        """Return the volume; infinite as soon as one side is."""
        if np.isposinf(self.thresholds).any():
            return math.inf
        with np.errstate(over="ignore"):
            return float(np.prod(2 * self.thresholds))


@dataclass(frozen=True)
class Ellipsoid:
    r"""Residuals with :math:`\|A e\|_2 \le \rho`.

    Parameters
    ----------
    whitening : ndarray of shape (n_outputs, n_outputs)
        The matrix A, invertible.
    radius : float
        The radius, at least 0, possibly infinite.
    """

    whitening: FloatArray
    radius: float

    @classmethod
    def calibrate(cls, residuals: FloatArray, level: Fraction) -> "Ellipsoid":
        """Return the ellipsoid of calibration residuals of shape (n, n_outputs)."""
        return cls(*ellipsoid(residuals, level))

    def contains(self, residuals: FloatArray) -> BoolArray:
        """Return which residual vectors lie inside, shape (n_samples,)."""
        return np.asarray(_norms(residuals @ self.whitening.T) <= self.radius)

    # The largest e_j on the sphere A e = radius u is radius times the norm of the j-th
    # row of the inverse of A.
    def half_widths(self) -> FloatArray:
        """Return half the sides of the smallest box around it, shape (n_outputs,)."""
        inverse = np.linalg.inv(self.whitening)
        return np.asarray(self.radius * _norms(inverse))

    def volume(self) -> float:
        r"""Return :math:`\pi^{m/2} \rho^m / (\Gamma(m/2 + 1) |\det A|)`."""
        m = len(self.whitening)
        if self.radius in (0.0, math.inf):
            return self.radius
        _, log_determinant = np.linalg.slogdet(self.whitening)
        unit_ball = m / 2 * math.log(math.pi) - math.lgamma(m / 2 + 1)
        with np.errstate(over="ignore"):
            log_volume = unit_ball + m * math.log(self.radius) - log_determinant
            return float(np.exp(log_volume))


def _norms(rows: FloatArray) -> FloatArray:
    """Return the length of each row, without squares that overflow or vanish."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    unit = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
    return np.asarray(unit * np.sqrt(np.sum((rows / unit[:, None]) ** 2, axis=1)))
