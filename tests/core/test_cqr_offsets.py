"""Offsets of conformalized quantile regression, and the interval that they move."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.conformal import conformal_quantile, cqr_offsets, split_interval
from uqlib.exceptions import InfiniteIntervalWarning

CLOSE = {"rtol": 1e-12, "atol": 1e-15}
LEVELS = st.sampled_from([0.1, 0.5, 0.55, 0.8, 0.9])


@pytest.mark.filterwarnings("ignore::uqlib.exceptions.InfiniteIntervalWarning")
@given(st.integers(1, 60), LEVELS)
def test_offsets_by_hand(n, level):
    rng = np.random.default_rng(n)
    y, interval = rng.normal(size=n), np.sort(rng.normal(size=(n, 2)), axis=1)
    below, above = interval[:, 0] - y, y - interval[:, 1]
    both = conformal_quantile(np.maximum(below, above), level)
    assert cqr_offsets(y, interval, level) == (both, both)
    one_sided = 1 - (1 - level) / 2
    expected = tuple(conformal_quantile(s, one_sided) for s in (below, above))
    assert cqr_offsets(y, interval, level, symmetric=False) == expected


def test_the_kth_calibration_row_is_covered_and_no_more_than_k():
    rng = np.random.default_rng(0)
    y, interval = rng.normal(size=99), np.sort(rng.normal(size=(99, 2)), axis=1)
    lower, upper = cqr_offsets(y, interval, 0.9)
    covered = (interval[:, 0] - lower <= y) & (y <= interval[:, 1] + upper)
    assert covered.sum() == 90


def test_an_infinite_quantile_is_no_lack_of_rows():
    y, interval = np.zeros(50), np.tile([-1.0, 1.0], (50, 1))
    interval[:, 0] = np.inf
    assert cqr_offsets(y, interval, 0.8, symmetric=False) == (np.inf, -1.0)


def test_too_few_rows_warn_once():
    y, interval = np.zeros(5), np.tile([-1.0, 1.0], (5, 1))
    for symmetric, needed in ((True, 9), (False, 19)):
        with pytest.warns(InfiniteIntervalWarning, match=f"at least {needed}") as got:
            offsets = cqr_offsets(y, interval, 0.9, symmetric=symmetric)
        assert offsets == (np.inf, np.inf)
        assert len(got) == 1


@pytest.mark.parametrize(
    ("y", "interval", "message"),
    [
        ([1.0, 2.0], [[0.0, 1.0]], "y_interval has 1 rows but y has 2"),
        ([1.0], [0.0, 1.0], "y_interval must have shape (n_samples, 2)"),
        ([1.0], [[0.0, np.nan]], "y_interval contains NaN"),
        ([np.inf], [[0.0, 1.0]], "y contains NaN or infinity"),
        ([], np.empty((0, 2)), "y is empty"),
    ],
)
def test_bad_input(y, interval, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cqr_offsets(y, interval, 0.9)


@given(
    st.floats(-1e6, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(allow_nan=False, min_value=0.0),
)
def test_a_target_within_the_offset_lies_inside(y, y_pred, offset):
    lower, upper = split_interval([y_pred], offset)[0]
    assert lower <= y_pred <= upper
    if abs(y - y_pred) <= offset:
        assert lower <= y <= upper


def test_shapes_of_offsets():
    y_pred = np.array([1.0, 5.0])
    one = split_interval(y_pred, 0.5)
    np.testing.assert_allclose(one, [[0.5, 1.5], [4.5, 5.5]], **CLOSE)
    ends = split_interval(y_pred, [0.5, 2.0])  # (2,) is the pair of ends, n = 2 or not
    np.testing.assert_allclose(ends, [[0.5, 3.0], [4.5, 7.0]], **CLOSE)
    rows = split_interval(y_pred, [[0.0, 1.0], [np.inf, 2.0]])
    np.testing.assert_allclose(
        rows, [[1.0, 2.0], [-np.inf, 7.0]], rtol=1e-12, atol=1e-15
    )
    crossed = split_interval(y_pred, -1.0)
    np.testing.assert_allclose(
        crossed, [[0.0, 2.0], [4.0, 6.0]], rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("offsets", [[1.0], [1.0, 2.0, 3.0], [[1.0], [2.0]]])
def test_bad_offsets(offsets):
    with pytest.raises(ValueError, match=re.escape("shape (2,) or (2, 2)")):
        split_interval([1.0, 2.0], offsets)
    with pytest.raises(ValueError, match="offsets contains NaN"):
        split_interval([1.0, 2.0], np.nan)
    with pytest.raises(ValueError, match="y_pred contains NaN"):
        split_interval([np.nan], 1.0)
