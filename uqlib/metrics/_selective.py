"""Selective prediction: the risk of the rows that are kept, by their uncertainty."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from uqlib._core.levels import exact_level
from uqlib._core.selective import curve_points, largest_coverage, loss_of_mass
from uqlib._core.selective_checks import check_bound, check_groups, check_share
from uqlib._typing import ArrayLike, FloatArray


class RiskCoverageCurve(NamedTuple):
    """The points of a risk-coverage curve, by increasing coverage.

    Parameters
    ----------
    coverage : ndarray of shape (n_points,)
        Share of the rows that is kept, from 1 / n_samples to 1.
    risk : ndarray of shape (n_points,)
        Their mean loss.
    generalized_risk : ndarray of shape (n_points,)
        Risk times coverage: the loss kept, divided by the number of all rows.
    threshold : ndarray of shape (n_points,)
        Uncertainty of the last row kept, non-decreasing.

    See Also
    --------
    risk_coverage_curve : What returns it.

    Examples
    --------
    >>> from uqlib.metrics import risk_coverage_curve
    >>> curve = risk_coverage_curve([0, 1], uncertainty=[0.1, 0.9])
    >>> curve.risk.tolist()
    [0.0, 0.5]
    """

    coverage: FloatArray
    risk: FloatArray
    generalized_risk: FloatArray
    threshold: FloatArray


def risk_coverage_curve(
    losses: ArrayLike, uncertainty: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> RiskCoverageCurve:
    r"""Mean loss of the most certain rows, for every number of them.

    With the losses in the order of the uncertainty, the most certain row first,

    .. math:: r(k / n) = \frac{1}{k} \sum_{i=1}^k l_{(i)}, \qquad k = 1, \dots, n .

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0: absolute or squared errors, or 1 for a wrong and 0
        for a right answer. Infinity is legal.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; only the order matters. Infinities are legal. Pass
        ``-confidence`` if you have confidences: ``1 - confidence`` rounds small
        differences away.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight zero give no point.

    Returns
    -------
    RiskCoverageCurve
        Arrays coverage, risk, generalized_risk and threshold, one point a row.

    Raises
    ------
    ValueError
        If there are no rows, shapes do not agree, a loss is negative, or an array
        contains NaN.

    See Also
    --------
    risk_coverage_auc : The mean of the risks.
    risk_at_coverage, coverage_at_risk : Single points.
    sparsification_curve : The same curve by the share of rows removed.

    Notes
    -----
    Rows of equal uncertainty have no order: each point is the mean over all orders of
    them, so that the order of rows in the arrays never matters. Within a tie the
    generalized risk is therefore linear in the coverage.

    References
    ----------
    .. [1] Y. Geifman, G. Uziel, R. El-Yaniv, "Bias-Reduced Uncertainty Estimation for
       Deep Neural Classifiers", arXiv:1805.08206.

    Examples
    --------
    >>> from uqlib.metrics import risk_coverage_curve
    >>> curve = risk_coverage_curve([0, 1, 0, 1], uncertainty=[0.1, 0.7, 0.7, 0.9])
    >>> curve.coverage.tolist(), curve.risk.tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.3333333333333333, 0.5])
    """
    groups = check_groups(losses, uncertainty, sample_weight)
    mass, loss = curve_points(groups)
    threshold = np.repeat(groups.value, groups.rows)
    return RiskCoverageCurve(mass / mass[-1], loss / mass, loss / mass[-1], threshold)


def risk_at_coverage(
    losses: ArrayLike,
    uncertainty: ArrayLike,
    coverage: float,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Mean loss of a given share of the rows, the most certain ones.

    .. math:: r(c) = \frac{1}{c n} \Big( \sum_{i \le k} l_{(i)} + (c n - k)
              l_{(k + 1)} \Big), \qquad k = \lfloor c n \rfloor :

    the row on the border is kept with the probability that makes the coverage exact.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0, or 1 for a wrong and 0 for a right answer.
        Infinity is legal.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    coverage : float
        Share c of the rows to keep, in (0, 1].
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        In units of the losses; smaller is better.

    Raises
    ------
    TypeError
        If coverage is no number.
    ValueError
        If coverage is not in (0, 1], or for the reasons of :func:`risk_coverage_curve`.

    See Also
    --------
    coverage_at_risk : The other way round.

    Notes
    -----
    Rows of equal uncertainty are kept with equal probability. At c = k / n the value is
    that of :func:`risk_coverage_curve`, at c = 1 the mean loss.

    Examples
    --------
    >>> from uqlib.metrics import risk_at_coverage
    >>> risk_at_coverage([0, 1, 0, 1], [0.1, 0.7, 0.5, 0.9], coverage=0.75)
    0.3333333333333333
    """
    check_share(coverage, "coverage", "Pass 0.8 to keep 80 % of the rows.")
    groups = check_groups(losses, uncertainty, sample_weight)
    total = Fraction(float(np.cumsum(groups.mass)[-1]))
    mass = np.array([float(exact_level(coverage) * total)])
    return float(loss_of_mass(groups, mass)[0] / mass[0])


def coverage_at_risk(
    losses: ArrayLike,
    uncertainty: ArrayLike,
    risk: float,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Largest share of rows that a threshold keeps at a risk of at most a bound.

    .. math:: \max_t \Big\{ c(t) : \sum_{u_i \le t} l_i \le r \, n \, c(t) \Big\},
              \qquad c(t) = \frac{1}{n} \#\{i : u_i \le t\} .

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0, or 1 for a wrong and 0 for a right answer.
        Infinity is legal.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    risk : float
        Bound r on the mean loss of the rows kept, at least 0, in units of the losses.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; larger is better. 0 if no threshold has so small a risk.

    Raises
    ------
    TypeError
        If risk is no number.
    ValueError
        If risk is negative, or for the reasons of :func:`risk_coverage_curve`.

    See Also
    --------
    risk_at_coverage : The other way round.

    Notes
    -----
    A threshold keeps rows of equal uncertainty all or not at all, as it would when
    deployed. The risk need not grow with the coverage: the largest coverage counts,
    even if a smaller one has a risk above the bound. A bound missed by a relative
    1e-12, which is rounding, counts as met. The value describes these rows, and is
    optimistic for new ones: a bound that holds for those with a stated probability
    comes from :func:`~uqlib.conformal.learn_then_test`.

    Examples
    --------
    >>> from uqlib.metrics import coverage_at_risk
    >>> coverage_at_risk([0, 1, 0, 1], [0.1, 0.7, 0.5, 0.9], risk=0.4)
    0.75
    """
    bound = check_bound(risk, "risk")
    return largest_coverage(check_groups(losses, uncertainty, sample_weight), bound)
