"""The loop of union selection over rows: corrected guesses, then random pivots."""

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._jit import row_jit

__all__ = ["select_rows"]

# A walk over so many elements costs about one more cut of every list.
_WALK = 16
# Cuts before pivots take over; two or three are enough for lists of one law.
_CORRECTIONS = 8


@row_jit
def _total(base: float, scale: float, scaled: bool, shift: float) -> float:
    """Return base + scale * shift; 0 * inf is the shift, and inf - inf is +inf."""
    product = shift
    if scaled:
        product = scale * shift
        if product != product:
            product = shift
    total = base + product
    return np.inf if total != total else total


@row_jit
def _cut(
    base: float,
    scale: float,
    scaled: bool,
    flat: NDArray[np.float64],
    low: int,
    high: int,
    guess: int,
    value: float,
    ties_before: bool,
) -> int:
    """Return the first position in [low, high) whose sum is not before `value`.

    Sums that tie with it come before it or not, as `ties_before` says. The search
    gallops from `guess` (low <= guess <= high), so a good one costs little.
    """
    step = 1
    while guess < high:  # upwards: all before `guess` stay before
        total = _total(base, scale, scaled, flat[guess])
        if not (total < value or (ties_before and total == value)):
            high = guess
            break
        low = guess + 1
        guess = low + step
        step *= 2
    step, guess = 1, high - 1
    while guess >= low:  # downwards from the first known not to be before
        total = _total(base, scale, scaled, flat[guess])
        if total < value or (ties_before and total == value):
            low = guess + 1
            break
        high = guess
        guess = high - 1 - step
        step *= 2
    while low < high:
        middle = (low + high) >> 1
        total = _total(base, scale, scaled, flat[middle])
        if total < value or (ties_before and total == value):
            low = middle + 1
        else:
            high = middle
    return low


@row_jit
def _walk_up(
    base: NDArray[np.float64],
    scale: NDArray[np.float64],
    scaled: bool,
    flat: NDArray[np.float64],
    low: NDArray[np.intp],
    high: NDArray[np.intp],
    head: NDArray[np.float64],
    steps: int,
) -> float:
    """Return the steps-th smallest sum of the windows [low, high)."""
    n_lists = base.size
    for k in range(n_lists):
        head[k] = np.inf
        if low[k] < high[k]:
            head[k] = _total(base[k], scale[k], scaled, flat[low[k]])
    value = np.inf
    for _ in range(steps):
        first = -1
        for k in range(n_lists):
            if low[k] < high[k] and (first < 0 or head[k] < value):
                first, value = k, head[k]
        low[first] += 1
        if low[first] < high[first]:
            head[first] = _total(base[first], scale[first], scaled, flat[low[first]])
    return value


@row_jit
def _walk_down(
    base: NDArray[np.float64],
    scale: NDArray[np.float64],
    scaled: bool,
    flat: NDArray[np.float64],
    low: NDArray[np.intp],
    high: NDArray[np.intp],
    head: NDArray[np.float64],
    steps: int,
) -> float:
    """Return the steps-th largest sum of the windows [low, high)."""
    n_lists = base.size
    for k in range(n_lists):
        head[k] = -np.inf
        if low[k] < high[k]:
            head[k] = _total(base[k], scale[k], scaled, flat[high[k] - 1])
    value = -np.inf
    for _ in range(steps):
        last = -1
        for k in range(n_lists):
            if low[k] < high[k] and (last < 0 or head[k] > value):
                last, value = k, head[k]
        high[last] -= 1
        if low[last] < high[last]:
            head[last] = _total(base[last], scale[last], scaled, flat[high[last] - 1])
    return value


