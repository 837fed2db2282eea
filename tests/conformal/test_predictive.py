"""ConformalPredictiveRegressor: the array functions by hand, laws, groups, edges."""

import math
import pickle
import warnings
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import beta, kstest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, QuantileRegressor, Ridge
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests._models import Zero, normal_rows
from uqlib import (
    AlreadyFittedWarning,
    InfiniteIntervalWarning,
    MultiQuantileRegressor,
    SplitConformalRegressor,
)
from uqlib._predictions import predict_interval, predict_quantiles
from uqlib.conformal import (
    ConformalPredictiveRegressor,
    NormalizedScore,
    predictive_cdf,
    predictive_crps,
    predictive_p_values,
    predictive_quantiles,
)

X, Y = normal_rows(240, seed=0)
ZERO = FrozenEstimator(Zero().fit(X, Y))
GRID = np.linspace(-3, 3, 13)
GROUPS = np.array(["a", "b"])[(X[:, 1] > 0).astype(int)]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def calibrated(y, **parameters):
    """A system whose point is 0 and whose residuals are y."""
    return ConformalPredictiveRegressor(ZERO, **parameters).fit(
        np.zeros((len(y), 2)), y
    )


def everything(model, **groups):
    return [
        model.predict(X),
        model.predict_interval(X, **groups),
        model.predict_quantiles(X, **groups),
        model.predict_cdf(X, GRID, **groups),
        model.predict_p_values(X, Y, **groups),
        model.crps(X, Y, **groups),
    ]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equals_the_functions_by_hand():
    model = ConformalPredictiveRegressor(Ridge(), random_state=3).fit(X, Y)
    X_train, X_cal, y_train, y_cal = train_test_split(
        X, Y, test_size=0.25, random_state=3
    )
    ridge = Ridge().fit(X_train, y_train)
    residuals, point = y_cal - ridge.predict(X_cal), ridge.predict(X)
    assert_same(
        everything(model),
        [
            point,
            predictive_quantiles(residuals, point, [0.05, 0.95]),
            predictive_quantiles(residuals, point, [0.05, 0.5, 0.95]),
            predictive_cdf(residuals, point, GRID),
            predictive_p_values(residuals, point, Y),
            predictive_crps(residuals, point, Y),
        ],
    )
    np.testing.assert_array_equal(np.sort(model.scores_), np.sort(residuals))
    np.testing.assert_array_equal(model.quantiles_, [0.05, 0.5, 0.95])
    assert model.n_calibration_ == 60
    u = np.random.default_rng(0).uniform(size=240)
    np.testing.assert_array_equal(
        model.predict_p_values(X, Y, u=u), predictive_p_values(residuals, point, Y, u=u)
    )
    np.testing.assert_array_equal(
        model.predict_p_values(X, 0.25), predictive_p_values(residuals, point, 0.25)
    )


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("n", [19, 20, 60])
def test_intervals_are_those_of_signed_scores(n, level):
    y = Y[:n]
    model = calibrated(y, confidence_level=level)
    signed = SplitConformalRegressor(
        ZERO, nonconformity="signed", confidence_level=level
    ).fit(X[:n], y)
    np.testing.assert_array_equal(model.predict_interval(X), signed.predict_interval(X))
    np.testing.assert_array_equal(
        model.predict_interval(X, 0.6), signed.predict_interval(X, 0.6)
    )


def test_an_interval_is_a_pair_of_quantiles_and_a_slice_of_p_values():
    # [q_alpha/2, q_1-alpha/2] = {y : Q(y, 1) > alpha / 2 and Q(y, 0) < 1 - alpha / 2}.
    model = ConformalPredictiveRegressor(Ridge(), random_state=0).fit(X, Y)
    interval = model.predict_interval(X, 0.8)
    quantiles = model.predict_quantiles(X, [0.1, 0.9])
    np.testing.assert_array_equal(interval, quantiles)
    inside = (interval[:, 0] <= Y) & (interval[:, 1] >= Y)
    low = model.predict_p_values(X, Y) > 0.1 + 1e-9
    high = model.predict_p_values(X, Y, u=0) < 0.9 - 1e-9
    np.testing.assert_array_equal(inside, low & high)


