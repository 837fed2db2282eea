"""EnbPIRegressor: the procedure in explicit loops, bags, windows and edges."""

import copy
import pickle
import tracemalloc

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import check_random_state

from tests._models import Zero, normal_rows
from uqlib import AlreadyFittedWarning, InfiniteIntervalWarning, coverage_score
from uqlib._core.levels import exact_level
from uqlib._core.online import residual_pair
from uqlib.conformal import EnbPIRegressor, _enbpi

X, Y = normal_rows(160, seed=0)
TRAIN, STREAM = slice(0, 100), slice(100, 160)


def fitted(estimator=None, **parameters):
    parameters = {"n_estimators": 6, "random_state": 0, **parameters}
    model = EnbPIRegressor(Ridge() if estimator is None else estimator, **parameters)
    return model.fit(X[TRAIN], Y[TRAIN])


def bags_of(model, n_samples, length):
    state = check_random_state(model.random_state)
    return _enbpi._draw_bags(n_samples, model.n_estimators, length, state)


def by_hand(bags, aggregate):
    """Residuals of the training rows and a function that gives the point at x."""
    reduce = {"mean": np.mean, "median": np.median}[aggregate]
    models = [Ridge().fit(X[bag], Y[bag]) for bag in bags]
    residuals, kept = [], []
    for i in range(100):
        without = [m for m, bag in zip(models, bags, strict=True) if i not in bag]
        if without:
            kept.append(without)
            prediction = reduce([m.predict(X[i : i + 1])[0] for m in without])
            residuals.append(Y[i] - prediction)

    def point(x):
        if aggregate == "median":
            return np.median([m.predict([x])[0] for m in models])
        # The mean over training rows of their leave-one-out predictors at x.
        values = {id(m): m.predict([x])[0] for m in models}
        return np.mean([np.mean([values[id(m)] for m in some]) for some in kept])

    return np.array(residuals), point


@pytest.mark.parametrize("aggregate", ["mean", "median"])
@pytest.mark.parametrize("length", [None, 1, 7])
@pytest.mark.parametrize("shortest", [True, False])
def test_equals_the_procedure_by_hand(aggregate, length, shortest):
    model = fitted(aggregate=aggregate, block_length=length, optimize_beta=shortest)
    bags = bags_of(model, 100, 5 if length is None else length)  # 100^(1/3) = 4.64
    residuals, point = by_hand(bags, aggregate)
    np.testing.assert_allclose(model.residuals_, residuals, rtol=1e-9)
    assert len(residuals) < 100  # with 6 bags some rows are in all of them
    points = np.array([point(x) for x in X[STREAM]])
    np.testing.assert_allclose(model.predict(X[STREAM]), points, rtol=1e-9)
    for level in (0.9, 0.6):
        pair = residual_pair(np.sort(residuals), exact_level(level), shortest)
        interval = model.predict_interval(X[STREAM], confidence_level=level)
        np.testing.assert_allclose(interval, points[:, None] + pair, rtol=1e-9)
        if level == 0.9:
            again = model.predict_interval(X[STREAM])
            np.testing.assert_array_equal(again, interval)


@pytest.mark.parametrize("length", [1, 3, 10, 23])
def test_bags_are_blocks_of_neighbors(length):
    bags = _enbpi._draw_bags(23, 200, length, np.random.RandomState(0))
    assert bags.shape == (200, 23)
    assert bags.min() >= 0
    assert bags.max() <= 22
    for start in range(0, 23, length):
        block = bags[:, start : start + length]
        assert (np.diff(block, axis=1) == 1).all()
    # Every start is possible, the first and the last among them.
    assert set(bags[:, 0]) == set(range(23 - length + 1))


def test_one_block_of_the_whole_series_leaves_no_row_out():
    with pytest.raises(ValueError, match=r"every row is in every bag.*shorter block"):
        fitted(block_length=100)


def test_weights_of_the_models():
    model = fitted()
    assert model.model_weights_.sum() == pytest.approx(1.0)
    assert (model.model_weights_ > 0).all()


def test_the_shortest_pair_is_no_wider():
    wide = np.diff(fitted(optimize_beta=False).predict_interval(X[STREAM]))
    assert (np.diff(fitted().predict_interval(X[STREAM])) <= wide + 1e-12).all()


