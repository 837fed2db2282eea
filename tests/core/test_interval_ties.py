"""Widths to rank by: rounding neither makes a rank nor hides one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uqlib._core.interval_ties import tied_widths
from uqlib._core.losses import interval_widths
from uqlib._core.outward import outward_interval


@pytest.mark.parametrize("outward", [False, True])
@given(
    center=arrays(np.float64, 30, elements=st.floats(-1e6, 1e6)),
    half=st.floats(1e-3, 1e6),
)
def test_one_half_width_is_one_width(outward, center, half):
    ends = np.column_stack([center - half, center + half])
    if outward:
        ends = outward_interval(*ends.T)
    widths = tied_widths(ends)
    assert np.unique(widths).size == 1
    assert widths[0] == interval_widths(ends).min()


@given(
    lower=arrays(np.float64, 20, elements=st.floats(-100, 100)),
    steps=arrays(np.int64, 20, elements=st.integers(0, 5)),
)
def test_widths_that_differ_by_more_keep_their_order(lower, steps):
    ends = np.column_stack([lower, lower + 1 + 1e-9 * steps])
    found = np.unique(tied_widths(ends), return_inverse=True)[1]
    np.testing.assert_array_equal(found, np.unique(steps, return_inverse=True)[1])


def test_no_order_of_the_rows_matters():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(200, 1)) * 10.0 ** rng.integers(0, 12, (200, 1))
    ends = ends + 0.5 * rng.integers(0, 3, (200, 1)) * [-1, 1]
    order = rng.permutation(200)
    np.testing.assert_array_equal(tied_widths(ends)[order], tied_widths(ends[order]))


def test_exact_widths_stay():
    ends = np.array([[0.0, 1.0], [1.0, 1.0], [-2.0, 2.0], [0.0, 1.0], [0.0, 0.0]])
    np.testing.assert_array_equal(tied_widths(ends), [1, 0, 4, 1, 0])


def test_infinite_ends_and_large_ones():
    ends = [[-np.inf, 0.0], [0.0, 1.0], [-np.inf, np.inf], [-1.5e308, 1.5e308]]
    found = tied_widths(np.array([*ends, [0.0, 1e308]]))
    np.testing.assert_array_equal(found, [np.inf, 1, np.inf, np.inf, 1e308])
    np.testing.assert_array_equal(tied_widths(np.array(ends[:1])), [np.inf])
    assert tied_widths(np.empty((0, 2))).shape == (0,)
