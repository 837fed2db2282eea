r"""Rows of a linear model: orthonormalized, and streamed in blocks.

Solvers of linear quantile regression work in coordinates in which the weighted rows
are orthonormal. With z_i the centered row i, to which a 1 is appended if there is an
intercept, and c_i its weight,

    x_i = T'z_i,   sum_i c_i x_i x_i' = I.

A step b then has as length the root mean square by which it moves the fitted values,
the norm of a row is its leverage, and neither units nor offsets nor collinear columns
matter: T leaves out the directions in which the rows do not vary. The coefficients are
T b.

An L1 penalty alpha |w_j| is a row as well. As |w| = 2 psi_{1/2}(0 - w), it is the loss
of the row k_j e_j with target 0, level 1/2 and weight 2 alpha / k_j, for any k_j > 0;
the spread of column j gives its residual the units of y.

X is never copied as a whole: blocks of it are centered in float64, one at a time.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray

_BLOCK = 2**16  # elements of a block: it stays in a processor's second-level cache
_KEPT = 2**22  # elements up to which orthonormal rows are kept in memory: 32 MB
_EPS = float(np.finfo(np.float64).eps)
_RANK = 1e-12  # singular values below this, relative to the largest, are rounding
_SQUARED = 1e-8  # relative eigenvalues of X'X down to this have digits to spare

IntArray = NDArray[np.integer[Any]]
Blocks = Iterator[tuple[slice, FloatArray]]


class Design(Protocol):
    """Rows that solvers take in blocks, or by number."""

    shape: tuple[int, int]

    def blocks(self) -> Blocks:
        """Yield all rows in order, each block with its numbers."""

    def take(self, numbers: IntArray) -> FloatArray:
        """Return a copy of some rows."""

    def in_memory(self) -> FloatArray:
        """Return all rows, not to be changed."""


class DenseDesign:
    """Rows that lie in memory as a solver needs them.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_columns)
        The rows.
    """

    def __init__(self, rows: FloatArray) -> None:
        self.rows = rows
        self.shape = (rows.shape[0], rows.shape[1])

    def blocks(self) -> Blocks:
        """Yield all rows in order, each block with its numbers."""
        for part in row_slices(*self.shape):
            yield part, self.rows[part]

    def take(self, numbers: IntArray) -> FloatArray:
        """Return a copy of some rows."""
        return self.rows[numbers]

    def in_memory(self) -> FloatArray:
        """Return all rows, not to be changed."""
        return self.rows


class OrthonormalDesign:
    """Rows of X and of the penalty, in orthonormal coordinates.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        float32 or float64, finite, in any memory layout.
    cost : ndarray of shape (n_samples,)
        Positive weights that sum to 1.
    intercept : bool, default=False
        Whether there is a constant; X is then centered.
    alpha : float, default=0.0
        Weight of the L1 penalty; if positive, its rows follow those of X.

    Attributes
    ----------
    shape : tuple of int
        Number of rows, and the rank.
    n_samples : int
        Number of rows of X.
    penalty_cost : ndarray of shape (n_penalties,)
        Weights of the rows of the penalty.
    constant : ndarray of shape (rank,) or None
        The step that raises all fitted values by 1, None without an intercept.
    """

    def __init__(
        self,
        X: FloatArray,
        cost: FloatArray,
        *,
        intercept: bool = False,
        alpha: float = 0.0,
    ) -> None:
        self._X, self._intercept = X, intercept
        self._shift, gram = _moments(X, cost, intercept)
        spread = np.sqrt(np.maximum(np.diag(gram), 0.0))
        size = np.abs(self._shift) + spread
        # Left out: columns that vary by no more than the rounding of their mean, and
        # those whose coefficient is 0 at any level, since |a| <= c in the dual program
        # and so |sum_i a_i z_ij| <= sum_i c_i |z_ij| <= spread_j.
        columns = np.flatnonzero((spread > 64 * _EPS * size) & (spread > alpha))
        unit = spread[columns]
        self.penalty_cost = 2 * alpha / unit if alpha > 0 else np.empty(0)
        gram = gram[np.ix_(columns, columns)] / np.outer(unit, unit)
        if alpha > 0:
            gram[np.diag_indices_from(gram)] += self.penalty_cost
        values, vectors = np.linalg.eigh(gram)
        if values.size and values[0] < _SQUARED * values[-1]:
            scaled = (self._centered(part)[:, columns] / unit for part in self._parts())
            rounding = 64 * _EPS * float((size[columns] / unit).max())
            values, vectors = _axes(scaled, cost, self.penalty_cost, rounding)
        rank = values.size + intercept
        self._transform = np.zeros((X.shape[1], rank))
        self._transform[columns, : values.size] = (
            vectors / np.sqrt(values) / unit[:, None]
        )
        self._penalty = np.zeros((self.penalty_cost.size, rank))
        if alpha > 0:
            self._penalty[:] = self._transform[columns] * unit[:, None]
        self.constant = np.eye(rank)[-1] if intercept else None
        self.n_samples = X.shape[0]
        self.shape = (X.shape[0] + self.penalty_cost.size, rank)
        self._kept: FloatArray | None = None
        if self.shape[0] * rank <= _KEPT:
            self._kept = self.in_memory()

    def blocks(self) -> Blocks:
        """Yield all rows in order, each block with its numbers."""
        if self._kept is not None:
            yield from DenseDesign(self._kept).blocks()
            return
        for part in self._parts():
            yield part, self._orthonormal(self._centered(part))
        if self._penalty.shape[0]:
            yield slice(self.n_samples, self.shape[0]), self._penalty

    def take(self, numbers: IntArray) -> FloatArray:
        """Return a copy of some rows."""
        if self._kept is not None:
            return self._kept[numbers]
        of_X = numbers < self.n_samples
        rows = np.empty((numbers.size, self.shape[1]))
        rows[of_X] = self._orthonormal(self._X[numbers[of_X]] - self._shift)
        rows[~of_X] = self._penalty[numbers[~of_X] - self.n_samples]
        return rows

    def in_memory(self) -> FloatArray:
        """Return all rows, not to be changed."""
        if self._kept is not None:
            return self._kept
        return np.concatenate([rows for _, rows in self.blocks()])

    def coefficients(self, b: FloatArray) -> tuple[FloatArray, float]:
        """Return the coefficients of the columns of X, and the intercept.

        Parameters
        ----------
        b : ndarray of shape (rank,)
            A point in orthonormal coordinates.

        Returns
        -------
        coef : ndarray of shape (n_features,)
            Zero for columns that do not vary.
        intercept : float
            Zero if there is none.
        """
        coef = self._transform @ b
        return coef, float(b[-1] - self._shift @ coef) if self._intercept else 0.0

    def _parts(self) -> Iterator[slice]:
        return row_slices(*self._X.shape)

    def _centered(self, part: slice) -> FloatArray:
        return np.asarray(self._X[part] - self._shift)

    def _orthonormal(self, centered: FloatArray) -> FloatArray:
        rows = centered @ self._transform
        if self._intercept:
            rows[:, -1] = 1.0
        return rows


def row_slices(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Yield slices of rows, each of a size that a cache holds.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of the matrix.

    Yields
    ------
    slice
        Numbers of rows.
    """
    step = max(64, _BLOCK // max(n_columns, 1))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _moments(
    X: FloatArray, cost: FloatArray, center: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the weighted means (or zeros), and the second moments about them."""
    shift, rest = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    gram = np.zeros((X.shape[1], X.shape[1]))
    if center:
        for part in row_slices(*X.shape):
            shift += cost[part] @ X[part]
    for part in row_slices(*X.shape):
        rows = X[part] - shift
        rest += cost[part] @ rows
        rows *= np.sqrt(cost[part])[:, None]
        gram += rows.T @ rows
    if not center:
        return shift, gram
    # What rounding left of the means is taken away as well.
    return shift + rest, gram - np.outer(rest, rest)


def _axes(
    blocks: Iterator[FloatArray],
    cost: FloatArray,
    penalty_cost: FloatArray,
    rounding: float,
) -> tuple[FloatArray, FloatArray]:
    """Return the eigenvalues and vectors of X'diag(cost)X that are not rounding.

    Triangular factors of the blocks are stacked, so that nothing is squared.
    """
    triangle, start = np.diag(np.sqrt(penalty_cost)), 0
    for rows in blocks:
        stop = start + rows.shape[0]
        stack = rows * np.sqrt(cost[start:stop])[:, None]
        if triangle.size:
            stack = np.vstack([triangle, stack])
        triangle, start = np.asarray(np.linalg.qr(stack, mode="r")), stop
    _, singular, transposed = np.linalg.svd(triangle, full_matrices=False)
    kept = singular > max(_RANK, rounding) * singular.max()
    return singular[kept] ** 2, transposed[kept].T
