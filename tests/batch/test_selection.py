"""Sets for k of m rows, selections and counts, against ranks by hand."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge

from tests._models import normal_rows
from tests.batch._batches import calibrated, rows_of
from uqlib import InfiniteIntervalWarning, SplitConformalRegressor
from uqlib._core.order_law import order_statistic_rank
from uqlib._core.scores import GammaScore
from uqlib.batch._inference import BatchPredictiveInference
from uqlib.conformal import NormalizedScore, QuantileScore

X, Y = normal_rows(200, seed=2)
RANKS = np.arange(1.0, 101.0)  # the r-th smallest score is r


@pytest.mark.parametrize("nonconformity", ["absolute", GammaScore(), NormalizedScore()])
def test_one_of_one_is_split_conformal_prediction(nonconformity):
    X_up, Y_up = np.exp(X), np.exp(Y)
    parameters = {"nonconformity": nonconformity, "random_state": 4}
    # The points of a gamma score must be positive.
    positive = isinstance(nonconformity, GammaScore)
    base = DummyRegressor() if positive else Ridge()
    model = BatchPredictiveInference(base, **parameters).fit(X_up, Y_up)
    split = SplitConformalRegressor(base, **parameters).fit(X_up, Y_up)
    for row in (X_up[:1], X_up[5:6]):
        np.testing.assert_array_equal(
            model.predict_simultaneous(row, 1), split.predict_interval(row)
        )


@pytest.mark.parametrize("m", [1, 2, 7, 20])
def test_windows_by_hand(m):
    points = np.linspace(-1, 1, m)
    for k in {1, (m + 1) // 2, m}:
        j = order_statistic_rank(100, m, k, 0.8, "upper")
        left_out = 101 - j
        found = {
            side: calibrated(
                RANKS, side=side, confidence_level=0.8, score_bounds=(0.0, 101.0)
            ).predict_simultaneous(rows_of(points), k)
            for side in ("two", "upper", "lower")
        }
        low, high = left_out // 2, left_out // 2 + j
        expected = points[:, None] + [low, high]
        np.testing.assert_allclose(found["two"], expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found["upper"][:, 1], points + j, rtol=1e-12)
        np.testing.assert_allclose(found["lower"][:, 0], points + left_out, atol=1e-12)
        assert np.isneginf(found["upper"][:, 0]).all()
        assert np.isposinf(found["lower"][:, 1]).all()


def test_absolute_windows_and_outcomes():
    j = order_statistic_rank(100, 10, 9, 0.9, "upper")
    model = calibrated(RANKS, nonconformity="absolute")
    points = np.arange(10.0)
    np.testing.assert_allclose(
        model.predict_simultaneous(rows_of(points), 9),
        points[:, None] + [-j, j],
        rtol=1e-12,
    )
    outcome = calibrated(RANKS, nonconformity="outcome", side="upper")
    found = outcome.predict_simultaneous(rows_of(points), 9)
    np.testing.assert_allclose(found[:, 1], np.full(10, j), rtol=1e-12)


def test_sets_grow_with_k_and_level():
    model = BatchPredictiveInference(Ridge(), random_state=0).fit(X, Y)
    sets = [model.predict_simultaneous(X[:8], k) for k in range(1, 7)]
    model.set_params(confidence_level=0.95)
    sets.append(model.predict_simultaneous(X[:8], 6))
    for inner, outer in pairwise(sets):
        assert (outer[:, 0] <= inner[:, 0]).all()
        assert (outer[:, 1] >= inner[:, 1]).all()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"side": "upper"},
        {"side": "lower"},
        {"nonconformity": "absolute"},
        {"score_bounds": (-100.0, np.inf)},
        {"score_bounds": (-np.inf, 100.0)},
    ],
)
@pytest.mark.parametrize("k", [3, 4])
def test_the_number_of_rows_needed_for_finite_sets(parameters, k):
    asked = {"upper": [1], "lower": [0]}.get(parameters.get("side"), [0, 1])

    def sets(n):
        y = np.random.default_rng(n).normal(size=n)
        found = calibrated(y, **parameters).predict_simultaneous(np.zeros((4, 1)), k)
        return found[0][asked]

    with pytest.warns(InfiniteIntervalWarning) as record:
        assert np.isinf(sets(3)).any()
    assert len(record) == 1
    words = str(record[0].message).split()
    needed = int(words[words.index("least") + 1])
    assert np.isfinite(sets(needed)).all()
    with pytest.warns(InfiniteIntervalWarning):
        assert np.isinf(sets(needed - 1)).any()


def test_selection_by_hand():
    rng = np.random.default_rng(3)
    points, new = rng.normal(size=80), rng.normal(size=12)
    y = points + rng.normal(size=80)
    model = calibrated(y, points)
    rivals = np.sort(np.where(y <= 0.5, points, -np.inf))
    counts = []
    for max_false in range(12):
        rank = order_statistic_rank(80, 12, 12 - max_false, 0.9, "upper")
        if rank > 80:
            with pytest.warns(InfiniteIntervalWarning, match="at least 108"):
                chosen = model.select(rows_of(new), 0.5, max_false)
            assert not chosen.any()
            continue
        chosen = model.select(rows_of(new), 0.5, max_false)
        np.testing.assert_array_equal(chosen, new > rivals[rank - 1])
        assert chosen.dtype == bool
        counts.append(chosen.sum())
    assert np.all(np.diff(counts) >= 0)
    assert counts[-1] > counts[0]


def test_selection_does_not_depend_on_the_scores():
    points = np.linspace(-2, 2, 80)
    y = points + np.sin(np.arange(80))
    chosen = [
        calibrated(y, points, nonconformity=name).select(rows_of([-2.0, 3.0]), 0.0, 0)
        for name in ("signed", "absolute", "outcome")
    ]
    np.testing.assert_array_equal(chosen, [[False, True]] * 3)


def test_selection_where_every_row_is_a_hit():
    model = calibrated(np.ones(50))
    assert model.select(rows_of([-5.0, 5.0]), 0.0, 0).all()
    # A prediction equal to that of a false row is not above it.
    model = calibrated(-np.ones(50), np.full(50, 2.0))
    np.testing.assert_array_equal(
        model.select(rows_of([2.0, 2.1]), 0.0, 0), [False, True]
    )


def _count_by_definition(n, m, below, level):
    tails = [hypergeom(n + m, n - below + y, m).sf(y - 1) for y in range(m + 1)]
    return max(y for y in range(m + 1) if tails[y] > 1 - level)


@pytest.mark.parametrize("threshold", [-9.0, 20.0, 50.5, 90.0, 100.0, 101.0])
def test_counts_by_definition(threshold):
    below = int((threshold >= RANKS).sum())
    expected = _count_by_definition(100, 20, below, 0.9)
    rows = rows_of(np.full(20, 1e6))
    for name in ("signed", "outcome"):
        model = calibrated(RANKS, np.full(100, 3.0), nonconformity=name)
        count = model.count_above(rows, threshold)
        assert count == expected
        assert type(count) is int
    # Other scores are counted themselves.
    errors = calibrated(-RANKS, nonconformity="absolute").count_above(rows, threshold)
    assert errors == expected


def test_a_score_that_needs_the_level_is_refused():
    with pytest.raises(ValueError, match="do not depend on the level"):
        BatchPredictiveInference(Ridge(), nonconformity=QuantileScore()).fit(X, Y)


def test_a_score_object_stays_unfitted():
    score = NormalizedScore()
    model = BatchPredictiveInference(Ridge(), nonconformity=score, random_state=0)
    model.fit(X, Y)
    assert not hasattr(score, "floor_")
    assert (model.scores_ >= 0).all()
    found = model.set_params(side="upper").predict_batch_interval(X[:2])
    assert 0 < found[0, 1] < np.inf
