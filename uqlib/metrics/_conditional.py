"""Conditional coverage: by group, by width of an interval and by size of a set."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import check_sample_weight
from uqlib._core.coverage_checks import check_covered
from uqlib._core.group_ranks import check_groups
from uqlib._core.levels import check_confidence_level
from uqlib._core.strata import check_bins, check_size, shares_by_code, strata
from uqlib._typing import ArrayLike, BoolArray, FloatArray


class GroupCoverage(NamedTuple):
    """Coverage of each group, as :func:`group_coverage` returns it.

    Parameters
    ----------
    group : ndarray of shape (n_groups,)
        Labels of the groups, sorted.
    coverage : ndarray of shape (n_groups,)
        Share of the rows of the group that are covered.
    standard_error : ndarray of shape (n_groups,)
        Standard errors of the coverages.
    n_samples : ndarray of shape (n_groups,)
        Numbers of rows.

    Examples
    --------
    >>> from uqlib.metrics import group_coverage
    >>> group_coverage([True, False, True], ["a", "a", "b"]).coverage
    array([0.5, 1. ])
    """

    group: NDArray[Any]
    coverage: FloatArray
    standard_error: FloatArray
    n_samples: NDArray[np.intp]


class StratifiedCoverage(NamedTuple):
    """Coverage of each stratum, as :func:`stratified_coverage` returns it.

    Parameters
    ----------
    size_min, size_max : ndarray of shape (n_strata,)
        Smallest and largest width or size in the stratum.
    coverage : ndarray of shape (n_strata,)
        Share of the rows of the stratum that are covered.
    standard_error : ndarray of shape (n_strata,)
        Standard errors of the coverages.
    n_samples : ndarray of shape (n_strata,)
        Numbers of rows.

    Examples
    --------
    >>> from uqlib.metrics import stratified_coverage
    >>> stratified_coverage([True, False, True], [1, 1, 2]).size_max
    array([1., 2.])
    """

    size_min: FloatArray
    size_max: FloatArray
    coverage: FloatArray
    standard_error: FloatArray
    n_samples: NDArray[np.intp]


def group_coverage(
    covered: ArrayLike, groups: Any, *, sample_weight: ArrayLike | None = None
) -> GroupCoverage:
    r"""Coverage in each group of rows.

    .. math:: c_g = \frac{1}{n_g} \#\{i : g_i = g, \; i \text{ covered}\}, \qquad
              \mathrm{se}_g = \sqrt{c_g (1 - c_g) / n_g} .

    Parameters
    ----------
    covered : array-like of shape (n_samples,)
        Booleans: which rows are covered, by intervals, sets or regions.
    groups : array-like of shape (n_samples,)
        Label of the group of each row: numbers, strings or booleans. The true classes
        give class-conditional coverage.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight 0 are as if they were not there.

    Returns
    -------
    GroupCoverage
        Named arrays of shape (n_groups,) in the sorted order of the labels: ``group``,
        ``coverage``, ``standard_error`` and ``n_samples``.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, or a label is missing.
    TypeError
        If `covered` is not boolean.

    See Also
    --------
    group_coverage_gap : One number.
    covered_by_interval : Which rows are covered by intervals.
    covered_by_set : Which rows are covered by sets.
    uqlib.inspection.CoverageDisplay : A picture of it.

    Notes
    -----
    Where all rows of a group are covered, or none, the standard error is 0, which for
    small groups says nothing. With weights w it is
    :math:`\sqrt{\sum w_i^2 (1_i - c_g)^2} / \sum w_i`.

    Examples
    --------
    >>> from uqlib.metrics import group_coverage
    >>> result = group_coverage([True, True, False, True], ["b", "a", "a", "b"])
    >>> result.group.tolist(), result.coverage.tolist(), result.n_samples.tolist()
    (['a', 'b'], [0.5, 1.0], [2, 2])
    """
    inside = check_covered(covered)
    labels = check_groups(groups, inside.size, "groups")
    inside, labels, weight = _with_weight(inside, labels, sample_weight)
    group, codes = np.unique(labels, return_inverse=True)
    return GroupCoverage(group, *shares_by_code(inside, codes, group.size, weight))


def group_coverage_gap(
    covered: ArrayLike,
    groups: Any,
    confidence_level: float | None = None,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""How unequal coverage is between groups, or how far the worst one falls short.

    .. math:: \max_g c_g - \min_g c_g \qquad \text{or} \qquad
              \max(0, \; p - \min_g c_g)

    with the coverage :math:`c_g` of group g: the first without a level, the second
    with the level p.

    Parameters
    ----------
    covered : array-like of shape (n_samples,)
        Booleans: which rows are covered, by intervals, sets or regions.
    groups : array-like of shape (n_samples,)
        Label of the group of each row: numbers, strings or booleans.
    confidence_level : float, default=None
        Coverage p that was asked for, strictly between 0 and 1.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row. Rows of weight 0 are as if they were not there.

    Returns
    -------
    float
        Between 0 and 1; 0 is best. One group has no gap.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a label is missing, or the level is
        not in (0, 1).
    TypeError
        If `covered` is not boolean or the level not a number.

    See Also
    --------
    group_coverage : The coverages themselves, with standard errors.

    Notes
    -----
    Even with equal coverage in all groups the gap is positive in a sample, and the
    larger the smaller the groups are: compare it with the standard errors.

    Examples
    --------
    >>> from uqlib.metrics import group_coverage_gap
    >>> covered, groups = [True, True, False, True], ["b", "a", "a", "b"]
    >>> group_coverage_gap(covered, groups)
    0.5
    >>> group_coverage_gap(covered, groups, 0.75)
    0.25
    """
    level = (
        None if confidence_level is None else check_confidence_level(confidence_level)
    )
    coverage = group_coverage(covered, groups, sample_weight=sample_weight).coverage
    top = coverage.max() if level is None else float(level)
    return float(max(top - coverage.min(), 0.0))


