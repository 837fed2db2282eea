"""OnlineConformalRegressor: the stream by hand, its bound, and what it must not do."""

import copy
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge, SGDRegressor
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import ColumnQuantiles, Zero, normal_rows
from uqlib import (
    AlreadyFittedWarning,
    InfiniteIntervalWarning,
    conformal_quantile,
    coverage_score,
)
from uqlib.conformal import (
    NormalizedScore,
    OnlineConformalRegressor,
    QuantileScore,
    aci_thresholds,
)

UPDATES = ["aci", "agaci", "dtaci", "pid"]
X, Y = normal_rows(300, seed=0)
TRAIN, STREAM = slice(0, 150), slice(150, 300)
FROZEN_ZERO = FrozenEstimator(Zero().fit(X, Y))
every_update = pytest.mark.parametrize("update", UPDATES)


def rows(n):
    return np.zeros((n, 2))


def followed(scores, **parameters):
    """A fitted regressor whose point is 0 and whose scores are |y|."""
    scores = np.asarray(scores, dtype=float)
    model = OnlineConformalRegressor(FROZEN_ZERO, **parameters)
    return model.fit(rows(scores.size), scores)


def state(model):
    """All that a stream leaves behind, in plain numbers."""
    return (
        model.scores_.tolist(),
        model.n_steps_,
        model.n_misses_,
        np.ravel(model.alpha_ if model.alpha_ is not None else -1.0).tolist(),
        np.ravel(model.threshold_).tolist(),
        model.predict(X[:5]).tolist(),
    )


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("size", [0.4, 60])
def test_equals_the_stream_by_hand(size, window):
    model = OnlineConformalRegressor(
        Ridge(), gamma=0.05, calibration_size=size, window=window
    ).fit(X[TRAIN], Y[TRAIN])
    ridge = Ridge().fit(X[:90], Y[:90])  # the first rows train, the last 60 calibrate
    past = np.abs(Y[90:150] - ridge.predict(X[90:150])).tolist()
    np.testing.assert_array_equal(model.scores_, past[-(window or 60) :])
    expected, alpha = [], Fraction(1, 10)
    for x, y in zip(X[STREAM], Y[STREAM], strict=True):
        point = ridge.predict([x])[0]
        kept = sorted(past[-(window or len(past)) :])
        rank = -(-(len(kept) + 1) * (1 - alpha) // 1)
        q = [*kept, np.inf][int(min(rank, len(kept) + 1)) - 1] if alpha > 0 else np.inf
        expected.append([point - q, point + q])
        past.append(abs(y - point))
        alpha += Fraction(1, 20) * (Fraction(1, 10) - (past[-1] > q))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        interval = model.predict_interval_online(X[STREAM], Y[STREAM])
    np.testing.assert_allclose(interval, expected, rtol=1e-12, atol=1e-13)
    assert model.alpha_ == pytest.approx(float(alpha), abs=1e-15)
    outside = (Y[STREAM] < interval[:, 0]) | (Y[STREAM] > interval[:, 1])
    assert model.n_misses_ == outside.sum()
    assert model.n_steps_ == 150
    assert model.miss_rate_ == outside.mean()
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))


def test_calibrates_on_the_last_rows_in_their_order():
    model = OnlineConformalRegressor(Ridge(), calibration_size=40).fit(X, Y)
    ridge = Ridge().fit(X[:260], Y[:260])
    np.testing.assert_array_equal(
        model.scores_, np.abs(Y[260:] - ridge.predict(X[260:]))
    )
    assert model.threshold_ == conformal_quantile(model.scores_, 0.9)
    assert model.n_calibration_ == 40
    assert model.alpha_ == 0.1
    assert model.n_steps_ == model.n_misses_ == 0
    assert np.isnan(model.miss_rate_)


