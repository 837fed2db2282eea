"""ConditionalConformalRegressor: special cases, the frame, the features, errors."""

import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)

from tests._models import Zero, normal_rows
from uqlib import InfiniteIntervalWarning, SplitConformalRegressor
from uqlib.conformal import (
    ConditionalConformalRegressor,
    conditional_conformal_quantile,
)

X, Y = normal_rows(240, seed=0, n_features=3)
X[:, 2] = np.arange(240) % 3
FROZEN_ZERO = FrozenEstimator(Zero().fit(X, Y))


def first_column(rows):
    return np.asarray(rows)[:, 0]


def ones(rows):
    return np.ones(len(rows))


def fitted(features, **parameters):
    parameters = {"random_state": 0, **parameters}
    return ConditionalConformalRegressor(Ridge(), features=features, **parameters).fit(
        X, Y
    )


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_equals_the_procedure_by_hand(level):
    model = fitted([0, 1], confidence_level=level)
    train, held_out = train_test_split(np.arange(240), test_size=60, random_state=0)
    ridge = Ridge().fit(X[train], Y[train])
    scores = np.abs(Y[held_out] - ridge.predict(X[held_out]))
    phi = np.column_stack([np.ones(240), X[:, :2]])
    threshold = conditional_conformal_quantile(scores, phi[held_out], phi, level)
    threshold = np.maximum(threshold, scores.min())
    expected = ridge.predict(X)[:, None] + threshold[:, None] * [-1, 1]
    np.testing.assert_allclose(model.predict_interval(X), expected, rtol=1e-12)
    np.testing.assert_array_equal(model.scores_, scores)
    np.testing.assert_array_equal(model.predict(X), ridge.predict(X))
    assert (model.n_functions_, model.n_calibration_) == (3, 60)
    assert model.confidence_level_ == level


@pytest.mark.parametrize("score", ["absolute", "signed", "gamma"])
def test_an_intercept_alone_is_split_conformal_regression(score):
    split = SplitConformalRegressor(Ridge(), nonconformity=score, random_state=0)
    for level in (0.9, 0.6):
        np.testing.assert_array_equal(
            fitted(ones, nonconformity=score).predict_interval(X, level),
            split.fit(X, Y).predict_interval(X, level),
        )


def test_indicators_of_groups_are_mondrian_calibration():
    groups = OneHotEncoder(sparse_output=False)
    columns = make_column_transformer((groups, [2]))
    split = SplitConformalRegressor(Ridge(), group_by=2, random_state=0).fit(X, Y)
    for features in (
        columns,
        make_column_transformer((OneHotEncoder(sparse_output=False), [2])),
    ):
        np.testing.assert_array_equal(
            fitted(features).predict_interval(X), split.predict_interval(X)
        )


def test_overlapping_groups_are_each_covered():
    # Given the bag of calibration rows and new row, the mean excess over each of the
    # choices is at least 0 in every group, whatever the rows are.
    rng = np.random.default_rng(0)
    member = np.column_stack([rng.random(40) < 0.5, rng.random(40) < 0.6]) * 1.0
    y = rng.normal(size=40) * (1 + 3 * member[:, 0])
    covered = np.empty(40)
    model = ConditionalConformalRegressor(FROZEN_ZERO, confidence_level=0.8)
    for i in range(40):
        rest = np.arange(40) != i
        model.fit(member[rest], y[rest])
        lower, upper = model.predict_interval(member[[i]])[0]
        covered[i] = lower <= y[i] <= upper
    assert (member.T @ (covered - 0.8) >= -1e-9).all()
    assert covered.sum() >= 0.8 * 40


