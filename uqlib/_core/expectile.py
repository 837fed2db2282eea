r"""Expectiles: asymmetric least squares, and the quantile level of an expectile.

The expectile e of level tau minimizes E |tau - 1{Y < e}| (Y - e)^2. Setting the
derivative to zero,

    tau E(Y - e)_+ = (1 - tau) E(e - Y)_+,

so that the level of which a given number e is the expectile is

    A(e) = E(e - Y)_+ / E|Y - e|,

which increases from 0 at the smallest to 1 at the largest value. A quantile level is
F(e). The two levels of one number depend on the whole law, not on each other: the
map from one to the other is that of a sample.
"""

from typing import Any, NamedTuple

import numpy as np

from uqlib._core.checks import check_sample_weight, check_target
from uqlib._core.levels import check_quantiles
from uqlib._typing import ArrayLike, BoolArray, FloatArray

# Two levels of a sample that are closer than this differ by rounding.
_LEVEL_ROUNDING = 1e-12
_EPS = float(np.finfo(np.float64).eps)


def expectile_quantile_level(
    residuals: ArrayLike,
    expectiles: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> FloatArray:
    r"""Quantile level of each expectile of a sample.

    .. math:: F(e_\tau), \qquad
              \tau \, E(R - e_\tau)_+ = (1 - \tau) \, E(e_\tau - R)_+,

    with F the distribution function of the sample.

    Parameters
    ----------
    residuals : array-like of shape (n_samples,)
        Sample of one law, such as the residuals of a mean regression, finite.
    expectiles : array-like of shape (n_expectiles,)
        Expectile levels :math:`\tau`, strictly increasing, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a residual.

    Returns
    -------
    ndarray of shape (n_expectiles,)
        Quantile levels, non-decreasing, between 0 and 1: the share of the residuals at
        or below the expectile.

    Raises
    ------
    ValueError
        If the residuals are not finite or all equal, or a level is out of range.

    See Also
    --------
    quantile_expectile_level : The other direction.
    ExpectileRegressor : Expectiles that depend on features.

    Notes
    -----
    If only location and scale of a target depend on the features, standardized
    residuals have one law and the map holds in every row. Otherwise it is a mean over
    the rows.

    References
    ----------
    .. [1] W. K. Newey, J. L. Powell, "Asymmetric Least Squares Estimation and Testing",
       Econometrica 55, 1987.
    .. [2] M. C. Jones, "Expectiles and M-quantiles are Quantiles", Statistics and
       Probability Letters 20, 1994.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantile import expectile_quantile_level
    >>> expectile_quantile_level(np.arange(10.0), [0.1, 0.5, 0.9])
    array([0.3, 0.5, 0.7])
    """
    levels = check_quantiles(expectiles, name="expectiles")
    points, below, asymmetry = _sample(residuals, sample_weight)
    # e_tau lies at or above the last value whose own level tau reaches, below the next.
    reached = asymmetry <= levels[:, None] + _LEVEL_ROUNDING
    last = points.size - 1 - reached[:, ::-1].argmax(axis=1)
    return np.asarray(below[last])


def quantile_expectile_level(
    residuals: ArrayLike,
    quantiles: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> FloatArray:
    r"""Expectile level of each quantile of a sample.

    .. math:: \frac{E(q_\alpha - R)_+}{E|R - q_\alpha|}, \qquad
              q_\alpha = \min\{r : F(r) \ge \alpha\} .

    Parameters
    ----------
    residuals : array-like of shape (n_samples,)
        Sample of one law, such as the residuals of a mean regression, finite.
    quantiles : array-like of shape (n_quantiles,)
        Quantile levels :math:`\alpha`, strictly increasing, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a residual.

    Returns
    -------
    ndarray of shape (n_quantiles,)
        Expectile levels, non-decreasing. 0 or 1 where the quantile is the smallest or
        largest residual, which is no expectile of a level between them.

    Raises
    ------
    ValueError
        If the residuals are not finite or all equal, or a level is out of range.

    See Also
    --------
    expectile_quantile_level : The other direction.
    ExpectileRegressor : Takes these levels.

    References
    ----------
    .. [1] M. C. Jones, "Expectiles and M-quantiles are Quantiles", Statistics and
       Probability Letters 20, 1994.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib.quantile import quantile_expectile_level
    >>> quantile_expectile_level(np.arange(9.0), [0.25, 0.5, 0.75]).round(3)
    array([0.125, 0.5  , 0.875])
    """
    levels = check_quantiles(quantiles)
    points, below, asymmetry = _sample(residuals, sample_weight)
    first = np.searchsorted(below, levels - _LEVEL_ROUNDING)
    return np.asarray(asymmetry[np.minimum(first, points.size - 1)])


def _sample(
    residuals: Any, sample_weight: Any
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the distinct values r, F(r) and A(r) = E(r - R)_+ / E|R - r|."""
    values: FloatArray = check_target(residuals, name="residuals")
    weight = check_sample_weight(sample_weight, values.size)
    if weight is None:
        weight = np.ones(values.size)
    kept = weight > 0
    distinct, group = np.unique(values[kept], return_inverse=True)
    points: FloatArray = distinct
    if points.size < 2:
        raise ValueError(
            f"residuals holds {points.size} distinct values of positive weight: at "
            "least 2 are needed, as all levels of a constant are the same number."
        )
    share = np.asarray(np.bincount(group, weights=weight[kept]), dtype=np.float64)
    share = share / share.sum()
    points = points - share @ points  # large offsets cancel
    points = points / np.abs(points).max()
    mass, total = np.cumsum(share), np.cumsum(share * points)
    mass = mass / mass[-1]
    shortfall = np.maximum(points * mass - total, 0.0)
    excess = np.maximum(total[-1] - total - points * (1 - mass), 0.0)
    asymmetry = np.maximum.accumulate(shortfall / (shortfall + excess))
    return points, mass, asymmetry


class ExpectileFit(NamedTuple):
    """Lines of several expectile levels, and of the mean.

    `coef` has shape (n_expectiles, n_features), `intercept`, `n_iter` and `converged`
    (n_expectiles,); `mean_coef` (n_features,).
    """

    coef: FloatArray
    intercept: FloatArray
    mean_coef: FloatArray
    mean_intercept: float
    n_iter: Any
    converged: Any


# With f = A theta, shares c_i of the weights and a ridge penalty theta' P theta, the
# function to be minimized and its Newton step are
#
#     F(theta) = sum_i d_i e_i^2 + theta' P theta,   e = y - A theta,
#     d_i = c_i (tau if e_i >= 0 else 1 - tau),
#     (A' D A + P) step = A' D e - P theta =: g,     F falls by about g' step.
#
# This is iteratively reweighted least squares. F is convex, once differentiable and
# quadratic wherever no residual changes sign: as soon as a full step changes no sign,
# its end is the minimum. A full step that does not lower F is halved, so that no cycle
# of signs can occur.
#
# A has columns that are orthonormal under the shares (and the penalty, if there is
# one), so that the matrix of every level and iteration has its eigenvalues between
# min(tau, 1 - tau) and 1, whatever the features are. Directions that the features do
# not span are left out.
def fit_linear_expectiles(
    X: FloatArray,
    y: FloatArray,
    expectiles: FloatArray,
    sample_weight: FloatArray | None = None,
    *,
    alpha: float = 0.0,
    fit_intercept: bool = True,
    tol: float = 1e-10,
    max_iter: int = 100,
) -> ExpectileFit:
    """Minimize the weighted mean asymmetric squared loss plus alpha |coef|^2.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite.
    y : ndarray of shape (n_samples,)
        The target, finite.
    expectiles : ndarray of shape (n_expectiles,)
        Increasing levels.
    sample_weight : ndarray of shape (n_samples,), default=None
        Non-negative, with a positive sum.
    alpha : float, default=0.0
        Ridge penalty on the coefficients.
    fit_intercept : bool, default=True
        Whether the lines have an intercept, which is not penalized.
    tol : float, default=1e-10
        A step that lowers the objective by less than tol^2 of it is the last.
    max_iter : int, default=100
        Largest number of steps a level.

    Returns
    -------
    ExpectileFit
        The lines.
    """
    weight = np.ones(y.size) if sample_weight is None else sample_weight
    kept = weight > 0
    X, y = np.asarray(X, dtype=np.float64)[kept], y[kept]
    share = weight[kept] / weight[kept].sum()
    X_mean, y_mean = np.zeros(X.shape[1]), 0.0
    if fit_intercept:
        X_mean, y_mean = _mean(X, share), float(_mean(y, share))
    centered, rounding = X - X_mean, np.zeros(X.shape[1])
    if fit_intercept:
        rounding = _EPS * np.abs(X).max(axis=0)
        centered[:, np.abs(centered).max(axis=0) <= 8 * rounding] = 0.0
    # A power of two: no digit changes, and no square overflows.
    _, exponent = np.frexp(np.abs(y - y_mean).max())
    basis = _orthonormal(centered, rounding, share, alpha)
    ones = np.ones((y.size, int(fit_intercept)))
    penalty = np.zeros((ones.shape[1] + basis.shape[1],) * 2)
    penalty[ones.shape[1] :, ones.shape[1] :] = alpha * basis.T @ basis
    design = np.hstack([ones, centered @ basis])
    problem = _Problem(
        design,
        np.ldexp(y - y_mean, -int(exponent)),
        share,
        penalty,
        design.T @ (design * share[:, None]),
    )
    # Outwards from the mean, each level from the one before.
    mean = problem.solve(0.5, np.zeros(len(penalty)), tol, max_iter)
    found = {0.5: mean}
    for levels in (expectiles[expectiles > 0.5], expectiles[expectiles < 0.5][::-1]):
        last = mean
        for level in levels:
            found[level] = last = problem.solve(float(level), last.theta, tol, max_iter)
    minima = [found[level] for level in expectiles]
    thetas = np.array([minimum.theta for minimum in [*minima, mean]])
    thetas = np.ldexp(thetas, int(exponent))
    coef = thetas[:, ones.shape[1] :] @ basis.T
    intercept = y_mean + thetas[:, : ones.shape[1]].sum(axis=1) - coef @ X_mean
    return ExpectileFit(
        coef[:-1],
        intercept[:-1],
        coef[-1],
        float(intercept[-1]),
        np.array([minimum.n_iter for minimum in minima]),
        np.array([minimum.converged for minimum in minima]),
    )


class _Minimum(NamedTuple):
    theta: FloatArray
    n_iter: int
    converged: bool


class _Problem(NamedTuple):
    """The design A, the target, the shares of the weights, P, and A' diag(c) A."""

    design: FloatArray
    y: FloatArray
    share: FloatArray
    penalty: FloatArray
    gram: FloatArray

    def solve(
        self, level: float, theta: FloatArray, tol: float, max_iter: int
    ) -> _Minimum:
        """Minimize from a starting point."""
        signs = None  # at the start of the last full step
        for n_iter in range(1, max_iter + 1):
            below, value, gradient = self._at(level, theta)
            if signs is not None and np.array_equal(below, signs):
                return _Minimum(theta, n_iter, True)
            step = np.linalg.solve(self._matrix(level, below), gradient)
            fall = float(gradient @ step)
            if fall <= tol**2 * value + (8 * _EPS) ** 2:  # y is of order 1
                return _Minimum(theta + step, n_iter, True)
            length = 1.0
            while length > _EPS:
                _, new, _ = self._at(level, theta + length * step)
                if new <= value * (1 + 8 * _EPS) - 1e-4 * length * fall:
                    break
                length /= 2
            theta = theta + length * step
            signs = below if length == 1 else None
        return _Minimum(theta, max_iter, False)

    def _at(
        self, level: float, theta: FloatArray
    ) -> tuple[BoolArray, float, FloatArray]:
        """Return the residuals' signs, F, and minus half its gradient."""
        error = self.y - self.design @ theta
        below = error < 0
        d = self.share * np.where(below, 1 - level, level)
        shrink = self.penalty @ theta
        value = float(d @ error**2 + theta @ shrink)
        return below, value, np.asarray(self.design.T @ (d * error) - shrink)

    def _matrix(self, level: float, below: BoolArray) -> FloatArray:
        # A' D A from the products of the rows on the smaller side alone:
        # d = tau c + (1 - 2 tau) c 1{e < 0} = (1 - tau) c + (2 tau - 1) c 1{e >= 0}.
        few_below = 2 * int(below.sum()) <= below.size
        tau, side = (level, below) if few_below else (1 - level, ~below)
        rows = self.design[side]
        part = rows.T @ (rows * self.share[side, None])
        return np.asarray(tau * self.gram + (1 - 2 * tau) * part + self.penalty)


def _mean(values: FloatArray, share: FloatArray) -> Any:
    mean = share @ values
    return mean + share @ (values - mean)


def _orthonormal(
    X: FloatArray, rounding: FloatArray, share: FloatArray, alpha: float
) -> FloatArray:
    """Return B with orthonormal columns of sqrt(share) X B, or of it and sqrt(alpha) B.

    As many columns as the rank, given the rounding error of each feature; the scale of
    a feature does not matter to it.
    """
    rows = np.sqrt(share)[:, None] * X
    if alpha > 0:
        rows = np.vstack([rows, np.sqrt(alpha) * np.eye(X.shape[1])])
    scale = np.abs(rows).max(axis=0)  # twice: the first keeps squares in range
    scale[scale == 0] = 1.0
    rows /= scale
    norm = np.sqrt((rows**2).sum(axis=0))
    norm[norm == 0] = 1.0
    rows /= norm
    _, singular, right = np.linalg.svd(np.linalg.qr(rows, mode="r"))
    right = right[: singular.size]
    # Along a direction of unit length whose singular value is as small as the rounding
    # of its features, there is nothing but rounding.
    noise = np.sqrt(right**2 @ (rounding / (scale * norm)) ** 2)
    kept = singular > _EPS * max(rows.shape) * singular[0] + 8 * noise
    return np.asarray((right[kept].T / singular[kept]) / (scale * norm)[:, None])
