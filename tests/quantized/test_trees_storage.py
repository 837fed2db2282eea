"""Leaves of fewer bits, and trees from what was stored of them."""

import json
import pickle

import numpy as np
import pytest
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from tests.quantized._trees import (
    cancer,
    digits,
    friedman,
    lightgbm_model,
    threshold_rows,
    with_nan,
    xgboost_model,
)
from tests.quantized.test_trees_inputs import category_frame
from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._tree_leaves import drift_bound, leaf_drift, quantize_leaves
from uqlib.quantized._tree_storage import (
    stored_trees,
    trees_from_stored,
    trees_nbytes,
)

X, y = friedman()


def frame_model():
    frame, target = category_frame()
    return HistGradientBoostingRegressor(
        max_iter=6, categorical_features="from_dtype", min_samples_leaf=3
    ).fit(frame, target), frame


def lightgbm_frame_model():
    frame, target = category_frame()
    model = lightgbm_model("LGBMRegressor", min_data_per_group=3)
    return model.fit(frame, target), frame


MODELS = {
    "hist": lambda: (
        HistGradientBoostingRegressor(max_iter=20).fit(with_nan(X), y),
        with_nan(X),
    ),
    "hist-classes": lambda: (
        HistGradientBoostingClassifier(max_iter=3).fit(*digits()),
        digits()[0],
    ),
    "hist-categories": frame_model,
    "boosting-labels": lambda: (
        GradientBoostingClassifier(n_estimators=4).fit(
            cancer()[0], np.array(["no", "yes"], dtype=object)[cancer()[1]]
        ),
        cancer()[0],
    ),
    "forest": lambda: (RandomForestRegressor(8, random_state=0).fit(X, y), X),
    "forest-classes": lambda: (
        RandomForestClassifier(8, random_state=0).fit(*digits()),
        digits()[0],
    ),
    "constant": lambda: (
        HistGradientBoostingRegressor(max_iter=2).fit(X, np.ones_like(y)),
        X,
    ),
    "lightgbm": lambda: (lightgbm_model("LGBMClassifier").fit(*digits()), digits()[0]),
    "lightgbm-frame": lightgbm_frame_model,
    "xgboost": lambda: (xgboost_model("XGBRegressor", missing=-1.0).fit(X, y), X),
}


@pytest.fixture(params=list(MODELS))
def model_and_rows(request):
    return MODELS[request.param]()


def assert_equal_predictions(first, second, rows):
    methods = ["predict", "predict_raw"]
    if first.classes is not None:
        methods.append("predict_proba")
    for method in methods:
        found = getattr(reference, method)(first, rows)
        expected = getattr(reference, method)(second, rows)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------------------
# Storage


@pytest.mark.parametrize("bits", [None, 16, 8])
def test_stored_trees_predict_the_same(model_and_rows, bits):
    model, rows = model_and_rows
    trees = quantize_leaves(extract_trees(model), bits)
    settings, arrays = stored_trees(trees)
    # Through JSON and raw bytes, as a file has them.
    settings = json.loads(json.dumps(settings, allow_nan=False))
    arrays = {
        name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
        for name, array in arrays.items()
    }
    again = trees_from_stored(settings, arrays)
    assert_equal_predictions(again, trees, rows)
    assert trees_nbytes(again) == trees_nbytes(trees)
    assert trees_nbytes(trees) == sum(array.nbytes for array in arrays.values())
    assert all(array.dtype.kind in "uif" for array in arrays.values())


def test_pickle_and_classes(model_and_rows):
    model, rows = model_and_rows
    trees = extract_trees(model)
    assert_equal_predictions(pickle.loads(pickle.dumps(trees)), trees, rows)
    again = trees_from_stored(*stored_trees(trees))
    if trees.classes is None:
        assert again.classes is None
    else:
        assert again.classes.dtype == trees.classes.dtype == model.classes_.dtype
        np.testing.assert_array_equal(again.classes, model.classes_)


