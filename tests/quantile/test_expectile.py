"""ExpectileRegressor: closed forms, identities, equivariances, edges."""

import re

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib._core.expectile import expectile_quantile_level, quantile_expectile_level
from uqlib.quantile import ExpectileRegressor

LEVELS = [0.02, 0.25, 0.5, 0.7, 0.99]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3))
Y = X @ [1.0, -2.0, 0.0] + (1 + X[:, 2] ** 2) * RNG.standard_t(4, size=300)
WEIGHT = RNG.integers(0, 4, size=300).astype(float)


def fitted():
    return ExpectileRegressor(LEVELS).fit(X, Y)


def balance(e, tau, weight):
    """tau E(Y - e)_+ - (1 - tau) E(e - Y)_+, which the expectile brings to zero."""
    above, below = np.maximum(Y - e, 0), np.maximum(e - Y, 0)
    return weight @ (tau * above - (1 - tau) * below)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_the_middle_level_is_least_squares(weight, fit_intercept):
    model = ExpectileRegressor(LEVELS, fit_intercept=fit_intercept)
    model.fit(X, Y, sample_weight=weight)
    oracle = LinearRegression(fit_intercept=fit_intercept).fit(X, Y, weight)
    np.testing.assert_allclose(model.coef_[2], oracle.coef_, atol=1e-12)
    np.testing.assert_allclose(model.predict(X), oracle.predict(X), atol=1e-12)
    np.testing.assert_allclose(
        model.predict_expectiles(X)[:, 2], model.predict(X), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_penalty_at_the_middle_level_is_ridge_regression(weight):
    total = 300 if weight is None else weight.sum()
    model = ExpectileRegressor([0.5], alpha=0.3).fit(X, Y, sample_weight=weight)
    oracle = Ridge(alpha=2 * total * 0.3).fit(X, Y, weight)
    np.testing.assert_allclose(model.coef_[0], oracle.coef_, atol=1e-12)
    np.testing.assert_allclose(model.intercept_[0], oracle.intercept_, atol=1e-12)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_constant_model_gives_the_expectiles_of_the_sample(weight):
    model = ExpectileRegressor(LEVELS).fit(np.zeros((300, 1)), Y, weight)
    each = np.ones(300) if weight is None else weight
    expected = [brentq(balance, Y.min(), Y.max(), args=(tau, each)) for tau in LEVELS]
    np.testing.assert_allclose(model.predict_expectiles([[5.0]])[0], expected)
    assert np.all(np.diff(model.intercept_) > 0)
    np.testing.assert_allclose(
        model.quantile_levels_, expectile_quantile_level(Y, LEVELS, weight)
    )


def test_the_mean_is_predicted_without_its_level():
    model = ExpectileRegressor([0.8, 0.9]).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), fitted().predict(X))


def test_lines_lie_as_far_from_the_mean_as_the_residuals_say():
    model = fitted()
    residuals = Y[:, None] - model.predict_expectiles(X)
    np.testing.assert_allclose(
        model.predict_expectiles(X).mean(axis=0),
        Y.mean() + (2 * np.array(LEVELS) - 1) * np.abs(residuals).mean(axis=0),
    )


def test_equivariances():
    model, lines = fitted(), fitted().predict_expectiles(X)
    other = clone(model).fit(X, 3 * Y - 7)
    np.testing.assert_allclose(other.predict_expectiles(X), 3 * lines - 7)
    flipped = ExpectileRegressor([1 - tau for tau in LEVELS[::-1]]).fit(X, -Y)
    np.testing.assert_allclose(flipped.predict_expectiles(X)[:, ::-1], -lines)
    tilted = clone(model).fit(X, Y + X @ [5.0, 0.0, 1.0])
    np.testing.assert_allclose(tilted.coef_, model.coef_ + np.array([5.0, 0.0, 1.0]))
    mixing = RNG.normal(size=(3, 3))
    mixed = clone(model).fit(X @ mixing + 1, Y)
    np.testing.assert_allclose(mixed.predict_expectiles(X @ mixing + 1), lines)


def test_weights_are_repetition():
    repeated = np.repeat(np.arange(300), WEIGHT.astype(int))
    weighted = ExpectileRegressor(LEVELS, alpha=0.1).fit(X, Y, WEIGHT)
    by_hand = clone(weighted).fit(X[repeated], Y[repeated])
    np.testing.assert_allclose(weighted.coef_, by_hand.coef_, rtol=1e-10)
    np.testing.assert_allclose(weighted.quantile_levels_, by_hand.quantile_levels_)