@every_update
@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("learns", [False, True])
def test_one_row_at_a_time_equals_all_at_once(update, window, learns):
    # Neither of the models rounds differently when it predicts many rows at once.
    model = OnlineConformalRegressor(
        SGDRegressor(random_state=0) if learns else ColumnQuantiles(),
        update=update,
        window=window,
        update_estimator=learns,
    ).fit(X[TRAIN], Y[TRAIN])
    last = 180 if learns else 300
    whole, half, turn = model, copy.deepcopy(model), copy.deepcopy(model)
    online = copy.deepcopy(model)
    whole.partial_fit(X[150:last], Y[150:last])
    half.partial_fit(X[150:160], Y[150:160]).partial_fit(X[160:last], Y[160:last])
    intervals = []
    for t in range(150, last):
        intervals.append(turn.predict_interval(X[t : t + 1])[0])
        turn.partial_fit(X[t : t + 1], Y[t : t + 1])
    result = online.predict_interval_online(X[150:last], Y[150:last])
    np.testing.assert_array_equal(result, intervals)
    assert state(whole) == state(half) == state(turn) == state(online)


def test_a_model_that_learns_is_scored_before_it_does():
    model = OnlineConformalRegressor(
        SGDRegressor(random_state=0), update_estimator=True
    ).fit(X[TRAIN], Y[TRAIN])
    fitted = model.estimator_
    twin = copy.deepcopy(fitted)
    scores = []
    for t in range(150, 170):
        scores.append(abs(Y[t] - twin.predict(X[t : t + 1])[0]))
        twin.partial_fit(X[t : t + 1], Y[t : t + 1])
    before = fitted.coef_.copy()
    model.partial_fit(X[150:170], Y[150:170])
    np.testing.assert_array_equal(model.scores_[-20:], scores)
    np.testing.assert_array_equal(model.estimator_.coef_, twin.coef_)
    np.testing.assert_array_equal(fitted.coef_, before)  # a copy learns


@pytest.mark.parametrize("estimator", [Ridge(), FROZEN_ZERO])
def test_a_model_that_cannot_learn_is_refused(estimator):
    model = OnlineConformalRegressor(estimator, update_estimator=True)
    with pytest.raises(ValueError, match="needs an estimator that is not frozen"):
        model.fit(X, Y)
    late = OnlineConformalRegressor(Ridge()).fit(X, Y).set_params(update_estimator=True)
    with pytest.raises(ValueError, match="has partial_fit, got Ridge"):
        late.partial_fit(X, Y)


@every_update
def test_misses_are_counted_where_y_falls_outside(update):
    model = OnlineConformalRegressor(Ridge(), update=update).fit(X[TRAIN], Y[TRAIN])
    interval = model.predict_interval_online(X[STREAM], Y[STREAM])
    covered = coverage_score(Y[STREAM], interval)
    assert model.n_misses_ == round(150 * (1 - covered))
    assert 0 < model.n_misses_ < 40


@pytest.mark.parametrize("gamma", [0.05, 0.5])
def test_long_run_bound_on_an_adversarial_stream(gamma):
    # An adversary looks at the interval of the next row and steps just outside for 30
    # rows, then stays on the point for 30, and so on.
    model = followed(np.arange(1.0, 20.0), gamma=gamma)
    for t in range(300):
        q = model.threshold_
        miss = (t // 30) % 2 == 0
        y = (q + 1 if q < np.inf else 1e6) if miss else 0.0
        model.partial_fit(rows(1), [y])
        bound = (0.9 + gamma) / (gamma * (t + 1))
        assert abs(model.miss_rate_ - 0.1) <= bound + 1e-12


def test_exact_law_without_adaptation():
    # With step size 0 row t is missed when its rank among n_t + 1 exchangeable scores
    # is above k_t: probability 1 - k_t / (n_t + 1), independently of all other rows.
    rng = np.random.default_rng(7)
    n_steps, n_before = 4000, 25
    model = followed(rng.uniform(size=n_before), gamma=0, confidence_level=0.8)
    model.partial_fit(rows(n_steps), rng.uniform(size=n_steps))
    n = n_before + np.arange(n_steps)
    chance = 1 - np.ceil((n + 1) * 4 / 5) / (n + 1)
    deviation = model.n_misses_ - chance.sum()
    # Bernstein's inequality, failing once in a million runs.
    variance, t = (chance * (1 - chance)).sum(), np.log(2e6)
    assert abs(deviation) <= np.sqrt(2 * variance * t) + t / 3


@pytest.mark.parametrize("level", [0.994, 0.996])
def test_levels_are_not_rounded(level):
    model = followed(np.arange(1.0, 1000.0), confidence_level=level)
    assert model.threshold_ == round(1000 * level)
    assert model.alpha_ == pytest.approx(1 - level, abs=1e-15)


def test_a_target_on_the_bound_is_no_miss():
    model = followed(np.arange(1.0, 10.0))  # the threshold is 9
    model.partial_fit(rows(2), [9.0, -9.0])
    assert model.n_misses_ == 0


# ------------------------------------------------- infinite and empty intervals


def test_infinite_intervals_come_with_one_warning():
    model = followed(np.arange(1.0, 20.0), gamma=0.2)
    model.partial_fit(rows(1), [100.0])  # alpha = 0.1 - 0.2 * 0.9 < 0
    assert model.alpha_ == pytest.approx(-0.08)
    assert model.threshold_ == np.inf
    message = r"3 of 3 intervals are infinite.*at least 9 scores in store for level 0.9"
    with pytest.warns(InfiniteIntervalWarning, match=message) as caught:
        interval = model.predict_interval(rows(3))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 3)
    model.partial_fit(rows(4), np.zeros(4))  # judged, not shown: no warning
    assert model.alpha_ == pytest.approx(0.0)
    assert model.n_misses_ == 1
    # alpha: 0, 0.02 of 24 + 1 scores (no rank is left), 0.04, 0.06, 0.08.
    with pytest.warns(InfiniteIntervalWarning, match="2 of 5 intervals") as caught:
        interval = model.predict_interval_online(rows(5), np.zeros(5))
    assert len(caught) == 1
    assert np.isinf(interval[:2]).all()
    assert np.isfinite(interval[2:]).all()


