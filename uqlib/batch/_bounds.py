"""Which bound a batch gets, and the one warning if some are infinite."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from uqlib._core.batch_statistics import Composition, Linear, resolve_statistic
from uqlib._core.outward import lower_end, upper_end
from uqlib._core.rank_bounds import SIDES, warn_infinite_batch
from uqlib._core.rank_sides import METHODS, BatchBound, lower_side, upper_side
from uqlib._typing import FloatArray
from uqlib.batch._outcomes import matched_rows, matched_side
from uqlib.batch._partition import partition_reaches, partition_rows, partition_side
from uqlib.exceptions import InfiniteIntervalWarning, warn_user


class BatchTask(NamedTuple):
    """What is asked about one batch: its size, statistic, levels and sides."""

    m: int
    asked: Any  # the statistic in the user's words
    level: Fraction  # of both sides together
    side: str
    method: str

    @property
    def statistic(self) -> Linear | Composition:
        """The statistic of m values."""
        return resolve_statistic(self.asked, self.m)

    @property
    def names(self) -> tuple[str, ...]:
        """The sides, lower first."""
        return ("lower", "upper") if self.side == "two" else (self.side,)

    @property
    def side_level(self) -> Fraction:
        """The level of one side."""
        return (1 + self.level) / 2 if self.side == "two" else self.level


class BatchAnswer(NamedTuple):
    """A task, the number of calibration scores, and the bound of each side."""

    task: BatchTask
    n: int
    bounds: tuple[BatchBound, ...]


def check_request(statistic: Any, side: Any, method: Any) -> None:
    """Refuse names that are unknown whatever the batch."""
    if isinstance(statistic, str):
        resolve_statistic(statistic, 1)
    if side not in SIDES:
        raise ValueError(f"side={side!r} must be one of {', '.join(map(repr, SIDES))}.")
    if method not in (*METHODS, "partition"):
        allowed = ", ".join(map(repr, (*METHODS, "partition")))
        raise ValueError(f"method={method!r} must be one of {allowed}.")


def score_sides(
    task: BatchTask, scores: FloatArray, ends: tuple[float, float], shapes: Any
) -> tuple[BatchBound, ...]:
    """Bound a statistic of the scores of a batch.

    `scores` are in random order, and shapes(side) gives the phi of a side.
    """
    method = _choose(task, scores.size)
    level, values, found = task.side_level, np.sort(scores), []
    for name in task.names:
        end = ends[0] if name == "lower" else ends[1]
        if method == "partition":
            bound = partition_side(scores, end, task.m, task.statistic, level, name)
        else:
            one_side = lower_side if name == "lower" else upper_side
            bound = one_side(
                values, end, task.m, task.statistic, level, shapes(name), method
            )
        largest = float(np.abs(scores).max())
        found.append(_rounded(bound, name, task, abs(bound.value), largest, largest))
    return tuple(found)


def target_sides(
    task: BatchTask, scores: FloatArray, ends: tuple[float, float], points: FloatArray
) -> tuple[BatchBound, ...]:
    """Bound a statistic of targets, other than their mean, from their residuals."""
    if task.method not in ("auto", "band"):
        raise ValueError(
            f"method={task.method!r} bounds statistics of the residuals, and of the "
            "targets their mean alone. Pass method='auto', or nonconformity='outcome', "
            "which bounds statistics of the targets without the predictions."
        )
    level, found = task.side_level, []
    sizes = float(np.abs(scores).max()), float(np.abs(points).max())
    for name in task.names:
        end = ends[0] if name == "lower" else ends[1]
        bound = matched_side(points, scores, end, task.statistic, level, name)
        found.append(_rounded(bound, name, task, abs(bound.value), *sizes, *sizes))
    return tuple(found)


def moved_by_mean(
    bounds: tuple[BatchBound, ...], task: BatchTask, points: FloatArray
) -> tuple[BatchBound, ...]:
    """Return bounds of the mean target from those of the mean residual."""
    names, largest = task.names, float(np.abs(points).max())
    mean = math.fsum(points / task.m)
    moved = [
        (lower_end if name == "lower" else upper_end)(
            np.array(mean), np.array(bound.value)
        )
        for name, bound in zip(names, bounds, strict=True)
    ]
    return tuple(
        _rounded(bound._replace(value=float(value)), name, task, largest)
        for bound, name, value in zip(bounds, names, moved, strict=True)
    )


# The sum of m values, by whatever program or by the user for the targets, is off by up
# to m units in the last place of the sum of their sizes. Where targets are tied the
# statistic can equal its bound, and would then lie outside as often as inside. Sizes
# below the end of the range are at most the bound's own and twice the largest score.
def _rounded(
    bound: BatchBound, name: str, task: BatchTask, *sizes: float
) -> BatchBound:
    """Return a bound of a sum, moved outwards by its rounding error."""
    statistic = task.statistic
    if not isinstance(statistic, Linear) or not math.isfinite(bound.value):
        return bound
    if statistic.order is not None and bound.method != "hull":
        return bound  # a score, without sums
    unit = (task.m + 4) * float(np.finfo(np.float64).eps)
    error = sum(unit * size for size in sizes)  # their own sum may overflow
    return bound._replace(value=bound.value + (error if name == "upper" else -error))


# The choice looks at sizes, level and statistic alone: a choice that looked at the
# scores would void the guarantee. For the mean the groups are the tighter way wherever
# there are enough of them, and rank sets take over, finite if the scores are bounded,
# where there are not.
def _choose(task: BatchTask, n: int) -> str:
    if task.method != "auto" or not isinstance(task.statistic, Linear):
        return task.method
    averages = task.statistic.is_mean and task.m > 1
    if averages and partition_reaches(n, task.m, task.side_level):
        return "partition"
    return task.method


def columns_of(found: list[BatchAnswer]) -> FloatArray:
    """Return values, event probabilities, gaps and ranks, shape (4, n_groups, 2).

    An end that was not asked for is infinite, and all else of it NaN.
    """
    table = np.full((4, len(found), 2), np.nan)
    table[0] = [-np.inf, np.inf]
    for i, answer in enumerate(found):
        for name, bound in zip(answer.task.names, answer.bounds, strict=True):
            rank = math.nan if bound.rank is None else bound.rank
            column = bound.value, bound.event_probability, bound.gap, rank
            table[:, i, 0 if name == "lower" else 1] = column
    return table


def warn_infinite_once(found: list[BatchAnswer]) -> None:
    """Warn of the batch that lacks most calibration rows for a finite bound, if any."""
    open_ = [answer for answer in found if _open_sides(answer)]
    if not open_:
        return
    answer = max(open_, key=lambda one: one.task.m / one.n)
    task, n, bounds = answer
    if bounds[0].method == "partition":
        needed = partition_rows(task.m, task.side_level)
    elif bounds[0].method == "matching":
        needed = max(
            matched_rows(task.m, task.statistic, task.side_level, name)
            for name in _open_sides(answer)
        )
    else:
        warn_infinite_batch(bounds, n, task.m, task.asked, task.level, task.side)
        return
    warn_rows(n, task.m, needed, "The statistic")


def _open_sides(answer: BatchAnswer) -> list[str]:
    pairs = zip(answer.task.names, answer.bounds, strict=True)
    return [name for name, bound in pairs if math.isinf(bound.value)]


def warn_rows(n: int, m: int, needed: int, what: str) -> None:
    """Warn that n calibration rows are too few for a batch of m.

    Parameters
    ----------
    n, m : int
        Numbers of calibration rows and of rows in the batch.
    needed : int
        The least n at which the bound is finite.
    what : str
        What has no finite bound, the start of the message.
    """
    warn_user(
        f"{what} of a batch of {m} rows has no finite bound by {n} calibration rows: "
        f"at least {needed} are needed. Pass more of them, a smaller batch, a lower "
        "level or, if they are known, finite score_bounds.",
        InfiniteIntervalWarning,
    )
