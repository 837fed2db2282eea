r"""Regions for several outputs at once: boxes by ranks, ellipsoids by leverages.

Both contain a full conformal set, whose score depends on all n + 1 rows symmetrically.
So the same calibration rows give the scale of every output, or the whole covariance,
and calibrate, and the finite-sample theorem holds without a further split. The box is
the smallest one around its set.

The full conformal set, with scores S_1, ..., S_{n+1} that the new row takes part in, is

    E = {S_{n+1} <= the k-th smallest of S_1, ..., S_{n+1}}
      = {fewer than k of the n calibration rows have S_i < S_{n+1}},   P(E) >= p,

for exchangeable rows and k = ceil((n + 1) p).
"""

from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import (
    order_statistic,
    rank_from_fraction,
    rows_needed,
    warn_infinite,
)
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


def max_rank_thresholds(scores: ArrayLike, confidence_level: float) -> FloatArray:
    r"""Thresholds, one an output, that hold for all outputs together.

    With the ranks :math:`r_{ij} = \#\{h : s_{hj} \le s_{ij}\}` and
    :math:`r^-_{ij} = 1 + \#\{h : s_{hj} < s_{ij}\}` of the scores of output j among
    the n calibration rows, equal where nothing ties,

    .. math:: t_j = s_{(\rho_j), j}, \qquad
              \rho_j = \text{the } k \text{-th smallest over } i \text{ of }
              \max\Bigl(r_{ij}, \; 1 + \max_{l \ne j} r^-_{il}\Bigr), \quad
              k = \lceil (n + 1) p \rceil,

    where rank n + 1 stands for :math:`+\infty`. For one output this is the conformal
    quantile.

    Parameters
    ----------
    scores : array-like of shape (n, n_outputs)
        Calibration scores, larger = stranger. Infinities are legal, NaN is not.
    confidence_level : float
        Probability asked for that no output exceeds its threshold, strictly between 0
        and 1.

    Returns
    -------
    ndarray of shape (n_outputs,)
        The thresholds, each one of the scores of its output, or infinite.

    Raises
    ------
    ValueError
        If the scores are not 2-D with at least one column or contain NaN, or the level
        is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        If there are too few rows, with a number that suffices.

    See Also
    --------
    conformal_quantile : The threshold of one output.
    conformal_ellipsoid : A region that follows the correlation of the outputs.

    Notes
    -----
    If the n rows and the next one are exchangeable, all scores of the next one are at
    most their thresholds with probability at least p, whatever their dependence. Only
    ranks within an output matter, so that units and monotone transformations of the
    scores do not. Dependence is used: where all outputs have the same ranks, the
    thresholds are nearly their conformal quantiles at level p, and for independent
    outputs nearly those at level :math:`p^{1/m}`.

    The maximum of the ranks is the score of Timans et al. [1]_. Taking the threshold
    rank among the calibration rows alone, without the 1 above, has no finite-sample
    theorem: with one calibration row (1, 2) and the new row (2, 1) it would never
    cover.

    References
    ----------
    .. [1] A. Timans, C.-N. Straehle, K. Sakmann, C. A. Naesseth, E. Nalisnick,
       "Max-Rank: Efficient Multiple Testing for Conformal Prediction",
       arXiv:2311.10900.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import max_rank_thresholds
    >>> scores = np.column_stack([np.arange(1.0, 20.0), np.arange(1.0, 20.0) ** 2])
    >>> max_rank_thresholds(scores, 0.8)
    array([ 17., 289.])
    """
    matrix = as_score_matrix(scores, "scores")
    level = check_confidence_level(confidence_level)
    thresholds = box_thresholds(matrix, level)
    finite = ~np.isposinf(matrix).any(axis=0)
    if np.isposinf(thresholds[finite]).any():
        warn_infinite_box(matrix.shape[0], matrix.shape[1], level)
    return thresholds