def test_levels_that_a_mean_regression_suggests():
    # The residuals have one law: the lines asked for are near the quantiles meant.
    rng = np.random.default_rng(1)
    X = rng.normal(size=(4000, 2))
    y = X.sum(axis=1) + rng.exponential(size=4000)
    residuals = y - LinearRegression().fit(X, y).predict(X)
    wanted = np.array([0.1, 0.5, 0.9])
    model = ExpectileRegressor(quantile_expectile_level(residuals, wanted)).fit(X, y)
    np.testing.assert_allclose(model.quantile_levels_, wanted, atol=0.01)


def test_shapes_and_attributes():
    model = fitted()
    assert model.coef_.shape == (5, 3)
    assert model.intercept_.shape == model.n_iter_.shape == (5,)
    assert model.mean_coef_.shape == (3,)
    assert model.predict(X).shape == (300,)
    assert model.predict_expectiles(X).shape == (300, 5)
    np.testing.assert_array_equal(model.expectiles_, LEVELS)
    share = (Y[:, None] <= model.predict_expectiles(X)).mean(axis=0)
    np.testing.assert_allclose(model.quantile_levels_, share)
    assert ExpectileRegressor().fit(X, Y).coef_.shape == (19, 3)


@pytest.mark.parametrize(
    ("X", "y"),
    [
        (np.ones((1, 2)), np.array([3.0])),
        (np.ones((5, 2)), np.full(5, -2.5)),
        (X[:4, [0, 1, 2, 0]], Y[:4]),
        (np.arange(6.0).reshape(6, 1), 2 * np.arange(6.0)),
    ],
    ids=["one row", "constant target", "as many columns as rows", "exact line"],
)
def test_every_line_goes_through_targets_that_a_line_can_reach(X, y):
    model = ExpectileRegressor(LEVELS).fit(X, y)
    lines = model.predict_expectiles(X)
    np.testing.assert_allclose(lines, np.tile(y[:, None], 5), atol=1e-12)
    np.testing.assert_allclose(model.quantile_levels_, 1, rtol=1e-12)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-12)


def test_single_precision_and_strides_are_the_same_model():
    model = fitted()
    narrow = clone(model).fit(X.astype(np.float32), Y)
    assert narrow.predict_expectiles(X.astype(np.float32)).dtype == np.float64
    np.testing.assert_allclose(narrow.coef_, model.coef_, atol=1e-5)
    strided = clone(model).fit(np.asfortranarray(X), Y[::-1][::-1])
    np.testing.assert_allclose(strided.coef_, model.coef_, rtol=1e-12)


def test_dataframes_and_pipelines(df_module):
    names = ["a", "b", "c"]
    frame = df_module.make_dataframe(zip(names, X.T, strict=True))
    model = ExpectileRegressor(LEVELS).fit(frame, df_module.make_series(Y))
    np.testing.assert_array_equal(model.feature_names_in_, names)
    np.testing.assert_allclose(model.predict(frame), fitted().predict(X))
    pipeline = make_pipeline(StandardScaler(), ExpectileRegressor(LEVELS)).fit(frame, Y)
    np.testing.assert_allclose(pipeline.predict(frame), fitted().predict(X))


def test_too_few_iterations_warn_with_the_levels():
    model = ExpectileRegressor([0.5, 0.999], max_iter=2)
    with pytest.warns(ConvergenceWarning, match=r"at the levels \[0.999\]"):
        model.fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"expectiles": [0.5, 0.2]}, "expectiles must be strictly increasing"),
        ({"expectiles": [0.5, 1.0]}, "expectiles must lie strictly between 0 and 1"),
        ({"expectiles": 0.5}, "expectiles must be a non-empty 1-D sequence"),
        ({"alpha": -1.0}, "alpha must be a finite number of at least 0, got -1.0"),
        ({"alpha": "big"}, "alpha must be a finite number of at least 0, got 'big'"),
        ({"tol": np.nan}, "tol must be a finite number of at least 0, got nan"),
        ({"max_iter": 0}, "max_iter must be an int of at least 1, got 0"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ExpectileRegressor(**parameters).fit(X, Y)


def test_bad_data_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        ExpectileRegressor().fit(np.where(X > 1, np.nan, X), Y)
    with pytest.raises(ValueError, match="at least one non-zero"):
        ExpectileRegressor().fit(X, Y, sample_weight=np.zeros(300))
    with pytest.raises(ValueError, match="dates"):
        ExpectileRegressor().fit(X, Y.astype("datetime64[s]"))
    with pytest.raises(NotFittedError):
        ExpectileRegressor().predict_expectiles(X)
