"""Metrics of prediction sets: a boolean matrix with one column for each class."""

from typing import Any

import numpy as np

from uqlib._core.checks import check_rows, check_sample_weight
from uqlib._core.coverage_checks import check_sets
from uqlib._core.losses import weighted_mean
from uqlib._core.proba_columns import label_columns
from uqlib._typing import ArrayLike, BoolArray


def covered_by_set(
    y_true: ArrayLike, y_set: ArrayLike, *, labels: ArrayLike | None = None
) -> BoolArray:
    r"""Which labels are in their prediction sets.

    .. math:: 1\{y_i \in C_i\}

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_set : array-like of shape (n_samples, n_classes)
        Booleans: which labels are in the set of each row.
    labels : array-like of shape (n_classes,), default=None
        The label of each column, as `classes_` of a classifier. None takes the sorted
        labels of `y_true`, which must then be as many as the columns.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True where the label is in.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a label is missing or not among
        `labels`, or `labels` are not as many as the columns or not distinct.
    TypeError
        If `y_set` is not boolean.

    See Also
    --------
    covered_by_interval : The same for intervals.
    group_coverage : What can be asked of it.

    Examples
    --------
    >>> from uqlib.metrics import covered_by_set
    >>> y_set = [[True, False, False], [True, True, False]]
    >>> covered_by_set(["a", "c"], y_set, labels=["a", "b", "c"])
    array([ True, False])
    """
    sets = check_sets(y_set)
    columns = label_columns(y_true, labels, sets.shape[1], "y_set")
    check_rows(columns.size, len(sets), "y_set", "y_true")
    inside: BoolArray = sets[np.arange(len(sets)), columns]
    return inside


def set_coverage_score(
    y_true: ArrayLike,
    y_set: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Share of labels that are in their prediction sets.

    .. math:: \frac{1}{n} \#\{i : y_i \in C_i\}

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_set : array-like of shape (n_samples, n_classes)
        Booleans: which labels are in the set of each row.
    labels : array-like of shape (n_classes,), default=None
        The label of each column, as `classes_` of a classifier. None takes the sorted
        labels of `y_true`, which must then be as many as the columns.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1. Best is the level that was asked for, not 1.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no rows, a label is missing or not among
        `labels`, or `labels` are not as many as the columns or not distinct.
    TypeError
        If `y_set` is not boolean.

    See Also
    --------
    mean_set_size : The price of coverage.
    coverage_score : The same for intervals.
    group_coverage : With the true classes as groups, coverage of each class.

    Examples
    --------
    >>> from uqlib.metrics import set_coverage_score
    >>> set_coverage_score([0, 1], [[True, False], [True, False]])
    0.5
    """
    inside = covered_by_set(y_true, y_set, labels=labels)
    return weighted_mean(inside, check_sample_weight(sample_weight, inside.size))


def mean_set_size(y_set: ArrayLike, *, sample_weight: ArrayLike | None = None) -> float:
    r"""Mean number of labels in the prediction sets.

    .. math:: \frac{1}{n} \sum_i |C_i|

    Parameters
    ----------
    y_set : array-like of shape (n_samples, n_classes)
        Booleans: which labels are in the set of each row.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and n_classes; smaller is better at equal coverage.

    Raises
    ------
    ValueError
        If `y_set` is not a matrix or has no rows.
    TypeError
        If `y_set` is not boolean.

    See Also
    --------
    set_coverage_score : What the size buys.
    singleton_share : How often a set is one label.
    size_stratified_coverage : Coverage by size.

    Examples
    --------
    >>> from uqlib.metrics import mean_set_size
    >>> mean_set_size([[True, False, False], [True, True, False]])
    1.5
    """
    return _mean_of(_sizes(y_set), sample_weight)


def singleton_share(
    y_set: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Share of prediction sets with exactly one label.

    .. math:: \frac{1}{n} \#\{i : |C_i| = 1\}

    Parameters
    ----------
    y_set : array-like of shape (n_samples, n_classes)
        Booleans: which labels are in the set of each row.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1; larger is better at equal coverage.

    Raises
    ------
    ValueError
        If `y_set` is not a matrix or has no rows.
    TypeError
        If `y_set` is not boolean.

    See Also
    --------
    empty_set_share : Sets without a label.
    mean_set_size : The mean number of labels.

    Examples
    --------
    >>> from uqlib.metrics import singleton_share
    >>> singleton_share([[True, False, False], [True, True, False]])
    0.5
    """
    return _mean_of(_sizes(y_set) == 1, sample_weight)


def empty_set_share(
    y_set: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    r"""Share of prediction sets without any label.

    .. math:: \frac{1}{n} \#\{i : |C_i| = 0\}

    Parameters
    ----------
    y_set : array-like of shape (n_samples, n_classes)
        Booleans: which labels are in the set of each row.
    sample_weight : array-like of shape (n_samples,), default=None
        One non-negative weight a row.

    Returns
    -------
    float
        Between 0 and 1. An empty set is a certain miss, and tells that the row is
        unlike all classes: some make a small mean size look better than it is.

    Raises
    ------
    ValueError
        If `y_set` is not a matrix or has no rows.
    TypeError
        If `y_set` is not boolean.

    See Also
    --------
    singleton_share : Sets with one label.
    mean_set_size : The mean number of labels.

    Examples
    --------
    >>> from uqlib.metrics import empty_set_share
    >>> empty_set_share([[False, False], [True, True]])
    0.5
    """
    return _mean_of(_sizes(y_set) == 0, sample_weight)


def _sizes(y_set: ArrayLike) -> Any:
    return check_sets(y_set).sum(axis=1)


def _mean_of(values: Any, sample_weight: ArrayLike | None) -> float:
    return weighted_mean(values, check_sample_weight(sample_weight, values.size))
