"""Binomial intervals of a reliability diagram: their ends, and how often they hold."""

from math import comb

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uqlib._binomial import clopper_pearson


def binomial_tail(n, p, counts):
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in counts)


@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_ends_leave_half_of_the_rest_on_each_side(n, level):
    hits = np.arange(n + 1)
    interval = clopper_pearson(hits, np.full(n + 1, n), level)
    for s, (lower, upper) in zip(hits, interval, strict=True):
        if s > 0:
            tail = binomial_tail(n, lower, range(s, n + 1))
            np.testing.assert_allclose(tail, (1 - level) / 2, rtol=1e-9)
        if s < n:
            tail = binomial_tail(n, upper, range(s + 1))
            np.testing.assert_allclose(tail, (1 - level) / 2, rtol=1e-9)
    assert interval[0, 0] == 0
    assert interval[-1, 1] == 1
    np.testing.assert_allclose(interval, 1 - interval[::-1, ::-1])


@pytest.mark.parametrize("n", [1, 3, 10])
def test_intervals_hold_at_their_level(n):
    hits = np.arange(n + 1)
    interval = clopper_pearson(hits, np.full(n + 1, n), 0.9)
    for p in np.linspace(0, 1, 201):
        holds = hits[(interval[:, 0] <= p) & (p <= interval[:, 1])]
        assert binomial_tail(n, p, holds.tolist()) >= 0.9 - 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@example([1.0, 1.0, 0.9747])  # 1 - p ^ 3 is 0.0252 here, and less for equal chances
def test_intervals_hold_but_for_a_hair_where_chances_differ(chances):
    law = np.ones(1)
    for p in chances:
        law = np.convolve(law, [1 - p, p])
    n, mean = len(chances), np.mean(chances)
    interval = clopper_pearson(np.arange(n + 1), np.full(n + 1, n), 0.95)
    slack = 1e-9  # a mean of chances is rounded
    holds = (interval[:, 0] <= mean + slack) & (mean - slack <= interval[:, 1])
    # Only where all counts but n (or but 0) miss do they miss more often than with
    # equal chances p, for which 1 - p ^ n <= t: at most at n (1 - p) <= -log(1 - t),
    # which is below t + 0.0004 for t = 0.025.
    assert law[holds].sum() >= 0.95 - 0.0004
