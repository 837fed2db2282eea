"""NonexchangeableConformalRegressor: weights, the order of time, the theorem."""

import itertools
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._models import Zero, normal_rows
from uqlib import (
    InfiniteIntervalWarning,
    SplitConformalRegressor,
    conformal_quantile,
    weighted_conformal_quantile,
)
from uqlib.conformal import NonexchangeableConformalRegressor

X, Y = normal_rows(200, seed=0)
FROZEN_ZERO = FrozenEstimator(Zero().fit(X, Y))


def calibrated(y, weight=None, **parameters):
    """A calibrator whose point is 0 and whose scores are |y|."""
    return NonexchangeableConformalRegressor(FROZEN_ZERO, **parameters).fit(
        np.zeros((len(y), 1)), y, calibration_weight=weight
    )


@pytest.mark.parametrize("decay", [0.97, 0.99, 1.0])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_equals_the_procedure_by_hand(decay, level):
    model = NonexchangeableConformalRegressor(
        Ridge(), decay=decay, confidence_level=level, calibration_size=80
    ).fit(X, Y)
    ridge = Ridge().fit(X[:120], Y[:120])
    scores = np.abs(Y[120:] - ridge.predict(X[120:]))
    weights = np.array([decay**age for age in range(80, 0, -1)])
    np.testing.assert_allclose(model.calibration_weight_, weights, rtol=1e-12)
    # By hand: the newest row counts decay, the new one 1 and lies at +inf.
    order = np.argsort(scores)
    enough = np.cumsum(weights[order]) >= level * (weights.sum() + 1)
    threshold = scores[order][np.argmax(enough)]
    if decay < 1:  # no ties of the cumulative weight with the level
        assert model.threshold_ == threshold
    assert model.threshold_ == weighted_conformal_quantile(
        scores, model.calibration_weight_, [1.0], level
    )
    np.testing.assert_allclose(
        model.predict_interval(X),
        ridge.predict(X)[:, None] + model.threshold_ * np.array([-1, 1]),
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))


@pytest.mark.parametrize("score", ["absolute", "signed", "gamma"])
def test_weights_of_one_are_split_conformal_regression(score):
    frozen = FrozenEstimator(Ridge().fit(*normal_rows(50, seed=9)))
    split = SplitConformalRegressor(frozen, nonconformity=score).fit(X, Y)
    model = NonexchangeableConformalRegressor(frozen, nonconformity=score, decay=1)
    weighted = clone(model).fit(X, Y, calibration_weight=np.ones(200))
    for level in (None, 0.9, 0.55):
        expected = split.predict_interval(X, level)
        for other in (model.fit(X, Y), weighted):
            np.testing.assert_array_equal(other.predict_interval(X, level), expected)


def test_rows_without_weight_are_no_rows():
    # So coverage has the law of split calibration on the rows that are left, whatever
    # the law of the others is.
    weight = np.repeat([0.0, 1.0], [120, 80])
    drifting = np.concatenate([1000 * Y[:120], Y[120:]])
    model = calibrated(drifting, weight)
    assert model.threshold_ == conformal_quantile(np.abs(Y[120:]), 0.9)


@pytest.mark.filterwarnings("ignore::uqlib.InfiniteIntervalWarning")
def test_the_theorem_for_exchangeable_rows_and_any_weights():
    # All orders of five targets are as likely: coverage is a count of orders.
    rng = np.random.default_rng(0)
    for level in (0.3, 0.5, 0.6):
        weight = rng.uniform(size=4)
        covered = [
            y[4] <= weighted_conformal_quantile(y[:4], weight, [1.0], level)[0]
            for y in itertools.permutations([1.0, 2.0, 3.0, 4.0, 5.0])
        ]
        assert Fraction(int(np.sum(covered)), len(covered)) >= Fraction(str(level))