def test_too_few_calibration_rows():
    model = followed([1.0, 2.0])
    with pytest.warns(InfiniteIntervalWarning, match="at least 9 scores"):
        assert np.isinf(model.predict_interval(rows(1))).all()


@pytest.mark.parametrize("update", ["aci", "pid"])
def test_an_empty_interval_is_a_point_that_counts_as_a_miss(update):
    model = followed(
        np.arange(1.0, 20.0),
        update=update,
        confidence_level=0.5,
        gamma=0.6,
        saturation=0.05,
    )
    while model.threshold_ > -np.inf:  # hits, until nothing is to be covered
        model.partial_fit(rows(1), [0.0])
    interval = model.predict_interval(rows(2))
    np.testing.assert_array_equal(interval, np.zeros((2, 2)))
    assert coverage_score([1.0, -1.0], interval) == 0.0
    misses = model.n_misses_
    assert model.partial_fit(rows(1), [0.0]).n_misses_ == misses + 1


def test_an_empty_interval_of_a_score_without_point():
    model = OnlineConformalRegressor(
        FrozenEstimator(ColumnQuantiles().fit(X, Y)),
        nonconformity="quantile",
        confidence_level=0.9,
        gamma=8.0,
    ).fit(X[TRAIN], Y[TRAIN])
    model.partial_fit(X[:2], X[:2, 0])  # two hits: alpha = 0.1 + 2 * 0.8 > 1
    assert model.threshold_ == -np.inf
    interval = model.predict_interval(X[:5])
    np.testing.assert_array_equal(interval[:, 0], interval[:, 1])
    np.testing.assert_allclose(interval[:, 0], X[:5, 0], atol=1e-12)


@pytest.mark.parametrize("nonconformity", ["absolute", "quantile"])
def test_a_finite_threshold_below_every_score_makes_an_empty_interval(nonconformity):
    # PID steps below the smallest score that is possible: ends that cross must not be
    # put in order, or the interval would widen with the fall of the threshold.
    model = OnlineConformalRegressor(
        FrozenEstimator(ColumnQuantiles((0.25, 0.75)).fit(X, Y)),
        nonconformity=nonconformity,
        update="pid",
        confidence_level=0.5,
        saturation=0.05,
        learning_rate=0.4,
    ).fit(X[TRAIN], Y[TRAIN])
    least, crossed = (0.0 if nonconformity == "absolute" else -0.67448975), 0
    for t in range(60):
        interval = model.predict_interval(X[[t]])
        if np.isfinite(model.threshold_) and model.threshold_ < least - 1e-6:
            crossed += 1
            np.testing.assert_allclose(interval, X[t, 0], atol=1e-12)
            assert interval[0, 0] == interval[0, 1]
        elif model.threshold_ > least + 1e-6:
            assert np.diff(interval)[0, 0] == pytest.approx(
                2 * (model.threshold_ - least)
            )
        model.partial_fit(X[[t]], X[[t], 0])
    assert crossed > 3