def test_features_in_every_form(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]})
    y = df_module.make_series(Y)
    expected = fitted([0]).predict_interval(X)
    for features in (0, np.int64(0), np.array([0]), first_column):
        np.testing.assert_array_equal(fitted(features).predict_interval(X), expected)
    for features in ("a", ["a"], FunctionTransformer(first_column)):
        model = ConditionalConformalRegressor(
            Ridge(), features=features, random_state=0
        )
        found = model.fit(frame, y).predict_interval(frame)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_array_equal(
        fitted(None).predict_interval(X), fitted([0, 1, 2]).predict_interval(X)
    )
    lists = ConditionalConformalRegressor(Ridge(), features=[0], random_state=0)
    found = lists.fit(X.tolist(), Y.tolist()).predict_interval(X.tolist())
    np.testing.assert_array_equal(found, expected)


def test_a_transformer_learns_from_the_training_rows_alone():
    scaler = StandardScaler()
    model = fitted(scaler)
    train, _ = train_test_split(np.arange(240), test_size=60, random_state=0)
    np.testing.assert_allclose(model._features.features.mean_, X[train].mean(axis=0))
    assert not hasattr(scaler, "mean_")
    # The class of functions is the same, and so are the thresholds.
    np.testing.assert_allclose(
        model.predict_interval(X), fitted(None).predict_interval(X), rtol=1e-9
    )


def test_a_frozen_estimator_has_no_rows_to_train_features_on():
    frozen = FrozenEstimator(Ridge().fit(X, Y))
    model = ConditionalConformalRegressor(frozen, features=PolynomialFeatures())
    with pytest.raises(ValueError, match="pass it in FrozenEstimator"):
        model.fit(X, Y)
    fitted_before = FrozenEstimator(PolynomialFeatures().fit(X))
    model = clone(model).set_params(features=fitted_before).fit(X, Y)
    assert (model.n_calibration_, model.n_functions_) == (240, 11)
    stateless = clone(model).set_params(features=FunctionTransformer(first_column))
    assert stateless.fit(X, Y).n_functions_ == 2


def test_each_end_of_a_signed_score_is_conditional():
    model = fitted([0], nonconformity="signed", confidence_level=0.8)
    phi = np.column_stack([np.ones(240), X[:, 0]])
    calibration = np.column_stack([np.ones(60), model._calibration_features])
    ends = [
        conditional_conformal_quantile(s, calibration, phi, 0.9)
        for s in model.scores_.T
    ]
    expected = model.predict(X)[:, None] + np.column_stack(ends) * [-1, 1]
    np.testing.assert_allclose(
        model.predict_interval(X), np.sort(expected, axis=1), rtol=1e-9, atol=1e-12
    )


def test_randomized_thresholds_lie_below_the_others():
    plain = fitted([0]).predict_interval(X)
    model = fitted([0], randomized=True)
    random = model.predict_interval(X)
    assert (random[:, 0] >= plain[:, 0]).all()
    assert (random[:, 1] <= plain[:, 1]).all()
    assert (random != plain).any()
    np.testing.assert_array_equal(model.predict_interval(X), random)  # an int seed
    model.set_params(random_state=np.random.RandomState(1))
    assert (model.predict_interval(X) != model.predict_interval(X)).any()


def test_randomization_splits_the_rank():
    # With 9 rows the level 0.75 lies between the coverages 7 / 10 and 8 / 10 of two
    # ranks: each is taken with probability 1/2. The band fails once in a million runs.
    y = np.random.default_rng(0).uniform(size=9)
    model = ConditionalConformalRegressor(
        FROZEN_ZERO,
        features=ones,
        confidence_level=0.75,
        randomized=True,
        random_state=0,
    ).fit(np.zeros((9, 1)), y)
    upper = model.predict_interval(np.zeros((20_000, 1)))[:, 1]
    ranks = np.searchsorted(np.sort(y), upper, side="right")
    assert set(ranks) == {7, 8}
    assert abs(np.mean(ranks == 8) - 0.5) < 4.9 * 0.5 / np.sqrt(20_000)


