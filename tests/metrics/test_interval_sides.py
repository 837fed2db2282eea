"""Sides, normalized widths and the coverage-width criterion of intervals."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.metrics import coverage_score, mean_interval_width
from uqlib.metrics._interval import covered_by_interval
from uqlib.metrics._interval_width import (
    coverage_width_criterion,
    infinite_interval_share,
    interval_widths,
    normalized_interval_width,
)
from uqlib.metrics._sides import side_calibration_error, side_coverage

INF = np.inf

weightings = pytest.mark.parametrize("weighted", [False, True])
normalizations = pytest.mark.parametrize("normalization", ["range", "std"])


def case(n=80, seed=0, weighted=False):
    """Return y, intervals, predictions and weights, on a grid: there are ties."""
    rng = np.random.default_rng(seed)
    y = np.round(4 * rng.normal(size=n)) / 4
    interval = np.round(4 * np.sort(rng.normal(size=(n, 2)), axis=1)) / 4
    point = np.round(4 * rng.normal(size=n)) / 4
    point[::5] = y[::5]
    weight = rng.exponential(size=n) if weighted else None
    if weighted:
        weight[::7] = 0.0
    return y, interval, point, weight


def same(a, b):
    return a == pytest.approx(b, rel=1e-12, abs=1e-12)


def refuses(message, metric, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=re.escape(message)):
        metric(*args, **kwargs)


# ------------------------------------------------------------- which are covered


def test_covered_rows_by_counting():
    y, interval, _, _ = case()
    expected = [low <= v <= high for v, (low, high) in zip(y, interval, strict=True)]
    found = covered_by_interval(y, interval)
    assert found.dtype == bool
    assert found.tolist() == expected
    assert found.mean() == coverage_score(y, interval)


def test_infinite_ends_cover():
    found = covered_by_interval([0.0] * 3, [[-INF, INF], [INF, INF], [-INF, 0.0]])
    assert found.tolist() == [True, False, True]


# ------------------------------------------------------------------------- sides


@weightings
def test_sides_by_counting(weighted):
    y, interval, point, weight = case(weighted=weighted)
    w = np.ones(y.size) if weight is None else weight
    mass = {side: {"all": 0.0, "in": 0.0, "rows": 0} for side in ("up", "down")}
    for i, (low, high) in enumerate(interval):
        side = mass["up" if y[i] > point[i] else "down"]
        side["all"] += w[i]
        side["in"] += w[i] if low <= y[i] <= high else 0.0
        side["rows"] += int(w[i] > 0)
    found = side_coverage(y, interval, point, sample_weight=weight)
    assert same(found.up, mass["up"]["in"] / mass["up"]["all"])
    assert same(found.down, mass["down"]["in"] / mass["down"]["all"])
    assert same(found.share_up, mass["up"]["all"] / w.sum())
    assert (found.n_up, found.n_down) == (mass["up"]["rows"], mass["down"]["rows"])


@given(seed=st.integers(0, 10**6), weighted=st.booleans())
def test_sides_add_up_to_the_coverage(seed, weighted):
    y, interval, point, weight = case(40, seed, weighted)
    sides = side_coverage(y, interval, point, sample_weight=weight)
    total = sides.share_up * sides.up + (1 - sides.share_up) * sides.down
    assert same(total, coverage_score(y, interval, sample_weight=weight))
    # What all rows are off by is no more than what the worse side is.
    gap = abs(total - 0.9)
    error = side_calibration_error(y, interval, point, 0.9, sample_weight=weight)
    assert gap <= max(abs(sides.up - 0.9), abs(sides.down - 0.9)) + 1e-12
    assert same(error, abs(sides.up - 0.9) + abs(sides.down - 0.9))


def test_reflection_exchanges_the_sides():
    y, interval, point, weight = case(weighted=True)
    point = point + 1 / 8  # no target equals its prediction
    found = side_coverage(y, interval, point, sample_weight=weight)
    mirror = side_coverage(-y, -interval[:, ::-1], -point, sample_weight=weight)
    assert (mirror.up, mirror.down) == (found.down, found.up)
    assert (mirror.n_up, mirror.n_down) == (found.n_down, found.n_up)
    assert same(mirror.share_up, 1 - found.share_up)


def test_a_target_equal_to_its_prediction_is_below():
    sides = side_coverage([1.0, 2.0], [[0.0, 3.0]] * 2, [1.0, 1.0])
    assert sides == (1.0, 1.0, 0.5, 1, 1)


def test_a_side_without_rows_has_no_coverage():
    y, interval = [1.0, 2.0], [[0.0, 1.0], [0.0, 1.0]]
    assert side_coverage(y, interval, [0.0, 0.0]) == (0.5, None, 1.0, 2, 0)
    assert side_coverage(y, interval, [5.0, 5.0]) == (None, 0.5, 0.0, 0, 2)
    assert same(side_calibration_error(y, interval, [0.0, 0.0], 0.9), 0.4)
    assert same(side_calibration_error(y, interval, [5.0, 5.0], 0.9), 0.4)
    # Weights can empty a side as well.
    only_up = side_coverage(y, interval, [0.0, 5.0], sample_weight=[1.0, 0.0])
    assert only_up == (1.0, None, 1.0, 1, 0)


def test_side_error_by_hand():
    # Above: 1 of 2 covered; below: 3 of 3.
    y, point = [2.0, 9.0, -1.0, 0.0, -0.5], [0.0] * 5
    interval = [[-3.0, 3.0]] * 5
    assert same(side_calibration_error(y, interval, point, 0.8), 0.3 + 0.2)
    exact = [[-10.0, 10.0]] * 5
    assert same(side_calibration_error(y, exact, point, 0.9), 0.2)


# --------------------------------------------------------------- normalized width


@weightings
def test_normalized_width_is_width_over_spread(weighted):
    y, interval, _, weight = case(weighted=weighted)
    width = mean_interval_width(interval, sample_weight=weight)
    w = np.ones(y.size) if weight is None else weight
    kept = y[w > 0]
    by_range = normalized_interval_width(y, interval, sample_weight=weight)
    assert same(by_range, width / (max(kept) - min(kept)))
    mean = sum(w * y) / sum(w)
    deviation = math.sqrt(sum(w * (y - mean) ** 2) / sum(w))
    by_std = normalized_interval_width(
        y, interval, normalization="std", sample_weight=weight
    )
    assert same(by_std, width / deviation)


@normalizations
@given(factor=st.integers(-300, 300), shift=st.integers(-(2**10), 2**10))
def test_normalized_width_has_no_unit(normalization, factor, shift):
    y, interval, _, _ = case()
    expected = normalized_interval_width(y, interval, normalization=normalization)
    scale = 2.0**factor
    found = normalized_interval_width(
        scale * (y + shift), scale * (interval + shift), normalization=normalization
    )
    assert found == pytest.approx(expected, rel=1e-9)


@normalizations
def test_integer_weights_are_repeated_rows(normalization):
    y, interval, _, _ = case()
    counts = np.random.default_rng(1).integers(0, 3, y.size)
    rows = np.repeat(np.arange(y.size), counts)
    weighted = normalized_interval_width(
        y, interval, normalization=normalization, sample_weight=counts
    )
    repeated = normalized_interval_width(
        y[rows], interval[rows], normalization=normalization
    )
    assert same(weighted, repeated)


@normalizations
def test_huge_and_tiny_targets(normalization):
    for scale in (1e-308, 1e308):
        y, interval = np.array([-1.0, 1.0]) * scale, np.array([[-0.5, 0.5]] * 2) * scale
        found = normalized_interval_width(y, interval, normalization=normalization)
        assert same(found, 0.5 if normalization == "range" else 1.0)


@normalizations
def test_a_constant_target(normalization):
    y = [0.1] * 7
    points, wide = [[0.1, 0.1]] * 7, [[0.0, 0.2]] * 7
    assert normalized_interval_width(y, points, normalization=normalization) == 0.0
    assert normalized_interval_width(y, wide, normalization=normalization) == INF
    assert normalized_interval_width([0.0], [[0.0, 0.0]]) == 0.0


@normalizations
def test_infinite_intervals_have_infinite_normalized_width(normalization):
    y, interval = [0.0, 1.0], [[0.0, 1.0], [-INF, 1.0]]
    assert normalized_interval_width(y, interval, normalization=normalization) == INF
    found = normalized_interval_width(
        [0.0, 1.0, 3.0],
        [[0.0, 1.0], [0.0, 1.0], [0.0, INF]],
        normalization=normalization,
        sample_weight=[1.0, 1.0, 0.0],
    )
    assert same(found, 1.0 if normalization == "range" else 2.0)


# ------------------------------------------------------------- coverage and width


@weightings
@given(eta=st.floats(0, 100), level=st.floats(0.01, 0.99))
def test_criterion_by_its_formula(weighted, eta, level):
    y, interval, _, weight = case(weighted=weighted)
    width = normalized_interval_width(y, interval, sample_weight=weight)
    coverage = coverage_score(y, interval, sample_weight=weight)
    found = coverage_width_criterion(y, interval, level, eta=eta, sample_weight=weight)
    expected = (1 - width) * np.exp(-eta * (coverage - level) ** 2)
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_criterion_equals_that_of_a_peer():
    peer = pytest.importorskip("mapie.metrics.regression")
    for seed in range(10):
        y, interval, _, _ = case(seed=seed)
        found = coverage_width_criterion(y, interval, 0.8, eta=12.5)
        expected = peer.coverage_width_based(y, *interval.T, 12.5, 0.8)
        assert found == pytest.approx(expected, rel=1e-12)


def test_larger_is_better():
    y = np.linspace(0, 1, 101)
    exact = np.column_stack([y - 0.1, y + 0.1])
    wider = np.column_stack([y - 0.2, y + 0.2])
    missing = exact.copy()
    missing[:50] += 0.5
    best = coverage_width_criterion(y, exact, 0.99)
    assert best > coverage_width_criterion(y, wider, 0.99)
    assert best > coverage_width_criterion(y, missing, 0.99)
    # Points that are the targets have coverage 1 and no width.
    points = np.column_stack([y, y])
    assert same(coverage_width_criterion(y, points, 0.9, eta=0.0), 1.0)


def test_infinite_intervals_have_the_worst_criterion():
    y, interval = [0.0, 1.0], [[0.0, INF], [0.0, 1.0]]
    # Also where the penalty would round to 0.
    for eta in (0.0, 30.0, 1e9):
        assert coverage_width_criterion(y, interval, 0.5, eta=eta) == -INF


# --------------------------------------------------------------- infinite shares


def test_share_of_infinite_intervals():
    interval = [[0.0, 1.0], [-INF, 0.0], [0.0, INF], [-INF, INF], [INF, INF]]
    assert infinite_interval_share(interval) == 0.8
    weight = [6.0, 1.0, 1.0, 1.0, 1.0]
    assert infinite_interval_share(interval, sample_weight=weight) == 0.4
    assert infinite_interval_share([[0.0, 1.0]]) == 0.0


# ------------------------------------------------------------- containers, errors


def _all(y, interval, point, weight):
    return [
        side_coverage(y, interval, point, sample_weight=weight),
        side_calibration_error(y, interval, point, 0.9, sample_weight=weight),
        normalized_interval_width(y, interval, sample_weight=weight),
        coverage_width_criterion(y, interval, 0.9, sample_weight=weight),
        infinite_interval_share(interval, sample_weight=weight),
        covered_by_interval(y, interval).tolist(),
    ]


def test_frames_and_lists_are_taken(df_module):
    y, interval, point, weight = case(weighted=True)
    expected = _all(y, interval, point, weight)
    frame = df_module.make_dataframe({"lower": interval[:, 0], "upper": interval[:, 1]})
    series = [df_module.make_series(v) for v in (y, point, weight)]
    assert _all(series[0], frame, *series[1:]) == expected
    assert _all(*(a.tolist() for a in (y, interval, point, weight))) == expected


def test_float32_strides_and_read_only_input():
    y, interval, point, weight = case(weighted=True)
    expected = _all(y, interval, point, weight)
    # Values on a grid of quarters are float32 without loss.
    single = [a.astype(np.float32) for a in (y, interval, point)]
    assert _all(*single, weight) == expected
    strided = np.asfortranarray(np.repeat(interval, 2, axis=0))[::2]
    for array in (y, strided, point, weight):
        array.setflags(write=False)
    assert _all(y, strided, point, weight) == expected


def test_the_order_of_rows_does_not_matter():
    y, interval, point, _ = case()
    order = np.random.default_rng(0).permutation(y.size)
    found = _all(y[order], interval[order], point[order], None)
    expected = _all(y, interval, point, None)
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert found[1:5] == pytest.approx(expected[1:5], rel=1e-12)
    assert found[5] == [expected[5][i] for i in order]


@pytest.mark.parametrize("bad", [np.nan, INF])
def test_a_prediction_that_is_not_finite(bad):
    message = (
        "y_pred contains NaN or infinity. Remove those rows: every target must be "
    )
    for metric, more in ((side_coverage, ()), (side_calibration_error, (0.9,))):
        refuses(message, metric, [0.0], [[0.0, 1.0]], [bad], *more)


def test_arrays_of_other_lengths():
    interval = [[0.0, 1.0]] * 2
    refuses("y_pred has 1 rows but", side_coverage, [0.0] * 2, interval, [0.0])
    for metric in (covered_by_interval, normalized_interval_width):
        refuses("y_interval has 2 rows but", metric, [0.0], interval)
    refuses("y_pred must have shape", side_coverage, [0.0] * 2, interval, [[0.0]] * 2)
    weight = {"sample_weight": [1.0]}
    refuses(
        "sample_weight must", side_coverage, [0.0] * 2, interval, [0.0] * 2, **weight
    )
    refuses("sample_weight must", infinite_interval_share, interval, **weight)


def test_no_rows_and_nan():
    empty, nan = np.empty((0, 2)), [[np.nan, 1.0]]
    for metric in (covered_by_interval, normalized_interval_width):
        refuses("y_true is empty", metric, [], empty)
        refuses("y_interval contains NaN", metric, [0.0], nan)
        refuses("y_true contains NaN", metric, [np.nan], [[0.0, 1.0]])
    refuses("y_interval is empty", infinite_interval_share, empty)
    refuses("y_true is empty", side_coverage, [], empty, [])


def test_crossed_ends():
    crossed = [[1.0, 0.0]]
    refuses("lower > upper in 1 of 1 rows", covered_by_interval, [0.5], crossed)
    refuses("lower > upper in 1 of 1 rows", infinite_interval_share, crossed)


@pytest.mark.parametrize("bad", ["iqr", None, ["std"]])
def test_an_unknown_normalization(bad):
    refuses(
        f"normalization={bad!r} must be one of ['range', 'std'].",
        normalized_interval_width,
        [0.0],
        [[0.0, 1.0]],
        normalization=bad,
    )


@pytest.mark.parametrize("bad", [-1.0, INF, np.nan, True, "30", None])
def test_an_eta_out_of_range(bad):
    refuses(
        f"eta must be a finite number >= 0, got {bad!r}.",
        coverage_width_criterion,
        [0.0],
        [[0.0, 1.0]],
        0.9,
        eta=bad,
    )


def test_a_level_out_of_range():
    args = [0.0], [[0.0, 1.0]]
    refuses("confidence_level must lie", coverage_width_criterion, *args, 1.0)
    refuses("confidence_level must lie", side_calibration_error, *args, [0.0], 90)


def test_widths_that_are_equal_up_to_rounding_are_equal():
    center = np.random.default_rng(0).normal(size=100) * 1e3
    interval = np.column_stack([center - 0.3, center + 0.3])
    assert np.unique(np.diff(interval)).size > 1
    assert np.unique(interval_widths(interval)).size == 1
    wider = np.concatenate([interval, [[0.0, 0.7], [-INF, 0.0]]])
    assert interval_widths(wider)[-2:].tolist() == [0.7, INF]
    with pytest.raises(ValueError, match="lower > upper in 1 of 1 rows"):
        interval_widths([[1.0, 0.0]])