def test_a_generous_inverse_is_not_taken_for_a_crossed_interval():
    class Generous:
        def score(self, y, y_pred):
            return np.abs(y - y_pred)

        def inverse(self, y_pred, threshold):
            return np.column_stack([y_pred - threshold, y_pred + 9 * threshold])

    model = followed(np.arange(1.0, 20.0), nonconformity=Generous())
    np.testing.assert_array_equal(model.predict_interval(rows(1)), [[-18.0, 162.0]])


@pytest.mark.parametrize("update", ["aci", "agaci"])
def test_agaci_is_always_finite(update):
    model = followed(np.arange(1.0, 6.0), update=update, gamma=0.3, gammas=[0.3, 0.3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteIntervalWarning)
        interval = model.predict_interval_online(rows(40), np.arange(40.0) % 9)
    assert np.isfinite(interval).all() == (update == "agaci")
    assert (interval[:, 0] <= interval[:, 1]).all()


def test_agaci_has_ends_of_its_own():
    # All targets lie above the point: the lower end has nothing to fear.
    rng = np.random.default_rng(3)
    model = followed(rng.exponential(size=50), update="agaci", gammas=[0.01, 0.2])
    interval = model.predict_interval_online(rows(600), rng.exponential(size=600))
    assert -interval[300:, 0].mean() < interval[300:, 1].mean()
    lower, upper = model.threshold_
    ends = model.predict_interval(rows(1))[0]
    np.testing.assert_allclose(ends, [-lower, upper], rtol=1e-12)
    assert model.alpha_.shape == (2,)


# ------------------------------------------------------------- scores and models


def test_frozen_estimator_calibrates_on_all_rows_and_is_left_alone():
    ridge = Ridge().fit(X, Y)
    coefficients = ridge.coef_.copy()
    model = OnlineConformalRegressor(FrozenEstimator(ridge)).fit(X[TRAIN], Y[TRAIN])
    model.partial_fit(X[STREAM], Y[STREAM])
    assert model.n_calibration_ == 150
    assert model.scores_.size == 300
    np.testing.assert_array_equal(ridge.coef_, coefficients)


@every_update
def test_quantile_score_follows_x(update):
    model = OnlineConformalRegressor(
        FrozenEstimator(ColumnQuantiles(scale=0.2).fit(X, Y)),
        update=update,
        nonconformity="quantile",
    ).fit(X[TRAIN], Y[TRAIN])
    quantiles = ColumnQuantiles(scale=0.2).fit(X, Y).predict_quantiles(X)[:, [0, 2]]
    below, above = quantiles[:, 0] - Y, Y - quantiles[:, 1]
    np.testing.assert_array_equal(model.scores_, np.maximum(below, above)[TRAIN])
    interval = model.predict_interval(X[STREAM])
    ends = np.broadcast_to(model.threshold_, 2)
    expected = quantiles[STREAM] + [-ends[0], ends[1]]
    np.testing.assert_allclose(interval, expected, rtol=1e-12, atol=1e-14)
    model.partial_fit(X[STREAM], Y[STREAM])
    assert 0 < model.n_misses_ < 40


def test_normalized_score_learns_from_training_rows_alone():
    score = NormalizedScore()
    model = OnlineConformalRegressor(
        LinearRegression(), nonconformity=score, calibration_size=100
    ).fit(X, Y)
    point = LinearRegression().fit(X[:200], Y[:200])
    twin = NormalizedScore().fit(LinearRegression(), X[:200], Y[:200])
    expected = twin.score(Y[200:], twin.predict(point, X[200:]))
    np.testing.assert_allclose(model.scores_, expected, rtol=1e-12)
    assert not hasattr(score, "floor_")  # the user's object stays unfitted
    assert np.isfinite(model.predict_interval(X)).all()


@pytest.mark.parametrize("score", ["signed", QuantileScore(symmetric=False)])
def test_scores_of_two_columns_are_refused(score):
    estimator = FrozenEstimator(ColumnQuantiles().fit(X, Y))
    model = OnlineConformalRegressor(estimator, nonconformity=score)
    with pytest.raises(ValueError, match="gives one score for each end"):
        model.fit(X, Y)


def test_sample_weight_trains():
    weight = np.where(np.arange(300) < 100, 1.0, 0.0)
    model = OnlineConformalRegressor(LinearRegression()).fit(X, Y, sample_weight=weight)
    expected = LinearRegression().fit(X[:100], Y[:100]).predict(X)
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-9)


