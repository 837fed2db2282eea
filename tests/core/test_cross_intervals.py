"""Cross-conformal intervals of arrays: brute force, identities, edges."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uqlib._core.cross_intervals import FoldScores
from uqlib._core.ranks import conformal_quantile
from uqlib._core.scores import scaled_interval
from uqlib.conformal import cross_conformal_interval, split_interval
from uqlib.exceptions import InfiniteIntervalWarning

METHODS = ["plus", "minmax", "base"]


def problem(rng, n, n_folds, n_test, decimals=None):
    """Arrays of a cross-conformal problem, with ties if rounded."""
    fold = rng.permutation(np.arange(n) % n_folds)
    y, noise = rng.normal(size=n), 0.5 * rng.normal(size=n)
    y_fold_pred = rng.normal(size=(n_test, 1)) + 0.3 * rng.normal(
        size=(n_test, n_folds)
    )
    arrays = [y + noise, y, y_fold_pred, y_fold_pred.mean(axis=1)]
    if decimals is not None:
        arrays = [array.round(decimals) for array in arrays]
    y_oof, y_train, y_fold_pred, y_pred = arrays
    return y_oof, y_train, fold, y_fold_pred, y_pred


def by_hand(y_oof, y_train, fold, y_fold_pred, level, method, y_pred):
    """The definition, end by end."""
    n = len(y_train)
    residual = np.abs(y_train - y_oof)
    first = math.floor((n + 1) * (1 - Fraction(level)))
    last = math.ceil((n + 1) * Fraction(level))
    assert 1 <= first <= last <= n
    threshold = np.sort(residual)[last - 1]
    result = []
    for i, row in enumerate(y_fold_pred):
        if method == "plus":
            below = sorted(row[k] - r for k, r in zip(fold, residual, strict=True))
            above = sorted(row[k] + r for k, r in zip(fold, residual, strict=True))
            result.append((below[first - 1], above[last - 1]))
        elif method == "minmax":
            result.append((row.min() - threshold, row.max() + threshold))
        else:
            result.append((y_pred[i] - threshold, y_pred[i] + threshold))
    return np.array(result)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(20, 60),
    n_folds=st.sampled_from([2, 3, 5, 10, None]),
    level=st.sampled_from(["0.9", "0.55", "0.8", "0.95"]),
    decimals=st.sampled_from([None, 1]),
)
def test_equals_the_definition(method, seed, n, n_folds, level, decimals):
    rng = np.random.default_rng(seed)
    arrays = problem(rng, n, n_folds or n, 6, decimals)
    y_oof, y_train, fold, y_fold_pred, y_pred = arrays
    result = cross_conformal_interval(
        y_oof, y_train, fold, y_fold_pred, float(level), method, y_pred
    )
    expected = by_hand(y_oof, y_train, fold, y_fold_pred, level, method, y_pred)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-9)
    # Rounded outwards: whoever is inside by hand is inside.
    assert np.all(result[:, 0] <= expected[:, 0])
    assert np.all(result[:, 1] >= expected[:, 1])


@pytest.mark.parametrize("method", ["plus", "minmax"])
def test_one_prediction_for_all_folds_is_split_conformal(method):
    rng = np.random.default_rng(0)
    y_oof, y_train, fold, _, y_pred = problem(rng, 101, 7, 30)
    y_fold_pred = np.repeat(y_pred[:, None], 7, axis=1)
    threshold = conformal_quantile(np.abs(y_train - y_oof), 0.83)
    np.testing.assert_array_equal(
        cross_conformal_interval(y_oof, y_train, fold, y_fold_pred, 0.83, method),
        split_interval(y_pred, threshold),
    )


def test_plus_lies_within_minmax_and_levels_are_nested():
    rng = np.random.default_rng(1)
    y_oof, y_train, fold, y_fold_pred, y_pred = problem(rng, 80, 5, 50)
    before = None
    for level in (0.55, 0.7, 0.8, 0.9, 0.95):
        plus, minmax, base = (
            cross_conformal_interval(
                y_oof, y_train, fold, y_fold_pred, level, method, y_pred
            )
            for method in METHODS
        )
        assert np.all(minmax[:, 0] <= plus[:, 0])
        assert np.all(plus[:, 1] <= minmax[:, 1])
        now = np.stack([plus, minmax, base])
        if before is not None:
            assert np.all(now[:, :, 0] <= before[:, :, 0])
            assert np.all(before[:, :, 1] <= now[:, :, 1])
        before = now


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_rows_and_the_names_of_folds_do_not_matter(method):
    rng = np.random.default_rng(2)
    y_oof, y_train, fold, y_fold_pred, y_pred = problem(rng, 60, 6, 20, decimals=1)
    names, order = rng.permutation(6), rng.permutation(60)
    np.testing.assert_array_equal(
        cross_conformal_interval(
            y_oof, y_train, fold, y_fold_pred, 0.9, method, y_pred
        ),
        cross_conformal_interval(
            y_oof[order],
            y_train[order],
            names[fold[order]],
            y_fold_pred[:, np.argsort(names)],
            0.9,
            method,
            y_pred,
        ),
    )


def test_the_mirror_image_mirrors_the_interval():
    rng = np.random.default_rng(3)
    y_oof, y_train, fold, y_fold_pred, _ = problem(rng, 60, 6, 20)
    for method in ("plus", "minmax"):
        interval = cross_conformal_interval(
            y_oof, y_train, fold, y_fold_pred, 0.9, method
        )
        mirrored = cross_conformal_interval(
            -y_oof, -y_train, fold, -y_fold_pred, 0.9, method
        )
        np.testing.assert_array_equal(mirrored, -interval[:, ::-1])


def test_ties_at_the_threshold_are_inside():
    # Residuals of one decimal: their rounding must not lose the rows that tie.
    y_oof, y_train = np.full(9, 0.3), np.full(9, 0.1)
    interval = cross_conformal_interval(
        y_oof, y_train, np.arange(9) % 3, np.full((1, 3), 0.3), 0.9
    )
    assert interval[0, 0] <= 0.1
    assert interval[0, 1] >= 0.3 + (0.3 - 0.1)


def test_a_column_without_rows_counts_in_no_method():
    rng = np.random.default_rng(4)
    y_oof, y_train, fold, y_fold_pred, _ = problem(rng, 40, 4, 10)
    wild = np.column_stack([y_fold_pred, np.full(10, 1e6)])
    for method in ("plus", "minmax"):
        np.testing.assert_array_equal(
            cross_conformal_interval(y_oof, y_train, fold, wild, 0.9, method),
            cross_conformal_interval(y_oof, y_train, fold, y_fold_pred, 0.9, method),
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 1, 2, 8])
def test_too_few_rows_give_everything_and_one_warning(method, n):
    y_fold_pred, y_pred = np.zeros((3, 2)), np.zeros(3)
    fold = np.arange(n) % 2
    with pytest.warns(InfiniteIntervalWarning) as caught:
        interval = cross_conformal_interval(
            np.zeros(n), np.ones(n), fold, y_fold_pred, 0.9, method, y_pred
        )
    assert len(caught) == 1
    assert "at least 9 are needed" in str(caught[0].message)
    np.testing.assert_array_equal(interval, np.tile([-np.inf, np.inf], (3, 1)))


def test_two_rows_at_a_low_level():
    # n = 2, p = 0.6: ranks floor(3 * 0.4) = 1 and ceil(3 * 0.6) = 2.
    interval = cross_conformal_interval(
        [1.0, 1.0], [2.0, 4.0], [0, 1], [[0.0, 10.0]], 0.6
    )
    np.testing.assert_allclose(interval, [[-1.0, 13.0]])


def test_infinite_predictions_of_a_fold_stay_outside():
    rng = np.random.default_rng(5)
    y_oof, y_train, fold, y_fold_pred, _ = problem(rng, 40, 4, 3)
    y_fold_pred[0, 0], y_fold_pred[1] = np.inf, -np.inf
    with np.errstate(all="raise"):
        interval = cross_conformal_interval(y_oof, y_train, fold, y_fold_pred, 0.9)
    assert not np.isnan(interval).any()
    assert interval[0, 1] == np.inf
    np.testing.assert_array_equal(interval[1], [-np.inf, -np.inf])
    assert np.isfinite(interval[2]).all()


def test_float32_and_strides():
    rng = np.random.default_rng(6)
    arrays = problem(rng, 40, 4, 20)
    y_oof, y_train, _, y_fold_pred, _ = (a.astype(np.float32) for a in arrays)
    fold = arrays[2]
    expected = cross_conformal_interval(
        *(a.astype(np.float64) for a in (y_oof, y_train)),
        fold,
        y_fold_pred.astype(np.float64),
        0.9,
    )
    wide = np.repeat(np.asfortranarray(y_fold_pred), 2, axis=1)
    result = cross_conformal_interval(
        np.repeat(y_oof, 2)[::2], y_train, fold.astype(np.uint8), wide[:, ::2], 0.9
    )
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.float64


# ------------------------------------------------ scores with a scale and of two ends


@pytest.mark.parametrize("n_folds", [4, 40])
def test_scaled_ends_enclose_those_of_the_score(n_folds):
    rng = np.random.default_rng(7)
    n, rank = 40, 37
    fold = np.arange(n) % n_folds
    scores = np.append(np.abs(rng.normal(size=n - 2)).round(1), [0.0, 1e-300])
    point = rng.normal(size=(30, n_folds)).round(1)
    scale = rng.choice([0.1, 0.3, 1.0, 7.0, 1e-12, 1e12], size=point.shape)
    scale[0, 0] = 0.0
    calibration = FoldScores(scores, fold, n_folds, Fraction(9, 10))
    assert calibration.rank == rank
    result = calibration.plus(point, point, scale)
    each = np.stack(
        [
            scaled_interval(point[:, k], scale[:, k], s)
            for k, s in zip(fold, scores, strict=True)
        ],
        axis=1,
    )
    lower = -np.sort(-each[:, :, 0])[:, rank - 1]
    upper = np.sort(each[:, :, 1])[:, rank - 1]
    np.testing.assert_allclose(result[:, 0], lower, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result[:, 1], upper, rtol=1e-12, atol=1e-12)
    assert np.all(result[:, 0] <= lower)
    assert np.all(result[:, 1] >= upper)
    hull = calibration.minmax(point, point, scale)
    threshold = np.sort(scores)[rank - 1]
    each = np.stack(
        [scaled_interval(point[:, k], scale[:, k], threshold) for k in range(n_folds)]
    )
    np.testing.assert_allclose(hull[:, 0], each[:, :, 0].min(axis=0), rtol=1e-12)
    np.testing.assert_allclose(hull[:, 1], each[:, :, 1].max(axis=0), rtol=1e-12)
    assert np.all(hull[:, 0] <= each[:, :, 0].min(axis=0))
    assert np.all(hull[:, 1] >= each[:, :, 1].max(axis=0))


@given(
    st.floats(-1e6, 1e6), st.floats(1e-9, 1e9), st.floats(-1e6, 1e6), st.integers(2, 5)
)
def test_a_target_with_a_tied_scaled_score_is_inside(point, scale, y, n):
    score = abs(y - point) / scale
    calibration = FoldScores(np.full(n, score), np.arange(n) % 2, 2, Fraction(1, 2))
    predictions, scales = np.full((1, 2), point), np.full((1, 2), scale)
    for ends in (calibration.plus, calibration.minmax):
        (lower, upper), *_ = ends(predictions, predictions, scales)
        assert lower <= y <= upper


def test_scores_of_two_ends_are_calibrated_apart():
    rng = np.random.default_rng(8)
    n, n_folds = 59, 5
    fold, scores = np.arange(n) % n_folds, rng.normal(size=(n, 2))
    point = rng.normal(size=(20, n_folds))
    calibration = FoldScores(scores, fold, n_folds, Fraction(9, 10))
    assert calibration.rank == 57  # 60 * 0.95
    result = calibration.plus(point, point, None)
    below = np.sort(point[:, fold] - scores[:, 0])[:, n - 57]
    above = np.sort(point[:, fold] + scores[:, 1])[:, 56]
    np.testing.assert_allclose(result, np.column_stack([below, above]), rtol=1e-12)
    base = calibration.base(point[:, 0], point[:, 0], None)
    low, high = np.sort(scores, axis=0)[56]
    np.testing.assert_allclose(
        base, np.column_stack([point[:, 0] - low, point[:, 0] + high]), rtol=1e-12
    )


def test_memory_holds_no_matrix_of_new_rows_by_training_rows():
    rng = np.random.default_rng(9)
    arrays = problem(rng, 5_000, 10, 20_000)[:4]
    cross_conformal_interval(*arrays, 0.9)  # compiles, which takes memory of its own
    tracemalloc.start()
    try:
        cross_conformal_interval(*arrays, 0.9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20  # the matrix would take 800 MB


# ----------------------------------------------------------------- errors

GOOD = {
    "y_oof": np.zeros(20),
    "y_train": np.ones(20),
    "fold": np.arange(20) % 2,
    "y_fold_pred": np.zeros((3, 2)),
    "confidence_level": 0.8,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_oof": np.zeros(19)}, "y_oof has 19 rows but y_train has 20"),
        ({"y_oof": np.full(20, np.nan)}, "y_oof contains NaN"),
        ({"y_train": np.full(20, np.inf)}, "y_train contains NaN or infinity"),
        ({"fold": np.zeros(19, int)}, r"fold must have shape \(20,\)"),
        ({"fold": np.arange(20)}, "integers from 0 to 1, the columns of y_fold_pred"),
        ({"fold": np.zeros(20)}, "integers from 0 to 1"),
        ({"fold": np.full(20, -1)}, "integers from 0 to 1"),
        ({"y_fold_pred": np.zeros(3)}, r"y_fold_pred must have shape \(n_test, n_f"),
        ({"y_fold_pred": np.full((3, 2), np.nan)}, "y_fold_pred contains NaN"),
        ({"confidence_level": 1.0}, "confidence_level must lie strictly between"),
        ({"method": "plusminus"}, "method='plusminus' must be one of"),
        ({"method": None}, "method=None must be one of"),
        ({"method": "base"}, 'method="base" needs y_pred'),
        ({"method": "base", "y_pred": np.zeros(2)}, "y_pred has 2 rows but y_fold_pr"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        cross_conformal_interval(**(GOOD | change))