@pytest.mark.parametrize("n", [19, 50])
def test_randomized_p_values_are_uniform(n):
    # 400 calibrations, one new row each: an exactly uniform sample.
    rng = np.random.default_rng(n)
    y, u = np.round(rng.normal(size=(400, n + 1)), 1), rng.uniform(size=400)
    row = np.zeros((1, 2))
    p_values = [
        calibrated(sample[1:]).predict_p_values(row, sample[:1], u=share).item()
        for sample, share in zip(y, u, strict=True)
    ]
    assert kstest(p_values, "uniform").pvalue > 1e-6 / 2


@pytest.mark.parametrize(("n", "tau"), [(19, 0.95), (30, 0.75), (30, 0.25), (50, 0.1)])
def test_each_level_has_its_exact_law(n, tau):
    # y is uniform and the point 0, so that a quantile is the probability below it.
    rng = np.random.default_rng(n)
    rank = (math.ceil if tau > 0.5 else math.floor)((n + 1) * Fraction(str(tau)))
    reached = [
        calibrated(y, quantiles=[tau], confidence_level=0.5)
        .predict_quantiles(X[:1])
        .item()
        for y in rng.uniform(size=(400, n))
    ]
    assert kstest(reached, beta(rank, n + 1 - rank).cdf).pvalue > 1e-6 / 4


def test_crps_is_the_integral_of_the_squared_error_of_the_cdf():
    model = calibrated(np.round(Y[:30], 2))
    grid = np.linspace(-6, 6, 120_001)
    cdf = model.predict_cdf(X[:1], grid)[0]
    for y in (-1.0, 0.3, 4.0):
        integral = np.sum((cdf - (y <= grid)) ** 2) * (grid[1] - grid[0])
        assert model.crps(X[:1], [y]).item() == pytest.approx(integral, rel=2e-4)


def test_the_cdf_inverts_the_quantiles():
    # F at a quantile above 1/2 is at least its level, and just before one below 1/2 at
    # most its level.
    model = ConformalPredictiveRegressor(Ridge(), quantiles=LEVELS, random_state=0)
    quantiles = model.fit(X, Y).predict_quantiles(X[:1])[0]
    np.testing.assert_array_equal(model.quantiles_, LEVELS)
    at = model.predict_cdf(X[:1], quantiles)[0]
    before = model.predict_cdf(X[:1], quantiles - 1e-9)[0]
    assert (at >= LEVELS)[3:].all()
    assert (before <= LEVELS)[:2].all()
    assert (np.diff(at) >= 0).all()


# Scales


@pytest.mark.parametrize("how", ["normalized", "object", "column"])
def test_a_scale_that_follows_x(how):
    rng = np.random.default_rng(1)
    scale = 0.5 + np.abs(X[:, 0])
    rows, y = np.column_stack([X, scale]), X[:, 1] + scale * rng.normal(size=240)
    nonconformity = {
        "normalized": "normalized",
        "object": NormalizedScore(HistGradientBoostingRegressor(max_iter=5)),
        "column": NormalizedScore(column=2),
    }[how]
    model = ConformalPredictiveRegressor(
        Ridge(), nonconformity=nonconformity, random_state=0
    ).fit(rows, y)
    point, sigma = model.nonconformity_.predict(model.estimator_, rows).T
    if how == "column":
        np.testing.assert_array_equal(sigma, scale)
    residuals = model.scores_
    np.testing.assert_array_equal(
        model.predict_quantiles(rows),
        predictive_quantiles(residuals, point, model.quantiles_, sigma),
    )
    np.testing.assert_array_equal(
        model.crps(rows, y), predictive_crps(residuals, point, y, sigma)
    )
    np.testing.assert_array_equal(
        model.predict_cdf(rows, GRID), predictive_cdf(residuals, point, GRID, sigma)
    )
    np.testing.assert_array_equal(
        model.predict_p_values(rows, y), predictive_p_values(residuals, point, y, sigma)
    )
    widths = np.diff(model.predict_interval(rows), axis=1).ravel()
    np.testing.assert_allclose(widths / sigma, widths[0] / sigma[0], rtol=1e-10)
    assert nonconformity == "normalized" or not hasattr(nonconformity, "floor_")


