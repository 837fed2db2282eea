"""Compiled adaptive conformal inference: bitwise the loop in Python integers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib_kernels.online import fixed_thresholds, window_thresholds

relaxed = settings(deadline=None, max_examples=60)
values = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, math.inf, -math.inf]), st.floats(-3, 3)
)
streams = st.lists(values, max_size=40)
# (unit, start, rise, fall): level 9 / 10 with gamma 1 / 200, level 1 / 2 with gamma
# 3 / 5, level 2 / 3 with gamma 2; and one state far from its start.
steps = st.sampled_from(
    [(2000, 1800, 9, 1), (10, 5, 3, 3), (3, 2, 4, 2), (2000, -300, 9, 1)]
)


def reference(past, scores, window, unit, start, rise, fall):
    """The recursion in Python's own integers; window None leaves the past alone."""
    past, coverage, thresholds = list(past), start, []
    for score in scores:
        n = len(past)
        rank = -(-(n + 1) * coverage // unit)
        if coverage <= 0:
            threshold = -math.inf
        elif coverage >= unit or rank > n:
            threshold = math.inf
        else:
            threshold = sorted(past)[rank - 1]
        thresholds.append(threshold)
        coverage += rise if score > threshold else -fall
        if window is not None:
            past = [*past, score][-window:]
    return thresholds


@relaxed
@given(streams, streams, steps)
def test_fixed_equals_the_loop(calibration, scores, steps):
    result = fixed_thresholds(np.sort(calibration), np.array(scores), *steps)
    assert result.tolist() == reference(calibration, scores, None, *steps)


@relaxed
@given(streams, streams, st.integers(1, 50), steps)
def test_window_equals_the_loop(past, scores, window, steps):
    past = past[-window:]
    result = window_thresholds(
        np.array(past, dtype=float), np.array(scores, dtype=float), window, *steps
    )
    assert result.tolist() == reference(past, scores, window, *steps)


@pytest.mark.parametrize("n_past", [0, 1, 7, 8, 9, 300])
@pytest.mark.parametrize("window", [1, 8, 300, 10_000])
def test_window_of_every_size(n_past, window):
    rng = np.random.default_rng(n_past)
    past, scores = rng.normal(size=n_past)[-window:], rng.normal(size=500).cumsum()
    result = window_thresholds(past, scores, window, 2000, 1800, 9, 1)
    assert result.tolist() == reference(past, scores, window, 2000, 1800, 9, 1)


def test_strides_and_inputs_are_left_alone():
    rng = np.random.default_rng(0)
    calibration, scores = np.sort(rng.normal(size=20)), rng.normal(size=100)
    kept = calibration.copy(), scores.copy()
    strided = fixed_thresholds(calibration[::2], scores[::3], 2000, 1800, 9, 1)
    packed = fixed_thresholds(
        calibration[::2].copy(), scores[::3].copy(), 2000, 1800, 9, 1
    )
    np.testing.assert_array_equal(strided, packed)
    window_thresholds(calibration, scores, 20, 2000, 1800, 9, 1)
    np.testing.assert_array_equal(calibration, kept[0])
    np.testing.assert_array_equal(scores, kept[1])


def test_largest_integers_that_fit():
    # (n + 2) unit just below 2^63: the product of the rank does not overflow.
    unit = (2**63 - 1) // 7
    steps = (unit, unit - unit // 10, unit // 11, unit // 100)
    rng = np.random.default_rng(3)
    past, scores = rng.normal(size=5), rng.normal(size=200)
    result = fixed_thresholds(np.sort(past), scores, *steps)
    assert result.tolist() == reference(past, scores, None, *steps)
