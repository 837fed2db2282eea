"""Calibrated side quantiles: the exact rank, and ends that lose no target."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from uqlib._core.split_point_intervals import (
    conformal_side_scale,
    side_interval,
    side_scores,
)
from uqlib.exceptions import InfiniteIntervalWarning

# Many ties and exact zeros.
COARSE = st.integers(-3, 3).map(float)


def test_scale_by_hand():
    r = [1.0, -2.0, 3.0, -4.0]
    assert conformal_side_scale(r, 1, 1, 0.8) == 4
    assert conformal_side_scale(r, 6, [1, 2, 3, 4], 0.5) == 1  # .5, .5, 1, 1
    with pytest.warns(InfiniteIntervalWarning, match="4 calibration rows"):
        assert conformal_side_scale(r, 1, 1, 0.9) == np.inf
    with pytest.warns(InfiniteIntervalWarning, match="0 calibration rows"):
        assert conformal_side_scale([], [], [], 0.9) == np.inf


@given(st.data(), st.sampled_from([0.2, 0.5, 0.55, 0.8]))
def test_scale_is_the_exact_order_statistic(data, level):
    n = data.draw(st.integers(8, 30))
    r = np.array(data.draw(st.lists(COARSE, min_size=n, max_size=n)))
    up, down = np.array(
        data.draw(st.lists(st.tuples(*[st.integers(1, 4)] * 2), min_size=n, max_size=n))
    ).T.astype(float)

    def smallest(scores, p):
        return sorted(scores)[max(1, -((-(n + 1) * p) // 1)) - 1]

    p = Fraction(str(level))
    single = [max(ri / ui, -ri / di) for ri, ui, di in zip(r, up, down, strict=True)]
    assert conformal_side_scale(r, up, down, level) == smallest(single, p)
    if (n + 1) * (1 + p) / 2 > n:
        return
    both = conformal_side_scale(r, up, down, level, two_sided=True)
    assert both.up == smallest(r / up, (1 + p) / 2)
    assert both.down == smallest(-r / down, (1 + p) / 2)


def test_zero_and_infinite_quantiles():
    scores = side_scores(
        np.array([1.0, 0.0, -1.0, 1.0]),
        np.array([0.0, 0.0, 0.0, np.inf]),
        np.array([1.0, 0.0, 2.0, 0.0]),
    )
    np.testing.assert_array_equal(scores, [np.inf, 0, 0.5, 0])
    zero = np.zeros(1)
    assert np.isinf(side_interval(zero, zero, zero, np.inf)).all()


def test_two_ends_can_lie_on_one_side():
    # All targets lie far below the prediction: the upper end moves below it too.
    scales = conformal_side_scale(-np.arange(1.0, 100.0), 1, 1, 0.9, two_sided=True)
    assert scales == (-5, 95)


def test_no_target_is_lost_where_scores_have_few_digits():
    # Scores are subnormal numbers: the product with the quantile misses by far more
    # than its own last digit.
    y = np.random.default_rng(0).uniform(1e-10, 1e-9, size=50)
    quantile = np.full(50, 1e308)
    scores = side_scores(y, quantile, quantile)
    zero = np.zeros(1)
    for target, score in zip(y, scores, strict=True):
        lower, upper = side_interval(zero, quantile[:1], quantile[:1], score)[0]
        assert lower <= -target
        assert target <= upper


@given(
    arrays(float, 40, elements=st.integers(-50, 50).map(lambda k: k / 10)),
    arrays(float, 40, elements=st.integers(-50, 50).map(lambda k: k / 7)),
    arrays(float, 40, elements=st.sampled_from([0.1, 0.3, 1.0, 2.7])),
    st.sampled_from([0.3, 0.5, 0.9]),
)
def test_no_target_with_a_score_at_the_threshold_is_lost(y, point, quantile, level):
    up, down = quantile, quantile[::-1]
    residuals = y - point
    scale = conformal_side_scale(residuals, up, down, level)
    scores = side_scores(residuals, up, down)
    lower, upper = side_interval(point, up, down, scale).T
    inside = (lower <= y) & (y <= upper)
    assert inside[scores <= scale].all()
    # And outwards by rounding only.
    assert not inside[scores > scale * (1 + 1e-12) + 1e-12].any()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (([np.nan], 1, 1, 0.9), ValueError, "residuals contains NaN"),
        (([1.0], [1.0, 2.0], 1, 0.9), ValueError, "quantile_up has 2 values for 1"),
        (([1.0], 1, -1, 0.9), ValueError, "quantile_down must be at least 0"),
        (([1.0], [np.nan], 1, 0.9), ValueError, "quantile_up contains NaN"),
        (([1.0], 1, [[1.0]], 0.9), ValueError, "quantile_down must be 1-D"),
        (([1.0], 1, 1, 1.5), ValueError, "confidence_level must lie"),
        (([1.0], 1, 1, "high"), TypeError, "confidence_level must be a real number"),
    ],
)
def test_calibration_input_is_checked(arguments, error, match):
    with pytest.raises(error, match=match):
        conformal_side_scale(*arguments)
