r"""The shape phi of a rank score h(r) = sum_i phi(r_i), on a grid of integers.

A gap v in {1, ..., n + 1} lies between the sorted calibration scores v - 1 and v. Any
non-decreasing phi that does not look at the calibration scores gives a valid bound; the
closer it is to the quantile function of the scores, the tighter. A gap of phi = inf is
forbidden: no set of ranks that is looked at holds it. Where the scores have no known
end the last gap must be, or the bound would be infinite.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray

IntArray = NDArray[np.int64]

NAMED_GRID = 500  # of phi="normal"
_MAX_LEVEL = 2**31


@dataclass(frozen=True, eq=False)
class RankGrid:
    """An integer phi, shifted to start at 0, without its forbidden gaps.

    `levels` holds phi - `offset` of the allowed gaps 1, 2, ...; `steps` its distinct
    values, and `last` the index of the last gap at each. Grids of one `key` are equal,
    so that what is computed from them can be remembered.
    """

    n: int
    levels: IntArray
    offset: int
    steps: IntArray
    last: NDArray[np.intp]
    key: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RankGrid) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def rank_grid(phi: Any, n: int, open_end: bool) -> RankGrid:
    """Return the grid of a phi in any of its forms, or say what is wrong.

    Parameters
    ----------
    phi : {"rank", "normal"} or array-like of shape (n + 1,)
        The shape; names forbid the last gap where the end is open.
    n : int
        Number of calibration scores.
    open_end : bool
        Whether the scores are unbounded on the side of the last gap.

    Returns
    -------
    RankGrid
        Its levels start at 0; without levels where all gaps are forbidden.
    """
    if isinstance(phi, str):
        return _named_grid(phi, n, open_end)
    values = np.asarray(phi, dtype=np.float64)
    if values.shape != (n + 1,):
        raise ValueError(
            f"phi must have shape ({n + 1},), one value for each gap between and "
            f"around the {n} scores, got shape {values.shape}."
        )
    return _array_grid(values.tobytes(), n)


@lru_cache(maxsize=64)
def _named_grid(phi: str, n: int, open_end: bool) -> RankGrid:
    if phi == "rank":
        values = np.arange(n + 1.0)
        if open_end:
            values[-1] = np.inf
    elif phi == "normal":
        shape, slope = normal_shape(n)
        values = integer_grid(shape, NAMED_GRID, slope=slope, open_end=open_end)
    else:
        raise ValueError(
            f"phi={phi!r} is not known. Pass 'rank', 'normal' or an array of n + 1 = "
            f"{n + 1} integers."
        )
    return replace(_grid_of(values, n), key=(phi, n, open_end))


@lru_cache(maxsize=64)
def _array_grid(data: bytes, n: int) -> RankGrid:
    values = np.frombuffer(data)
    _check_phi(values)
    return _grid_of(values, n)


def _grid_of(phi: FloatArray, n: int) -> RankGrid:
    allowed = phi[np.isfinite(phi)]
    levels = allowed.astype(np.int64)
    offset = int(levels[0]) if levels.size else 0
    levels -= offset
    last = np.flatnonzero(np.diff(levels, append=_MAX_LEVEL**2))
    return RankGrid(n, levels, offset, levels[last], last, (n, levels.tobytes()))


def _check_phi(values: FloatArray) -> None:
    if np.isnan(values).any() or np.any(values[1:] < values[:-1]):
        raise ValueError(
            "phi must not decrease and must not hold NaN. Take its running maximum, "
            "np.maximum.accumulate(phi)."
        )
    finite = values[np.isfinite(values)]
    if np.any(values == -np.inf) or np.any(finite != np.rint(finite)):
        raise ValueError(
            "phi must hold integers, or inf for a forbidden gap. Scale it to a grid "
            "and round it, for example np.rint(500 * phi / phi.max())."
        )
    if finite.size and max(abs(finite[0]), abs(finite[-1])) > _MAX_LEVEL:
        raise ValueError(
            f"phi must lie within {_MAX_LEVEL} of 0, got values up to "
            f"{max(abs(finite[0]), abs(finite[-1])):g}. A grid of 500 integers is fine "
            "enough."
        )


def normal_shape(n: int) -> tuple[FloatArray, FloatArray]:
    """Return the standard normal quantiles of the gaps, and their slopes.

    Parameters
    ----------
    n : int
        Number of calibration scores.

    Returns
    -------
    shape, slope : ndarray of shape (n + 1,)
        Quantiles at p = (v - 1/2) / (n + 1), and their derivatives with respect to p.
    """
    normal = NormalDist()
    shape = np.array([normal.inv_cdf(p) for p in _probabilities(n)])
    return shape, np.sqrt(2 * np.pi) * np.exp(shape**2 / 2)


# A bound by ranks goes wrong where the calibration quantiles are far from their means,
# that is in the tails. The standard error of the quantile at p is
# sqrt(p (1 - p) / n) / f, with 1 / f = dQ / dp the slope of the quantile function, and
# adding kappa of them to phi makes the tails more expensive.


def integer_grid(
    shape: FloatArray,
    grid: int,
    *,
    kappa: float = 0.0,
    slope: FloatArray | None = None,
    open_end: bool = False,
) -> FloatArray:
    r"""Return a quantile shape, penalized in the tails, on the integers 0, ..., grid.

    .. math:: \varphi(v) \propto Q(p_v) + \kappa \sqrt{p_v (1 - p_v) / n} \; Q'(p_v),
              \qquad p_v = (v - 1/2) / (n + 1),

    made non-decreasing by its running maximum.

    Parameters
    ----------
    shape : ndarray of shape (n + 1,)
        The Q at the gaps, finite, from data other than the calibration scores.
    grid : int
        The largest level of an allowed gap, at least 1.
    kappa : float, default=0.0
        The penalty.
    slope : ndarray of shape (n + 1,), default=None
        The derivative of Q; None takes differences of the shape.
    open_end : bool, default=False
        Whether the last gap is forbidden.

    Returns
    -------
    ndarray of shape (n + 1,)
        Integers, the last inf if the end is open; all 0 for a constant shape.
    """
    if kappa:
        p = _probabilities(shape.size - 1)
        step = np.gradient(shape, p) if slope is None else slope
        shape = shape + kappa * np.sqrt(p * (1 - p) / (shape.size - 1)) * step
    rising = np.maximum.accumulate(shape)
    span = rising[-2 if open_end else -1] - rising[0]
    share = (rising - rising[0]) / span if span > 0 else np.zeros(shape.size)
    levels: FloatArray = np.rint(grid * share)
    if open_end:
        levels[-1] = np.inf
    return levels


def _probabilities(n: int) -> FloatArray:
    return (np.arange(n + 1) + 0.5) / (n + 1)