@pytest.mark.filterwarnings("ignore::uqlib.InfiniteIntervalWarning")
@pytest.mark.parametrize("seed", range(10))
def test_the_theorem_for_rows_of_different_laws(seed):
    # Three old rows and a new one, independent, each with its own law on {0, 1, 2}:
    # coverage and all distances are sums over 81 outcomes.
    rng = np.random.default_rng(seed)
    laws = rng.dirichlet(np.ones(3), size=4)
    weight, level = rng.uniform(size=3), rng.choice([0.3, 0.5, 0.6])
    coverage, distance = 0.0, np.zeros(3)
    for y in itertools.product(range(3), repeat=4):
        mass = np.prod(laws[np.arange(4), y])
        threshold = weighted_conformal_quantile(y[:3], weight, [1.0], level)[0]
        coverage += mass * (y[3] <= threshold)
        for i in range(3):
            swapped = list(y)
            swapped[i], swapped[3] = y[3], y[i]
            distance[i] += abs(mass - np.prod(laws[np.arange(4), swapped])) / 2
    slack = weight @ distance / (weight.sum() + 1)
    assert coverage >= level - slack - 1e-12
    # Independent rows: at most twice the distance between the laws of the two rows.
    assert (distance <= np.abs(laws[:3] - laws[3]).sum(axis=1) + 1e-12).all()


def test_weights_above_that_of_the_new_row_would_not_cover():
    # Why they are refused: two rows of weight 9 beside a new row of weight 1 are
    # enough for a level of 0.9, and cover 2 of 3 orders.
    covered = [
        y[2] <= weighted_conformal_quantile(y[:2], [9.0, 9.0], [1.0], 0.9)[0]
        for y in itertools.permutations([1.0, 2.0, 3.0])
    ]
    assert np.mean(covered) < 0.9
    with pytest.raises(ValueError, match="Divide the weights by"):
        calibrated(Y[:2], [9.0, 9.0])


def test_old_rows_are_forgotten():
    # The spread grows tenfold: the newest rows decide.
    rng = np.random.default_rng(0)
    y = rng.normal(size=600) * np.repeat([1.0, 10.0], [500, 100])
    assert calibrated(y, decay=0.95).threshold_ > 10
    assert calibrated(y, decay=1.0).threshold_ < 10


def test_the_last_rows_calibrate_in_their_order():
    model = NonexchangeableConformalRegressor(Ridge(), calibration_size=0.3).fit(X, Y)
    assert model.n_calibration_ == 60
    ridge = Ridge().fit(X[:140], Y[:140])
    np.testing.assert_array_equal(
        model.scores_, np.abs(Y[140:] - ridge.predict(X[140:]))
    )
    weight = np.linspace(0, 1, 200)
    model.fit(X, Y, calibration_weight=weight)
    np.testing.assert_array_equal(model.calibration_weight_, weight[140:])
    model.calibrate(X[:90], Y[:90], calibration_weight=weight[:90])
    np.testing.assert_array_equal(model.calibration_weight_, weight[:90])
    model.calibrate(X[:50], Y[:50])  # without weights the decay is back
    assert model.calibration_weight_[-1] == 0.99


def test_sample_weight_trains_and_calibration_weight_calibrates():
    weight = np.random.default_rng(0).uniform(size=200)
    model = NonexchangeableConformalRegressor(Ridge(), calibration_size=50)
    model.fit(X, Y, sample_weight=weight, calibration_weight=weight[::-1])
    ridge = Ridge().fit(X[:150], Y[:150], sample_weight=weight[:150])
    np.testing.assert_array_equal(model.estimator_.coef_, ridge.coef_)
    np.testing.assert_array_equal(model.calibration_weight_, weight[::-1][150:])


def test_calibration_weight_is_routed():
    weight = np.random.default_rng(0).uniform(size=200)
    with config_context(enable_metadata_routing=True):
        model = NonexchangeableConformalRegressor(
            Ridge(), calibration_size=20, confidence_level=0.7
        )
        model.set_fit_request(calibration_weight=True)
        search = GridSearchCV(
            model, {"estimator__alpha": [0.1, 1.0]}, cv=TimeSeriesSplit(2)
        ).fit(X, Y, calibration_weight=weight)
    found = search.best_estimator_.calibration_weight_
    np.testing.assert_array_equal(found, weight[-20:])


