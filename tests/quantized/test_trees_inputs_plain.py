"""Plain arrays of floats are read the short way, which reads what the long way does."""

from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)

from tests.quantized._trees import friedman, lightgbm_model, xgboost_model
from tests.quantized.test_trees_inputs import NAMES, assert_same_predictions
from uqlib.quantized import _tree_inputs
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._tree_lightgbm import thresholds_around_zero

X, y = friedman(120)


class Subclass(np.ndarray):
    """Goes the long way."""


PLAIN = {
    "hist": lambda: HistGradientBoostingRegressor(max_iter=3),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=3),
    "forest": lambda: RandomForestRegressor(3, random_state=0),
    "lightgbm": lambda: lightgbm_model("LGBMRegressor"),
    "lightgbm zeros": lambda: lightgbm_model("LGBMRegressor", zero_as_missing=True),
    "xgboost": lambda: xgboost_model("XGBRegressor"),
    "xgboost value": lambda: xgboost_model("XGBRegressor", missing=0.5),
}


def values_of_a_plain_array(inputs, rows):
    """Rows with one value of any kind that the model takes."""
    kinds = [0.0, -0.0, 0.5, 1e-36, 1e30]
    kinds += [np.nan] if inputs.allow_nan else []
    kinds += [np.inf, -np.inf] if inputs.allow_inf else []
    for value in kinds:
        some = rows.copy()
        some[len(some) // 2, 1] = value
        yield some


@pytest.mark.parametrize("name", list(PLAIN))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 120, 5000])
def test_the_short_way_reads_what_the_long_way_reads(name, dtype, n_rows):
    inputs = extract_trees(PLAIN[name]().fit(X, y)).inputs
    rows = np.resize(X, (n_rows, 6)).astype(dtype)
    for some in values_of_a_plain_array(inputs, rows):
        before = some.tobytes()
        for form in (some, np.asfortranarray(some), some[::-1], some[:, ::-1]):
            found = _tree_inputs._plain_values(inputs, form)
            expected = inputs.read(form.view(Subclass))
            assert found.dtype == expected.dtype == inputs.dtype
            if inputs.library == "lightgbm" and not inputs.zeroes_tiny:
                found = np.where(np.abs(found) < 1e-35, 0.0, found)
                expected = np.where(np.abs(expected) < 1e-35, 0.0, expected)
            np.testing.assert_array_equal(found, expected)
        assert some.tobytes() == before


@pytest.mark.parametrize("name", list(PLAIN))
def test_all_else_takes_the_long_way(name):
    inputs = extract_trees(PLAIN[name]().fit(X, y)).inputs
    swapped = X.astype(X.dtype.newbyteorder())
    others = [X[:, :5], X[0], X[None], X.astype(int), X.astype(object), X.tolist()]
    others += [X.astype(np.longdouble), X.astype(np.float16), swapped]
    others += [pd.DataFrame(X), pl.DataFrame(X, NAMES), X.view(Subclass), csr_array(X)]
    if inputs.library != "xgboost":
        others.append(X[:0])
    for bad in (np.nan, np.inf, -np.inf):
        allowed = inputs.allow_nan if np.isnan(bad) else inputs.allow_inf
        for n_rows in (1, 5000):
            some = np.resize(X, (n_rows, 6))
            some[0, 3] = bad
            others += [] if allowed else [some, some.astype(np.float32)]
    for other in others:
        assert _tree_inputs._plain_values(inputs, other) is None
    named = replace(inputs, feature_names=tuple(NAMES))
    if inputs.library == "sklearn":
        assert _tree_inputs._plain_values(named, X) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 300])
def test_the_short_way_encodes_categories_as_the_long_way(dtype, n_rows):
    rng = np.random.default_rng(0)
    known = np.array([-3.0, -0.0, 2.5, 7.0, 200.0, np.nan])
    rows = np.c_[rng.choice(known, (300, 2)), rng.normal(size=(300, 1))]
    model = HistGradientBoostingRegressor(max_iter=5, categorical_features=[0, 1])
    model.fit(rows, np.nan_to_num(rows[:, 0]) + rows[:, 2])
    inputs = extract_trees(model).inputs
    odd = np.array([*known, 0.0, 1.0, 2.4, 1e300, -1e300, 1e-320])
    new = np.c_[rng.choice(odd, (300, 2)), rng.normal(size=(300, 1))][:n_rows]
    with np.errstate(over="ignore"):
        new = new.astype(dtype)
    new[np.isinf(new)] = 9.0
    found = _tree_inputs._plain_values(inputs, new)
    np.testing.assert_array_equal(found, inputs.read(new.view(Subclass)), strict=True)
    assert_same_predictions(model, new)
    infinite = new.copy()
    infinite[0, 1] = np.inf
    assert _tree_inputs._plain_values(inputs, infinite) is None
    infinite = new.copy()
    infinite[0, 2] = np.inf
    assert np.isinf(_tree_inputs._plain_values(inputs, infinite)[0, 2])
    for other in ({0: np.array(["a", "b"], object)}, {0: np.array([2.0, 1.0])}):
        words = replace(inputs, categories=other)
        assert _tree_inputs._plain_values(words, new) is None


def test_large_finite_numbers_are_not_taken_for_infinite_ones():
    # Their squares, and their sum, are infinite.
    rows = np.full((3, 6), 3e38)
    for model in (GradientBoostingRegressor(n_estimators=3), RandomForestRegressor(3)):
        trees = assert_same_predictions(model.fit(X, y), rows, rows.astype(np.float32))
        assert _tree_inputs._plain_values(trees.inputs, rows) is not None


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("seed", range(5))
def test_lightgbm_thresholds_around_zero(zero, seed):
    z = _tree_inputs.LIGHTGBM_ZERO
    edges = [zero, z, -z, 5e-324, -5e-324, 1e-40, -1e-40, 1.0, -1.0, np.inf, -np.inf]
    edges = np.array(edges)
    near = [np.nextafter(edges, -np.inf), edges, np.nextafter(edges, np.inf)]
    edges = np.concatenate(near)
    moved = thresholds_around_zero(edges)
    read = np.where(np.abs(edges) <= z, 0.0, edges)
    np.testing.assert_array_equal(
        edges[:, None] <= moved, read[:, None] <= edges, strict=True
    )
    rng = np.random.default_rng(seed)
    rows = rng.choice(edges[np.isfinite(edges)], (300, 3))
    target = (rows[:, 0] > 0) + 2.0 * (rows[:, 1] < 0)
    model = lightgbm_model("LGBMRegressor").fit(rows, target)
    trees = assert_same_predictions(model, rows, rng.choice(edges, (300, 3)))
    assert not trees.inputs.zeroes_tiny


def test_scikit_learn_s_own_switch_of_checks_is_obeyed():
    rows = X.copy()
    rows[3, 2] = np.inf
    model = GradientBoostingRegressor(n_estimators=3).fit(X, y)
    with config_context(assume_finite=True):
        assert_same_predictions(model, rows, X)
