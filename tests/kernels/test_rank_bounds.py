"""Compiled programs over ranks: equal to the readable ones, layouts, refusals."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core import rank_programs
from uqlib._core.order_law import order_law
from uqlib_kernels.rank_bounds import (
    largest_weighted_sum,
    largest_windowed_sum,
    weighted_rank_law,
)

sizes = st.integers(1, 30)
seeds = st.integers(0, 10**6)


def problem(seed, size, p):
    """Levels from 0 with ties, sorted values and weights, the first one positive."""
    rng = np.random.default_rng(seed)
    levels = np.cumsum(rng.integers(0, 4, size=size))
    weights = rng.integers(0, 3, size=p)
    weights[[0, -1]] += 1
    return levels - levels[0], np.sort(rng.normal(size=size)), weights


@given(seeds, sizes, st.integers(1, 6), st.integers(1, 4))
def test_law_equals_the_reference(seed, size, p, first):
    levels, _, weights = problem(seed, size, p)
    top = order_law(size + 3, p + first + 1, p + first - 1)[:size]
    np.testing.assert_allclose(
        weighted_rank_law(levels, weights, top, first),
        rank_programs._weighted_law_reference(levels, weights, top, first),
        atol=1e-14,
    )


@given(seeds, sizes, st.integers(1, 6), st.integers(0, 100))
def test_weighted_program_equals_the_reference_bit_by_bit(seed, size, p, budget):
    levels, values, weights = problem(seed, size, p)
    weights = np.maximum(weights, 1)
    found = largest_weighted_sum(levels, values, weights, budget)
    assert found == rank_programs._largest_weighted_reference(
        levels, values, weights, budget
    )
    assert isinstance(found, float)


@given(
    seeds, sizes, st.integers(1, 9), st.integers(0, 200), st.integers(0, 60),
    st.integers(0, 60),
)  # fmt: skip
def test_windowed_program_equals_the_reference_bit_by_bit(
    seed, size, m, budget, below, above
):
    levels, values, _ = problem(seed, size, 1)
    found = largest_windowed_sum(levels, values, m, budget, below, above)
    assert found == rank_programs._largest_windowed_reference(
        levels, values, m, budget, below, above
    )


def test_both_paths_of_the_core_agree_at_size(monkeypatch):
    levels = np.arange(2000) // 7
    values = np.sort(np.random.default_rng(0).normal(size=2000))
    law = rank_programs.weighted_law(levels, 2000, (0, 2, 3, 0), 2, 3)
    best = rank_programs.largest_weighted_sum(levels, values, np.ones(9, int), 1000)
    window = rank_programs.largest_windowed_sum(levels, values, 90, 10**4, 50)
    monkeypatch.setattr(rank_programs, "compiled_kernels", lambda *args: None)
    np.testing.assert_allclose(
        law, rank_programs.weighted_law(levels, 2000, (0, 2, 3, 0), 2, 3), rtol=1e-12
    )
    assert best == rank_programs.largest_weighted_sum(
        levels, values, np.ones(9, int), 1000
    )
    assert window == rank_programs.largest_windowed_sum(levels, values, 90, 10**4, 50)


def test_any_strides_dtypes_and_read_only():
    levels, values, weights = problem(1, 20, 3)
    top = order_law(19, 3, 3)
    budget = int(levels[-1])
    law = weighted_rank_law(levels, weights, top, 1)
    best = largest_weighted_sum(levels, values, weights, budget)
    window = largest_windowed_sum(levels, values, 4, budget, 30, 30)
    other = levels.astype(np.int16)
    other.flags.writeable = False
    strided = np.repeat(values, 2)[::2]
    tops = top[::-1].copy()[::-1]
    np.testing.assert_array_equal(weighted_rank_law(other, weights, tops, 1), law)
    assert largest_weighted_sum(other, strided, weights.tolist(), budget) == best
    assert largest_windowed_sum(other, strided, 4, budget, 30, 30) == window


def test_memory_of_the_window_does_not_grow_with_the_budget():
    levels, values = np.arange(100), np.sort(np.random.default_rng(2).normal(size=100))
    largest_windowed_sum(levels, values, 2, 99, 5, 5)
    tracemalloc.start()
    largest_windowed_sum(levels, values, 10**4, 5 * 10**5, 100, 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**5


@pytest.mark.parametrize(
    ("levels", "values", "weights", "message"),
    [
        ([0, 2, 1], [0.0, 1.0, 2.0], [1], "levels must not be negative or decrease"),
        ([-1, 2, 3], [0.0, 1.0, 2.0], [1], "levels must not be negative or decrease"),
        ([0, 1], [0.0, 1.0, 2.0], [1], "with one value each"),
        ([], [], [1], "levels must be 1-D and not empty"),
        ([[0, 1]], [[0.0, 1.0]], [1], "levels must be 1-D and not empty"),
        ([0, 1], [0.0, 1.0], [], "weights must be 1-D"),
        ([0, 1], [0.0, 1.0], [-1], "weights must be 1-D"),
    ],
)
def test_bad_input(levels, values, weights, message):
    with pytest.raises(ValueError, match=message):
        largest_weighted_sum(levels, values, weights, 3)
    with pytest.raises(ValueError, match=message):
        weighted_rank_law(levels, weights, values, 1)


def test_bad_window():
    for m, below, above in [(0, 1, 1), (2, -1, 1), (2, 1, -1)]:
        with pytest.raises(ValueError, match="m must be positive"):
            largest_windowed_sum([0, 1], [0.0, 1.0], m, 2, below, above)
