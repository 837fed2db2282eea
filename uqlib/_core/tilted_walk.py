r"""Linear quantile regression tilted towards a new row: an exact walk over vertices.

In the symbols of `uqlib._core.conditional_quantile`, the tilted regression

    min_b sum_i l(s_i - z_i'b) - e z'b,   l(r) = max(p r, -alpha r),                (2)

is followed from e = 0 to any e in [-alpha, p].

A vertex of (2) interpolates r = rank independent rows, the basis B; all other rows
are above it (e_i = p) or below it (e_i = -alpha), and e_B = -Z_B'^-1 (sum over the
others e_i z_i + e z). Along e this is linear: the vertex stays optimal until a
multiplier of the basis reaches an end of its box. That row leaves the basis, b moves on
the edge on which the others stay interpolated, and the first row that it meets enters.
z'b grows with every such move. All new rows start at the same vertex, that of e = 0,
which is walked to from a vertex near the solution of an interior point, along the tilt
for which that vertex is optimal.

Ties. Scores are s_i + M m_i + delta d_i, where M is larger than all (m_i = -1, 0, 1
tells infinite scores from finite), delta smaller than all and d_i random: compared key
by key, no two rows are ever met together, and the walk ends.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.linear_quantile import fit_linear_quantile
from uqlib._typing import BoolArray, FloatArray

IntArray = NDArray[np.intp]

_RANK = 1e-12  # singular values below this, relative to the largest, are rounding
_OUTSIDE = 1e-9  # a new row this far from the span of the rows, relatively, leaves it
_STILL = 1e-11  # a multiplier that moves by less than this does not move
_FLAT = 1e-9  # a row met at less than this sine of an angle is not met
_MEET = 1e-9  # ends of the walk, in multipliers: the level itself is known to 1e-9
_TURNS = 20  # steps of the walk for each row, far beyond what was ever needed
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


class _Vertex(NamedTuple):
    """Interpolated rows, the side of all others, and the tilt for which it is optimal.

    `pull` is the sum of e_i z_i over the rows outside of the basis.
    """

    basis: IntArray
    above: BoolArray
    pull: FloatArray
    tilt: FloatArray


class TiltedRegression:
    """The regression of the scores in orthonormal coordinates, and its vertex.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN.
    features : ndarray of shape (n, n_functions)
        Finite.
    level : Fraction
        The exact level p.
    """

    def __init__(
        self, scores: FloatArray, features: FloatArray, level: Fraction
    ) -> None:
        self.scores, self.features = scores, features
        self.lower, self.upper = -float(1 - level), float(level)
        self.unit = np.abs(features).max(axis=0, initial=0.0)
        self.unit[self.unit == 0] = 1.0
        scaled = features / self.unit
        _, sizes, axes = np.linalg.svd(scaled, full_matrices=False)
        kept = sizes > _RANK * sizes.max(initial=0.0)
        self.axes = axes[kept]
        self.map = self.axes.T * (np.sqrt(len(scores)) / sizes[kept])
        self.rows = scaled @ self.map
        self.norms = np.sqrt(np.einsum("ij,ij->i", self.rows, self.rows))
        self.keys = _keys(scores)
        self.start = self._start() if self.map.shape[1] else None

    def thresholds(self, row: FloatArray, stops: FloatArray) -> FloatArray:
        """Return the thresholds of one new row at increasing multipliers."""
        scaled = row / self.unit
        within = scaled @ self.axes.T
        outside = scaled - within @ self.axes
        found = np.where(stops > 0, np.inf, -np.inf)
        if np.linalg.norm(outside) > _OUTSIDE * np.linalg.norm(scaled):
            return found
        if self.start is None:  # the class is {0}
            return np.zeros(stops.size)
        z, up = scaled @ self.map, stops >= 0
        found[up] = self._follow(self.start, z, z, stops[up], row)[0]
        down, _ = self._follow(self.start, z, -z, -stops[~up][::-1], row)
        found[~up] = down[::-1]
        return found

    def _follow(
        self,
        vertex: _Vertex,
        z: FloatArray,
        direction: FloatArray,
        stops: FloatArray,
        row: FloatArray | None = None,
    ) -> tuple[FloatArray, _Vertex]:
        """Move the tilt on; return the fitted value of z at each stop, and the vertex.

        Where the regression is unbounded, b runs off along the direction. The tilt of
        the vertex stays where the walk began.
        """
        found = np.full(stops.size, np.inf if direction @ z > 0 else -np.inf)
        n_found = 0
        for _ in range(_TURNS * len(self.rows) + 100):
            inverse = np.linalg.inv(self.rows[vertex.basis])
            b = inverse @ self.keys[vertex.basis]
            speed = direction @ inverse
            until = self._until(-(vertex.pull + vertex.tilt) @ inverse, speed)
            out = int(np.argmin(until))
            passed = int(np.searchsorted(stops, until[out] + _MEET, side="right"))
            if passed > n_found:
                found[n_found:passed] = self._fitted(z, b, vertex.basis, row)
                n_found = passed
            if n_found == stops.size:
                return found, vertex
            side = 1.0 if speed[out] > 0 else -1.0
            met = self._first_met(b, side * inverse[:, out], vertex)
            if met is None:
                return found, vertex
            vertex = self._exchange(vertex, out, met, above=side < 0)
        raise RuntimeError(
            f"The walk to the threshold did not end within {_TURNS} steps a row: the "
            "features are too close to collinear for their rounding. Rescale them, or "
            "leave one of them out."
        )

    def _exchange(self, vertex: _Vertex, out: int, met: int, above: bool) -> _Vertex:
        """Return the vertex with row `met` in the basis; what left it lies above."""
        leaving, sides = int(vertex.basis[out]), (self.lower, self.upper)
        pull = vertex.pull + sides[above] * self.rows[leaving]
        pull -= sides[int(vertex.above[met])] * self.rows[met]
        basis, is_above = vertex.basis.copy(), vertex.above.copy()
        basis[out], is_above[leaving] = met, above
        return vertex._replace(basis=basis, above=is_above, pull=pull)

    def _until(self, multipliers: FloatArray, speed: FloatArray) -> FloatArray:
        """Return how far the tilt can move before each multiplier leaves its box."""
        until = np.full(speed.size, np.inf)
        moves = np.abs(speed) > _STILL
        end = np.where(speed > 0, self.lower, self.upper)
        until[moves] = (multipliers - end)[moves] / speed[moves]
        return until

    def _first_met(
        self, b: FloatArray, step: FloatArray, vertex: _Vertex
    ) -> int | None:
        """Return the first row that b + s step meets for s > 0, None if there is none.

        Key after key keeps the rows that are met no later than the others, up to the
        rounding of their residuals.
        """
        rise = self.rows @ step
        rise[vertex.basis] = 0.0
        steep = np.abs(rise) > _FLAT * self.norms * np.linalg.norm(step)
        left = np.flatnonzero(steep & (vertex.above == (rise > 0)))
        for key, fit in zip(self.keys.T, b.T, strict=True):
            if left.size < 2:
                break
            away = np.abs(rise[left])
            size = np.abs(key[left]) + self.norms[left] * np.linalg.norm(fit)
            error = _ROUNDING * size / away
            reached = (key[left] - self.rows[left] @ fit) / rise[left]
            left = left[reached - error <= (reached + error).min()]
        return int(left[0]) if left.size else None

    def _fitted(
        self, z: FloatArray, b: FloatArray, basis: IntArray, row: FloatArray | None
    ) -> float:
        """Return z'b; of a row with the features of an interpolated one, its score."""
        if row is not None:
            same = np.flatnonzero((self.features[basis] == row).all(axis=1))
            if same.size:
                return float(self.scores[basis[same[0]]])
        value = z @ b
        if abs(value[0]) > _STILL:
            return float(np.copysign(np.inf, value[0]))
        return float(value[1])

    def _start(self) -> _Vertex:
        """Return the vertex that solves the regression of the n scores alone."""
        n, rank = self.rows.shape
        finite = np.isfinite(self.scores)
        near = self.scores
        if not finite.all():
            low, high = near[finite].min(initial=0.0), near[finite].max(initial=0.0)
            near = np.clip(near, 2 * low - high - 1, 2 * high - low + 1)
        b = fit_linear_quantile(self.rows, near, self.upper, np.ones(n)).coef
        basis = self._independent(np.abs(near - self.rows @ b))
        inverse = np.linalg.inv(self.rows[basis])
        self.keys[basis, -1] = 0.0
        side = self._side(inverse @ self.keys[basis])
        side[basis] = 0
        pull = np.where(side > 0, self.upper, self.lower * (side < 0)) @ self.rows
        # Rows that no key but the last tells from the vertex may lie on either side:
        # where they balance the others the walk is short.
        tied = np.setdiff1d(np.flatnonzero(side == 0), basis)
        for i in tied:
            against = 2 * (pull @ self.rows[i])
            against += (self.upper + self.lower) * self.norms[i] ** 2
            side[i] = -1 if against > 0 else 1
            pull += (self.lower if against > 0 else self.upper) * self.rows[i]
        self.keys[tied, -1] *= side[tied]
        # The vertex is optimal at the tilt that its multipliers, put into their boxes,
        # balance.
        inside = np.clip(-pull @ inverse, self.lower, self.upper)
        tilt = -(pull + inside @ self.rows[basis])
        vertex = _Vertex(basis, side > 0, pull, tilt)
        _, vertex = self._follow(vertex, -tilt, -tilt, np.ones(1))
        return vertex._replace(tilt=np.zeros(rank))

    def _independent(self, distance: FloatArray) -> IntArray:
        """Return as many independent rows as columns, the nearest ones first."""
        left, basis = self.rows.copy(), []
        for _ in range(left.shape[1]):
            norms = np.sqrt(np.einsum("ij,ij->i", left, left))
            # Orthonormal columns: some row keeps a norm of 1 until all are taken.
            free = norms > 1e-3 * np.minimum(self.norms, norms.max())
            nearest = int(np.argmin(np.where(free, distance, np.inf)))
            basis.append(nearest)
            axis = left[nearest] / norms[nearest]
            left -= np.outer(left @ axis, axis)
        return np.array(basis, dtype=np.intp)

    def _side(self, b: FloatArray) -> NDArray[np.int8]:
        """Return 1 above b, -1 below, 0 where all keys but the last are met."""
        residual = (self.keys - self.rows @ b)[:, :-1]
        size = np.abs(self.keys) + self.norms[:, None] * np.linalg.norm(b, axis=0)
        residual[np.abs(residual) <= _ROUNDING * size[:, :-1]] = 0.0
        first = np.argmax(residual != 0, axis=1)
        sign = np.sign(residual[np.arange(first.size), first])
        return np.asarray(sign, dtype=np.int8)


def _keys(scores: FloatArray) -> FloatArray:
    """Return the keys M, 1 and delta of the scores, in the order of their size."""
    finite = np.isfinite(scores)
    infinite = np.where(finite, 0.0, np.sign(scores))
    # Fixed draws: the walk, and hence the result, is the same in every call.
    random = np.random.default_rng(0).uniform(1.0, 2.0, size=scores.size)
    return np.column_stack([infinite, np.where(finite, scores, 0.0), random])
