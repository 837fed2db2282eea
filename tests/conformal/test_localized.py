"""LocalizedConformalRegressor: special cases, scales, the randomized guarantee."""

import pickle
import re

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import Zero, normal_rows
from uqlib import InfiniteIntervalWarning, SplitConformalRegressor
from uqlib._core.distance_kernels import median_distance
from uqlib.conformal import LocalizedConformalRegressor, localized_conformal_quantile

pytestmark = pytest.mark.filterwarnings("ignore::uqlib.InfiniteIntervalWarning")

X, Y = normal_rows(240, seed=0, n_features=3)
X = X * [1, 100, 0.01] + [0, 5, 7]
FROZEN_ZERO = FrozenEstimator(Zero().fit(X, Y))


def inverse_square(u):
    return 1 / (1 + u**2)


def fitted(**parameters):
    parameters = {"random_state": 0, **parameters}
    return LocalizedConformalRegressor(Ridge(), **parameters).fit(X, Y)


@pytest.mark.parametrize("kernel", ["gaussian", "box", inverse_square])
@pytest.mark.parametrize("bandwidth", ["auto", 1.5])
def test_equals_the_procedure_by_hand(kernel, bandwidth):
    model = fitted(kernel=kernel, bandwidth=bandwidth, confidence_level=0.8)
    train, held_out = train_test_split(np.arange(240), test_size=60, random_state=0)
    ridge = Ridge().fit(X[train], Y[train])
    scores = np.abs(Y[held_out] - ridge.predict(X[held_out]))
    scaled = StandardScaler().fit(X[train]).transform(X)
    h = median_distance(scaled[train]) if bandwidth == "auto" else bandwidth
    assert model.bandwidth_ == pytest.approx(h, rel=1e-12)
    threshold = localized_conformal_quantile(
        scores, scaled[held_out], scaled, 0.8, bandwidth=h, kernel=kernel
    )
    found = model.predict_interval(X)
    expected = ridge.predict(X)[:, None] + threshold[:, None] * [-1, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("score", ["absolute", "signed", "gamma"])
def test_an_infinite_bandwidth_is_split_conformal_regression(randomized, score):
    model = fitted(bandwidth=np.inf, randomized=randomized, nonconformity=score)
    split = SplitConformalRegressor(Ridge(), nonconformity=score, random_state=0)
    split.fit(X, Y)
    for level in (0.9, 0.6):
        np.testing.assert_array_equal(
            model.predict_interval(X, level), split.predict_interval(X, level)
        )


def test_units_of_the_features_do_not_matter():
    other = LocalizedConformalRegressor(LinearRegression(), random_state=0)
    expected = other.fit(X, Y).predict_interval(X)
    moved = X * [10, 1e-3, 5] - 3
    found = clone(other).fit(moved, Y).predict_interval(moved)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_intervals_follow_a_spread_that_varies():
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, size=(2000, 1))
    y = rng.normal(size=2000) * (0.1 + (rows[:, 0] > 0))
    model = LocalizedConformalRegressor(FROZEN_ZERO, bandwidth=0.1).fit(rows, y)
    low, high = np.diff(model.predict_interval([[-0.8], [0.8]]), axis=1)[:, 0]
    assert high > 5 * low


def test_random_centers_cover():
    # Exchangeable rows, one new row in each replication; rare places have large
    # scores. The bound fails once in a million runs.
    rng = np.random.default_rng(0)
    model = LocalizedConformalRegressor(
        FROZEN_ZERO,
        confidence_level=0.8,
        bandwidth=0.3,
        kernel="box",
        randomized=True,
        random_state=np.random.RandomState(0),
    )
    covered = []
    for _ in range(1000):
        rows = rng.exponential(size=(25, 1))
        y = rng.normal(size=25) * rows[:, 0] ** 2
        lower, upper = model.fit(rows[1:], y[1:]).predict_interval(rows[:1])[0]
        covered.append(lower <= y[0] <= upper)
    assert np.mean(covered) >= 0.8 + norm.ppf(1e-6) * np.sqrt(0.16 / 1000)


def test_an_int_seed_draws_the_same_centers():
    model = fitted(randomized=True, features=[0])
    first = model.predict_interval(X)
    np.testing.assert_array_equal(model.predict_interval(X), first)
    assert (fitted(features=[0]).predict_interval(X) != first).any()
    model.set_params(random_state=np.random.RandomState(1))
    assert (model.predict_interval(X) != model.predict_interval(X)).any()


