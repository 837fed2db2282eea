r"""Aggregation of quantile models with weights that do not depend on the row.

Symbols: n rows, p models, m levels; Z[i, j, k] is model j's quantile of level tau_k
at row i.

    coarse:  Q[i, k] = sum_j w[j] Z[i, j, k],             one weight vector,
    medium:  Q[i, k] = sum_j w[j, k] Z[i, j, k],          one for each level,
    fine:    Q[i, k] = sum_jl w[j, l, k] Z[i, j, l],      one for each level.

With a bandwidth b the fine weights use only the 2 b + 1 levels l nearest to k. All are
linear programs. Without a crossing penalty the levels of medium and fine separate.
"""

from typing import Any

import numpy as np

from uqlib._core.simplex_program import fit_simplex_weights
from uqlib._core.weight_program import fit_coupled_weights
from uqlib._typing import FloatArray
from uqlib.exceptions import UncertaintyWarning, warn_user

RESOLUTIONS = ("average", "median", "coarse", "medium", "fine")
_CHUNK = 2**20  # numbers of a temporary array
_CROSSING = 1e-8  # a violated constraint that the user should know of, per unit


def fit_weights(
    base_quantiles: FloatArray,
    y: FloatArray,
    quantiles: FloatArray,
    resolution: str,
    sample_weight: FloatArray | None = None,
    *,
    constraint: str = "simplex",
    bandwidth: int | None = None,
    crossing_penalty: float = 0.0,
    margins: tuple[FloatArray, float] | None = None,
    all_pairs: bool = False,
) -> FloatArray | None:
    """Return the weights of the models, optimal for the resolution.

    Parameters
    ----------
    base_quantiles : ndarray of shape (n_samples, n_models, n_quantiles)
        Out-of-fold quantiles of the models, finite.
    y : ndarray of shape (n_samples,)
        The target.
    quantiles : ndarray of shape (n_quantiles,)
        The levels.
    resolution : {"average", "median", "coarse", "medium", "fine"}
        Which weights are free.
    sample_weight : ndarray of shape (n_samples,), default=None
        Non-negative weights of the rows.
    constraint : {"simplex", "sum_to_one", "free"}, default="simplex"
        Convex weights, weights of sum one and any sign, or any weights.
    bandwidth : int, default=None
        For "fine": how many levels to each side a level is built of; None takes all.
    crossing_penalty : float, default=0.0
        Factor of the mean amount by which levels cross; infinity forbids it.
    margins : tuple of (ndarray of shape (n_quantiles,), float), default=None
        Offsets and constant of the margins; None stands for zeros.
    all_pairs : bool, default=False
        Penalize all pairs of levels rather than neighbors.

    Returns
    -------
    ndarray or None
        Uniform (n_models,) for "average", (n_models,) for "coarse", (n_models,
        n_quantiles) for "medium", (n_models, n_quantiles, n_quantiles) for "fine", the
        last axis the level of the output; None for "median", which has no weights.

    Warns
    -----
    UncertaintyWarning
        If `crossing_penalty` is infinite and the training rows cross all the same.
    """
    n_samples, n_models, n_quantiles = base_quantiles.shape
    if resolution == "median":
        return None
    if resolution == "average":
        return np.full(n_models, 1.0 / n_models)
    row_weight = np.ones(n_samples) if sample_weight is None else sample_weight
    sources = source_levels(n_quantiles, bandwidth if resolution == "fine" else 0)
    columns = [
        base_quantiles[:, :, levels].reshape(n_samples, -1) for levels in sources.T
    ]
    shared = resolution == "coarse"
    if crossing_penalty > 0 and n_quantiles > 1:
        solved = _coupled(
            columns, y, quantiles, row_weight, constraint, shared,
            crossing_penalty, margins, all_pairs,
        )  # fmt: skip
    elif shared:
        solved = [_coarse(columns, y, quantiles, row_weight, constraint)]
    else:
        solved = [
            _one_level(c, y, tau, row_weight, constraint)
            for c, tau in zip(columns, quantiles, strict=True)
        ]
    if shared:
        return solved[0]
    if resolution == "medium":
        return np.column_stack(solved)
    weights = np.zeros((n_models, n_quantiles, n_quantiles))
    for k, (levels, w) in enumerate(zip(sources.T, solved, strict=True)):
        weights[:, levels, k] = w.reshape(n_models, -1)
    return weights