def test_fit_starts_anew():
    model = OnlineConformalRegressor(Ridge()).fit(X[TRAIN], Y[TRAIN])
    fresh = state(model)
    model.partial_fit(X[STREAM], Y[STREAM])
    assert state(model.fit(X[TRAIN], Y[TRAIN])) == fresh


def test_partial_fit_of_an_unfitted_model_is_fit():
    first = OnlineConformalRegressor(Ridge()).partial_fit(X, Y)
    assert state(first) == state(OnlineConformalRegressor(Ridge()).fit(X, Y))


def test_frames(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    model = OnlineConformalRegressor(
        make_pipeline(StandardScaler(), Ridge()),
        nonconformity=NormalizedScore(Ridge(alpha=5)),
    )
    plain = clone(model).fit(X[TRAIN], Y[TRAIN])
    model.fit(frame[TRAIN], df_module.make_series(Y[TRAIN]))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    result = model.predict_interval_online(frame[STREAM], Y[STREAM])
    expected = plain.predict_interval_online(X[STREAM], Y[STREAM])
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_frames_row_by_row(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})

    class Follower(SGDRegressor):  # takes frames of either library
        def fit(self, X, y):
            return super().fit(np.asarray(X), y)

        def partial_fit(self, X, y):
            return super().partial_fit(np.asarray(X), y)

        def predict(self, X):
            return super().predict(np.asarray(X))

    model = OnlineConformalRegressor(Follower(random_state=0), update_estimator=True)
    plain = clone(model).fit(X[TRAIN], Y[TRAIN]).partial_fit(X[150:170], Y[150:170])
    model.fit(frame[TRAIN], Y[TRAIN]).partial_fit(frame[150:170], Y[150:170])
    np.testing.assert_allclose(model.scores_, plain.scores_, rtol=1e-9)


def test_float32_and_strides():
    model = OnlineConformalRegressor(Ridge()).fit(X[::2], Y[::2])
    model.partial_fit(X[1::2].astype(np.float32), Y[1::2].astype(np.float32))
    assert model.n_steps_ == 150
    assert model.predict_interval(X[::3]).dtype == np.float64


@every_update
def test_copies_and_files_go_on_where_they_were(update, tmp_path):
    model = OnlineConformalRegressor(Ridge(), update=update).fit(X[TRAIN], Y[TRAIN])
    model.partial_fit(X[150:200], Y[150:200])
    io = pytest.importorskip("skops.io")
    io.dump(model, tmp_path / "model.skops")
    trusted = io.get_untrusted_types(file=tmp_path / "model.skops")
    assert all(name.startswith("uqlib.") for name in trusted)
    copies = [
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        io.load(tmp_path / "model.skops", trusted=trusted),
    ]
    expected = state(model.partial_fit(X[200:], Y[200:]))
    assert all(state(c.partial_fit(X[200:], Y[200:])) == expected for c in copies)
    assert not hasattr(clone(model), "threshold_")


def test_grid_search_over_the_inner_model():
    search = GridSearchCV(
        OnlineConformalRegressor(Ridge()),
        {"estimator__alpha": [0.1, 1e6]},
        cv=TimeSeriesSplit(3),
    ).fit(X, Y)
    assert search.best_params_ == {"estimator__alpha": 0.1}


def test_the_first_threshold_is_that_of_the_array_function():
    past = np.random.default_rng(2).uniform(size=50)
    model = followed(past, confidence_level=0.8, gamma=0.05)
    assert model.threshold_ == aci_thresholds(past, [0.0], 0.8, 0.05)[0]


# --------------------------------------------------------------------- errors


class BrokenScore(BaseEstimator):
    def score(self, y, y_pred):
        return np.full(y.size, np.nan)

    def inverse(self, y_pred, threshold):
        return np.column_stack([y_pred - threshold, y_pred + threshold])