def test_thresholds_are_never_below_all_scores():
    # A quantile that falls steeply in x extrapolates below 0, where no score is.
    rows = np.linspace(0, 1, 60)[:, None]
    y = 10 * (1 - rows[:, 0]) + 0.01
    model = ConditionalConformalRegressor(FROZEN_ZERO).fit(rows, y)
    interval = model.predict_interval([[0.5], [3.0]])
    assert interval[0, 1] > interval[1, 1]
    np.testing.assert_allclose(interval[1], [-0.01, 0.01], rtol=1e-9)


def test_too_few_rows_warn_once():
    model = ConditionalConformalRegressor(Ridge(), features=[0, 1], random_state=0)
    model.fit(X[:20], Y[:20])
    with pytest.warns(InfiniteIntervalWarning, match="are too few") as caught:
        interval = model.predict_interval(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isinf(interval).any(axis=1).any()
    assert (np.isinf(interval[:, 0]) == np.isinf(interval[:, 1])).all()


def test_a_single_calibration_row():
    model = ConditionalConformalRegressor(
        FROZEN_ZERO, features=ones, confidence_level=0.5
    ).fit(X[:1], Y[:1])
    np.testing.assert_allclose(
        model.predict_interval(X[:1]), np.abs(Y[0]) * np.array([[-1, 1]])
    )


def test_calibrate_anew():
    model = fitted([0])
    X_new, y_new = normal_rows(90, seed=1, n_features=3, noise=10.0)
    assert model.calibrate(X_new, y_new) is model
    frozen = FrozenEstimator(model.estimator_)
    again = ConditionalConformalRegressor(frozen, features=[0]).fit(X_new, y_new)
    np.testing.assert_array_equal(model.predict_interval(X), again.predict_interval(X))


def test_a_calibration_that_fails_changes_nothing():
    model = fitted([0])
    before = model.predict_interval(X)
    broken = X.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.calibrate(broken, Y)
    np.testing.assert_array_equal(model.predict_interval(X), before)


def test_copies_and_searches():
    model = fitted(PolynomialFeatures(2), confidence_level=0.5)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_interval(X), model.predict_interval(X))
    assert clone(model).get_params()["features"].degree == 2
    pipeline = make_pipeline(StandardScaler(), LinearRegression())
    search = GridSearchCV(
        ConditionalConformalRegressor(pipeline, features=[0], random_state=0),
        {"estimator__linearregression__fit_intercept": [True, False]},
        cv=2,
    ).fit(X, Y)
    assert search.best_estimator_.predict_interval(X, 0.5).shape == (240, 2)


def test_nothing_that_was_passed_changes():
    features, target = X.copy(), Y.copy()
    features.flags.writeable = target.flags.writeable = False
    ridge = Ridge()
    ConditionalConformalRegressor(ridge).fit(features, target).predict_interval(
        features
    )
    assert not hasattr(ridge, "coef_")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("missing", "features='missing' are no columns of X"),
        ([7], "features=[7] are no columns of X"),
        (1.5, "features=1.5 are no columns of X"),
        (lambda rows: rows[:5], "must give one row for each of the 60 rows"),
        (lambda rows: np.ones((len(rows), 2, 2)), "got shape (60, 2, 2)"),
        (lambda rows: rows[:, :0], "at least one column, got shape (60, 0)"),
        (lambda rows: rows * np.inf, "contain NaN or infinity"),
        (lambda rows: np.full(len(rows), "a"), "must be numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_features(features, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        fitted(features)


def test_bad_parameters():
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        fitted([0], confidence_level=1.0)
    with pytest.raises(ValueError, match="nonconformity='x' must be one of"):
        fitted([0], nonconformity="x")
    with pytest.raises(ValueError, match="confidence_level must lie strictly"):
        fitted([0]).predict_interval(X, confidence_level=0)
    with pytest.raises(TypeError, match="mondrian_groups"):
        fitted([0]).predict_interval(X, mondrian_groups=X[:, 2])