@pytest.mark.parametrize("nonconformity", ["absolute", "quantile", None, 3])
def test_scores_that_do_not_increase_with_the_target(nonconformity):
    model = ConformalPredictiveRegressor(Ridge(), nonconformity=nonconformity)
    with pytest.raises(ValueError, match="must be 'signed', 'normalized' or a Norm"):
        model.fit(X, Y)


# Groups


def test_groups_by_hand():
    model = ConformalPredictiveRegressor(ZERO).fit(X, Y, mondrian_groups=GROUPS)
    np.testing.assert_array_equal(model.groups_, ["a", "b"])
    results = everything(model, mondrian_groups=GROUPS)
    for position, label in enumerate("ab"):
        rows = label == GROUPS
        alone = ConformalPredictiveRegressor(ZERO).fit(X[rows], Y[rows])
        assert_same(
            [result[rows] for result in results],
            [result[rows] for result in everything(alone)],
        )
        np.testing.assert_array_equal(model.threshold_[position], alone.threshold_)


def test_every_way_to_name_the_groups_is_the_same(df_module):
    frame = df_module.make_dataframe({"x0": X[:, 0], "x1": X[:, 1], "g": GROUPS})
    number = (GROUPS == "b").astype(float)
    rows = np.column_stack([X, number])
    features = make_column_transformer(("passthrough", ["x0", "x1"]))
    models = [
        ConformalPredictiveRegressor(Ridge(), group_by=2, random_state=0).fit(rows, Y),
        ConformalPredictiveRegressor(
            Ridge(), group_by=lambda x: x[:, 2] > 0, random_state=0
        ).fit(rows, Y),
    ]
    named = ConformalPredictiveRegressor(
        make_pipeline(features, Ridge()), group_by="g", random_state=0
    ).fit(frame, Y)
    assert named.predict_cdf(frame, GRID).shape == (240, 13)
    np.testing.assert_array_equal(named.groups_, ["a", "b"])
    np.testing.assert_array_equal(
        models[0].predict_cdf(rows, GRID), models[1].predict_cdf(rows, GRID)
    )
    given = ConformalPredictiveRegressor(Ridge(), random_state=0)
    given.fit(rows, Y, mondrian_groups=number)
    np.testing.assert_array_equal(
        given.crps(rows, Y, mondrian_groups=number), models[0].crps(rows, Y)
    )


def test_an_unseen_group_has_half_its_mass_at_either_infinity():
    model = ConformalPredictiveRegressor(ZERO).fit(X, Y, mondrian_groups=GROUPS)
    two, groups = X[:2], ["a", "c"]
    calls = {
        "interval": lambda: model.predict_interval(two, mondrian_groups=groups),
        "quantiles": lambda: model.predict_quantiles(two, mondrian_groups=groups),
        "cdf": lambda: model.predict_cdf(two, GRID, mondrian_groups=groups),
        "p": lambda: model.predict_p_values(two, Y[:2], u=0.3, mondrian_groups=groups),
        "crps": lambda: model.crps(two, Y[:2], mondrian_groups=groups),
    }
    expected = {
        "interval": [-np.inf, np.inf],
        "quantiles": [-np.inf, 0.0, np.inf],
        "cdf": 0.5,
        "p": 0.3,
        "crps": np.inf,
    }
    for name, call in calls.items():
        with pytest.warns(InfiniteIntervalWarning, match="'c'") as caught:
            result = call()
        assert len(caught) == 1
        np.testing.assert_array_equal(result[1], expected[name])
        assert np.isfinite(result[0]).all()