class OneInfinite(Zero):
    """Predicts infinity where the first column is above 2."""

    def predict(self, X):
        return np.where(np.asarray(X)[:, 0] > 2, np.inf, 0.0)


@pytest.mark.parametrize("update", ["agaci", "pid"])
def test_infinite_scores_are_refused_where_they_cannot_be_averaged(update):
    estimator = FrozenEstimator(OneInfinite().fit(X, Y))
    model = OnlineConformalRegressor(estimator, update=update).fit(rows(20), Y[:20])
    before = state(model)
    with pytest.raises(ValueError, match="scores must be finite for update='agaci'"):
        model.partial_fit(np.full((1, 2), 3.0), [0.0])
    assert state(model) == before
    other = OnlineConformalRegressor(estimator).fit(rows(20), Y[:20])
    other.partial_fit(np.full((1, 2), 3.0), [0.0])
    assert other.n_misses_ == 1
    assert other.scores_[-1] == np.inf


@every_update
def test_bad_rows_change_nothing(update):
    model = OnlineConformalRegressor(Ridge(), update=update).fit(X[TRAIN], Y[TRAIN])
    before = state(model)
    bad = Y[STREAM].copy()
    bad[3] = np.nan
    for X_bad, y_bad in ((X[STREAM], bad), (X[STREAM], Y[:9]), (X[:, :1], Y)):
        with pytest.raises(ValueError, match=r"NaN|inconsistent|features"):
            model.partial_fit(X_bad, y_bad)
    assert state(model) == before


def test_a_fit_that_fails_leaves_the_last_one_alone():
    model = OnlineConformalRegressor(Ridge()).fit(X[TRAIN], Y[TRAIN])
    before = state(model)
    with pytest.raises(ValueError, match="contains NaN"):
        model.set_params(nonconformity=BrokenScore()).fit(X, 2 * Y)
    assert state(model) == before


def test_parameters_set_after_fit_wait_for_the_next_fit():
    model = OnlineConformalRegressor(Ridge()).fit(X[TRAIN], Y[TRAIN])
    twin = copy.deepcopy(model).set_params(
        update="agaci", confidence_level=0.5, nonconformity="gamma", window=3, gamma=1.0
    )
    model.partial_fit(X[STREAM], Y[STREAM])
    twin.partial_fit(X[STREAM], Y[STREAM])
    assert state(model) == state(twin)
    np.testing.assert_array_equal(model.predict_interval(X), twin.predict_interval(X))


def test_only_the_level_that_was_followed():
    model = OnlineConformalRegressor(Ridge(), confidence_level=0.9).fit(X, Y)
    same = model.predict_interval(X, confidence_level=0.55 + 0.35)
    np.testing.assert_array_equal(same, model.predict_interval(X))
    with pytest.raises(ValueError, match=r"followed at 0.9.*Fit one"):
        model.predict_interval(X, confidence_level=0.8)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        model.predict_interval(X, confidence_level=1.2)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"update": "sgd"}, ValueError, "update='sgd' must be one of"),
        ({"gamma": -0.1}, ValueError, "gamma must be a finite number >= 0"),
        ({"update": "dtaci", "horizon": 0}, ValueError, "horizon must be"),
        ({"update": "pid", "saturation": 0}, ValueError, "saturation must be > 0"),
        ({"window": 0}, ValueError, "window must be an integer >= 1"),
        ({"window": 2.5}, TypeError, "window must be an integer >= 1"),
        ({"confidence_level": 90}, ValueError, "confidence_level must lie"),
        ({"calibration_size": 300}, ValueError, "leaves 0 rows to train"),
        ({"nonconformity": "squared"}, ValueError, "nonconformity='squared'"),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        OnlineConformalRegressor(Ridge(), **parameters).fit(X, Y)


@pytest.mark.parametrize(
    "method", ["predict", "predict_interval", "predict_interval_online"]
)
def test_not_fitted(method):
    arguments = (X, Y) if method == "predict_interval_online" else (X,)
    with pytest.raises(NotFittedError):
        getattr(OnlineConformalRegressor(Ridge()), method)(*arguments)


def test_a_fitted_estimator_is_cloned_with_a_warning():
    with pytest.warns(AlreadyFittedWarning):
        OnlineConformalRegressor(Ridge().fit(X, Y)).fit(X, Y)