def test_nested_in_the_level_and_each_level_by_itself():
    model = calibrated(Y)
    levels = np.linspace(0.02, 0.85, 40)
    upper = [model.predict_interval(X[:1, :1], p)[0, 1] for p in levels]
    assert (np.diff(upper) >= 0).all()
    again = calibrated(Y, confidence_level=0.7).predict_interval(X[:1, :1])
    np.testing.assert_array_equal(model.predict_interval(X[:1, :1], 0.7), again)


@pytest.mark.parametrize("score", ["absolute", "signed"])
def test_rows_that_weigh_too_little_give_infinite_intervals(score):
    # With decay 0.89 all rows there could ever be weigh less than 8.1: 0.9 needs 9.
    with pytest.warns(InfiniteIntervalWarning, match="must weigh at least") as caught:
        model = calibrated(np.tile(Y, 5), decay=0.89, nonconformity=score)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isposinf(model.threshold_).all()
    interval = model.predict_interval(X[:, :1])  # warned once
    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 200)
    with pytest.warns(InfiniteIntervalWarning):
        calibrated(Y, np.zeros(200))


def test_a_decay_that_underflows():
    with pytest.warns(InfiniteIntervalWarning, match="weigh 1e-200 in all"):
        model = calibrated(Y, decay=1e-200)
    assert model.threshold_ == np.inf
    assert (model.calibration_weight_[:-1] == 0).all()


def test_a_single_calibration_row():
    assert calibrated(Y[:1], decay=1.0, confidence_level=0.5).threshold_ == abs(Y[0])
    with pytest.warns(InfiniteIntervalWarning):
        assert calibrated(Y[:1], decay=0.9, confidence_level=0.5).threshold_ == np.inf


def test_frames_copies_and_pipelines(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    pipeline = make_pipeline(StandardScaler(), LinearRegression())
    model = NonexchangeableConformalRegressor(pipeline)
    weight = df_module.make_series(np.linspace(0.5, 1, 200))
    model.fit(frame, df_module.make_series(Y), calibration_weight=weight)
    expected = clone(model).fit(X, Y, calibration_weight=np.linspace(0.5, 1, 200))
    np.testing.assert_allclose(
        model.predict_interval(frame), expected.predict_interval(X)
    )
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        copy.predict_interval(frame), model.predict_interval(frame)
    )


def test_a_calibration_that_fails_changes_nothing():
    model = NonexchangeableConformalRegressor(Ridge()).fit(X, Y)
    before = model.predict_interval(X)
    with pytest.raises(ValueError, match="calibration_weight"):
        model.set_params(confidence_level=0.5).calibrate(
            X, Y, calibration_weight=-np.ones(200)
        )
    np.testing.assert_array_equal(model.predict_interval(X), before)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), "calibration_weight must have shape (200,), one weight a row"),
        (np.full(200, -0.1), "calibration_weight must be finite and at least 0"),
        (np.full(200, np.inf), "calibration_weight must be finite and at least 0"),
        (np.full(200, np.nan), "calibration_weight contains NaN"),
        (np.full(200, 1.5), "calibration_weight must lie in [0, 1], got a weight of"),
    ],
)
def test_bad_weights(weight, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        NonexchangeableConformalRegressor(Ridge()).fit(X, Y, calibration_weight=weight)


@pytest.mark.parametrize("decay", [0, -0.5, 1.01, np.nan, np.inf, None, "0.9", True])
def test_bad_decay(decay):
    model = NonexchangeableConformalRegressor(Ridge(), decay=decay)
    with pytest.raises(ValueError, match=re.escape(f"in (0, 1], got {decay!r}")):
        model.fit(X, Y)


def test_other_bad_parameters():
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        calibrated(Y, confidence_level=1.0)
    with pytest.raises(ValueError, match="nonconformity='x' must be one of"):
        calibrated(Y, nonconformity="x")
    with pytest.raises(ValueError, match="leaves 0 rows to train and 1 to calibrate"):
        NonexchangeableConformalRegressor(Ridge()).fit(X[:1], Y[:1])
    with pytest.raises(TypeError, match="mondrian_groups"):
        calibrated(Y).predict_interval(X, mondrian_groups=X[:, 0])
