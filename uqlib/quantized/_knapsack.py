r"""One choice for each item at the least cost within a capacity, exactly.

Item l at choice c has the size s[l, c] and costs d[l, c]. Sought is

    min sum_l d[l, c_l]     subject to     sum_l s[l, c_l] <= S .

Fronts. Of two partial choices for the items 0, ..., l of which one is neither larger
nor dearer, the other can go: whatever completes it completes the first one as well. So
a list of undominated (size, cost) pairs is extended item by item; its last entry is the
dearest to size and the cheapest, the optimum.

Bounds. For every multiplier m >= 0 a completion of the pair (s, d) within S costs at
least

    d + sum over the items left of min_c (d[c] + m s[c]) - m (S - s),

since m times what it leaves free is not negative. Pairs for which this exceeds the cost
of a choice that is known can go too. The smallest m whose minimizer fits gives both the
multiplier and such a choice; without it the lists could grow with the product of the
numbers of choices, with it they stay short. The order of the entries and all ties are
decided by size, then by the order of the choices: the result is deterministic.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import BoolArray, FloatArray

IntArray = NDArray[np.int64]
Choice = tuple[int, ...]
_BISECTIONS = 60
_SLACK = 1e-9  # of the costs, so that rounding never prunes an optimum
_MOST_MOVES = 64  # that fail before a local search ends


def cheapest_choice(sizes: IntArray, costs: FloatArray, capacity: int) -> Choice:
    """Return one choice for each item, of the least total cost within a capacity.

    Parameters
    ----------
    sizes : ndarray of shape (n_items, n_choices)
        Integers, at least 0, in any order.
    costs : ndarray of shape (n_items, n_choices)
        Finite, of any sign.
    capacity : int
        Largest total size.

    Returns
    -------
    tuple of int
        Index of the choice of each item. Of equal totals of the cost the smaller size.

    Raises
    ------
    ValueError
        If even the smallest choices do not fit.
    """
    smallest = int(sizes.min(axis=1).sum())
    if smallest > capacity:
        raise ValueError(
            f"capacity={capacity} is too small: the smallest choices need {smallest}."
        )
    bound = _lagrange_bound(sizes, costs, capacity)
    rest_size = _sums_after(sizes.min(axis=1))
    front = _Front(np.zeros(1, np.int64), np.zeros(1))
    steps: list[tuple[IntArray, IntArray]] = []
    for item, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
        grown = _Front(
            (front.size[:, None] + size).ravel(), (front.cost[:, None] + cost).ravel()
        )
        fits = grown.size + rest_size[item] <= capacity
        kept = _undominated(grown, np.flatnonzero(fits & bound.allows(grown, item)))
        front = _Front(grown.size[kept], grown.cost[kept])
        steps.append((kept // size.size, kept % size.size))
    return _traced_back(steps, len(front.cost) - 1)


def local_search(
    start: Choice,
    sizes: IntArray,
    costs: FloatArray,
    capacity: int,
    value: Callable[[Choice], float],
) -> Choice:
    """Return a choice from which no single step lowers a value that is not additive.

    A step is one or two items one choice up, with at most one other item one choice
    down, and within the capacity. Steps of one item up are tried before those of two,
    each in the order of their total additive costs; the first that lowers the value is
    taken.

    Parameters
    ----------
    start : tuple of int
        Index of the choice of each item, within the capacity.
    sizes : ndarray of shape (n_items, n_choices)
        Integers, increasing along the choices.
    costs : ndarray of shape (n_items, n_choices)
        Additive costs, which only order the steps.
    capacity : int
        Largest total size.
    value : callable
        What is to be lowered; each call may be expensive.

    Returns
    -------
    tuple of int
        Its value is at most that of the start. It has no better neighbor, unless there
        are more than 64 of them: then none among the first 64.
    """
    items = np.arange(len(start))

    def fits(choice: Choice) -> bool:
        return bool(sizes[items, choice].sum() <= capacity)

    def order(step: tuple[int, Choice]) -> tuple[int, float, Choice]:
        n_up, choice = step
        return n_up, float(costs[items, choice].sum()), choice

    best, least = start, value(start)
    while True:
        reachable = _neighbors(best, sizes.shape[1])
        neighbors = [step for step in reachable if fits(step[1])]
        for _, candidate in sorted(neighbors, key=order)[:_MOST_MOVES]:
            reached = value(candidate)
            if reached < least:
                best, least = candidate, reached
                break
        else:
            return best


class _Front(NamedTuple):
    """Sizes and costs of partial choices, both of shape (n_pairs,)."""

    size: IntArray
    cost: FloatArray


class _Bound(NamedTuple):
    """A multiplier, the least of cost + multiplier * size of the items left, a limit.

    `rest` has shape (n_items,).
    """

    multiplier: float
    rest: FloatArray
    limit: float

    def allows(self, front: _Front, item: int) -> BoolArray:
        """Return which partial choices up to an item can still be optimal."""
        lowest = front.cost + self.multiplier * front.size + self.rest[item]
        allowed: BoolArray = lowest <= self.limit
        return allowed


def _lagrange_bound(sizes: IntArray, costs: FloatArray, capacity: int) -> _Bound:
    items = np.arange(len(sizes))

    def minimizer(multiplier: float) -> IntArray:
        # Of ties the smallest: argmin takes the first of the sorted sizes.
        order = np.argsort(sizes, axis=1, kind="stable")
        ordered = np.take_along_axis(costs + multiplier * sizes, order, axis=1)
        chosen: IntArray = order[items, ordered.argmin(axis=1)]
        return chosen

    def fits(multiplier: float) -> bool:
        return bool(sizes[items, minimizer(multiplier)].sum() <= capacity)

    low, high = 0.0, 0.0
    if not fits(0.0):
        # Beyond the steepest slope only the smallest sizes are left.
        gaps = np.abs(np.diff(np.sort(sizes, axis=1), axis=1))
        narrowest = int(gaps[gaps > 0].min(initial=np.iinfo(np.int64).max))
        high = 2 * float(np.ptp(costs, axis=1).max()) / narrowest
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if fits(middle) else (middle, high)
    known = minimizer(high)
    if sizes[items, known].sum() > capacity:  # rounding at the steepest slope
        known = sizes.argmin(axis=1)
    cost = float(costs[items, known].sum())
    rest = _sums_after((costs + high * sizes).min(axis=1))
    scale = float(np.abs(costs).max(axis=1).sum()) + high * capacity
    return _Bound(high, rest, cost + high * capacity + _SLACK * scale)


def _sums_after(values: NDArray[Any]) -> NDArray[Any]:
    """Return the sums of what comes after each entry."""
    sums = np.cumsum(values[::-1])[::-1]
    return np.append(sums[1:], sums.dtype.type(0))


def _undominated(front: _Front, among: IntArray) -> IntArray:
    """Return the pairs that no other beats, by increasing size, decreasing cost."""
    order = among[np.lexsort((among, front.cost[among], front.size[among]))]
    cost = front.cost[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(cost)[:-1]])
    kept: IntArray = order[cost < before]
    return kept


def _traced_back(steps: Sequence[tuple[IntArray, IntArray]], at: int) -> Choice:
    choice = []
    for parents, chosen in reversed(steps):
        choice.append(int(chosen[at]))
        at = int(parents[at])
    return tuple(reversed(choice))


def _neighbors(choice: Choice, n_choices: int) -> Iterator[tuple[int, Choice]]:
    """Yield what one step reaches, with the number of items that go up."""
    items = range(len(choice))
    can_rise = [k for k in items if choice[k] + 1 < n_choices]
    for n_up in (1, 2):
        for ups in combinations(can_rise, n_up):
            raised = choice
            for up in ups:
                raised = _moved(raised, up, 1)
            yield n_up, raised
            for down in items:
                if choice[down] > 0 and down not in ups:
                    yield n_up, _moved(raised, down, -1)


def _moved(choice: Choice, item: int, step: int) -> Choice:
    return (*choice[:item], choice[item] + step, *choice[item + 1 :])