def test_far_rows_get_infinite_intervals_and_one_warning():
    model = fitted(bandwidth=0.5)
    with pytest.warns(InfiniteIntervalWarning, match="widen") as caught:
        interval = model.predict_interval(X[:2] + 1e6)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 2)


def test_a_single_calibration_row():
    model = LocalizedConformalRegressor(FROZEN_ZERO, confidence_level=0.5, bandwidth=1)
    model.fit(X[:1], Y[:1])
    np.testing.assert_allclose(
        model.predict_interval(X[:1]), np.abs(Y[0]) * np.array([[-1, 1]])
    )


def test_a_frozen_estimator_needs_a_number():
    frozen = FrozenEstimator(Ridge().fit(X, Y))
    with pytest.raises(ValueError, match="a frozen estimator has none"):
        LocalizedConformalRegressor(frozen).fit(X, Y)
    model = LocalizedConformalRegressor(frozen, bandwidth=50.0, features=[1]).fit(X, Y)
    scores = np.abs(Y - frozen.predict(X))
    threshold = localized_conformal_quantile(
        scores, X[:, [1]], X[:, [1]], 0.9, bandwidth=50.0
    )
    found = model.predict_interval(X)
    np.testing.assert_allclose(found[:, 1], frozen.predict(X) + threshold, rtol=1e-9)


def test_constant_columns_do_not_count():
    constant = np.column_stack([X, np.ones(240)])
    other = LocalizedConformalRegressor(Ridge(), random_state=0).fit(constant, Y)
    np.testing.assert_allclose(
        other.predict_interval(constant), fitted().predict_interval(X), rtol=1e-9
    )


def test_features_in_every_form(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
    y = df_module.make_series(Y)
    expected = fitted(features=[0, 2]).predict_interval(X)
    named = LocalizedConformalRegressor(Ridge(), features=["a", "c"], random_state=0)
    found = named.fit(frame, y).predict_interval(frame)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    function = fitted(features=lambda rows: rows[:, [0, 2]])
    np.testing.assert_array_equal(function.predict_interval(X), expected)
    assert fitted(features=PCA(2)).predict_interval(X).shape == (240, 2)


def test_calibrate_anew():
    model = fitted(features=[0])
    h = model.bandwidth_
    X_new, y_new = normal_rows(90, seed=1, n_features=3, noise=10.0)
    assert model.calibrate(X_new, y_new) is model
    assert model.bandwidth_ == h  # of the training rows
    assert model.n_calibration_ == 90
    model.set_params(bandwidth=0.7).calibrate(X_new, y_new)
    assert model.bandwidth_ == 0.7


def test_a_calibration_that_fails_changes_nothing():
    model = fitted()
    before = model.predict_interval(X)
    model.set_params(kernel="cosine", confidence_level=0.5)
    with pytest.raises(ValueError, match="kernel='cosine'"):
        model.calibrate(X, Y)
    np.testing.assert_array_equal(model.predict_interval(X), before)


def test_copies_and_searches():
    model = fitted()
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_interval(X), model.predict_interval(X))
    pipeline = make_pipeline(StandardScaler(), LinearRegression())
    search = GridSearchCV(
        LocalizedConformalRegressor(pipeline, random_state=0),
        {"bandwidth": [0.5, 1.0]},
        cv=2,
    ).fit(X, Y)
    assert search.best_estimator_.predict_interval(X).shape == (240, 2)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kernel": "cosine"}, "kernel='cosine' must be one of ['box', 'gaussian']"),
        ({"kernel": None}, "kernel=None must be one of"),
        ({"bandwidth": 0}, "bandwidth must be positive, got 0"),
        ({"bandwidth": -1.0}, "bandwidth must be positive, got -1.0"),
        ({"bandwidth": np.nan}, "bandwidth must be positive, got nan"),
        ({"bandwidth": "wide"}, "bandwidth must be a positive number, got 'wide'"),
        ({"kernel": np.ones_like, "randomized": True}, "cannot be drawn from a kernel"),
        ({"confidence_level": 0.0}, "confidence_level must lie strictly between"),
        ({"nonconformity": None}, "nonconformity=None must be one of"),
        ({"features": "a"}, "features='a' are no columns of X"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(**parameters)


def test_a_kernel_with_bad_weights():
    model = fitted(kernel=np.negative)
    with pytest.raises(ValueError, match="kernel must turn an array of distances"):
        model.predict_interval(X)
