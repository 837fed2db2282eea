"""Drift of a changed model: forecast of the width, certificate of the coverage."""

import math
import warnings
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uqlib._core.drift import drift_rms, row_drift, width_ratio_forecast
from uqlib._core.drift_certificate import drift_certificate, split_levels
from uqlib.exceptions import InfiniteIntervalWarning

# Many ties, and decimals that no float holds exactly.
COARSE = st.integers(-4, 4).map(lambda k: k / 10)
NUMBERS = st.floats(-1e6, 1e6)
LEVELS = st.sampled_from([0.5, 0.8, 0.9, 0.95, 1 / 3, 0.55 - 0.45, 0.999])


def threshold(values, level):
    """The k-th smallest of the sorted values, k = ceil((n + 1) level), or +inf."""
    rank = max(1, math.ceil((len(values) + 1) * level))
    return sorted(values)[rank - 1] if rank <= len(values) else math.inf


def quiet_certificate(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        return drift_certificate(*args, **kwargs)


# ---------------------------------------------------------------------------
# The forecast.


def test_forecast_by_hand():
    assert width_ratio_forecast([0.75, -0.75], 1.0) == 1.25
    assert width_ratio_forecast([3.0, 0.0, 0.0, 0.0], 1.5) == pytest.approx(2**0.5)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_forecast_is_its_formula_and_at_least_one(drift, rmse):
    found = width_ratio_forecast(drift, rmse)
    assert found == pytest.approx(math.sqrt(1 + np.mean(np.square(drift)) / rmse**2))
    assert found >= 1


@given(
    st.lists(COARSE, min_size=1, max_size=8),
    st.lists(COARSE, min_size=2, max_size=8),
)
def test_forecast_is_the_ratio_of_rmse_for_independent_centered_drift(r, d):
    # All pairs, equally likely: r and d are independent, and d has mean 0.
    r, d = np.array(r), np.array(d) - np.mean(d)
    rmse = math.sqrt(np.mean(r**2))
    if rmse == 0:
        return
    after = math.sqrt(np.mean(np.subtract.outer(r, d) ** 2))
    assert width_ratio_forecast(d, rmse) == pytest.approx(after / rmse, rel=1e-9)


def test_forecast_can_be_too_low_for_a_few_huge_residuals():
    # As the docstring says: nine residuals are small, and the RMSE is the tenth.
    r, d = np.array([*[0.01] * 9, 100.0]), np.ones(10)
    ratio = threshold(np.abs(r - d), Fraction(1, 2)) / threshold(r, Fraction(1, 2))
    assert ratio > 90
    assert width_ratio_forecast(d, math.sqrt(np.mean(r**2))) < 1.001


def test_forecast_takes_weights_as_repetitions():
    repeated = width_ratio_forecast([1.0, 2.0, 2.0, 2.0], 1.5)
    weighted = width_ratio_forecast([1.0, 2.0, 7.0], 1.5, sample_weight=[1, 3, 0])
    assert weighted == pytest.approx(repeated)


def test_forecast_at_the_ends():
    assert width_ratio_forecast([0.0, 0.0], 0.0) == 1.0
    assert width_ratio_forecast([0.1], 0.0) == math.inf
    assert width_ratio_forecast([1e200], 1e200) == pytest.approx(math.sqrt(2))
    assert width_ratio_forecast([1e-200], 1e-200) == pytest.approx(math.sqrt(2))
    assert width_ratio_forecast(np.float32([3, 4]), np.float32(5)) == pytest.approx(
        math.sqrt(1.5)
    )


@pytest.mark.parametrize(
    ("drift", "rmse", "error", "message"),
    [
        ([], 1.0, ValueError, "at least one row"),
        ([np.nan], 1.0, ValueError, "drift contains NaN"),
        ([np.inf], 1.0, ValueError, "finite numbers"),
        ([[1.0, 2.0]], 1.0, ValueError, r"drift must have shape \(n_samples,\)"),
        ([[[1.0]]], 1.0, ValueError, "drift must have shape"),
        ([1.0], -1.0, ValueError, "rmse must be finite and at least 0, got -1.0"),
        ([1.0], np.nan, ValueError, "rmse must be finite"),
        ([1.0], np.inf, ValueError, "rmse must be finite"),
        ([1.0], [1.0], TypeError, "rmse must be a number"),
        ([1.0], True, TypeError, "rmse must be a number"),
    ],
)
def test_forecast_refuses(drift, rmse, error, message):
    with pytest.raises(error, match=message):
        width_ratio_forecast(drift, rmse)
    with pytest.raises(ValueError, match="sample_weight"):
        width_ratio_forecast([1.0], 1.0, sample_weight=[-1.0])


# ---------------------------------------------------------------------------
# Sizes of drifts.


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=10))
def test_row_drift_is_the_root_mean_square_of_a_row(rows):
    drift = np.array(rows)
    size = row_drift(drift)
    np.testing.assert_allclose(size, np.sqrt(np.mean(drift**2, axis=1)), atol=1e-150)
    expected = math.sqrt(np.mean(size**2))
    assert drift_rms(drift) == pytest.approx(expected, rel=1e-12, abs=1e-150)
    np.testing.assert_array_equal(row_drift(drift[:, 0]), np.abs(drift[:, 0]))


