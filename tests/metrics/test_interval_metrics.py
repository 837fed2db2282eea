"""Metrics of intervals: identities between them and with the pinball loss."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib.metrics import (
    coverage_score,
    interval_score,
    mean_interval_width,
    pinball_loss,
)
from uqlib.quantile import sort_quantiles

LEVELS = [0.5, 0.8, 0.9, 0.95]
INF = np.inf


def width(y, interval, sample_weight=None):
    """The one metric that does not look at y, with the signature of the others."""
    return mean_interval_width(interval, sample_weight=sample_weight)


def score(y, interval, sample_weight=None):
    return interval_score(y, interval, 0.9, sample_weight=sample_weight)


metrics = pytest.mark.parametrize("metric", [coverage_score, width, score])
with_target = pytest.mark.parametrize("metric", [coverage_score, score])
weightings = pytest.mark.parametrize("weighted", [False, True])


def case(n=60, seed=0, weighted=False):
    """Return y, intervals and row weights; some targets lie on an end exactly."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    interval = np.sort(rng.normal(size=(n, 2)), axis=1)
    y[::7], y[1::7] = interval[::7, 0], interval[1::7, 1]
    return y, interval, rng.exponential(size=n) if weighted else None


def same(a, b, scale=1.0):
    return a == pytest.approx(b, rel=1e-12, abs=1e-12 * scale)


# ------------------------------------------------------------------- identities


@weightings
@pytest.mark.parametrize("level", LEVELS)
def test_interval_score_is_the_pinball_loss_of_its_ends(level, weighted):
    y, interval, weight = case(weighted=weighted)
    alpha = 1 - level
    ends = pinball_loss(
        y,
        interval,
        [alpha / 2, 1 - alpha / 2],
        sample_weight=weight,
        multioutput="raw_values",
    )
    expected = 2 / alpha * ends.sum()
    assert same(interval_score(y, interval, level, sample_weight=weight), expected)


@weightings
def test_interval_score_of_a_covering_interval_is_its_width(weighted):
    _, interval, weight = case(weighted=weighted)
    inside = interval.mean(axis=1)
    found = interval_score(inside, interval, 0.8, sample_weight=weight)
    assert same(found, mean_interval_width(interval, sample_weight=weight))
    assert coverage_score(inside, interval, sample_weight=weight) == 1.0


@weightings
def test_coverage_by_counting(weighted):
    y, interval, weight = case(weighted=weighted)
    w = np.ones(y.size) if weight is None else weight
    inside = sum(w[i] for i, (low, high) in enumerate(interval) if low <= y[i] <= high)
    found = coverage_score(y, interval, sample_weight=weight)
    assert same(found, inside / w.sum())
    assert type(found) is float
    # Both ends belong to the interval.
    assert coverage_score(interval[:, 0], interval) == 1.0
    assert coverage_score(interval[:, 1], interval) == 1.0


@weightings
def test_coverage_is_complementary(weighted):
    """A target lies inside, below or above."""
    y, interval, weight = case(weighted=weighted)
    low, high = interval.T
    everything = np.full(y.size, INF)
    below = np.column_stack([-everything, np.nextafter(low, -INF)])
    above = np.column_stack([np.nextafter(high, INF), everything])
    shares = [
        coverage_score(y, ends, sample_weight=weight)
        for ends in (below, interval, above)
    ]
    assert same(sum(shares), 1.0)
    assert min(shares) > 0


def test_wider_intervals_cover_more():
    y, interval, _ = case()
    outwards = np.array([-1.0, 1.0])
    coverages = [
        coverage_score(y, interval + t * outwards) for t in np.linspace(0, 3, 20)
    ]
    assert coverages == sorted(coverages)
    assert coverages[0] < coverages[-1]


@metrics
@given(factor=st.integers(-20, 20), shift=st.integers(-(2**10), 2**10))
def test_metrics_are_equivariant(metric, factor, shift):
    y, interval, _ = case()
    y, interval = np.round(64 * y) / 64, np.round(64 * interval) / 64
    scale = 2.0**factor
    moved = metric(scale * (y + shift), scale * (interval + shift))
    assert same(moved / (1 if metric is coverage_score else scale), metric(y, interval))


