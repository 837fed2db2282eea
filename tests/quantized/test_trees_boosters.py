"""Trees of LightGBM and XGBoost predict what the library predicts, bit for bit."""

import warnings

import numpy as np
import pytest

from tests.quantized._trees import (
    assert_repeats,
    assert_same_bits,
    awkward_inputs,
    cancer,
    digits,
    friedman,
    lightgbm_model,
    with_nan,
    xgboost_model,
)
from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._tree_extraction import extract_trees

X, y = friedman()
POSITIVE = np.exp(y / 10)


# ---------------------------------------------------------------------------
# LightGBM


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        ("regression", y),
        ("quantile", y),
        ("huber", y),
        ("poisson", POSITIVE),
        ("gamma", POSITIVE),
        ("tweedie", POSITIVE),
    ],
)
def test_lightgbm_objectives(objective, target):
    model = lightgbm_model("LGBMRegressor", objective=objective)
    assert_repeats(model.fit(X, target), X)


@pytest.mark.parametrize(
    "parameters",
    [
        {"reg_sqrt": True},
        {"boosting_type": "dart"},
        {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.6},
        {"n_estimators": 1},
        {"num_leaves": 2},
        {"use_missing": False},
    ],
)
def test_lightgbm_parameters(parameters):
    model = lightgbm_model("LGBMRegressor", **parameters).fit(X, y)
    assert_repeats(model, X)


def test_lightgbm_missing_values():
    missing = with_nan(X)
    assert_repeats(lightgbm_model("LGBMRegressor").fit(missing, y), missing)


def test_lightgbm_zeros_as_missing_values():
    rows = with_nan(X)
    rows[np.random.default_rng(2).random(rows.shape) < 0.2] = 0.0
    model = lightgbm_model("LGBMRegressor", zero_as_missing=True).fit(rows, y)
    assert_repeats(model, rows)


def test_lightgbm_constant_target():
    model = lightgbm_model("LGBMRegressor").fit(X, np.full_like(y, 3.0))
    assert_repeats(model, X)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"sigmoid": 0.3},
        {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.6},
        {"objective": "cross_entropy"},
    ],
)
def test_lightgbm_two_classes(parameters):
    rows, target = cancer()
    model = lightgbm_model("LGBMClassifier", **parameters).fit(rows, target)
    assert_repeats(model, rows)


@pytest.mark.parametrize("objective", ["multiclass", "multiclassova"])
def test_lightgbm_many_classes(objective):
    rows, target = digits()
    labels = np.array(list("abcdefghij"))[target]
    model = lightgbm_model("LGBMClassifier", objective=objective, n_estimators=3)
    assert_repeats(model.fit(rows, labels), rows)


def test_lightgbm_early_stopping():
    lightgbm = pytest.importorskip("lightgbm")
    model = lightgbm_model("LGBMRegressor", n_estimators=300, learning_rate=0.5)
    stop = lightgbm.early_stopping(2, verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions have another name for it
        model.fit(X[:150], y[:150], eval_set=[(X[150:], y[150:])], callbacks=[stop])
    trees = assert_repeats(model, X)
    assert trees.n_trees == model.best_iteration_ < 300


def test_lightgbm_categories():
    rng = np.random.default_rng(0)
    rows = X.copy()
    rows[:, 0] = rng.integers(0, 40, len(rows))
    target = y + 8 * np.sin(7 * rows[:, 0])
    model = lightgbm_model("LGBMRegressor", min_data_per_group=3, cat_smooth=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LightGBM's own, about where this is named
        model.fit(rows, target, categorical_feature=[0])
    odd = np.resize([-7.0, -1.0, -0.5, 0.5, 3.9, 39.5, 400.0, 1e12, np.nan], len(rows))
    trees = assert_repeats(model, np.c_[odd, rows[:, 1:]])
    assert trees.columns.tables.size
    assert_repeats(model, rows)


# ---------------------------------------------------------------------------
# XGBoost


@pytest.mark.parametrize(
    "objective",
    ["reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:logistic"],
)
def test_xgboost_objectives(objective):
    target = np.clip(y / 30, 0, 1) if objective == "reg:logistic" else y
    model = xgboost_model("XGBRegressor", objective=objective)
    assert_repeats(model.fit(X, target), X)


# XGBoost's exponential in single precision is one of the two numbers around the exact
# one, the reference's the nearer: they differ by one unit in the last place at most
# (2^-23), and a quotient of such numbers and their sum by four.
@pytest.mark.parametrize("objective", ["count:poisson", "reg:gamma", "reg:tweedie"])
def test_xgboost_log_link(objective):
    model = xgboost_model("XGBRegressor", objective=objective).fit(X, POSITIVE)
    trees = extract_trees(model)
    for rows in awkward_inputs(trees, X):
        raw = reference.predict_raw(trees, rows)[:, 0]
        assert_same_bits(raw, model.predict(rows, output_margin=True))
        np.testing.assert_allclose(
            reference.predict(trees, rows), model.predict(rows), rtol=2.0**-23
        )


@pytest.mark.parametrize("name", ["XGBClassifier", "XGBRFClassifier"])
def test_xgboost_many_classes(name):
    rows, target = digits()
    model = xgboost_model(name, n_estimators=4, max_depth=3).fit(rows, target)
    trees = extract_trees(model)
    for odd in awkward_inputs(trees, rows):
        raw = reference.predict_raw(trees, odd)
        assert_same_bits(raw, model.predict(odd, output_margin=True))
        np.testing.assert_allclose(
            reference.predict_proba(trees, odd),
            model.predict_proba(odd),
            rtol=4 * 2.0**-23,
        )
        top = np.sort(raw, axis=1)
        clear = top[:, -1] - top[:, -2] > 1e-5
        found = reference.predict(trees, odd)
        assert found.dtype == model.predict(odd).dtype
        np.testing.assert_array_equal(found[clear], model.predict(odd)[clear])


def test_xgboost_two_classes():
    rows, target = cancer()
    assert_repeats(xgboost_model("XGBClassifier").fit(rows, target), rows)


@pytest.mark.parametrize("missing", [np.nan, -999.0])
def test_xgboost_missing_values(missing):
    rows = with_nan(X)
    rows[np.isnan(rows)] = missing
    assert_repeats(xgboost_model("XGBRegressor", missing=missing).fit(rows, y), rows)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_estimators": 1},
        {"max_depth": 1},
        {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]},
        {"num_parallel_tree": 3, "subsample": 0.5},
        {"base_score": 2.5},
    ],
)
def test_xgboost_parameters(parameters):
    assert_repeats(xgboost_model("XGBRegressor", **parameters).fit(X, y), X)


def test_xgboost_several_targets_and_constants():
    model = xgboost_model("XGBRegressor").fit(X, np.c_[y, POSITIVE])
    assert assert_repeats(model, X).n_outputs == 2
    assert_repeats(xgboost_model("XGBRegressor").fit(X, np.full_like(y, 3.0)), X)


def test_xgboost_early_stopping():
    model = xgboost_model("XGBRegressor", n_estimators=99, early_stopping_rounds=2)
    model.fit(X[:150], y[:150], eval_set=[(X[150:], y[150:])], verbose=False)
    trees = assert_repeats(model, X)
    assert trees.n_trees == model.best_iteration + 1