@pytest.mark.parametrize("window", [None, 30, 500])
def test_residuals_slide(window):
    model = fitted(window=window)
    first = fitted().residuals_
    kept = len(first) if window is None else window
    np.testing.assert_array_equal(model.residuals_, first[-kept:])
    models = model.estimators_
    new = Y[STREAM] - model.predict(X[STREAM])
    assert model.partial_fit(X[STREAM], Y[STREAM]) is model
    assert model.estimators_ is models  # nothing is fitted again
    np.testing.assert_array_equal(
        model.residuals_, np.concatenate([first, new])[-kept:]
    )
    pair = residual_pair(np.sort(model.residuals_), exact_level(0.9), True)
    expected = model.predict(X)[:, None] + pair
    np.testing.assert_allclose(model.predict_interval(X), expected, rtol=1e-9)


@pytest.mark.parametrize("window", [None, 25, 110])
@pytest.mark.parametrize("ties", [False, True])
def test_one_row_at_a_time_equals_all_at_once(window, ties):
    y = np.round(Y) if ties else Y
    model = EnbPIRegressor(  # of a model that rounds one row as it does many
        DecisionTreeRegressor(max_depth=2),
        n_estimators=4,
        window=window,
        random_state=0,
    ).fit(X[TRAIN], y[TRAIN])
    whole, turn, online = model, copy.deepcopy(model), copy.deepcopy(model)
    whole.partial_fit(X[STREAM], y[STREAM])
    intervals = []
    for t in range(100, 160):
        intervals.append(turn.predict_interval(X[t : t + 1])[0])
        turn.partial_fit(X[t : t + 1], y[t : t + 1])
    result = online.predict_interval_online(X[STREAM], y[STREAM])
    np.testing.assert_allclose(result, intervals, rtol=1e-12)
    for other in (turn, online):
        np.testing.assert_allclose(other.residuals_, whole.residuals_, rtol=1e-12)


def test_online_at_another_level():
    model, twin = fitted(), fitted(confidence_level=0.6)
    result = model.predict_interval_online(X[STREAM], Y[STREAM], confidence_level=0.6)
    expected = twin.predict_interval_online(X[STREAM], Y[STREAM])
    np.testing.assert_array_equal(result, expected)


def test_the_window_follows_a_shift():
    # From row 100 on the target is 10 higher. Residuals that stay miss every row; those
    # that slide hold it again once the old ones have left.
    model = fitted(window=20)
    rng = np.random.default_rng(1)
    X_new = rng.normal(size=(200, 2))
    y_new = X_new[:, 0] + rng.normal(size=200) + 10
    still = model.predict_interval(X_new)
    moving = model.predict_interval_online(X_new, y_new)
    assert coverage_score(y_new, still) < 0.05
    assert coverage_score(y_new[30:], moving[30:]) > 0.75


def test_too_few_residuals():
    model = fitted(window=18)
    with pytest.warns(
        InfiniteIntervalWarning, match="at least 19 are needed"
    ) as caught:
        interval = model.predict_interval(X[:3])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 3)
    assert np.isfinite(fitted(window=19).predict_interval(X[:3])).all()


def test_results_do_not_depend_on_n_jobs():
    tree = DecisionTreeRegressor(max_features=1)  # seeded by random_state
    alone = fitted(tree, n_jobs=1)
    with joblib.parallel_config(backend="threading"):
        together = fitted(tree, n_jobs=2)
    np.testing.assert_array_equal(alone.residuals_, together.residuals_)
    np.testing.assert_array_equal(alone.predict(X), together.predict(X))
    other = fitted(tree, random_state=1)
    assert not np.array_equal(alone.predict(X), other.predict(X))


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_chunks_change_nothing(aggregate, monkeypatch):
    whole = fitted(DecisionTreeRegressor(max_depth=2), aggregate=aggregate)
    interval = whole.predict_interval(X)
    monkeypatch.setattr(_enbpi, "_CHUNK", 50)
    parts = fitted(DecisionTreeRegressor(max_depth=2), aggregate=aggregate)
    np.testing.assert_allclose(parts.residuals_, whole.residuals_, rtol=1e-12)
    np.testing.assert_allclose(parts.predict_interval(X), interval, rtol=1e-12)


def test_no_array_of_rows_times_rows():
    n = 6000
    X_long, y_long = normal_rows(n, seed=3)
    model = EnbPIRegressor(LinearRegression(), n_estimators=5, random_state=0)
    tracemalloc.start()
    model.fit(X_long, y_long).predict_interval(X_long)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * n / 4  # a quarter of the smallest such array, of booleans