@metrics
def test_metrics_do_not_change_under_reflection(metric):
    y, interval, _ = case()
    assert same(metric(-y, -interval[:, ::-1]), metric(y, interval))


@metrics
def test_integer_weights_are_repeated_rows(metric):
    y, interval, _ = case()
    counts = np.random.default_rng(0).integers(0, 4, y.size)
    rows = np.repeat(np.arange(y.size), counts)
    weighted = metric(y, interval, sample_weight=counts)
    assert same(weighted, metric(y[rows], interval[rows]))


@metrics
def test_the_scale_of_the_weights_does_not_matter(metric):
    y, interval, weight = case(weighted=True)
    expected = metric(y, interval, sample_weight=weight)
    assert same(metric(y, interval, sample_weight=1e6 * weight), expected)


def test_by_hand():
    y, interval = [1.0, 5.0, -1.0], [[0.0, 2.0], [3.0, 4.0], [0.0, 6.0]]
    assert coverage_score(y, interval) == pytest.approx(1 / 3)
    assert mean_interval_width(interval) == 3.0
    # Widths 2, 1 and 6; two targets miss by 1, at 2 / 0.2 each.
    assert interval_score(y, interval, 0.8) == pytest.approx((2 + 11 + 16) / 3)


def test_the_level_is_exact():
    # In floats 2 / (1 - 0.9) is not 20.
    assert interval_score([1.0], [[0.0, 0.0]], 0.9) == 20.0
    assert interval_score([1.0], [[0.0, 0.0]], np.float32(0.9)) == 20.0


# ------------------------------------------------------------------- infinities


def test_infinite_intervals_cover_and_are_infinitely_wide():
    for row in ([-INF, INF], [-INF, 1.0], [0.0, INF]):
        interval = [row, [0.0, 1.0]]
        assert coverage_score([0.5, 0.5], interval) == 1.0
        assert mean_interval_width(interval) == INF
        assert interval_score([0.5, 0.5], interval, 0.9) == INF


@pytest.mark.parametrize("end", [-INF, INF])
def test_an_interval_at_infinity_covers_nothing(end):
    assert coverage_score([0.0], [[end, end]]) == 0.0
    assert mean_interval_width([[end, end]]) == INF
    assert interval_score([0.0], [[end, end]], 0.9) == INF


@metrics
def test_rows_of_weight_zero_have_no_say(metric):
    y, interval, _ = case()
    weight = np.ones(y.size)
    weight[:3] = 0.0
    infinite = interval.copy()
    infinite[:3] = [[-INF, INF], [INF, INF], [-INF, 0.0]]
    expected = metric(y[3:], interval[3:])
    assert same(metric(y, infinite, sample_weight=weight), expected)


def test_points_are_intervals():
    assert coverage_score([1.0, 2.0], [[1.0, 1.0], [3.0, 3.0]]) == 0.5
    assert mean_interval_width([[1.0, 1.0]]) == 0.0
    assert interval_score([1.0], [[1.0, 1.0]], 0.9) == 0.0


# ------------------------------------------------------------------- containers


@metrics
def test_frames_and_lists_are_taken(metric, df_module):
    y, interval, weight = case(weighted=True)
    expected = metric(y, interval, sample_weight=weight)
    frame = df_module.make_dataframe({"lower": interval[:, 0], "upper": interval[:, 1]})
    series, weights = df_module.make_series(y), df_module.make_series(weight)
    assert metric(series, frame, sample_weight=weights) == expected
    lists = metric(y.tolist(), interval.tolist(), sample_weight=weight.tolist())
    assert lists == expected


@metrics
def test_float32_and_strides(metric):
    y, interval, _ = case()
    y, interval = y.astype(np.float32), interval.astype(np.float32)
    exact = metric(y.astype(np.float64), interval.astype(np.float64))
    assert metric(y, interval) == exact
    assert metric(y, np.asfortranarray(interval)) == exact
    assert metric(np.repeat(y, 2)[::2], np.repeat(interval, 2, axis=0)[::2]) == exact


