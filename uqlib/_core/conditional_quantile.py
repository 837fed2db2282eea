r"""Conditional calibration over a finite class of functions, by an exact walk.

The threshold at a new row x is the largest score S that its own quantile regression
does not exceed. With the rows z_i = Phi(x_i), i <= n, z = Phi(x), alpha = 1 - p and

    g_S = argmin_b sum_i l(s_i - z_i'b) + l(S - z'b),   l(r) = max(p r, -alpha r),

the program has the dual, over multipliers e_i in [-alpha, p],

    max sum_i e_i s_i + e S   with   sum_i e_i z_i + e z = 0.                      (1)

Let v(e) be the value of (1) over e_1, ..., e_n alone, e fixed and e S left out. It is
concave and piecewise linear, so e(S) = argmax v(e) + e S is non-decreasing in S, and
e(S) < p exactly for S < S* := -v'(p-), the slope on the left. By duality

    v(e) = min_b sum_i l(s_i - z_i'b) - e z'b,   -v'(e) = z'b,                     (2)

with b the minimizer of the tilted regression (2): S* is its fitted value at the tilt
just below e = p, and no search over S is needed. If (2) is unbounded below at e, no S
reaches that multiplier, and S* = +inf. The randomized threshold stops at a random e in
[-alpha, p] instead of at p; where (2) is unbounded at e < 0, it is -inf.
"""

from fractions import Fraction
from typing import Any

import numpy as np

from uqlib._core.checks import as_1d
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import rows_needed
from uqlib._core.tilted_walk import TiltedRegression
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


def conditional_conformal_quantile(
    scores: ArrayLike,
    features: ArrayLike,
    test_features: ArrayLike,
    confidence_level: float,
    *,
    u: ArrayLike | None = None,
) -> FloatArray:
    r"""Thresholds that cover on average under every function of a linear class.

    .. math:: t(x) = \sup \{ S : S \le \hat g_S(x) \},

    where :math:`\hat g_S` is the linear quantile regression at level p on the features
    :math:`\Phi` of the n scores and of the pair :math:`(\Phi(x), S)`; where it has
    several solutions, the smallest threshold counts.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Calibration scores, larger = stranger. Infinities are legal, NaN is not.
    features : array-like of shape (n, n_functions)
        The functions at the calibration rows, finite. None is added: include a column
        of ones.
    test_features : array-like of shape (n_test, n_functions)
        The functions at the new rows.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.
    u : array-like of shape (n_test,), default=None
        Independent uniform numbers in [0, 1] for the randomized form; None stands for
        ones, the deterministic form.

    Returns
    -------
    ndarray of shape (n_test,)
        The thresholds; +inf where no finite one covers, -inf (randomized form only)
        where no score is covered.

    Raises
    ------
    ValueError
        If shapes differ, a feature is not finite, a score is NaN, u is not in [0, 1],
        or the level is not in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        Once, if the rows are too few, or too unlike a new row, for a finite threshold.

    See Also
    --------
    conformal_quantile : A column of ones as the only feature.
    group_quantiles : Indicators of disjoint groups as the features.

    Notes
    -----
    If calibration rows and the new row are exchangeable, the new score s satisfies
    :math:`E[f(x) (1\{s \le t(x)\} - p)] \ge 0` for every function f of the class that
    is non-negative; with random u, and where scores do not tie, equality holds for
    every f of the class [1]_.

    References
    ----------
    .. [1] I. Gibbs, J. J. Cherian, E. J. Candes, "Conformal Prediction With
       Conditional Guarantees", arXiv:2305.12616.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.conformal import conditional_conformal_quantile
    >>> group = np.array([0, 1] * 9)
    >>> scores, indicators = np.arange(18.0), np.eye(2)[group]
    >>> conditional_conformal_quantile(scores, indicators, np.eye(2), 0.8)
    array([14., 15.])
    """
    values = as_1d(scores, "scores")
    phi = _check_features(features, "features", values.size)
    test = _check_features(test_features, "test_features", n_columns=phi.shape[1])
    level = check_confidence_level(confidence_level)
    thresholds = conditional_thresholds(values, phi, test, level, _check_u(u, test))
    warn_if_unbounded(thresholds, values, level)
    return thresholds


def conditional_thresholds(
    scores: FloatArray,
    features: FloatArray,
    test_features: FloatArray,
    level: Fraction,
    u: FloatArray | None = None,
) -> FloatArray:
    """Return the thresholds of checked arrays at an exact level, without a warning.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN.
    features : ndarray of shape (n, n_functions)
        Finite.
    test_features : ndarray of shape (n_test, n_functions)
        Finite.
    level : Fraction
        The exact level.
    u : ndarray of shape (n_test,), default=None
        In [0, 1]; None stands for ones.

    Returns
    -------
    ndarray of shape (n_test,)
        The thresholds.
    """
    if len(test_features) == 0:
        return np.empty(0)
    # Rows with the same features share one walk, which stops at the tilt of each.
    distinct, inverse = np.unique(test_features, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    tilts = np.full(inverse.size, float(level))
    if u is not None:
        tilts = u - float(1 - level)
    regression = TiltedRegression(scores, features, level)
    thresholds = np.empty(inverse.size)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(distinct)))
    for row, numbers in zip(distinct, np.split(order, ends[:-1]), strict=True):
        stops, back = np.unique(tilts[numbers], return_inverse=True)
        thresholds[numbers] = regression.thresholds(row, stops)[back]
    return thresholds


def warn_if_unbounded(
    thresholds: FloatArray, scores: FloatArray, level: Fraction
) -> None:
    """Warn once if thresholds are infinite that no infinite score explains.

    Parameters
    ----------
    thresholds : ndarray of shape (n_test,)
        As `conditional_thresholds` gives them.
    scores : ndarray of shape (n,)
        The calibration scores.
    level : Fraction
        The exact level.
    """
    infinite = int(np.isposinf(thresholds).sum())
    if infinite == 0 or np.isposinf(scores).any():
        return
    warn_user(
        f"For {infinite} of {thresholds.size} rows the {scores.size} calibration rows "
        f"are too few, or too unlike them in the features, for a finite bound at level "
        f"{float(level):g}: with a constant among the functions at least "
        f"{rows_needed(level)} are needed, with others more. The bound is infinite; "
        "pass more calibration rows like them, calibrate over fewer functions or ask "
        "for a lower level.",
        InfiniteIntervalWarning,
    )


def _check_features(
    features: Any, name: str, n_rows: int | None = None, n_columns: int | None = None
) -> FloatArray:
    array = np.asarray(features, dtype=np.float64)
    wrong_rows = n_rows is not None and array.shape[:1] != (n_rows,)
    wrong_columns = n_columns is not None and array.shape[1:] != (n_columns,)
    if array.ndim != 2 or array.shape[1] == 0 or wrong_rows or wrong_columns:
        rows = "n_test" if n_rows is None else n_rows
        columns = "n_functions" if n_columns is None else n_columns
        raise ValueError(
            f"{name} must have shape ({rows}, {columns}) with at least one column, got "
            f"shape {array.shape}. Pass one row a sample and one column a function."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} contains NaN or infinity: a function of the class must be finite "
            "at every row. Impute or clip it."
        )
    return array


def _check_u(u: Any, test: FloatArray) -> FloatArray | None:
    if u is None:
        return None
    values = np.asarray(u, dtype=np.float64)
    if values.shape != (len(test),) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"u must hold one number in [0, 1] for each of the {len(test)} rows of "
            f"test_features, got shape {values.shape}. Draw it with "
            "rng.uniform(size=n_test)."
        )
    return values
