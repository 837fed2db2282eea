r"""Programs for a composed statistic: g and h are built up score by score.

    g_i = gamma_i(g_{i-1}, x(r_i)),    h_i = eta_i(h_{i-1}, r_i),    r_1 <= ... <= r_m.

The gaps are visited in increasing order and each is offered to the positions 1, ..., m
in turn, so that it can take any run of them. Two tables over the values that h_i can
have: how likely they are, by the same recursion as for `weighted_law`, and the largest
g_i with each. Keeping the largest is right because gamma grows with g.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._core.batch_statistics import Composition
from uqlib._core.rank_events import CERTAIN, RankEvent, smallest_event
from uqlib._core.rank_programs import IntArray
from uqlib._typing import FloatArray

_MAX_STEPS = 2**24
_MAX_VALUE = 2.0**53


class Steps(NamedTuple):
    """The values that h_i can have, and where each gap leads from one to the next.

    `values[i]` holds those after i scores; `moves[i][v]` the indices into
    `values[i + 1]` to which gap v leads, -1 where it is forbidden.
    """

    values: list[IntArray]
    moves: list[list[NDArray[np.intp]]]


def composition_steps(statistic: Composition, m: int, gaps: list[int]) -> Steps:
    """Call eta for every position, value and gap.

    Parameters
    ----------
    statistic : Composition
        Of which only eta is looked at.
    m : int
        Number of scores in the batch.
    gaps : list of int
        What eta is told of each gap, in the order in which they are visited.

    Returns
    -------
    Steps
        Values and moves.
    """
    values, moves = [np.zeros(1, dtype=np.int64)], []
    n_steps = 0
    for i in range(1, m + 1):
        n_steps += values[-1].size * len(gaps)
        if n_steps > _MAX_STEPS:
            raise ValueError(
                f"The composition has more than {_MAX_STEPS} states: eta takes too "
                "many different values. Round it to a coarser grid."
            )
        led = [_call_eta(statistic.eta, i, values[-1], gap) for gap in gaps]
        pooled = np.concatenate(led)
        reached = np.unique(pooled[np.isfinite(pooled)])
        moves.append([_positions(reached, target) for target in led])
        values.append(reached.astype(np.int64))
    return Steps(values, moves)


def composition_event(steps: Steps, n: int, level: Fraction) -> RankEvent:
    """Return the smallest event h(R) <= q that has the probability.

    Parameters
    ----------
    steps : Steps
        Of the h.
    n : int
        Number of calibration scores.
    level : Fraction
        The probability asked for.

    Returns
    -------
    RankEvent
        Its position points into the last values of h.
    """
    m = len(steps.moves)
    if steps.values[-1].size == 0:
        return CERTAIN
    share = [np.zeros(values.size) for values in steps.values]
    share[0][0] = 1.0
    for v in range(n + 1):
        for i in range(1, m + 1):
            move, size = steps.moves[i - 1][v], share[i].size
            gained = np.bincount(move + 1, share[i - 1], size + 1)[1:]
            share[i] = (v * share[i] + i * gained) / (v + i)
    return smallest_event(steps.values[-1], share[-1], n, m, level)


def composition_extreme(
    statistic: Composition,
    steps: Steps,
    ends: FloatArray,
    event: RankEvent,
    sign: float,
) -> float:
    """Return the largest (sign 1) or smallest (sign -1) g over an event.

    Parameters
    ----------
    statistic : Composition
        Of which only gamma is looked at.
    steps : Steps
        Of the h.
    ends : ndarray of shape (n + 1,)
        The score at the end of each gap, in the order in which they are visited.
    event : RankEvent
        The set of ranks.
    sign : float
        1.0 or -1.0.

    Returns
    -------
    float
        The extreme; an undefined one counts as infinite.
    """
    if event.position is None:  # all ranks: every score is at the outermost end
        outermost = float(ends[-1] if sign > 0 else ends[0])
        return composition_value(statistic, np.full(len(steps.moves), outermost), sign)
    best = [np.full(values.size, -np.inf) for values in steps.values]
    reached = [np.zeros(values.size, dtype=bool) for values in steps.values]
    best[0][0], reached[0][0] = sign * statistic.start, True
    for v, end in enumerate(ends.tolist()):
        for i in range(1, len(steps.moves) + 1):
            move = steps.moves[i - 1][v]
            held = reached[i - 1] & (move >= 0)
            if held.any():
                grown = _call_gamma(statistic, i, sign * best[i - 1][held], end, sign)
                np.maximum.at(best[i], move[held], grown)
                reached[i][move[held]] = True
    return sign * float(best[-1][: event.position + 1].max())


def composition_value(statistic: Composition, scores: FloatArray, sign: float) -> float:
    """Return the statistic of sorted scores; an undefined one is infinite.

    Parameters
    ----------
    statistic : Composition
        Of which only gamma is looked at.
    scores : ndarray of shape (m,)
        Not decreasing.
    sign : float
        The side, 1.0 or -1.0, on which an undefined value is infinite.

    Returns
    -------
    float
        The value.
    """
    state = np.array([statistic.start])
    for i, score in enumerate(scores.tolist(), start=1):
        state = sign * _call_gamma(statistic, i, state, score, sign)
    return float(state[0])


def _call_gamma(
    statistic: Composition, i: int, state: FloatArray, score: float, sign: float
) -> FloatArray:
    """Return sign times the next states, +inf where they are undefined."""
    with np.errstate(invalid="ignore", over="ignore"):
        raw = np.asarray(statistic.gamma(i, state, score), dtype=np.float64)
    grown = sign * _broadcast(raw, state.shape, "gamma")
    return np.asarray(np.where(np.isnan(grown), np.inf, grown))


def _call_eta(
    eta: Callable[[int, Any, int], Any], i: int, values: IntArray, gap: int
) -> FloatArray:
    raw = np.asarray(eta(i, values, gap), dtype=np.float64)
    target = _broadcast(raw, values.shape, "eta")
    finite = target[np.isfinite(target)]
    wrong = np.isnan(target).any() or np.any(target == -np.inf)
    if wrong or np.any(finite != np.rint(finite)) or np.any(abs(finite) >= _MAX_VALUE):
        raise ValueError(
            f"eta({i}, h, {gap}) must give integers, or inf for a forbidden gap, got "
            f"{target.tolist()[:5]} for h={values.tolist()[:5]}."
        )
    return target


def _broadcast(array: FloatArray, shape: tuple[int, ...], name: str) -> FloatArray:
    try:
        return np.broadcast_to(array, shape)
    except ValueError as error:
        raise ValueError(
            f"{name} must return an array of the shape of its second argument, "
            f"{shape}, got {array.shape}."
        ) from error


def _positions(reached: FloatArray, target: FloatArray) -> NDArray[np.intp]:
    return np.where(np.isfinite(target), np.searchsorted(reached, target), -1)
