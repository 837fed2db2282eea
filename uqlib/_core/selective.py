r"""Rows ranked by uncertainty: risk, coverage and the areas under their curves.

Rows are kept from the most certain on. Rows of equal uncertainty form a group g: r_g
rows of mass m_g (their weights, or 1 each) and loss L_g (weights times losses), after
groups of mass N_g and loss S_g. In a random order of the group, the first p of its m_g
have the expected loss p L_g / m_g, so that the mean over all orders of the loss kept is

    K(N_g + p) = S_g + p L_g / m_g,        0 <= p <= m_g,                           (1)

piecewise linear in the mass kept. Of the mass k, in all W,

    coverage = k / W,    risk = K(k) / k,    generalized risk = K(k) / W.

k is the same in every order, so the mean over the orders of the risk, and of any sum
over k of it, is that of the line (1): ties cost no enumeration.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import BoolArray, FloatArray

# Sums of floats are rounded: a bound that they miss by less than this, relatively, is
# met. (Three losses of 0.1 have a mean above 0.1.)
_ROUNDING = 1e-12
# From here on the asymptotic series of the digamma function has full precision.
_SHIFT = 16
# B_{2k} / (2k), the coefficients of -x^{-2k} in psi(x) - log(x) + 1 / (2x).
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132)


class TieGroups(NamedTuple):
    """Rows of equal uncertainty, from the most certain on; see the module.

    Parameters
    ----------
    value : ndarray of shape (n_groups,)
        The uncertainty of each group, increasing.
    rows : ndarray of shape (n_groups,)
        The number of its rows.
    mass : ndarray of shape (n_groups,)
        The sum of their weights.
    loss : ndarray of shape (n_groups,)
        The sum of their weighted losses.
    """

    value: FloatArray
    rows: NDArray[np.intp]
    mass: FloatArray
    loss: FloatArray


def tie_groups(
    losses: FloatArray, uncertainty: FloatArray, weight: FloatArray | None
) -> TieGroups:
    """Return the groups of rows of equal uncertainty; rows without weight are left out.

    Parameters
    ----------
    losses : ndarray of shape (n_samples,)
        Non-negative, infinity included.
    uncertainty : ndarray of shape (n_samples,)
        Larger = less certain, infinities included.
    weight : ndarray of shape (n_samples,) or None
        Non-negative weights with a positive sum; None stands for ones.

    Returns
    -------
    TieGroups
        At least one group.
    """
    weight = np.ones(losses.size) if weight is None else weight
    kept = weight > 0
    losses, uncertainty, weight = losses[kept], uncertainty[kept], weight[kept]
    value, group, rows = np.unique(uncertainty, return_inverse=True, return_counts=True)
    mass: FloatArray = np.bincount(group, weight).astype(np.float64)
    loss: FloatArray = np.bincount(group, weight * losses).astype(np.float64)
    return TieGroups(value, rows, mass, loss)


def curve_points(groups: TieGroups) -> tuple[FloatArray, FloatArray]:
    """Return the points of the line (1): one a row, so that n rows give k = 1, ..., n.

    Parameters
    ----------
    groups : TieGroups
        Of n rows in all. Rows that tie part the mass of their group equally.

    Returns
    -------
    mass : ndarray of shape (n,)
        Mass kept, increasing.
    loss : ndarray of shape (n,)
        Its loss K, the mean over all orders of tied rows.
    """
    rows = groups.rows
    before = np.cumsum(rows) - rows
    share = np.arange(1.0, rows.sum() + 1) - np.repeat(before, rows)
    points = []
    for increment in (groups.mass, groups.loss):
        start = np.concatenate([[0.0], np.cumsum(increment)[:-1]])
        part = np.repeat(increment, rows) * share / np.repeat(rows, rows)
        points.append(np.repeat(start, rows) + part)
    return points[0], points[1]


def loss_of_mass(groups: TieGroups, mass: FloatArray) -> FloatArray:
    """Return the loss K of (1) at any mass kept.

    Parameters
    ----------
    groups : TieGroups
        The groups.
    mass : ndarray of shape (n,)
        Between 0 and the total mass.

    Returns
    -------
    ndarray of shape (n,)
        The losses, infinite from the first group with an infinite loss on.
    """
    ends = np.concatenate([[0.0], np.cumsum(groups.mass)])
    finite = np.isfinite(groups.loss)
    totals = np.concatenate([[0.0], np.cumsum(np.where(finite, groups.loss, 0.0))])
    kept = np.asarray(np.interp(mass, ends, totals))
    if not finite.all():
        kept[mass > ends[int(np.argmin(finite))]] = np.inf
    return kept


def mean_selective_risk(groups: TieGroups) -> float:
    r"""Return the mean risk over the numbers k = 1, ..., n of rows kept.

    By (1) the risks of a group, with a = L_g / m_g its mean loss, are

        (S_g + t a) / (N_g + t) = a + (S_g - N_g a) / (N_g + t),     t = 1, ..., m_g,
        their sum               = L_g + (S_g - N_g a) (H(N_g + m_g) - H(N_g)),

    where H(k) = 1 + 1/2 + ... + 1/k. Weights count rows: mass 3 is three tied rows.
    With H(x) = psi(x + 1) + const the sum has a meaning for any positive mass.

    Parameters
    ----------
    groups : TieGroups
        The groups.

    Returns
    -------
    float
        The mean, infinite if a loss is.
    """
    if np.isinf(groups.loss).any():
        return float("inf")
    start, kept = (np.cumsum(x) - x for x in (groups.mass, groups.loss))
    mean = groups.loss / groups.mass
    excess = (kept - start * mean) * harmonic_step(start, groups.mass)
    return float((groups.loss + excess).sum() / groups.mass.sum())


def harmonic_step(start: FloatArray, length: FloatArray) -> FloatArray:
    r"""Return 1 / (start + 1) + ... + 1 / (start + length), for any real numbers.

    It is psi(start + length + 1) - psi(start + 1). The recurrence psi(x + 1) = psi(x) +
    1 / x moves both arguments up by `_SHIFT`, where the asymptotic series

        psi(x) ~ log(x) - 1 / (2 x) - sum_k B_{2k} / (2k x^{2k})

    has full precision. Every difference is taken without cancellation where it is of
    the order of the result: length / start may be tiny.

    Parameters
    ----------
    start : ndarray of shape (n,)
        At least 0.
    length : ndarray of shape (n,)
        Greater than 0.

    Returns
    -------
    ndarray of shape (n,)
        The sums.
    """
    steps = 1.0 / (start + 1.0)
    several = length != 1.0
    low, length = start[several], length[several]
    moved = np.zeros_like(low)
    for _ in range(_SHIFT):
        low = low + 1.0
        moved += length / (low * (low + length))
    low = low + 1.0
    high = low + length
    moved += np.log1p(length / low) + length / (2.0 * low * high)
    for k, coefficient in enumerate(_SERIES, start=1):
        moved -= coefficient * (high ** (-2.0 * k) - low ** (-2.0 * k))
    steps[several] = moved
    return steps


def generalized_area(groups: TieGroups) -> float:
    r"""Return the area under the generalized risk K(k) / W over the coverage k / W.

    K is linear on each group, and the mean of its ends is its mean:

        (1 / W^2) sum_g m_g (S_g + L_g / 2) = (1 / W^2) sum_g L_g (W - N_g - m_g / 2).

    Parameters
    ----------
    groups : TieGroups
        The groups.

    Returns
    -------
    float
        The area, infinite if a loss is.
    """
    ends = np.cumsum(groups.mass)
    total = ends[-1]
    left = (total - ends + groups.mass / 2) / total
    return float(left @ groups.loss / total)


def largest_coverage(groups: TieGroups, risk: float) -> float:
    """Return the largest coverage of a threshold whose risk is at most a bound.

    A threshold keeps groups as a whole.

    Parameters
    ----------
    groups : TieGroups
        The groups.
    risk : float
        The bound, at least 0.

    Returns
    -------
    float
        The coverage; 0 if no threshold has so small a risk.
    """
    mass, loss = np.cumsum(groups.mass), np.cumsum(groups.loss)
    met = np.flatnonzero(loss <= risk * (1 + _ROUNDING) * mass)
    return float(mass[met[-1]] / mass[-1]) if met.size else 0.0


def smallest_fpr(
    is_positive: BoolArray,
    uncertainty: FloatArray,
    weight: FloatArray | None,
    tpr: Fraction,
) -> float:
    """Return the smallest false positive rate of a threshold that reaches a rate.

    Rows at least as uncertain as the threshold are called positive. Both rates grow as
    the threshold falls: the first one that reaches `tpr` is the answer.

    Parameters
    ----------
    is_positive : ndarray of shape (n_samples,)
        Both kinds must have weight.
    uncertainty : ndarray of shape (n_samples,)
        Larger = less certain.
    weight : ndarray of shape (n_samples,) or None
        One weight a row.
    tpr : Fraction
        The true positive rate to reach, in (0, 1].

    Returns
    -------
    float
        The rate.
    """
    groups = tie_groups(is_positive.astype(np.float64), -uncertainty, weight)
    true, false = np.cumsum(groups.loss), np.cumsum(groups.mass - groups.loss)
    needed = float(tpr * Fraction(float(true[-1]))) * (1 - _ROUNDING)
    return float(false[int(np.argmax(true >= needed))] / false[-1])


def rank_correlation(
    first: FloatArray, second: FloatArray, weight: FloatArray | None
) -> float:
    """Return the correlation of the ranks of two arrays, tied values sharing a rank.

    Parameters
    ----------
    first, second : ndarray of shape (n_samples,)
        Values, infinities included; neither constant where there is weight.
    weight : ndarray of shape (n_samples,) or None
        One weight a row; a weight of 2 stands for two rows.

    Returns
    -------
    float
        Spearman's coefficient, between -1 and 1.
    """
    # Scaled, so that no product of two sums overflows.
    weight = np.ones(first.size) if weight is None else weight / weight.max()
    a, b = (_centered_ranks(values, weight) for values in (first, second))
    norm = np.sqrt(((weight * a) @ a) * ((weight * b) @ b))
    return float(np.clip((weight * a) @ b / norm, -1.0, 1.0))


def _centered_ranks(values: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the rank of each value in the middle of those equal to it, less 1/2."""
    group = np.unique(values, return_inverse=True)[1]
    mass = np.bincount(group, weight)
    rank = (np.cumsum(mass) - mass / 2)[group]
    # The mean over the rows is half of the total, in every order and with all ties.
    return np.asarray(rank - weight.sum() / 2)