def test_a_small_group_warns_once_at_calibration():
    groups = np.array(["a"] * 235 + ["b"] * 5)
    with pytest.warns(InfiniteIntervalWarning, match="'b'") as caught:
        model = ConformalPredictiveRegressor(ZERO).fit(X, Y, mondrian_groups=groups)
    assert len(caught) == 1
    interval = model.predict_interval(X, mondrian_groups=groups)  # no second warning
    np.testing.assert_array_equal(np.isinf(interval).any(axis=1), groups == "b")
    with pytest.warns(InfiniteIntervalWarning):
        model.predict_quantiles(X, [0.05], mondrian_groups=groups)


def test_groups_given_twice_or_once_too_few():
    plain = ConformalPredictiveRegressor(ZERO).fit(X, Y)
    with pytest.raises(ValueError, match="the calibration was without it"):
        plain.predict_cdf(X, 0.0, mondrian_groups=GROUPS)
    grouped = ConformalPredictiveRegressor(ZERO).fit(X, Y, mondrian_groups=GROUPS)
    with pytest.raises(ValueError, match="mondrian_groups is needed"):
        grouped.crps(X, Y)
    with pytest.raises(ValueError, match="Use one of them"):
        ConformalPredictiveRegressor(ZERO, group_by=0).fit(X, Y, mondrian_groups=GROUPS)


# Few rows, frozen models, other calibrations


def test_too_few_rows_warn_once_and_are_infinite():
    with pytest.warns(InfiniteIntervalWarning, match="at least 19 are") as caught:
        model = calibrated(Y[:9])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(
        model.predict_quantiles(X[:1]), [[-np.inf, np.median(Y[:9]), np.inf]]
    )
    np.testing.assert_array_equal(model.predict_interval(X[:1]), [[-np.inf, np.inf]])
    assert np.isfinite(model.crps(X, Y)).all()
    with pytest.warns(InfiniteIntervalWarning, match="at least 99 are"):
        model.predict_interval(X, 0.98)
    with pytest.warns(InfiniteIntervalWarning, match="at least 99 are"):
        model.predict_quantiles(X, [0.01, 0.5])


def test_the_outermost_of_all_levels_is_the_one_that_warns():
    with pytest.warns(InfiniteIntervalWarning, match="at least 99 are") as caught:
        calibrated(Y[:50], quantiles=[0.01, 0.5], confidence_level=0.9)
    assert len(caught) == 1
    with pytest.warns(InfiniteIntervalWarning, match="at least 19 are"):
        calibrated(Y[:9], quantiles=[0.5], confidence_level=0.9)


def test_one_calibration_row():
    with pytest.warns(InfiniteIntervalWarning):
        model = calibrated(np.array([2.0]))
    np.testing.assert_array_equal(model.crps(X[:2], [2.0, 5.0]), [0.0, 3.0])
    np.testing.assert_array_equal(
        model.predict_p_values(X[:3], [1.0, 2.0, 3.0]), [0.5, 1.0, 1.0]
    )


def test_constant_targets():
    model = calibrated(np.full(30, 7.0))
    np.testing.assert_allclose(model.predict_quantiles(X[:1]), 7.0, rtol=1e-14)
    np.testing.assert_array_equal(model.predict_cdf(X[:1], [6.9, 7.0]), [[0.0, 1.0]])
    np.testing.assert_array_equal(model.crps(X[:2], [7.0, 9.0]), [0.0, 2.0])


def test_a_frozen_estimator_calibrates_on_all_rows():
    model = ConformalPredictiveRegressor(ZERO).fit(X, Y)
    assert model.n_calibration_ == 240
    assert model.estimator_ is ZERO
    np.testing.assert_array_equal(np.sort(model.scores_), np.sort(Y))


