"""Sparsification: the error that is left when the least certain rows are removed."""

from typing import NamedTuple

from uqlib._core.selective import TieGroups, curve_points, loss_of_mass
from uqlib._core.selective_checks import check_groups
from uqlib._typing import ArrayLike, FloatArray
from uqlib.metrics._selective_areas import excess_risk_coverage_auc


class SparsificationCurve(NamedTuple):
    """The points of a sparsification curve and of the oracle's, from all rows on.

    Parameters
    ----------
    removed : ndarray of shape (n_points,)
        Share of the rows that is removed, the least certain first, from 0 on.
    error : ndarray of shape (n_points,)
        Mean loss of the rows that are left.
    oracle_error : ndarray of shape (n_points,)
        The same where those of the largest losses are removed first.

    See Also
    --------
    sparsification_curve : What returns it.

    Examples
    --------
    >>> from uqlib.metrics import sparsification_curve
    >>> curve = sparsification_curve([1.0, 3.0], uncertainty=[0.9, 0.1])
    >>> curve.error.tolist(), curve.oracle_error.tolist()
    ([1.0, 1.5], [1.0, 0.5])
    """

    removed: FloatArray
    error: FloatArray
    oracle_error: FloatArray


def sparsification_curve(
    losses: ArrayLike,
    uncertainty: ArrayLike,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
) -> SparsificationCurve:
    r"""Mean loss that is left when the least certain rows are removed.

    .. math:: s(j / n) = r(1 - j / n) \,/\, r(1), \qquad j = 0, \dots, n - 1,

    with the risk r(c) of the share c of the most certain rows.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0 and finite: absolute or squared errors, say.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    normalize : bool, default=True
        Divide by the mean loss r(1) of all rows, so that both curves start at 1. If all
        losses are 0 the curves stay at 0.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight zero give no point.

    Returns
    -------
    SparsificationCurve
        Arrays removed, error and oracle_error, one point a row.

    Raises
    ------
    ValueError
        If a loss is infinite, or for the reasons of :func:`risk_coverage_curve`.

    See Also
    --------
    sparsification_error : The area between the two curves.
    risk_coverage_curve : Without oracle, by the share of rows kept.

    Notes
    -----
    Rows of equal uncertainty are averaged over all their orders.

    References
    ----------
    .. [1] E. Ilg, O. Cicek, S. Galesso, A. Klein, O. Makansi, F. Hutter, T. Brox,
       "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow",
       arXiv:1802.07095.

    Examples
    --------
    >>> from uqlib.metrics import sparsification_curve
    >>> curve = sparsification_curve([1.0, 3.0], [0.9, 0.1], normalize=False)
    >>> curve.removed.tolist(), curve.error.tolist()
    ([0.0, 0.5], [2.0, 3.0])
    """
    model = check_groups(losses, uncertainty, sample_weight, finite=True)
    oracle = check_groups(losses, losses, sample_weight)
    mass, loss = (points[::-1] for points in curve_points(model))
    scale = _scale(model, normalize)
    best = loss_of_mass(oracle, mass) / mass
    removed = (mass[0] - mass) / mass[0]
    return SparsificationCurve(removed, loss / mass / scale, best / scale)


def sparsification_error(
    losses: ArrayLike,
    uncertainty: ArrayLike,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Area between the sparsification curve and the oracle's (AUSE).

    .. math:: \frac{1}{n} \sum_{j=0}^{n-1} \big( s(j / n) - s^*(j / n) \big)
              = \frac{\mathrm{AURC}(l, u) - \mathrm{AURC}(l, l)}{r(1)},

    with the curves s and :math:`s^*` of :func:`sparsification_curve` as steps of width
    1 / n, and the mean loss r(1).

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Loss of each row, at least 0 and finite: absolute or squared errors, say.
    uncertainty : array-like of shape (n_samples,)
        Larger = less certain; pass ``-confidence`` if you have confidences.
    normalize : bool, default=True
        Divide by the mean loss. If all losses are 0, so is the error. False gives
        :func:`excess_risk_coverage_auc`.
    sample_weight : array-like of shape (n_samples,), default=None
        How many rows each row counts for, as in :func:`risk_coverage_auc`.

    Returns
    -------
    float
        At least 0; smaller is better. Without unit if normalized.

    Raises
    ------
    ValueError
        If a loss is infinite, or for the reasons of :func:`risk_coverage_auc`.

    See Also
    --------
    sparsification_curve : The curves.

    Notes
    -----
    The value depends on which loss is meant: squared errors weigh the largest ones
    more. A trapezoidal rule over the shares removed 0, ..., 1 - 1 / n, as some
    libraries have it, gives less by half of the last difference, divided by n.

    References
    ----------
    .. [1] E. Ilg, O. Cicek, S. Galesso, A. Klein, O. Makansi, F. Hutter, T. Brox,
       "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow",
       arXiv:1802.07095.

    Examples
    --------
    >>> from uqlib.metrics import sparsification_error
    >>> sparsification_error([1.0, 3.0], uncertainty=[0.9, 0.1])
    0.5
    """
    excess = excess_risk_coverage_auc(losses, uncertainty, sample_weight=sample_weight)
    groups = check_groups(losses, uncertainty, sample_weight)
    return excess / _scale(groups, normalize)


def _scale(groups: TieGroups, normalize: bool) -> float:
    mean = float(groups.loss.sum() / groups.mass.sum())
    return mean if normalize and mean > 0 else 1.0