def test_sizes_of_extreme_drifts():
    drift = np.array([[3e200, -4e200], [0.0, 0.0], [np.inf, 1.0]])
    np.testing.assert_allclose(row_drift(drift), [math.sqrt(12.5) * 1e200, 0, np.inf])
    assert drift_rms(drift) == math.inf
    assert drift_rms(drift[:2]) == pytest.approx(math.sqrt(6.25) * 1e200)


# ---------------------------------------------------------------------------
# The certificate: its arithmetic.


@given(LEVELS, st.floats(0.01, 0.99))
def test_levels_add_up_exactly(level, share):
    exact = Fraction(level).limit_denominator(10**9)
    first, second = split_levels(exact, share)
    assert (1 - first) + (1 - second) == 1 - exact
    assert exact < min(first, second) < 1


@given(
    st.lists(NUMBERS, max_size=40),
    st.lists(NUMBERS, max_size=40),
    LEVELS,
    st.sampled_from([0.1, 0.25, 0.5]),
)
def test_offsets_are_the_sum_of_two_order_statistics(scores, drift, level, share):
    found = quiet_certificate(scores, drift, level, drift_share=share)
    missed = 1 - Fraction(level).limit_denominator(10**9)
    second = Fraction(share).limit_denominator(10**9) * missed
    t = threshold(scores, 1 - (missed - second))
    moved = threshold([abs(d) for d in drift], 1 - second)
    assert found.score_offsets.tolist() == [t, t]
    assert found.drift_offsets.tolist() == [moved, moved]
    np.testing.assert_allclose(found.offsets, t + moved, rtol=1e-12, atol=1e-9)
    assert (found.offsets >= t + moved).all()
    assert (found.n_scores, found.n_drift) == (len(scores), len(drift))


def test_drift_of_quantiles_counts_inwards_only():
    scores = np.arange(20.0)
    inward = np.column_stack([np.arange(20.0), np.full(20, 5.0)])  # upper end moved out
    found = drift_certificate(scores, inward, 0.5, drift_share=0.5)
    assert found.drift_offsets.tolist() == [15.0, 15.0]
    grown = np.column_stack([np.full(20, -2.0), np.full(20, 3.0)])
    found = drift_certificate(scores, grown, 0.5, drift_share=0.5)
    assert found.drift_offsets.tolist() == [-2.0, -2.0]


def test_a_signed_drift_moves_both_ends_of_two_columns_of_scores():
    rng = np.random.default_rng(0)
    residuals, drift = rng.normal(size=200), rng.normal(size=300)
    scores = np.column_stack([-residuals, residuals])
    one = drift_certificate(scores, drift, 0.8)
    two = drift_certificate(scores, np.column_stack([drift, drift]), 0.8)
    np.testing.assert_array_equal(one.offsets, two.offsets)
    missed = Fraction(1, 5)
    level = 1 - missed * Fraction(9, 10) / 2, 1 - missed / 10 / 2
    assert one.score_offsets.tolist() == [
        threshold(column, level[0]) for column in scores.T
    ]
    assert one.drift_offsets.tolist() == [
        threshold(drift, level[1]),
        threshold(-drift, level[1]),
    ]


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    scores, drift = rng.normal(size=99), rng.normal(size=199)
    one = drift_certificate(scores, drift)
    two = drift_certificate(scores[::-1], rng.permutation(drift))
    np.testing.assert_array_equal(one.offsets, two.offsets)