def test_calibrate_moves_the_distribution_and_nothing_else():
    model = ConformalPredictiveRegressor(Ridge(), random_state=0).fit(X, Y)
    inner, point = model.estimator_, model.predict(X)
    model.set_params(confidence_level=0.5).calibrate(X[:50], Y[:50] + 3)
    assert model.estimator_ is inner
    np.testing.assert_array_equal(model.predict(X), point)
    np.testing.assert_array_equal(model.quantiles_, [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(
        np.sort(model.scores_), np.sort(Y[:50] + 3 - point[:50])
    )
    before = everything(model)
    with pytest.raises(ValueError, match="NaN"):
        model.calibrate(X[:50], np.full(50, np.nan))
    with pytest.raises(ValueError, match="strictly increasing"):
        model.set_params(quantiles=[0.9, 0.1]).calibrate(X[:50], Y[:50])
    assert_same(everything(model), before)


def test_a_fitted_estimator_is_cloned_with_a_warning():
    inner = Ridge().fit(X, Y)
    with pytest.warns(AlreadyFittedWarning):
        model = ConformalPredictiveRegressor(inner).fit(X, Y)
    assert model.estimator_ is not inner


def test_sample_weight_trains_and_does_not_calibrate():
    weight = np.random.default_rng(0).integers(1, 4, size=240)
    model = ConformalPredictiveRegressor(Ridge(), random_state=0)
    model.fit(X, Y, sample_weight=weight)
    train, held_out = train_test_split(np.arange(240), test_size=60, random_state=0)
    ridge = Ridge().fit(X[train], Y[train], sample_weight=weight[train])
    expected = Y[held_out] - ridge.predict(X[held_out])
    np.testing.assert_allclose(model.scores_, expected, rtol=1e-12)


# As part of the library and of scikit-learn


def test_it_is_a_quantile_and_interval_predictor():
    model = ConformalPredictiveRegressor(Ridge(), quantiles=LEVELS, random_state=0)
    model.fit(X, Y)
    values, levels = predict_quantiles(model, X)
    np.testing.assert_array_equal(levels, LEVELS)
    np.testing.assert_array_equal(values, model.predict_quantiles(X))
    other, _ = predict_quantiles(model, X, [0.3, 0.6])
    np.testing.assert_array_equal(other, model.predict_quantiles(X, [0.3, 0.6]))
    np.testing.assert_array_equal(
        predict_interval(model, X, 0.8), model.predict_interval(X, 0.8)
    )


def test_a_quantile_model_is_placed_at_its_median():
    base = MultiQuantileRegressor(QuantileRegressor(alpha=0), quantiles=[0.25, 0.5])
    model = ConformalPredictiveRegressor(base, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict(X), model.estimator_.predict_quantiles(X)[:, 1]
    )


def test_pickle_clone_and_search():
    model = ConformalPredictiveRegressor(
        Ridge(), nonconformity=NormalizedScore(), quantiles=LEVELS, random_state=0
    )
    model.fit(X, Y, mondrian_groups=GROUPS)
    copy = pickle.loads(pickle.dumps(model))
    results = everything(model, mondrian_groups=GROUPS)
    assert_same(everything(copy, mondrian_groups=GROUPS), results)
    again = clone(model).fit(X, Y, mondrian_groups=GROUPS)
    assert_same(everything(again, mondrian_groups=GROUPS), results)
    search = GridSearchCV(
        ConformalPredictiveRegressor(Ridge(), random_state=0),
        {"estimator__alpha": [1e6, 1e-3]},
        scoring=lambda fitted, rows, y: -fitted.crps(rows, y).mean(),
        cv=3,
    ).fit(X, Y)
    assert search.best_params_ == {"estimator__alpha": 1e-3}


def test_frames_with_strings_and_missing_values(df_module):
    x0 = X[:, 0].copy()
    x0[::10] = np.nan
    frame = df_module.make_dataframe({"x0": x0, "kind": GROUPS})
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["kind"]), remainder="passthrough"
    )
    inner = make_pipeline(encode, HistGradientBoostingRegressor(max_iter=3))
    model = ConformalPredictiveRegressor(inner, random_state=0)
    model.fit(frame, df_module.make_series(Y))
    assert model.predict_cdf(frame, GRID).shape == (240, 13)
    p_values = model.predict_p_values(frame, df_module.make_series(Y))
    np.testing.assert_array_equal(p_values, model.predict_p_values(frame, Y))
    assert list(model.feature_names_in_) == ["x0", "kind"]