def test_infinite_predictions_give_no_nan():
    class Jump(Zero):
        def predict(self, X):
            return np.where(np.asarray(X)[:, 0] > 1.5, np.inf, 0.0)

    model = fitted(Jump())
    assert np.isinf(model.residuals_).any()
    interval = model.predict_interval(X)
    assert not np.isnan(interval).any()
    assert np.isfinite(interval[X[:, 0] < 1.5]).all()
    # Ends that are infinite by infinite residuals are no matter of their number.
    interval = model.predict_interval(X, confidence_level=0.95)
    assert np.isinf(interval).any()


def test_frames(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    inner = make_pipeline(StandardScaler(), Ridge())
    model = EnbPIRegressor(inner, n_estimators=4, random_state=0)
    plain = clone(model).fit(X[TRAIN], Y[TRAIN])
    model.fit(frame[TRAIN], df_module.make_series(Y[TRAIN]))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    result = model.predict_interval_online(frame[STREAM], Y[STREAM])
    expected = plain.predict_interval_online(X[STREAM], Y[STREAM])
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_copies_go_on_where_they_were():
    model = fitted().partial_fit(X[100:120], Y[100:120])
    twin = pickle.loads(pickle.dumps(model))
    expected = model.predict_interval_online(X[120:], Y[120:])
    result = twin.predict_interval_online(X[120:], Y[120:])
    np.testing.assert_array_equal(result, expected)
    assert not hasattr(clone(model), "residuals_")


def test_partial_fit_of_an_unfitted_model_is_fit():
    first = EnbPIRegressor(Ridge(), n_estimators=6, random_state=0)
    first.partial_fit(X[TRAIN], Y[TRAIN])
    np.testing.assert_array_equal(first.residuals_, fitted().residuals_)


def test_parameters_set_after_fit_wait_for_the_next_fit():
    model, twin = fitted(), fitted()
    twin.set_params(aggregate="median", optimize_beta=False, window=2)
    model.partial_fit(X[STREAM], Y[STREAM])
    twin.partial_fit(X[STREAM], Y[STREAM])
    np.testing.assert_array_equal(model.predict_interval(X), twin.predict_interval(X))


def test_bad_rows_change_nothing():
    model = fitted()
    before = model.residuals_.copy(), model.predict_interval(X)
    bad = np.where(np.arange(60) == 3, np.nan, Y[STREAM])
    for X_bad, y_bad in ((X[STREAM], bad), (X[STREAM], Y[:9]), (X[:, :1], Y)):
        with pytest.raises(ValueError, match=r"NaN|inconsistent|features"):
            model.partial_fit(X_bad, y_bad)
    with pytest.raises(ValueError, match="n_estimators"):
        model.set_params(n_estimators=0).fit(X, 2 * Y)
    np.testing.assert_array_equal(model.residuals_, before[0])
    np.testing.assert_array_equal(model.predict_interval(X), before[1])


def test_a_frozen_estimator_is_refused():
    with pytest.raises(ValueError, match="a model must be fitted on each bag"):
        fitted(FrozenEstimator(Ridge().fit(X, Y)))


def test_a_fitted_estimator_is_cloned_with_a_warning():
    ridge = Ridge().fit(X, Y)
    coefficients = ridge.coef_.copy()
    with pytest.warns(AlreadyFittedWarning):
        fitted(ridge)
    np.testing.assert_array_equal(ridge.coef_, coefficients)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_estimators": 0}, ValueError, "n_estimators must be an integer >= 1"),
        ({"n_estimators": 2.0}, TypeError, "n_estimators must be an integer >= 1"),
        ({"block_length": 0}, ValueError, "block_length must be an integer >= 1"),
        ({"block_length": 101}, ValueError, "longer than the series: n_samples=100"),
        ({"aggregate": "max"}, ValueError, "aggregate='max' must be 'mean'"),
        ({"window": 0}, ValueError, "window must be an integer >= 1"),
        ({"confidence_level": 1}, ValueError, "confidence_level must lie strictly"),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        fitted(**parameters)


@pytest.mark.parametrize("level", [0, 1.5])
def test_bad_level_at_prediction(level):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        fitted().predict_interval(X, confidence_level=level)


@pytest.mark.parametrize(
    "method", ["predict", "predict_interval", "predict_interval_online"]
)
def test_not_fitted(method):
    arguments = (X, Y) if method == "predict_interval_online" else (X,)
    with pytest.raises(NotFittedError):
        getattr(EnbPIRegressor(Ridge()), method)(*arguments)