# Derivation. Among all n + 1 rows let R_ij = 1 + #{h : s_hj < s_ij} and take the
# symmetric score S_i = max_j R_ij. Raising a coordinate of the new row s never lowers
# S_{n+1} and never raises another S_i, so E contains with s every smaller score vector,
# and the smallest box around E is found one coordinate at a time, with the others at
# -inf. Let the new row be (-inf, ..., t, ..., -inf), t at j, and c = #{h : s_hj < t}.
# Then S_{n+1} = 1 + c, and for a calibration row, with its ranks among the n,
#
#     S_i = max(r-_ij + 1{t < s_ij}, 1 + max_{l != j} r-_il) <= c
#         if and only if  s_ij < t  and  1 + max_{l != j} r-_il <= c .
#
# For t between two neighboring scores of output j that is q_i <= c with
# q_i = max(r_ij, 1 + max_{l != j} r-_il). E requires #{i : q_i <= c} < k, that is,
# c < rho_j = the k-th smallest q_i, and this holds up to t = s_(rho_j),j. Closing the
# box there can only add to it. That ties take the lowest rank keeps an output without
# any error, whose scores are all 0, from widening the others.
def box_thresholds(scores: FloatArray, level: Fraction) -> FloatArray:
    """Return the thresholds of `max_rank_thresholds`, without a warning.

    Parameters
    ----------
    scores : ndarray of shape (n, n_outputs)
        Without NaN.
    level : Fraction
        The exact level.

    Returns
    -------
    ndarray of shape (n_outputs,)
        The thresholds, possibly infinite.
    """
    n, n_outputs = scores.shape
    k = rank_from_fraction(n, level)
    if k > n:
        return np.full(n_outputs, np.inf)
    elsewhere = 1 + _largest_of_the_others(1 + _counts(scores, "left"))
    needed = np.maximum(_counts(scores, "right"), elsewhere)
    needed = np.partition(needed, k - 1, axis=0)[k - 1]
    columns = zip(scores.T, needed, strict=True)
    return np.array([order_statistic(column, int(rank)) for column, rank in columns])


def conformal_ellipsoid(
    residuals: ArrayLike, confidence_level: float
) -> tuple[FloatArray, float]:
    r"""Ellipsoid that covers the next residual vector with the given level.

    With the second moments :math:`\Sigma = \frac{1}{n} \sum_i e_i e_i^\top` of n
    residual vectors and the leverages
    :math:`h_i = \frac{1}{n} e_i^\top \Sigma^{-1} e_i \in [0, 1]`,

    .. math:: C = \Bigl\{e : e^\top \Sigma^{-1} e \le
              n \, \frac{h_{(k)}}{1 - h_{(k)}} \Bigr\}, \qquad
              k = \lceil (n + 1) p \rceil .

    For one output it is :math:`|e| \le |e|_{(k)}`.

    Parameters
    ----------
    residuals : array-like of shape (n, n_outputs)
        Calibration residuals, finite.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.

    Returns
    -------
    whitening : ndarray of shape (n_outputs, n_outputs)
        The matrix A, with :math:`A^\top A = \Sigma^{-1}`. It is the identity for one
        output and where the radius is infinite.
    radius : float
        A residual vector e lies in C if and only if :math:`\|A e\|_2` is at most the
        radius.

    Raises
    ------
    ValueError
        If the residuals are not 2-D with at least one column or not finite, or the
        level is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        If there are too few rows, or their residuals do not span all outputs: the
        radius is then infinite.

    See Also
    --------
    max_rank_thresholds : A box instead, whose sides are intervals for the outputs.

    Notes
    -----
    If the n residual vectors and the next one are exchangeable, the next one lies in C
    with probability at least p. The matrix is learned from the calibration rows
    themselves; the factor :math:`1 / (1 - h_{(k)})` pays for it and tends to 1 as n
    grows. Linear transformations of the outputs do not matter. A Mahalanobis score
    with a matrix from all rows is in [1]_.

    References
    ----------
    .. [1] C. Johnstone, B. Cox, "Conformal Uncertainty Sets for Robust Optimization",
       arXiv:2105.14957.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import conformal_ellipsoid
    >>> corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> whitening, radius = conformal_ellipsoid(corners, 0.8)
    >>> round(radius, 6)  # n h / (1 - h) = 4 with n = 4 and h = 1/2
    2.0
    """
    matrix = as_score_matrix(residuals, "residuals")
    if not np.isfinite(matrix).all():
        raise ValueError(
            "residuals contains infinity: it has no second moments. Remove those rows."
        )
    level = check_confidence_level(confidence_level)
    whitening, radius = ellipsoid(matrix, level)
    if np.isposinf(radius):
        warn_infinite_ellipsoid(matrix.shape[0], matrix.shape[1], level)
    return whitening, radius


# Derivation. Let B = sum_{i <= n} e_i e_i', e the residual of the new row and
# d = e' B^-1 e. The symmetric scores are S_i = e_i' (B + e e')^-1 e_i. By Sherman and
# Morrison
#
#     S_{n+1} = d / (1 + d),   S_i = h_i - (e_i' B^-1 e)^2 / (1 + d) <= h_i .
#
# If e is in E, fewer than k of the S_i lie below S_{n+1}, hence fewer than k of the h_i
# do, hence d / (1 + d) <= h_(k), which is d <= h_(k) / (1 - h_(k)). With one output the
# cross term is h_i d, so S_i = h_i / (1 + d), and E is d <= h_(k): no factor to pay.
def ellipsoid(residuals: FloatArray, level: Fraction) -> tuple[FloatArray, float]:
    """Return the matrix and the radius of `conformal_ellipsoid`, without a warning.

    Parameters
    ----------
    residuals : ndarray of shape (n, n_outputs)
        Finite.
    level : Fraction
        The exact level.

    Returns
    -------
    whitening : ndarray of shape (n_outputs, n_outputs)
        The matrix.
    radius : float
        The radius, possibly infinite.
    """
    n, n_outputs = residuals.shape
    k = rank_from_fraction(n, level)
    if n_outputs == 1:
        return np.eye(1), order_statistic(np.abs(residuals[:, 0]), k)
    inverse_root = _inverse_root(residuals) if k <= n else None
    if inverse_root is None:
        return np.eye(n_outputs), np.inf
    whitening, leverages = inverse_root
    leverage = order_statistic(leverages, k)
    if leverage > 1 - _FULL_LEVERAGE:
        return np.eye(n_outputs), np.inf
    return whitening * np.sqrt(n), float(np.sqrt(n * leverage / (1 - leverage)))


