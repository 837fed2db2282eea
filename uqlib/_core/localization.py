r"""Localized conformal quantiles: calibration rows near a new row count more.

With a kernel K that depends on the distance in some features, scaled by a bandwidth h,

    t(x) = min{ t : sum_{i : s_i <= t} K(x_i, c) >= p (sum_i K(x_i, c) + K(x, c)) }. (1)

The plain form takes c = x. It has no guarantee: its weights are not symmetric in the
calibration rows and the new one. The randomized form draws c from the density that is
proportional to K(x, .). Given c and the bag of all n + 1 rows, the new row is then row
j with a probability proportional to K(x_j, c), which is what (1) weighs by: its score
is at most t(x) with probability at least p, as under a covariate shift with density
ratio K(., c). The normalizing constant of the density must not depend on x, so K is a
function of x - c.

Only the ratios of the weights matter. They are taken relative to the largest of them,
in logarithms, so that no bandwidth makes all of them vanish: if the rows are far, the
new row alone has weight, and t(x) = +inf.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.distance_kernels import (
    check_bandwidth,
    distances_between,
    draw_offsets,
    resolve_kernel,
)
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import rows_needed
from uqlib._core.weighted_ranks import weighted_thresholds
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user

_BLOCK = 2**20  # elements of a block of distances


def localized_conformal_quantile(
    scores: ArrayLike,
    features: ArrayLike,
    test_features: ArrayLike,
    confidence_level: float,
    *,
    bandwidth: float,
    kernel: str | Callable[[FloatArray], Any] = "gaussian",
    rng: np.random.Generator | None = None,
) -> FloatArray:
    r"""Weighted conformal quantile with weights that fall with the distance.

    .. math:: t(x) = \min\Big\{ t : \sum_{i : s_i \le t} w_i \ge
              p \Big( \sum_{i = 1}^n w_i + w \Big) \Big\}, \qquad
              w_i = K(\|x_i - c\| / h), \quad w = K(\|x - c\| / h),

    with the center :math:`c = x`, or c drawn at random around x if `rng` is given.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Calibration scores, larger = stranger. Infinities are legal, NaN is not.
    features : array-like of shape (n, n_features)
        Where the calibration rows lie, finite, in one unit for all columns.
    test_features : array-like of shape (n_test, n_features)
        Where the new rows lie.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.
    bandwidth : float
        The h, positive; +inf weighs all rows alike.
    kernel : {"gaussian", "box"} or callable, default="gaussian"
        K of the distance in bandwidths. A callable takes distances to weights of the
        same shape.
    rng : numpy.random.Generator, default=None
        Draws the centers; None takes the new rows themselves.

    Returns
    -------
    ndarray of shape (n_test,)
        The thresholds; +inf where too little weight lies near a new row.

    Raises
    ------
    ValueError
        If shapes differ, a feature is not finite, a score is NaN, the bandwidth is not
        positive, the kernel is unknown or gives bad weights, the kernel is a callable
        and `rng` is given, or the level is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        Once, if a threshold is infinite because the rows near it weigh too little.

    See Also
    --------
    weighted_conformal_quantile : With given weights.

    Notes
    -----
    With centers drawn at random and exchangeable rows, the score of the new row is at
    most its threshold with probability at least p [1]_. With ``c = x`` there is no
    such statement.

    References
    ----------
    .. [1] R. Hore, R. F. Barber, "Conformal Prediction with Local Weights:
       Randomization Enables Robust Guarantees", arXiv:2310.07850.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import localized_conformal_quantile
    >>> where = np.repeat([[0.0], [9.0]], 10, axis=0)
    >>> scores = np.arange(20.0)
    >>> localized_conformal_quantile(
    ...     scores, where, [[0.0], [9.0]], 0.9, bandwidth=1.0
    ... )
    array([ 9., 19.])
    """
    values = as_1d(scores, "scores")
    z = _check_locations(features, "features", values.size)
    new = _check_locations(test_features, "test_features", n_columns=z.shape[1])
    level = check_confidence_level(confidence_level)
    profile, h = resolve_kernel(kernel), check_bandwidth(bandwidth)
    offsets = None if rng is None else draw_offsets(profile, len(new), z.shape[1], rng)
    thresholds = localized_thresholds(values, z, new, level, profile, h, offsets)
    warn_if_remote(thresholds, values, level)
    return thresholds


def localized_thresholds(
    scores: FloatArray,
    features: FloatArray,
    test_features: FloatArray,
    level: Fraction,
    kernel: Any,
    bandwidth: float,
    offsets: FloatArray | None = None,
) -> FloatArray:
    """Return the thresholds of checked arrays at an exact level, without a warning.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN.
    features : ndarray of shape (n, n_features)
        Finite.
    test_features : ndarray of shape (n_test, n_features)
        Finite.
    level : Fraction
        The exact level.
    kernel : object
        As `resolve_kernel` returns it.
    bandwidth : float
        Positive.
    offsets : ndarray of shape (n_test, n_features), default=None
        Centers minus new rows, in bandwidths; None stands for zeros.

    Returns
    -------
    ndarray of shape (n_test,)
        The thresholds. Memory does not grow with n times n_test.
    """
    order = np.argsort(scores, kind="stable")
    with np.errstate(over="ignore"):
        ordered, features = scores[order], features[order] / bandwidth
        centers = test_features / bandwidth
    moved = np.zeros_like(centers) if offsets is None else offsets
    centers = centers + moved
    # By the same steps as all distances, so that equal ones give equal weights.
    own = distances_between(moved, np.zeros((1, moved.shape[1])))[:, 0]
    log_own = kernel.log_weight(own)
    thresholds = np.empty(own.size)
    n_rows = max(1, _BLOCK // max(1, scores.size))
    for first in range(0, own.size, n_rows):
        rows = slice(first, first + n_rows)
        log_weights = kernel.log_weight(distances_between(centers[rows], features))
        thresholds[rows] = _thresholds_of_rows(
            ordered, log_weights, log_own[rows], level
        )
    return thresholds


def warn_if_remote(thresholds: FloatArray, scores: FloatArray, level: Fraction) -> None:
    """Warn once if thresholds are infinite that no infinite score explains.

    Parameters
    ----------
    thresholds : ndarray of shape (n_test,)
        As `localized_thresholds` gives them.
    scores : ndarray of shape (n,)
        The calibration scores.
    level : Fraction
        The exact level.
    """
    infinite = int(np.isposinf(thresholds).sum())
    if infinite == 0 or np.isposinf(scores).any():
        return
    warn_user(
        f"For {infinite} of {thresholds.size} rows too little weight of the "
        f"{scores.size} calibration rows lies near them for a finite bound at level "
        f"{float(level):g}: at least {rows_needed(level)} of the weight of a new row "
        "are needed. The bound is infinite; pass more calibration rows, widen the "
        "bandwidth or ask for a lower level.",
        InfiniteIntervalWarning,
    )


def _thresholds_of_rows(
    ordered: FloatArray, log_weights: FloatArray, log_own: FloatArray, level: Fraction
) -> FloatArray:
    """Return the thresholds of rows that each have weights of their own."""
    n = ordered.size
    largest = np.maximum(log_weights.max(axis=1, initial=-np.inf), log_own)
    largest[np.isneginf(largest)] = 0.0  # nothing weighs anything
    weights = np.exp(log_weights - largest[:, None])
    own = np.exp(log_own - largest)
    cumulative = np.cumsum(weights, axis=1)
    total = own + (cumulative[:, -1] if n else 0.0)
    # n sums and a few products of numbers >= 0, each rounded once, decide (1) where its
    # sides are further apart than that.
    needed, slack = float(level) * total, (n + 8) * np.finfo(np.float64).eps * total
    position = (cumulative < (needed - slack)[:, None]).sum(axis=1)
    certain = (cumulative < (needed + slack)[:, None]).sum(axis=1)
    result = np.append(ordered, np.inf)[np.where(total > 0, position, n)]
    for i in np.flatnonzero((position < certain) & (total > 0)):
        if (weights[i] == np.rint(weights[i])).all() and own[i] == np.rint(own[i]):
            enough = math.ceil(level * int(total[i]))
            at = int(np.searchsorted(cumulative[i], enough))
            result[i] = ordered[at] if at < n else np.inf
        else:
            result[i] = weighted_thresholds(ordered, weights[i], own[i : i + 1], level)[
                0
            ]
    return result


def _check_locations(
    features: Any, name: str, n_rows: int | None = None, n_columns: int | None = None
) -> FloatArray:
    array = np.asarray(features, dtype=np.float64)
    wrong_rows = n_rows is not None and array.shape[:1] != (n_rows,)
    wrong_columns = n_columns is not None and array.shape[1:] != (n_columns,)
    if array.ndim != 2 or array.shape[1] == 0 or wrong_rows or wrong_columns:
        rows = "n_test" if n_rows is None else n_rows
        columns = "n_features" if n_columns is None else n_columns
        raise ValueError(
            f"{name} must have shape ({rows}, {columns}) with at least one column, got "
            f"shape {array.shape}. Pass one row a sample."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} contains NaN or infinity: distances need finite features. Impute "
            "or leave out what is missing."
        )
    return array
