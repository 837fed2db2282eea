"""Mondrian calibration: a conformal quantile of its own for every group of rows.

Within a group the scores of calibration rows and of a new row are exchangeable, so the
rank law of the whole holds in each group with its own number of rows.
"""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import as_1d
from uqlib._core.levels import check_confidence_level
from uqlib._core.ranks import rank_from_fraction, rows_needed
from uqlib._typing import ArrayLike, FloatArray
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


def group_quantiles(
    scores: ArrayLike, groups: Any, confidence_level: float
) -> tuple[NDArray[Any], FloatArray]:
    r"""Conformal quantile of the scores of each group.

    With the :math:`n_g` scores of group g in ascending order,

    .. math:: t_g = s^{(g)}_{(k)}, \qquad k = \max(1, \lceil (n_g + 1) p \rceil),

    and :math:`+\infty` if :math:`k > n_g`.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Calibration scores, larger = stranger. Infinities are legal, NaN is not.
    groups : array-like of shape (n,)
        Label of the group of each score: numbers, strings or booleans.
    confidence_level : float
        Coverage asked for, strictly between 0 and 1.

    Returns
    -------
    labels : ndarray of shape (n_groups,)
        The labels, sorted.
    thresholds : ndarray of shape (n_groups,)
        Their thresholds.

    Raises
    ------
    ValueError
        If the shapes differ, a score or a label is NaN or missing, or the level is not
        in (0, 1).

    Warns
    -----
    InfiniteIntervalWarning
        Once, if groups have too few scores for the level; it names them and the number
        of rows needed.

    See Also
    --------
    conformal_quantile : Of all scores together.

    Notes
    -----
    If the scores of a group and the next one of that group are exchangeable, the next
    one is at most the group's threshold with probability at least p, given its group
    [1]_.

    References
    ----------
    .. [1] V. Vovk, D. Lindsay, I. Nouretdinov, A. Gammerman, "Mondrian Confidence
       Machine", Technical report, Royal Holloway, University of London, 2003.

    Examples
    --------
    >>> from uqlib.conformal import group_quantiles
    >>> labels, thresholds = group_quantiles([1.0, 2.0, 3.0, 9.0], list("abab"), 0.5)
    >>> labels.tolist(), thresholds.tolist()
    (['a', 'b'], [3.0, 9.0])
    """
    values = as_1d(scores, "scores")
    labels, codes = group_codes(groups, values.size, "groups")
    level = check_confidence_level(confidence_level)
    thresholds = group_thresholds(values, codes, labels.size, level)
    warn_small_groups(labels, np.bincount(codes, minlength=labels.size), level)
    return labels, thresholds


def group_codes(
    groups: Any, n_samples: int, name: str
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the sorted labels and the position of each row's label among them.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        The labels.
    n_samples : int
        The number of rows.
    name : str
        How the error calls them.

    Returns
    -------
    labels : ndarray of shape (n_groups,)
        Distinct labels, sorted.
    codes : ndarray of shape (n_samples,)
        Their positions.
    """
    values = check_groups(groups, n_samples, name)
    labels, codes = np.unique(values, return_inverse=True)
    return labels, codes.astype(np.intp, copy=False)


def check_groups(groups: Any, n_samples: int, name: str) -> NDArray[Any]:
    """Return group labels as an array that can be sorted, or say what is wrong.

    Parameters
    ----------
    groups : array-like of shape (n_samples,)
        The labels: all numbers, all strings or all booleans.
    n_samples : int
        The number of rows.
    name : str
        How the error calls them.

    Returns
    -------
    ndarray of shape (n_samples,)
        The labels.
    """
    values = np.asarray(groups)
    if values.dtype.kind == "T":  # NumPy's strings of any length
        values = values.astype(object)
    if values.shape != (n_samples,):
        raise ValueError(
            f"{name} must have shape ({n_samples},), one label a row, got shape "
            f"{values.shape}."
        )
    # What is not equal to itself is NaN or NaT; None and pandas.NA have no order.
    missing = (
        np.array([is_missing(v) for v in values])
        if values.dtype == object
        else (values != values)
    )
    if values.size and np.any(missing):
        raise ValueError(
            f"{name} has missing labels in {int(np.sum(missing))} rows: every row "
            "belongs to one group. Give missing ones a label of their own."
        )
    if values.dtype != object:
        return values
    kinds = {type(value) for value in values}
    if all(issubclass(kind, str) for kind in kinds):
        return values.astype(str)
    try:
        np.sort(values)
    except TypeError as error:
        raise ValueError(
            f"{name} mixes labels of types {sorted(kind.__name__ for kind in kinds)}, "
            "which have no common order. Pass all of them as strings."
        ) from error
    return values


def is_missing(value: Any) -> bool:
    """Return whether a label is NaN, NaT, None or pandas.NA.

    Parameters
    ----------
    value : object
        One label.

    Returns
    -------
    bool
        True if there is none.
    """
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA refuses to be compared
        return True


def group_thresholds(
    scores: FloatArray, codes: NDArray[np.intp], n_groups: int, level: Fraction
) -> FloatArray:
    """Return the conformal quantile of every group, without a warning.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Without NaN.
    codes : ndarray of shape (n,)
        The group of each score, from 0 to n_groups - 1.
    n_groups : int
        The number of groups.
    level : Fraction
        The exact level.

    Returns
    -------
    ndarray of shape (n_groups,)
        The thresholds; +inf for a group with too few scores or none.
    """
    ordered = scores[np.lexsort((scores, codes))]
    sizes = np.bincount(codes, minlength=n_groups)
    starts = np.cumsum(sizes) - sizes
    ranks = np.array([rank_from_fraction(int(n), level) for n in sizes], dtype=np.intp)
    thresholds = np.full(n_groups, np.inf)
    enough = ranks <= sizes
    thresholds[enough] = ordered[(starts + ranks - 1)[enough]]
    return thresholds


def warn_small_groups(
    labels: NDArray[Any], sizes: NDArray[np.intp], level: Fraction
) -> None:
    """Warn once of the groups that are too small for a finite threshold.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        Labels of the groups.
    sizes : ndarray of shape (n_groups,)
        Their numbers of calibration rows.
    level : Fraction
        The exact level.
    """
    needed = rows_needed(level)
    small = labels[sizes < needed]
    if small.size == 0:
        return
    warn_user(
        f"{small.size} of {labels.size} groups have too few calibration rows for a "
        f"finite bound at level {float(level):g}: {list_labels(small)}. At least "
        f"{needed} are needed in each. The bound is infinite there; pass more "
        "calibration rows, merge groups or ask for a lower level.",
        InfiniteIntervalWarning,
    )


def list_labels(labels: NDArray[Any]) -> str:
    """Return the first labels of a list, for a message.

    Parameters
    ----------
    labels : ndarray of shape (n_groups,)
        The labels.

    Returns
    -------
    str
        At most five of them.
    """
    shown = ", ".join(repr(label) for label in labels[:5].tolist())
    return shown + (", ..." if labels.size > 5 else "")