def test_bytes_are_counted_by_hand():
    trees = extract_trees(HistGradientBoostingRegressor(max_iter=20).fit(X, y))
    n_nodes, n_leaves = trees.node_bin.size, trees.leaf_value.size
    assert n_leaves == n_nodes + trees.n_trees
    columns = trees.columns
    column_bits = int(columns.n_columns - 1).bit_length()
    largest = int(trees.node_bin.max()).bit_length()
    by_hand = (
        -(-(n_nodes + n_leaves) // 8)  # shape
        + -(-column_bits * n_nodes // 8)
        + -(-largest * n_nodes // 8)
        + columns.n_columns * (1 + 1 + 2)  # feature, missing, number of thresholds
        + 8 * columns.thresholds.size
        + 8  # baseline
    )
    leaves = trees_nbytes(trees) - by_hand
    assert leaves <= 8 * n_leaves
    grid = quantize_leaves(trees, 8)
    assert trees_nbytes(grid) == by_hand + n_leaves + 12 * trees.n_trees


@pytest.mark.parametrize("name", ["hist", "forest", "lightgbm", "xgboost"])
def test_exact_trees_are_smaller_than_the_library_s(name):
    trees = extract_trees(MODELS[name]()[0])
    exact = trees_nbytes(trees)
    assert exact < trees.source_nbytes / 1.5
    halved = trees_nbytes(quantize_leaves(trees, 8))
    assert halved < trees_nbytes(quantize_leaves(trees, 16)) < trees.source_nbytes / 2


def test_repeated_leaves_are_stored_once():
    trees = extract_trees(RandomForestClassifier(8, random_state=0).fit(*digits()))
    distinct = np.unique(trees.leaf_value, axis=0)
    _, arrays = stored_trees(trees)
    assert arrays["leaf"].shape == distinct.shape
    assert arrays["leaf_number"].dtype == np.uint8
    _, grid_arrays = stored_trees(quantize_leaves(trees, 16))
    assert grid_arrays["leaf"].shape[0] <= 2 * len(distinct)


DAMAGE = {
    "shape cut": ("tree_shape", lambda a: a[:-1]),
    "shape changed": ("tree_shape", lambda a: np.zeros_like(a)),
    "shape without end": ("tree_shape", lambda a: np.full_like(a, 255)),
    "nodes cut": ("node_bin", lambda a: a[:-1]),
    "no such bin": ("node_bin", lambda a: np.full_like(a, 255)),
    "no such column": ("node_column", lambda a: np.full_like(a, 255)),
    "signed nodes": ("node_bin", lambda a: a.view(np.int8)),
    "thresholds cut": ("thresholds", lambda a: a[:-1]),
    "thresholds reversed": ("thresholds", lambda a: a[::-1].copy()),
    "thresholds of another type": ("thresholds", lambda a: a.astype(np.float32)),
    "NaN threshold": ("thresholds", lambda a: np.full_like(a, np.nan)),
    "no such feature": ("column_feature", lambda a: a + 100),
    "no such direction": ("column_missing", lambda a: a + 9),
    "leaves cut": ("leaf", lambda a: a[:-1]),
    "outputs": ("baseline", lambda a: np.empty(0)),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_arrays(kind):
    name, damage = DAMAGE[kind]
    model = HistGradientBoostingRegressor(max_iter=20).fit(X, y)
    settings, arrays = stored_trees(extract_trees(model))
    with pytest.raises(ValueError, match="damaged"):
        trees_from_stored(settings, {**arrays, name: damage(arrays[name])})


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"link": "eval"},
        {"source": "other"},
        {"n_trees": -1},
        {"n_trees": 10**9},
        {"n_nodes": 1},
        {"column_bits": 7},
        {"leaf_width": 2},
        {"inputs": {}},
        {"divisor": None},
    ],
)
def test_damaged_settings(change):
    model = HistGradientBoostingRegressor(max_iter=20).fit(X, y)
    settings, arrays = stored_trees(extract_trees(model))
    with pytest.raises(ValueError, match="damaged"):
        trees_from_stored({**settings, **change}, arrays)


@pytest.mark.parametrize("name", ["tree_shape", "thresholds", "leaf_scale"])
def test_absent_arrays(name):
    model = HistGradientBoostingRegressor(max_iter=3).fit(X, y)
    settings, arrays = stored_trees(quantize_leaves(extract_trees(model)))
    del arrays[name]
    with pytest.raises(ValueError, match=f"damaged.*{name}"):
        trees_from_stored(settings, arrays)


# ---------------------------------------------------------------------------
# Leaves


@pytest.mark.parametrize("bits", [16, 8])
def test_leaves_move_by_half_a_step(model_and_rows, bits):
    trees = extract_trees(model_and_rows[0])
    quantized = quantize_leaves(trees, bits)
    grid = quantized.leaf_grid
    assert grid.bits == bits
    step = np.repeat(grid.scale.astype(float), trees.leaf_counts)[:, None]
    moved = np.abs(quantized.leaf_value.astype(float) - trees.leaf_value)
    ulp = np.finfo(trees.leaf_value.dtype).eps * np.abs(trees.leaf_value)
    assert np.all(moved <= step / 2 + 2 * ulp)
    # The ends of every tree are kept: the smallest leaf exactly.
    low = np.minimum.reduceat(trees.leaf_value.min(axis=1), trees.leaf_start[:-1])
    np.testing.assert_array_equal(grid.offset, low)
    assert np.all(grid.codes.max() >= 2**bits - 2 if step.any() else grid.codes == 0)


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("name", ["hist", "hist-classes", "forest", "forest-classes"])
def test_drift_stays_below_its_bound(name, bits):
    model, rows = MODELS[name]()
    trees = extract_trees(model)
    quantized = quantize_leaves(trees, bits)
    drift = leaf_drift(trees, quantized, threshold_rows(trees, rows))
    assert 0 < drift.rms <= drift.max <= drift.bound * (1 + 1e-9)
    assert drift.relative_max < (0.05 if bits == 8 else 2e-4)
    raw = reference.predict_raw(trees, rows)
    spread = np.sqrt(np.mean((raw - raw.mean(axis=0)) ** 2))
    drift = leaf_drift(trees, quantized, rows)
    assert drift.relative_rms == pytest.approx(drift.rms / spread)


def test_bound_is_reached():
    # One tree, leaves 0, 1 / 2 of a step beside a code, and the top.
    target = np.array([0.0, 100.5 / 255, 1.0])
    rows = np.arange(3.0)[:, None]
    model = RandomForestRegressor(1, bootstrap=False).fit(rows, target)
    trees = extract_trees(model)
    drift = leaf_drift(trees, quantize_leaves(trees, 8), rows)
    assert drift.max == pytest.approx(drift.bound, rel=1e-4)
    assert drift.bound == pytest.approx(0.5 / 255, rel=1e-6)


def test_large_offsets_cost_nothing():
    model = RandomForestRegressor(5, random_state=0).fit(X, 1e9 + y)
    trees = extract_trees(model)
    drift = leaf_drift(trees, quantize_leaves(trees, 16), X)
    assert drift.relative_max < 1e-4


def test_exact_leaves_do_not_drift():
    trees = extract_trees(HistGradientBoostingRegressor(max_iter=3).fit(X, y))
    assert quantize_leaves(trees, None) is trees
    assert drift_bound(trees) == 0
    assert leaf_drift(trees, trees, X) == (0, 0, 0, 0, 0)


def test_constant_leaves_are_exact_in_any_bits():
    trees = extract_trees(MODELS["constant"]()[0])
    quantized = quantize_leaves(trees, 8)
    np.testing.assert_array_equal(quantized.leaf_value, trees.leaf_value)
    assert leaf_drift(trees, quantized, X) == (0, 0, 0, 0, 0)


def test_probabilities_sum_to_one():
    model, rows = MODELS["forest-classes"]()
    quantized = quantize_leaves(extract_trees(model), 8)
    proba = reference.predict_proba(quantized, rows)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(proba, model.predict_proba(rows), atol=0.02)


def test_impossible_bits():
    trees = extract_trees(HistGradientBoostingRegressor(max_iter=3).fit(X, y))
    for bits in (4, 0, 32, "8"):
        with pytest.raises(ValueError, match="bits must be 8, 16 or None"):
            quantize_leaves(trees, bits)
    with pytest.raises(ValueError, match="ensemble must have exact leaves"):
        quantize_leaves(quantize_leaves(trees, 8), 16)