# A row with a leverage so near 1 spans a direction alone; its radius would be made of
# rounding errors, and the whole space is a valid answer.
_FULL_LEVERAGE = 1e-10


def _inverse_root(residuals: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    """Return A with A'A = B^-1 and the leverages; None if B is singular."""
    n, n_outputs = residuals.shape
    size = np.abs(residuals).max(axis=0, initial=0.0)
    if n < n_outputs or not size.all():
        return None
    left, singular, right = np.linalg.svd(residuals / size, full_matrices=False)
    if singular[-1] <= n * np.finfo(np.float64).eps * singular[0]:
        return None
    leverages = np.einsum("ij,ij->i", left, left)
    return right / singular[:, None] / size, leverages


# At most m - 1 rows have the rank r- = n in an output other than j, so if k rows are
# left beside them, rho_j <= n: n - (m - 1) >= (n + 1) p suffices, which is
# n >= q / (1 - q) at the level q = 1 - (1 - p) / m of one output of m.
def rows_that_suffice(n_outputs: int, level: Fraction) -> float:
    """Return a number of calibration rows that gives every box finite sides.

    Parameters
    ----------
    n_outputs : int
        The number of outputs.
    level : Fraction
        The exact level.

    Returns
    -------
    int
        The number of rows; for one output also the smallest.
    """
    return rows_needed(1 - (1 - level) / n_outputs)


def warn_infinite_box(n: int, n_outputs: int, level: Fraction) -> None:
    """Warn that a side of the box is infinite.

    Parameters
    ----------
    n : int
        Number of calibration rows.
    n_outputs : int
        Number of outputs.
    level : Fraction
        The exact level.
    """
    warn_user(
        f"{n} calibration rows are too few for finite bounds on all {n_outputs} "
        f"outputs together at level {float(level):g}: "
        f"{rows_that_suffice(n_outputs, level)} suffice. Some bounds are infinite; "
        "pass more calibration rows or ask for a lower level.",
        InfiniteIntervalWarning,
    )


def warn_infinite_ellipsoid(n: int, n_outputs: int, level: Fraction) -> None:
    """Warn that the ellipsoid is the whole space.

    Parameters
    ----------
    n : int
        Number of calibration rows.
    n_outputs : int
        Number of outputs.
    level : Fraction
        The exact level.
    """
    if rank_from_fraction(n, level) > n:
        warn_infinite(n, level)
        return
    warn_user(
        f"The residuals of the {n} calibration rows do not span {n_outputs} outputs "
        f"well enough for a finite ellipsoid at level {float(level):g}. It is the "
        "whole space; pass more calibration rows, leave out outputs that follow from "
        'the others or are predicted without error, or use region="box".',
        InfiniteIntervalWarning,
    )


def as_score_matrix(values: Any, name: str) -> FloatArray:
    """Return a float64 matrix with at least one column and without NaN.

    Parameters
    ----------
    values : array-like of shape (n, n_outputs)
        The values.
    name : str
        How the error calls them.

    Returns
    -------
    ndarray of shape (n, n_outputs)
        The matrix.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(
            f"{name} must have shape (n, n_outputs) with at least one column, got "
            f"shape {matrix.shape}. Reshape one output with {name}.reshape(-1, 1)."
        )
    if np.isnan(matrix).any():
        raise ValueError(f"{name} contains NaN. Remove those rows.")
    return matrix


def _counts(scores: FloatArray, side: Literal["left", "right"]) -> NDArray[np.intp]:
    """Return how many scores of an output are smaller (left) or not larger (right)."""
    columns = [np.searchsorted(np.sort(column), column, side) for column in scores.T]
    return np.column_stack(columns)


def _largest_of_the_others(ranks: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each entry the largest other one of its row; 0 if it is alone."""
    if ranks.shape[1] == 1:
        return np.zeros_like(ranks)
    rows = np.arange(ranks.shape[0])
    first = ranks.argmax(axis=1)
    second = np.partition(ranks, -2, axis=1)[:, -2]
    others = np.repeat(ranks[rows, first][:, None], ranks.shape[1], axis=1)
    others[rows, first] = second
    return others