# ---------------------------------------------------------------------------
# The certificate: its theorem, by counting all ways to draw the rows.


def share_covered(rows, n, m, level, share, covers, score, drift):
    """Coverage over every choice of the new row, of n labelled and m other rows."""
    hits, total = 0, 0
    for new in range(len(rows)):
        rest = [i for i in range(len(rows)) if i != new]
        for labelled in combinations(rest, n):
            left = [i for i in rest if i not in labelled]
            for unlabelled in combinations(left, m) if m else [labelled]:
                found = quiet_certificate(
                    [score(rows[i]) for i in labelled],
                    [drift(rows[i]) for i in unlabelled],
                    level,
                    drift_share=share,
                )
                hits += covers(rows[new], found)
                total += 1
    return Fraction(hits, total)


def covers_point(row, found):
    y, _, f_q = row
    lower, upper = found.interval([f_q])[0]
    return lower <= y <= upper


POINT = {
    "covers": covers_point,
    "score": lambda row: abs(row[0] - row[1]),
    "drift": lambda row: row[2] - row[1],
}


@given(st.lists(st.tuples(COARSE, COARSE, COARSE), min_size=7, max_size=7))
def test_coverage_of_points_by_enumeration(rows):  # y, f, f_q
    level, share = 0.5, 0.5
    assert share_covered(rows, 3, 3, level, share, **POINT) >= Fraction(1, 2)
    # The labelled rows may be those of the drift.
    assert share_covered(rows, 6, 0, level, share, **POINT) >= Fraction(1, 2)


def test_both_misses_add_up_exactly_where_they_never_meet():
    # Distinct scores and drifts, the large ones in other rows; (n + 1) p is whole.
    s = np.array([1, 2, 3, 4, 5, 6, 7, 8.0])
    d = np.array([7, 8, 1, 2, 3, 4, 5, 6.0])
    missed = 0
    for new in range(8):
        rest = np.delete(np.arange(8), new)
        found = drift_certificate(s[rest], d[rest], 0.5, drift_share=0.5)
        missed += s[new] > found.score_offsets[0] or d[new] > found.drift_offsets[0]
    assert missed == 4


def covers_quantiles(row, found):
    y, _, _, lower_q, upper_q = row
    lower, upper = found.interval([[lower_q, upper_q]])[0]
    return lower <= y <= upper


QUANTILES = st.lists(st.tuples(*[COARSE] * 5), min_size=7, max_size=7)


@given(QUANTILES)
def test_coverage_of_quantiles_by_enumeration(rows):  # y, l, u, l_q, u_q
    found = share_covered(
        rows,
        3,
        3,
        0.5,
        0.5,
        covers=covers_quantiles,
        score=lambda row: max(row[1] - row[0], row[0] - row[2]),
        drift=lambda row: (row[3] - row[1], row[4] - row[2]),
    )
    assert found >= Fraction(1, 2)


@pytest.mark.parametrize("end", [0, 1])
@given(rows=QUANTILES)
def test_each_end_misses_at_most_half_by_enumeration(end, rows):
    def covers(row, found):
        y, _, _, lower_q, upper_q = row
        lower, upper = found.interval([[lower_q, upper_q]])[0]
        return lower <= y if end == 0 else y <= upper

    found = share_covered(
        rows,
        6,
        0,
        0.4,  # an end misses with 0.15 each for score and drift: rank 6 of 6
        0.5,
        covers=covers,
        score=lambda row: (row[1] - row[0], row[0] - row[2]),
        drift=lambda row: (row[3] - row[1], row[4] - row[2]),
    )
    assert found >= Fraction(7, 10)


