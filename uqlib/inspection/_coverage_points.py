"""What a picture of coverage is made of: levels, intervals and groups, checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._core.checks import as_1d, check_rows
from uqlib._core.levels import check_confidence_level, exact_level, find_level
from uqlib._core.outward import outward_interval
from uqlib._predictions import (
    gives_intervals,
    own_confidence_level,
    predict_interval,
    predict_quantiles,
)
from uqlib._typing import FloatArray
from uqlib.metrics import coverage_score

_DEFAULT_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def check_shares(values: Any, name: str) -> FloatArray:
    array = as_1d(values, name)
    if array.size == 0 or not np.all((array >= 0) & (array <= 1)):
        raise ValueError(
            f"{name} must be a non-empty sequence of shares between 0 and 1, got "
            f"{array.tolist()}."
        )
    return array


def check_length(values: Any, name: str, n_points: int) -> None:
    if values is not None and values.shape != (n_points,):
        raise ValueError(
            f"{name} must have shape ({n_points},), one entry for each of nominal, got "
            f"shape {values.shape}."
        )


def check_one_picture(
    confidence_levels: Any, mondrian_groups: Any, confidence_level: Any
) -> None:
    """Refuse the argument that belongs to the other picture."""
    if mondrian_groups is None and confidence_level is not None:
        raise ValueError(
            f"confidence_level={confidence_level!r} is the level of a picture by group,"
            " but mondrian_groups is None. Pass mondrian_groups=, or for a picture by "
            f"level confidence_levels=[{confidence_level!r}]."
        )
    if mondrian_groups is not None and confidence_levels is not None:
        raise ValueError(
            f"confidence_levels={confidence_levels!r} are the levels of a picture by "
            "level, but mondrian_groups is given. Pass confidence_level= for the one "
            "level of a picture by group."
        )


def intervals_of(estimator: Any, X: Any, levels: Any) -> dict[float, FloatArray]:
    """Return the intervals of a model at the levels asked for, or at all it has."""
    if levels is not None:
        if np.ndim(levels) != 1 or len(levels) == 0:
            raise ValueError(
                "confidence_levels must be a non-empty 1-D sequence of levels, got "
                f"{levels!r}. Pass for example confidence_levels=[0.5, 0.9]."
            )
        return {level: predict_interval(estimator, X, level) for level in levels}
    if not gives_intervals(estimator):
        return central_intervals(*predict_quantiles(estimator, X))
    intervals, refusal = {}, None
    for level in sorted({*_DEFAULT_LEVELS, *_own_level(estimator)}):
        try:
            intervals[level] = predict_interval(estimator, X, level)
        except ValueError as error:  # quantiles that it lacks
            refusal = refusal or error
    if refusal is not None and not intervals:
        raise refusal
    return intervals


def _own_level(estimator: Any) -> tuple[float, ...]:
    try:
        return (own_confidence_level(estimator),)
    except ValueError:
        return ()


def central_intervals(
    y_quantiles: FloatArray, quantiles: FloatArray
) -> dict[float, FloatArray]:
    """Return the interval of each pair of levels tau, 1 - tau, by its coverage."""
    intervals = {}
    for column, tau in enumerate(quantiles[quantiles < 0.5]):
        mirror = find_level(quantiles, 1 - tau)
        if mirror is not None and mirror != column:
            interval = outward_interval(y_quantiles[:, column], y_quantiles[:, mirror])
            intervals[float(1 - 2 * exact_level(tau))] = interval
    if not intervals:
        raise ValueError(
            f"quantiles={quantiles.tolist()} has no central pair tau, 1 - tau, so "
            "there is no interval. Add the mirror image of a level, or ask a model "
            "that gives any level for confidence_levels=[0.5, 0.9]."
        )
    return intervals


def check_intervals(y_intervals: Any, target: FloatArray) -> dict[float, FloatArray]:
    """Return the intervals by increasing level."""
    if not isinstance(y_intervals, Mapping):
        raise TypeError(
            "y_intervals must be a dict of {confidence_level: intervals of shape "
            f"(n_samples, 2)}}, got {type(y_intervals).__name__}. Pass for example "
            "{0.9: y_interval}."
        )
    if not y_intervals:
        raise ValueError("y_intervals is empty: pass for example {0.9: y_interval}.")
    checked = {}
    for level, interval in y_intervals.items():
        exact = float(check_confidence_level(level))
        try:
            coverage_score(target, interval)
        except ValueError as error:
            raise ValueError(f"At confidence level {exact:.12g}: {error}") from error
        checked[exact] = np.asarray(interval, dtype=np.float64)
    return dict(sorted(checked.items()))


def only_interval(intervals: dict[float, FloatArray]) -> FloatArray:
    if len(intervals) > 1:
        raise ValueError(
            f"y_intervals has the levels {list(intervals)}, but a picture by group is "
            "at one level. Pass one of them, or leave out mondrian_groups."
        )
    return next(iter(intervals.values()))


def check_groups(
    mondrian_groups: Any, n_samples: int
) -> tuple[NDArray[np.object_], NDArray[np.intp]]:
    """Return the groups in sorted order, and the index of each row's."""
    import pandas as pd  # not needed for pictures by level

    groups = np.asarray(mondrian_groups, dtype=object)
    if groups.ndim != 1:
        raise ValueError(
            "mondrian_groups must have shape (n_samples,), one group a row, got shape "
            f"{groups.shape}."
        )
    check_rows(n_samples, groups.size, "mondrian_groups", "y_true")
    missing = int(np.sum(pd.isna(groups)))
    if missing:
        raise ValueError(
            f"mondrian_groups is missing in {missing} of {n_samples} rows. Give these "
            "rows a group of their own, such as 'unknown', or leave them out."
        )
    group, labels = pd.factorize(groups, sort=True)
    return np.asarray(labels, dtype=object), group