def test_equivariance():
    plain = ConformalPredictiveRegressor(LinearRegression(), random_state=0).fit(X, Y)
    moved = ConformalPredictiveRegressor(
        make_pipeline(StandardScaler(), LinearRegression()), random_state=0
    ).fit(X, 8 * Y + 7)
    np.testing.assert_allclose(
        moved.predict_quantiles(X), 8 * plain.predict_quantiles(X) + 7, rtol=1e-9
    )
    np.testing.assert_allclose(moved.crps(X, 8 * Y + 7), 8 * plain.crps(X, Y))
    np.testing.assert_allclose(
        moved.predict_cdf(X, 8 * GRID + 7), plain.predict_cdf(X, GRID), atol=1e-9
    )


def test_nothing_that_was_passed_changes():
    rows, y = X.copy(), Y.copy()
    everything(ConformalPredictiveRegressor(Ridge(), random_state=0).fit(rows, y))
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(y, Y)


# Bad input


def test_before_any_calibration_there_is_no_distribution():
    model = ConformalPredictiveRegressor(Ridge())
    for call in (
        lambda: model.predict(X),
        lambda: model.predict_interval(X),
        lambda: model.predict_quantiles(X),
        lambda: model.predict_cdf(X, 0.0),
        lambda: model.predict_p_values(X, Y),
        lambda: model.crps(X, Y),
        lambda: model.calibrate(X, Y),
    ):
        with pytest.raises(NotFittedError):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict_p_values(X, Y[:5]), r"y must be a number or have shape"),
        (lambda m: m.crps(X, [[1.0]]), r"y must be a number or have shape \(240,\)"),
        (lambda m: m.crps(X, np.full(240, np.nan)), "y contains NaN"),
        (lambda m: m.predict_p_values(X, Y, u=2), "u must lie between 0 and 1"),
        (lambda m: m.predict_cdf(X, [np.nan]), "thresholds contains NaN"),
        (lambda m: m.predict_cdf(X, [[0.0]]), "thresholds must be 1-D"),
        (lambda m: m.predict_quantiles(X, [0.9, 0.1]), "strictly increasing"),
        (lambda m: m.predict_interval(X, 1.0), "confidence_level must lie strictly"),
        (lambda m: m.predict_cdf(X[:, :1], 0.0), "X has 1 features"),
    ],
)
def test_bad_calls(call, message):
    model = ConformalPredictiveRegressor(Ridge(), random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"confidence_level": 1.5}, "confidence_level must lie strictly"),
        ({"quantiles": [0.0, 0.5]}, "quantiles must lie strictly between 0 and 1"),
        ({"calibration_size": 1.5}, "calibration_size as a float"),
    ],
)
def test_bad_parameters(parameters, message):
    model = ConformalPredictiveRegressor(Ridge(), **parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_targets_and_predictions(bad):
    y = Y.copy()
    y[3] = bad
    with pytest.raises(ValueError, match="contains"):
        ConformalPredictiveRegressor(Ridge()).fit(X, y)
    dummy = DummyRegressor(strategy="constant", constant=0.0).fit(X, Y)
    dummy.constant_ = np.array([[bad]])
    with pytest.raises(ValueError, match=r"predicted NaN|contains infinity"):
        ConformalPredictiveRegressor(FrozenEstimator(dummy)).fit(X, Y)


def test_no_rows_give_no_values():
    model = calibrated(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = np.empty((0, 2))
        assert model.predict_cdf(empty, GRID).shape == (0, 13)
        assert model.crps(empty, []).shape == (0,)