@row_jit
def _by_pivots(
    base: NDArray[np.float64],
    scale: NDArray[np.float64],
    scaled: bool,
    flat: NDArray[np.float64],
    low: NDArray[np.intp],
    high: NDArray[np.intp],
    cut: NDArray[np.intp],
    head: NDArray[np.float64],
    left: int,
) -> float:
    """Return the left-th smallest sum of the windows by random pivots.

    Elements are ordered by (sum, list, position), in which no two are equal: every
    step drops the pivot at least, and half of the elements on average, ties or not.
    """
    n_lists = base.size
    state = np.uint64(left)
    while True:
        size = 0
        for k in range(n_lists):
            size += high[k] - low[k]
        if left <= _WALK:
            return _walk_up(base, scale, scaled, flat, low, high, head, left)
        if size - left < _WALK:
            steps = size - left + 1
            return _walk_down(base, scale, scaled, flat, low, high, head, steps)

        # A linear congruential step; its upper bits are those that look random.
        state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        place = np.int64(state >> np.uint64(33)) % size
        pivot = 0
        while place >= high[pivot] - low[pivot]:
            place -= high[pivot] - low[pivot]
            pivot += 1
        position = low[pivot] + place
        value = _total(base[pivot], scale[pivot], scaled, flat[position])

        before = 0
        for k in range(n_lists):
            if k == pivot:
                cut[k] = position
            else:
                middle = (low[k] + high[k]) >> 1
                cut[k] = _cut(
                    base[k],
                    scale[k],
                    scaled,
                    flat,
                    low[k],
                    high[k],
                    middle,
                    value,
                    k < pivot,
                )
            before += cut[k] - low[k]
        if left == before + 1:
            return value
        if left <= before:
            high[:] = cut
        else:
            low[:] = cut
            low[pivot] += 1
            left -= before + 1


@row_jit
def select_rows(
    bases: NDArray[np.float64],
    scales: NDArray[np.float64],
    scaled: bool,
    flat: NDArray[np.float64],
    stops: NDArray[np.intp],
    pooled: NDArray[np.float64],
    rank: int,
    out: NDArray[np.float64],
) -> None:
    """Write the rank-th smallest sum of every row to `out`.

    Were all lists draws of one law, the answer would be near

        t = b + c P_(r),   b, c the means of bases and scales, P the pooled list.

    A cut of all lists at t tells exactly how many sums are below it. What is missing
    to the rank moves r, and with it t, once; then t moves along secants of the number
    of sums below. The windows [low, high) hold the answer throughout.
    """
    n_rows, n_lists = bases.shape
    starts = np.zeros(n_lists, dtype=np.intp)
    starts[1:] = stops[:-1]
    home = np.empty(n_lists, dtype=np.intp)
    for k in range(n_lists):
        home[k] = starts[k] + np.searchsorted(
            flat[starts[k] : stops[k]], pooled[rank - 1]
        )
    low, high, cut = np.empty_like(home), np.empty_like(home), np.empty_like(home)
    head = np.empty(n_lists, dtype=np.float64)
    no_scale = np.ones(n_lists, dtype=np.float64)
    n = flat.size
    for i in range(n_rows):
        base = bases[i]
        scale = scales[i] if scaled else no_scale
        center, factor = 0.0, 0.0
        for k in range(n_lists):
            share = (stops[k] - starts[k]) / n
            if share > 0.0:
                center += share * base[k]
                factor += share * scale[k]
            low[k], high[k], cut[k] = starts[k], stops[k], home[k]

        left, found, value = rank, False, 0.0
        guess = center + factor * pooled[rank - 1]
        last, missed_last = guess, 0
        below, above = -np.inf, np.inf
        for step in range(_CORRECTIONS):
            if not below < guess < above:
                break
            before = 0
            for k in range(n_lists):
                start = min(max(cut[k], low[k]), high[k])
                cut[k] = _cut(
                    base[k],
                    scale[k],
                    scaled,
                    flat,
                    low[k],
                    high[k],
                    start,
                    guess,
                    False,
                )
                before += cut[k] - low[k]
            if left <= before:
                high[:], above = cut, guess
                missed = left - before - 1
                if missed >= -_WALK:
                    value = _walk_down(
                        base, scale, scaled, flat, low, high, head, -missed
                    )
                    found = True
                    break
            else:
                low[:], below = cut, guess
                left -= before
                missed = left
                if missed <= _WALK:
                    value = _walk_up(base, scale, scaled, flat, low, high, head, missed)
                    found = True
                    break
            if step == 0:
                place = min(max(rank - 1 + missed, 0), n - 1)
                move = factor * (pooled[place] - pooled[rank - 1])
            else:
                move = missed * (guess - last) / (missed_last - missed)
            last, missed_last, guess = guess, missed, guess + move
        if not found:
            value = _by_pivots(base, scale, scaled, flat, low, high, cut, head, left)
        out[i] = value + 0.0  # -0.0 becomes 0.0: which of the two is found is chance