@given(
    st.lists(st.tuples(COARSE, COARSE, COARSE), min_size=20, max_size=20),
    st.integers(0, 3),
)
def test_no_row_within_both_thresholds_is_lost_to_rounding(rows, digits):
    y, f, f_q = np.array(rows).T * 10.0**digits / 3
    found = drift_certificate(np.abs(y - f), f_q - f, 0.5, drift_share=0.5)
    inside = (np.abs(y - f) <= found.score_offsets[0]) & (
        np.abs(f_q - f) <= found.drift_offsets[0]
    )
    lower, upper = found.interval(f_q).T
    assert (lower <= y)[inside].all()
    assert (y <= upper)[inside].all()
    # Rounding outwards is a matter of a few units in the last place.
    np.testing.assert_allclose(upper - f_q, found.offsets[1], rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------
# The certificate: degenerate input.


def test_too_few_rows_warn_once_and_give_everything():
    with pytest.warns(InfiniteIntervalWarning, match=r"9 labelled .* at least 11"):
        found = drift_certificate(np.zeros(9), np.zeros(200), 0.9)
    assert found.interval([1.0]).tolist() == [[-math.inf, math.inf]]
    with pytest.warns(InfiniteIntervalWarning, match=r"98 rows of drift .* least 99"):
        found = drift_certificate(np.zeros(20), np.zeros(98), 0.9)
    assert found.offsets.tolist() == [math.inf, math.inf]
    assert found.score_offsets.tolist() == [0.0, 0.0]
    with pytest.warns(InfiniteIntervalWarning) as caught:
        drift_certificate([], [], 0.9)
    assert len(caught) == 1


def test_exactly_enough_rows_do_not_warn():
    found = drift_certificate(np.arange(11.0), np.arange(99.0), 0.9)
    assert found.offsets == pytest.approx([108.0, 108.0])


def test_infinite_scores_and_drifts_are_legal():
    grown = [[-np.inf, np.inf]] * 20
    found = drift_certificate([-np.inf] * 20, grown, 0.5)
    assert found.offsets.tolist() == [-math.inf, -math.inf]
    # Infinity minus infinity says nothing: everything is in.
    found = drift_certificate([np.inf] * 20, grown, 0.5)
    assert found.offsets.tolist() == [math.inf, math.inf]


def test_intervals_whose_ends_cross_are_exchanged():
    found = drift_certificate(np.full(20, -3.0), np.zeros(200), 0.8)
    np.testing.assert_allclose(found.interval([[0.0, 2.0]]), [[-1.0, 3.0]])


def test_float32_frames_and_strides():
    rng = np.random.default_rng(0)
    scores, drift = rng.random(400).astype(np.float32), rng.random((200, 4))
    found = drift_certificate(scores[::2], drift[:, ::2])
    again = drift_certificate(scores[::2].astype(float).tolist(), drift[:, ::2].copy())
    np.testing.assert_array_equal(found.offsets, again.offsets)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"scores": [np.nan]}, ValueError, "scores contains NaN"),
        ({"scores": [[1.0, np.nan]]}, ValueError, "scores contains NaN"),
        ({"scores": [[1.0]]}, ValueError, r"scores must have shape \(n_scores,\)"),
        ({"scores": 1.0}, ValueError, "scores must be 1-D"),
        ({"drift": [np.nan]}, ValueError, "drift contains NaN"),
        ({"drift": [[1.0]]}, ValueError, r"drift must have shape \(n_drift,\)"),
        ({"drift": 1.0}, ValueError, "drift must have shape"),
        ({"confidence_level": 1.0}, ValueError, "confidence_level must lie"),
        ({"confidence_level": "0.9"}, TypeError, "confidence_level must be"),
        ({"drift_share": 0.0}, ValueError, "drift_share must lie strictly"),
        ({"drift_share": 1}, ValueError, "drift_share must lie strictly"),
        ({"drift_share": None}, TypeError, "drift_share must be a real number"),
        ({"drift_share": True}, TypeError, "drift_share must be a real number"),
    ],
)
def test_certificate_refuses(changed, error, message):
    given_ = {"scores": np.arange(200.0), "drift": np.arange(200.0)} | changed
    with pytest.raises(error, match=message):
        drift_certificate(**given_)


def test_interval_refuses():
    found = drift_certificate(np.arange(200.0), np.arange(200.0))
    with pytest.raises(ValueError, match=r"y_pred must have shape \(n_samples,\)"):
        found.interval([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="y_pred contains NaN"):
        found.interval([np.nan])