def source_levels(n_quantiles: int, bandwidth: int | None) -> Any:
    """Return the levels that each level of the output is built of.

    Parameters
    ----------
    n_quantiles : int
        Number of levels.
    bandwidth : int or None
        Number of levels to each side; None takes all.

    Returns
    -------
    ndarray of int of shape (n_sources, n_quantiles)
        One column a level of the output: 2 * bandwidth + 1 levels around it; at the
        ends, as many nearest to it.
    """
    width = n_quantiles if bandwidth is None else min(2 * bandwidth + 1, n_quantiles)
    first = np.clip(np.arange(n_quantiles) - width // 2, 0, n_quantiles - width)
    return first + np.arange(width)[:, None]


def aggregate(base_quantiles: FloatArray, weights: FloatArray | None) -> FloatArray:
    """Return the aggregated quantile matrix.

    Parameters
    ----------
    base_quantiles : ndarray of shape (n_samples, n_models, n_quantiles)
        Quantiles of the models.
    weights : ndarray or None
        As `fit_weights` returns them; None takes the median over the models.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        The weighted sums. A number of weight 0 has no say, even if it is infinite;
        NaN where numbers that have a say are infinite on both sides.
    """
    if weights is None:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.median(base_quantiles, axis=1))
    if weights.ndim == 3:
        return _aggregate_fine(base_quantiles, weights)
    result = np.zeros(base_quantiles[:, 0].shape)
    for j, weight in enumerate(weights):
        with np.errstate(invalid="ignore"):
            part = base_quantiles[:, j] * weight
            result += np.where(weight != 0, part, 0.0)
    return result


def _aggregate_fine(base_quantiles: FloatArray, weights: FloatArray) -> FloatArray:
    n_samples, n_models, n_quantiles = base_quantiles.shape
    matrix = weights.reshape(n_models * n_quantiles, -1)
    result = np.empty((n_samples, matrix.shape[1]))
    n_rows = max(1, _CHUNK // matrix.shape[0])
    for start in range(0, n_samples, n_rows):
        rows = slice(start, start + n_rows)
        part = base_quantiles[rows].reshape(-1, matrix.shape[0])
        infinite = ~np.isfinite(part)
        result[rows] = np.where(infinite, 0.0, part) @ matrix
        if infinite.any():
            # Signs of the infinite terms: a weight 0 has none.
            up = (infinite & (part > 0)).astype(float)
            down = (infinite & (part < 0)).astype(float)
            plus, minus = matrix > 0, matrix < 0
            above = (up @ plus + down @ minus) > 0
            below = (up @ minus + down @ plus) > 0
            result[rows][above] = np.inf
            result[rows][below] = -np.inf
            result[rows][above & below] = np.nan
    return result


def _one_level(
    columns: FloatArray,
    y: FloatArray,
    tau: float,
    row_weight: FloatArray,
    constraint: str,
) -> FloatArray:
    if constraint == "simplex":
        return fit_simplex_weights(columns, y, tau, row_weight).weights
    fit = fit_coupled_weights(
        [columns], y, np.array([tau]), row_weight,
        penalty=0.0, pairs=[], margins=np.zeros(0), constraint=constraint,
    )  # fmt: skip
    return fit.weights[0]


def _coarse(
    columns: list[FloatArray],
    y: FloatArray,
    quantiles: FloatArray,
    row_weight: FloatArray,
    constraint: str,
) -> FloatArray:
    if constraint == "simplex":
        n_quantiles = quantiles.size
        return fit_simplex_weights(
            np.vstack(columns),
            np.tile(y, n_quantiles),
            np.repeat(quantiles, y.size),
            np.tile(row_weight, n_quantiles),
        ).weights
    fit = fit_coupled_weights(
        columns, y, quantiles, row_weight, penalty=0.0, pairs=[], margins=np.zeros(0),
        constraint=constraint, shared=True,
    )  # fmt: skip
    return fit.weights[0]


def _coupled(
    columns: list[FloatArray],
    y: FloatArray,
    quantiles: FloatArray,
    row_weight: FloatArray,
    constraint: str,
    shared: bool,
    penalty: float,
    margins: tuple[FloatArray, float] | None,
    all_pairs: bool,
) -> list[FloatArray]:
    m = quantiles.size
    lags = range(1, m) if all_pairs else (1,)
    pairs = [(a, a + lag) for lag in lags for a in range(m - lag)]
    offsets, constant = (np.zeros(m), 0.0) if margins is None else margins
    fit = fit_coupled_weights(
        columns, y, quantiles, row_weight,
        penalty=penalty, pairs=pairs,
        margins=np.array([constant + offsets[b] - offsets[a] for a, b in pairs]),
        constraint=constraint, shared=shared,
    )  # fmt: skip
    if np.isinf(penalty) and fit.crossing > _CROSSING * max(float(np.ptp(y)), fit.loss):
        warn_user(
            "crossing_penalty=inf: no weights keep the margins on all training rows; "
            f"they are missed by up to {fit.crossing:.3g}. Repair the models' own "
            "crossing first (sort_quantiles), or take a smaller margin.",
            UncertaintyWarning,
        )
    return fit.weights