@metrics
def test_the_input_is_not_changed(metric):
    arrays = case(weighted=True)
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    y, interval, weight = arrays
    metric(y, interval, sample_weight=weight)
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(array, old)


# -------------------------------------------------------------------- bad input


def refuses(message, metric, *args, error=ValueError, **kwargs):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        metric(*args, **kwargs)


@with_target
@pytest.mark.parametrize("bad", [np.nan, INF, -INF])
def test_a_target_that_is_not_finite(metric, bad):
    refuses(
        "y_true contains NaN or infinity. Remove those rows: every target must be "
        "finite.",
        metric,
        [bad],
        [[-INF, INF]],
    )


@with_target
@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_a_target_that_is_not_one_dimensional(metric, shape):
    refuses(
        f"y_true must have shape (n_samples,), got shape {shape}. Flatten a column "
        "with y_true.ravel().",
        metric,
        np.zeros(shape),
        [[0.0, 1.0]] * 2,
    )


@metrics
@pytest.mark.parametrize("shape", [(), (2,), (1, 3), (1, 1), (1, 2, 1)])
def test_intervals_of_a_wrong_shape(metric, shape):
    refuses(
        "y_interval must have shape (n_samples, 2) with columns lower and upper, got "
        f"shape {shape}.",
        metric,
        [0.0],
        np.zeros(shape),
    )


@metrics
@pytest.mark.parametrize("row", [[np.nan, 1.0], [INF, np.nan]], ids=str)
def test_nan_bounds(metric, row):
    refuses(
        "y_interval contains NaN. Remove or impute those rows; infinite values are "
        "legal, NaN is not.",
        metric,
        [0.0, 0.0],
        [[0.0, 1.0], row],
    )


@metrics
def test_crossed_bounds_and_their_remedy(metric):
    y, interval = [0.5, 0.5, 0.5], [[0.0, 1.0], [1.0, 0.0], [INF, -INF]]
    refuses(
        "y_interval has lower > upper in 2 of 3 rows. Order the columns as lower, "
        "upper; sort_quantiles(y_interval) exchanges ends that crossed.",
        metric,
        y,
        interval,
    )
    assert not np.isnan(metric(y, sort_quantiles(interval)))


@with_target
def test_another_number_of_rows(metric):
    refuses(
        "y_interval has 1 rows but y_true has 2: pass arrays over the same rows.",
        metric,
        [0.0, 1.0],
        [[0.0, 1.0]],
    )


@metrics
def test_no_rows(metric):
    name = "y_interval" if metric is width else "y_true"
    message = f"{name} is empty: at least one row is needed."
    refuses(message, metric, [], np.empty((0, 2)))


@metrics
@pytest.mark.parametrize("shape", [(), (1,), (2, 1)])
def test_weights_of_a_wrong_shape(metric, shape):
    refuses(
        f"sample_weight must have shape (2,), one weight a row, got shape {shape}.",
        metric,
        [0.0, 1.0],
        [[0.0, 1.0]] * 2,
        sample_weight=np.ones(shape),
    )


@metrics
@pytest.mark.parametrize(
    "weight", [[-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0], [1.0, INF]], ids=str
)
def test_weights_out_of_range(metric, weight):
    refuses(
        "sample_weight must be finite and non-negative with at least one non-zero "
        f"weight, got values from {np.min(weight)} to {np.max(weight)}.",
        metric,
        [0.0, 1.0],
        [[0.0, 1.0]] * 2,
        sample_weight=weight,
    )


@pytest.mark.parametrize("level", [0, 1.0, 1.5, -0.1, np.nan, 90])
def test_a_level_out_of_range(level):
    refuses(
        "confidence_level must lie strictly between 0 and 1, got "
        f"{level!r}. Pass 0.9 for a coverage of 90 %.",
        interval_score,
        [0.0],
        [[0.0, 1.0]],
        level,
    )


@pytest.mark.parametrize("level", [True, None, "0.9"])
def test_a_level_that_is_no_number(level):
    refuses(
        "confidence_level must be a real number strictly between 0 and 1, got "
        f"{level!r} of type {type(level).__name__}.",
        interval_score,
        [0.0],
        [[0.0, 1.0]],
        level,
        error=TypeError,
    )
