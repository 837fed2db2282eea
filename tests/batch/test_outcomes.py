"""Statistics of targets from residuals, against all matchings."""

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.batch._batches import calibrated, rows_of
from uqlib._core.batch_statistics import Composition
from uqlib._core.order_law import order_statistic_rank
from uqlib._core.rank_bands import band_probability, batch_band
from uqlib.batch._outcomes import largest_matched

values = st.lists(st.integers(-6, 6), min_size=1, max_size=6)


@given(values, st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_worst_matching_equals_the_enumeration(points, seed):
    rng = np.random.default_rng(seed)
    m = len(points)
    points, band = np.sort(np.array(points, float)), np.sort(rng.integers(-6, 7, m) / 2)
    sums = [np.sort(points + band[list(order)]) for order in permutations(range(m))]
    expected = np.max(sums, axis=0)
    found = largest_matched(points, band, list(range(1, m + 1)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert (found >= expected).all()  # rounded outwards


def test_worst_matching_with_an_infinite_bound():
    band = np.array([0.0, 1.0, np.inf])
    found = largest_matched(np.array([0.0, 5.0, 7.0]), band, [1, 2, 3])
    # One target may be anywhere; the two smallest are those of the other bounds.
    np.testing.assert_allclose(found, [6.0, 8.0, np.inf], rtol=1e-12)


def _ends(statistic_of_sorted, points, low, high):
    """Extremes over all matchings of a band from below and one from above."""
    orders = [list(order) for order in permutations(range(len(points)))]
    lower = [statistic_of_sorted(np.sort(points + low[order])) for order in orders]
    upper = [statistic_of_sorted(np.sort(points + high[order])) for order in orders]
    return min(lower), max(upper)


@pytest.mark.parametrize(
    ("statistic", "by_hand"),
    [
        ("median", lambda t: t[2]),
        ("min", lambda t: t[0]),
        (("order", 4), lambda t: t[3]),
        (("quantile", 0.3), lambda t: t[1]),
    ],
)
def test_order_statistics_by_hand(statistic, by_hand):
    rng = np.random.default_rng(8)
    y, new, n, m = rng.normal(size=80), rng.normal(size=5), 80, 5
    gaps = batch_band(n, m, 0.9)
    ends = np.concatenate([[-9.0], np.sort(y), [9.0]])
    low, high = ends[n + 1 - gaps[::-1]], ends[gaps]
    model = calibrated(
        y, statistic=statistic, confidence_level=0.8, score_bounds=(-9.0, 9.0)
    )
    found = model.predict_batch_interval(rows_of(new))
    expected = _ends(by_hand, new, low, high)
    if statistic == "min":  # its lower end looks at the smallest residual alone
        rank = order_statistic_rank(n, m, 1, 0.9, "lower")
        expected = new.min() + ends[rank], expected[1]
    np.testing.assert_allclose(found, [expected], rtol=1e-12)
    event = band_probability(n, m, gaps)
    assert model.event_probability_[0, 1] == pytest.approx(event, abs=1e-15)
    assert np.isnan(model.gap_).all()
    assert np.isnan(model.rank_).all()


def test_sums_of_order_statistics_are_bounded_one_by_one():
    rng = np.random.default_rng(9)
    y, new = rng.normal(size=80), rng.normal(size=5)
    bounds = {"confidence_level": 0.8, "score_bounds": (-9.0, 9.0)}
    each = [
        # The band is the same for these positions: all but the outermost.
        calibrated(y, statistic=("order", k), **bounds).predict_batch_interval(
            rows_of(new)
        )[0]
        for k in (2, 3, 4)
    ]
    shares = [0, 0.5, 0.3, 0.2, 0]
    uneven = Composition(lambda i, g, t: g + shares[i - 1] * t, lambda i, h, r: h)
    for statistic, weights in (
        (("trimmed", 0.2, 0.2), [1, 1, 1]),
        ([0, 5, 3, 2, 0], [5, 3, 2]),
        (uneven, [5, 3, 2]),
    ):
        model = calibrated(y, statistic=statistic, **bounds)
        found = model.predict_batch_interval(rows_of(new))
        expected = np.average(each, axis=0, weights=weights)
        np.testing.assert_allclose(found, [expected], rtol=1e-12)


def test_median_of_an_even_number():
    y, new = np.linspace(-1, 1, 60), np.array([0.0, 1.0, 2.0, 3.0])
    bounds = {"score_bounds": (-2.0, 2.0)}
    middle = [
        calibrated(y, statistic=("order", k), **bounds).predict_batch_interval(
            rows_of(new)
        )
        for k in (2, 3)
    ]
    found = calibrated(y, statistic="median", **bounds)
    np.testing.assert_allclose(
        found.predict_batch_interval(rows_of(new)), np.mean(middle, axis=0), rtol=1e-12
    )


def test_extremes_look_at_one_residual():
    y = np.random.default_rng(10).normal(size=100)
    new = np.array([0.0, 4.0, 1.0])
    largest = calibrated(y, statistic="max", side="upper")
    rank = order_statistic_rank(100, 3, 3, 0.9, "upper")
    np.testing.assert_allclose(
        largest.predict_batch_interval(rows_of(new)),
        [[-np.inf, 4.0 + np.sort(y)[rank - 1]]],
        rtol=1e-12,
    )
    smallest = calibrated(-y, statistic="min", side="lower")
    np.testing.assert_allclose(
        smallest.predict_batch_interval(rows_of(-new)),
        [[-4.0 - np.sort(y)[rank - 1], np.inf]],
        rtol=1e-12,
    )


def test_equal_predictions_need_no_matching():
    # With one prediction for all rows the sorted targets are the sorted residuals.
    y = np.random.default_rng(11).normal(size=70)
    gaps = batch_band(70, 6, Fraction(19, 20))
    ends = np.append(np.sort(y), np.inf)
    model = calibrated(y, statistic=("order", 2), side="two")
    high = model.predict_batch_interval(np.full((6, 1), 3.0))[0, 1]
    assert high == pytest.approx(3.0 + ends[gaps[1] - 1], rel=1e-12)


@pytest.mark.parametrize("method", ["auto", "partition", "dp", "core", "hull", "band"])
def test_tied_targets_are_not_lost_to_rounding(method):
    # All targets are equal, so that their mean is known: every interval holds it.
    rng = np.random.default_rng(0)
    for target, point, m in zip(
        rng.normal(scale=10, size=40).round(1),
        rng.normal(scale=10, size=40).round(1),
        rng.integers(1, 5 if method in ("dp", "core", "hull", "band") else 40, size=40),
        strict=True,
    ):
        n = (400 if method == "band" else 40) * m
        model = calibrated(np.full(n, target), np.full(n, point), method=method)
        low, high = model.predict_batch_interval(rows_of(np.full(m, point)))[0]
        targets = np.full(m, target)
        for mean in (math.fsum(targets) / m, targets.mean(), targets.sum() / m):
            assert low <= mean <= high


@pytest.mark.parametrize("statistic", ["mean", ("trimmed", 0.2, 0.2), "median"])
@pytest.mark.parametrize("nonconformity", ["outcome", "signed"])
def test_huge_targets_stay_inside(statistic, nonconformity):
    # Sums of them overflow: an upper bound of -inf would hold nothing.
    for target in (-1e308, 1e308):
        model = calibrated(
            np.full(200, target), statistic=statistic, nonconformity=nonconformity
        )
        low, high = model.predict_batch_interval(rows_of(np.zeros(4)))[0]
        assert low <= target <= high
        assert abs(low / target - 1) < 1e-12
        assert abs(high / target - 1) < 1e-12


def test_a_composition_need_not_be_hashable():
    class Largest:
        __hash__ = None

        def __call__(self, i, g, t):
            return np.maximum(g, t)

    y = np.random.default_rng(2).normal(size=90)
    largest = Composition(Largest(), lambda i, h, r: h + r, -99.0)
    plain = Composition(Largest().__call__, lambda i, h, r: h + r, -99.0)
    batch = rows_of([0.0, 1.0])
    np.testing.assert_array_equal(
        calibrated(y, statistic=largest).predict_batch_interval(batch),
        calibrated(y, statistic=plain).predict_batch_interval(batch),
    )