def stratified_coverage(
    covered: ArrayLike,
    size: ArrayLike,
    *,
    n_bins: int | None = 10,
    sample_weight: ArrayLike | None = None,
) -> StratifiedCoverage:
    r"""Coverage in strata of interval width or set size.

    .. math:: c_b = \frac{1}{|B_b|} \#\{i \in B_b : i \text{ covered}\}, \qquad
              B_1, \dots, B_m \text{ in the order of size} .

    An honest width adapts to the row: if narrow intervals cover less than wide ones,
    the model is sure where it should not be.

    Parameters
    ----------
    covered : array-like of shape (n_samples,)
        Booleans: which rows are covered, by intervals, sets or regions.
    size : array-like of shape (n_samples,)
        Width of each interval or number of labels of each set, at least 0. Larger
        means more uncertain. Infinite widths are legal.
    n_bins : int or None, default=10
        Largest number of strata of finite sizes. Up to that many distinct sizes are a
        stratum each; more are cut into strata of equal numbers of rows, as far as ties
        allow. None makes a stratum of each distinct size.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row, for strata of equal weight. Rows of weight 0 are
        as if they were not there.

    Returns
    -------
    StratifiedCoverage
        Named arrays of shape (n_strata,), sizes ascending: ``size_min``, ``size_max``,
        ``coverage``, ``standard_error`` and ``n_samples``.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a size is NaN or negative, or
        `n_bins` is below 1.
    TypeError
        If `covered` is not boolean or `n_bins` not an integer.

    See Also
    --------
    size_stratified_coverage : The lowest of them.
    group_coverage : Coverage by any other label.

    Notes
    -----
    Equal sizes are always in one stratum, so that the order of the rows does not
    matter, and only the order of the sizes does: any increasing function of them gives
    the same strata. Infinite sizes are a stratum of their own, beside the `n_bins`:
    they cover whatever comes, and would hide what finite ones do.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, J. Malik, M. I. Jordan, "Uncertainty Sets for
       Image Classifiers using Conformal Prediction", arXiv:2009.14193.

    Examples
    --------
    >>> from uqlib.metrics import stratified_coverage
    >>> covered, width = [False, True, True, True], [0.5, 1.0, 2.0, 4.0]
    >>> result = stratified_coverage(covered, width, n_bins=2)
    >>> result.coverage.tolist(), result.size_max.tolist()
    ([0.5, 1.0], [1.0, 4.0])
    """
    inside = check_covered(covered)
    sizes = check_size(size, inside.size)
    bins = check_bins(n_bins)
    inside, sizes, weight = _with_weight(inside, sizes, sample_weight)
    codes = strata(sizes, bins, weight)
    smallest = np.full(codes.max() + 1, np.inf)
    np.minimum.at(smallest, codes, sizes)
    largest = np.zeros(smallest.size)
    np.maximum.at(largest, codes, sizes)
    shares = shares_by_code(inside, codes, smallest.size, weight)
    return StratifiedCoverage(smallest, largest, *shares)


def size_stratified_coverage(
    covered: ArrayLike,
    size: ArrayLike,
    *,
    n_bins: int | None = 10,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Lowest coverage among strata of interval width or set size (SSC).

    .. math:: \mathrm{SSC} = \min_b c_b

    with the coverages :math:`c_b` of :func:`stratified_coverage`.

    Parameters
    ----------
    covered : array-like of shape (n_samples,)
        Booleans: which rows are covered, by intervals, sets or regions.
    size : array-like of shape (n_samples,)
        Width of each interval or number of labels of each set, at least 0. Infinite
        widths are legal.
    n_bins : int or None, default=10
        Largest number of strata of finite sizes; None makes a stratum of each distinct
        size.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row, for strata of equal weight. Rows of weight 0 are
        as if they were not there.

    Returns
    -------
    float
        Between 0 and 1. Best is the level that was asked for.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a size is NaN or negative, or
        `n_bins` is below 1.
    TypeError
        If `covered` is not boolean or `n_bins` not an integer.

    See Also
    --------
    stratified_coverage : All of them, with the rows behind each.
    worst_slab_coverage : The lowest coverage over slabs of the feature space.

    Notes
    -----
    The lowest of several shares lies below the level even where each stratum is
    covered at the level, the more so the fewer rows it has: a size that occurs once
    and is missed makes the value 0. Look at ``n_samples`` of the strata, and ask for
    fewer of them.

    Examples
    --------
    >>> from uqlib.metrics import size_stratified_coverage
    >>> size_stratified_coverage([True, False, True, True], [1, 1, 2, 2])
    0.5
    """
    result = stratified_coverage(
        covered, size, n_bins=n_bins, sample_weight=sample_weight
    )
    return float(result.coverage.min())


def _with_weight(
    inside: BoolArray, values: NDArray[Any], sample_weight: ArrayLike | None
) -> tuple[BoolArray, NDArray[Any], FloatArray | None]:
    """Return the rows that have weight, and their weights."""
    weight = check_sample_weight(sample_weight, inside.size)
    if weight is None:
        return inside, values, None
    kept = weight > 0
    return inside[kept], values[kept], weight[kept]
