"""Bridges between hulls: the max-min formula in fractions, layouts, many groups."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core.venn_abers import _bridges_reference
from uqlib_kernels.venn_abers import bridge_slopes

groups = st.lists(
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    max_size=12,
)


def max_min(rows, ones):
    """Isotonic values of a one put in above i groups, by the max-min formula."""
    x, y = np.cumsum([0, *rows]).tolist(), np.cumsum([0, *ones]).tolist()
    m = len(rows)
    values = [
        max(
            min(Fraction(1 + y[b] - y[a], 1 + x[b] - x[a]) for b in range(i + 1, m + 1))
            for a in range(i + 1)
        )
        for i in range(m)
    ]
    return [*values, 1]


def columns(groups):
    return np.array(groups, dtype=np.int64).reshape(-1, 2).T


@given(groups)
def test_equals_the_max_min_formula(groups):
    rows, ones = columns(groups)
    rise, run = bridge_slopes(rows, ones)
    found = [Fraction(*pair) for pair in zip(rise.tolist(), run.tolist(), strict=True)]
    assert found == max_min(rows.tolist(), ones.tolist())


@given(groups)
def test_equals_the_reference_digit_by_digit(groups):
    rows, ones = columns(groups)
    for kernel, reference in zip(
        bridge_slopes(rows, ones), _bridges_reference(rows, ones), strict=True
    ):
        np.testing.assert_array_equal(kernel, reference)
        assert kernel.dtype == reference.dtype == np.int64


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_many_groups(share):
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 10**4, size=3000)
    ones = rng.binomial(rows, np.clip(np.linspace(-0.2, 0.2, 3000) + share, 0, 1))
    for kernel, reference in zip(
        bridge_slopes(rows, ones), _bridges_reference(rows, ones), strict=True
    ):
        np.testing.assert_array_equal(kernel, reference)


def test_any_strides_dtypes_and_read_only():
    rng = np.random.default_rng(1)
    rows = rng.integers(1, 5, size=99)
    ones = rng.binomial(rows, 0.4)
    expected = bridge_slopes(rows, ones)
    read_only = rows.astype(np.int32)
    read_only.flags.writeable = False
    for values in (np.repeat(rows, 2)[::2], rows[::-1].copy()[::-1], read_only):
        for found, wanted in zip(bridge_slopes(values, ones), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_memory_is_linear():
    rows = np.ones(10**5, dtype=np.int64)
    ones = np.arange(10**5) % 2
    bridge_slopes(rows[:10], ones[:10])
    tracemalloc.start()
    bridge_slopes(rows, ones)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * rows.nbytes


@pytest.mark.parametrize(
    ("rows", "ones"), [(np.ones(3), np.ones(2)), (np.ones((1, 2)), np.ones((1, 2)))]
)
def test_refuses_other_shapes(rows, ones):
    with pytest.raises(ValueError, match="rows and ones must be 1-D and of the same"):
        bridge_slopes(rows, ones)
