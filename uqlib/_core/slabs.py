r"""The slab of lowest coverage: rows between two parallel hyperplanes.

For one direction let the rows be sorted by their projection, those of equal projection
in one block, and

    W_k, S_k   number of rows, and of covered rows, in the first k blocks,
    L          the least number of rows of a slab,
    s / w      the lowest coverage known so far, first that of all rows.

A slab is the blocks i + 1 to j with W_j - W_i >= L, its coverage
(S_j - S_i) / (W_j - W_i). It is below s / w if and only if

    D_j < D_i,    D_k = w S_k - s W_k    (integers),

and the best i for each j is where D is largest among the i with W_i <= W_j - L, a
running maximum. If the smallest D_j - D_i is negative, its slab has a lower coverage,
which becomes s / w; if it is 0, no slab of this direction is below s / w. This is
Dinkelbach's iteration for a ratio: it ends as coverages are finitely many, takes a few
rounds of O(n), and is exact. As s / w is carried from direction to direction, most of
them cost one round.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import BoolArray, FloatArray

IntArray = NDArray[np.int64]

_BLOCK = 2**20  # projections held at a time


class Slab(NamedTuple):
    """Rows with lower <= X @ direction <= upper, and how many of them are covered.

    The bounds lie halfway to the next rows outside; without such rows they are
    infinite.
    """

    n_covered: int
    n_rows: int
    direction: FloatArray
    lower: float
    upper: float


class _Rows(NamedTuple):
    """Distinct rows: their number and that of the covered ones among them."""

    points: FloatArray
    counts: IntArray
    hits: IntArray


def worst_slab(
    X: FloatArray, covered: BoolArray, n_min: int, directions: FloatArray
) -> Slab:
    """Return the slab of lowest coverage among those with enough rows.

    Of slabs with equal coverage the one that is found first is kept.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The rows, finite.
    covered : ndarray of shape (n_samples,)
        Which rows are covered.
    n_min : int
        Least number of rows of a slab, from 1 to n_samples.
    directions : ndarray of shape (n_directions, n_features)
        The normals of the slabs.

    Returns
    -------
    Slab
        The slab; that of all rows if no other is worse.
    """
    rows = _distinct(X, covered)
    all_rows = directions[0] if len(directions) else np.zeros(X.shape[1])
    best = Slab(int(covered.sum()), covered.size, all_rows, -np.inf, np.inf)
    step = max(1, _BLOCK // len(rows.points))
    for start in range(0, len(directions), step):
        part = directions[start : start + step]
        for direction, projection in zip(part, part @ rows.points.T, strict=True):
            best = _improve(best, direction, projection, rows, n_min)
    return best


def _distinct(X: FloatArray, covered: BoolArray) -> _Rows:
    """Merge equal rows: matrix products may round them apart."""
    order = np.lexsort(X.T)
    points = X[order]
    first = np.ones(len(X), dtype=np.bool_)
    first[1:] = np.any(points[1:] != points[:-1], axis=1)
    starts = np.flatnonzero(first)
    hits = np.add.reduceat(covered[order].astype(np.int64), starts)
    return _Rows(points[starts], np.diff(starts, append=len(X)), hits)


def _improve(
    best: Slab,
    direction: FloatArray,
    projection: FloatArray,
    rows: _Rows,
    n_min: int,
) -> Slab:
    """Return the worst slab of one direction, or the best known if none is below."""
    order = np.argsort(projection)
    ends = projection[order]
    starts = np.flatnonzero(np.concatenate([[True], ends[1:] > ends[:-1]]))
    total = _prefix_sums(rows.counts[order], starts)
    hits = _prefix_sums(rows.hits[order], starts)
    found = lowest_mean_segment(total, hits, n_min, (best.n_covered, best.n_rows))
    if found is None:
        return best
    i, j = found
    lower, upper = _between(ends[starts], i), _between(ends[starts], j)
    return Slab(
        int(hits[j] - hits[i]), int(total[j] - total[i]), direction, lower, upper
    )


def _prefix_sums(counts: IntArray, starts: NDArray[np.intp]) -> IntArray:
    sums = np.zeros(starts.size + 1, dtype=np.int64)
    np.cumsum(np.add.reduceat(counts, starts), out=sums[1:])
    return sums


def _between(values: FloatArray, k: int) -> float:
    """Return the middle of the k-th gap of sorted values; the outer two are endless."""
    if k == 0:
        return -np.inf
    if k == values.size:
        return np.inf
    return float(values[k - 1] + (values[k] - values[k - 1]) / 2)


def lowest_mean_segment(
    total: IntArray, hits: IntArray, n_min: int, known: tuple[int, int]
) -> tuple[int, int] | None:
    """Return the segment whose share of hits is lowest and below a known share.

    Parameters
    ----------
    total, hits : ndarray of shape (n_blocks + 1,)
        The sums W and S, from 0.
    n_min : int
        Least number of rows of a segment, from 1 to ``total[-1]``.
    known : tuple of (int, int)
        Hits and rows of the share that is to be undercut.

    Returns
    -------
    tuple of (int, int) or None
        The i and j of the blocks i + 1 to j; None if no share is below.
    """
    found, (s, w) = None, known
    first = int(np.searchsorted(total, n_min))
    last = np.searchsorted(total, total[first:] - n_min, side="right") - 1
    while True:
        d = w * hits - s * total
        highest = np.maximum.accumulate(d)
        gain = d[first:] - highest[last]
        j = int(np.argmin(gain))
        if gain[j] >= 0:
            return found
        i, j = int(np.argmax(d[: last[j] + 1])), first + j
        found = i, j
        s, w = int(hits[j] - hits[i]), int(total[j] - total[i])


class Standardizing(NamedTuple):
    """What turns columns into multiples of their standard deviation."""

    exponent: NDArray[np.intc]
    center: FloatArray
    scale: FloatArray

    def transform(self, X: FloatArray) -> FloatArray:
        """Return the columns without their mean, in standard deviations.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            The standardized rows.
        """
        standard: FloatArray = (np.ldexp(X, -self.exponent) - self.center) / self.scale
        return standard

    def original(self, slab: Slab) -> Slab:
        """Return the slab in terms of the columns as they were.

        Parameters
        ----------
        slab : Slab
            A slab of standardized rows.

        Returns
        -------
        Slab
            The same with direction and bounds for ``X @ direction``.
        """
        step = slab.direction / self.scale
        shift = float(step @ self.center)
        return slab._replace(
            direction=np.ldexp(step, -self.exponent),
            lower=slab.lower + shift,
            upper=slab.upper + shift,
        )


def standardizing(X: FloatArray) -> Standardizing:
    """Return what standardizes the columns, the same for every order of the rows.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite rows, at least one.

    Returns
    -------
    Standardizing
        Mean and standard deviation of each column; constant columns have the scale 1.
    """
    # Powers of two change no digit and keep squares from overflowing.
    exponent = np.frexp(np.abs(X).max(axis=0))[1]
    ordered = np.sort(np.ldexp(X, -exponent), axis=0)
    scale = np.where(ordered[0] < ordered[-1], ordered.std(axis=0), 1.0)
    return Standardizing(exponent, ordered.mean(axis=0), scale)
