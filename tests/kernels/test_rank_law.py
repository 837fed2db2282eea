"""Compiled laws of ranks: equal to the readable paths."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib._core import rank_law as reference
from uqlib._core.order_law import count_multisets, order_law
from uqlib_kernels.rank_law import complete_symmetric, first_ranks, rank_sum_law

relaxed = settings(deadline=None, max_examples=60)


@relaxed
@given(n=st.integers(0, 20), m=st.integers(1, 8), data=st.data())
def test_first_ranks_are_the_first_in_integers(n, m, data):
    k, total = data.draw(st.integers(1, m)), math.comb(n + m, m)
    # Half way between two jumps no rounding matters.
    counts = [count_multisets(n, m, k, j) for j in range(n + 2)]
    jumps = data.draw(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted))
    low, high = ((counts[j] + counts[j + 1]) / 2 / total for j in jumps)
    assert first_ranks(n, m, k, low, high) == (jumps[0] + 1, jumps[1] + 1)


def test_first_ranks_at_the_ends():
    assert first_ranks(10, 4, 2, -0.1, 0.0) == (1, 1)
    assert first_ranks(10, 4, 2, 0.0, 1.1) == (1, 11)
    assert first_ranks(10, 4, 2, 1.1, 1.2) == (11, 11)
    assert first_ranks(0, 4, 2, 0.1, 0.9) == (1, 1)


@pytest.mark.parametrize(
    ("n", "m", "k"), [(1000, 100, 90), (3000, 5000, 2500), (10**5, 1000, 1000)]
)
def test_first_ranks_of_huge_samples(n, m, k):
    # P(r_k = 1) of the last two is below the smallest float.
    cumulative = np.cumsum(order_law(n, m, k))
    for level in (1e-6, 0.1, 0.5, 0.9, 0.999):
        first, last = first_ranks(n, m, k, level, level)
        assert first == last == 1 + np.searchsorted(cumulative, level)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 31, 100, 1000])
@pytest.mark.parametrize("m", [1, 2, 3, 8, 50])
def test_rank_sums_are_bitwise_those_of_numpy(n, m):
    assert np.array_equal(rank_sum_law(n, m), reference._rank_sums(n, m))


@pytest.mark.parametrize("m", [1, 2, 5, 33, 70])
@pytest.mark.parametrize("n_allowed", [1, 4, 200])
@pytest.mark.parametrize("period", [1, 2, 9, 64, 1500])
def test_polynomials_equal_those_of_numpy(n_allowed, m, period):
    rng = np.random.default_rng([m, n_allowed, period])
    spectrum = np.fft.fft(rng.dirichlet(np.ones(period)))
    shares = reference._newton_shares(n_allowed, m)
    found = complete_symmetric(spectrum, shares)
    assert found.shape == (period // 2 + 1,)
    np.testing.assert_allclose(
        found, reference._complete(spectrum, shares), rtol=0, atol=1e-14
    )
    assert found[0] == pytest.approx(1, abs=1e-13)
    assert np.all(np.abs(found) <= 1 + 1e-13)


def test_strides_and_inputs_are_left_alone():
    rng = np.random.default_rng(0)
    spectrum = np.fft.fft(rng.dirichlet(np.ones(40)))
    shares = reference._newton_shares(30, 6)
    wide, tall = np.repeat(spectrum, 2), np.asfortranarray(shares)
    for array in (wide, tall):
        array.setflags(write=False)
    np.testing.assert_array_equal(
        complete_symmetric(wide[::2], tall), complete_symmetric(spectrum, shares)
    )
