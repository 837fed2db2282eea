"""Bins and trees of few leaves in vectors: equal to the reference, bit by bit."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, make_friedman1
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from tests.kernels._tree_portable_cases import (
    arrays,
    assert_any_layout,
    assert_repeats,
    assert_same,
    awkward_rows,
    ensembles,
    random_ensemble,
)
from uqlib.quantized._tree_bins import bins_of
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._trees import BinColumns
from uqlib_kernels._jit import row_jit
from uqlib_kernels._tree_arrays import BinArrays
from uqlib_kernels.registry import available_isas

if "vnni" not in available_isas():
    pytest.skip("the machine lacks the instructions", allow_module_level=True)

from uqlib_kernels._tree_binning_simd import bin_block, bin_plan
from uqlib_kernels._tree_bits import BitVectorTrees
from uqlib_kernels._tree_bits_columns import with_small_bins
from uqlib_kernels._tree_bits_layout import GROUP, MAX_PIECES, grouped

COUNTS = (0, 1, 13, 63, 64, 65, 129, 257, 321, 511, 512, 513, 1000)


def bit_vectors(ensemble):
    trees, columns = arrays(ensemble)
    assert BitVectorTrees.takes(trees, columns) is True
    return BitVectorTrees(trees, columns)


# Bins.


@row_jit
def _bin_all(x, rows, features, n_features, n_rows, fields, data, out, width):
    at, step = np.int64(out.ctypes.data), np.int64(out.shape[1] * width)
    bin_block(x, rows, features, n_features, n_rows, fields, data, at, step, width)


def binned(columns, values):
    """Return the bins that the vectors give."""
    plan = bin_plan(BinArrays(*(getattr(columns, f) for f in BinArrays._fields)))
    width = np.dtype(columns.bin_dtype).itemsize
    room = -(-len(values) // 64) * 64
    out = np.empty((columns.n_columns, room), dtype=columns.bin_dtype)
    rows, features = values.strides
    _bin_all(
        values.ctypes.data, rows, features, values.shape[1], len(values),
        plan.fields, plan.data, out, width,
    )  # fmt: skip
    return out[:, : len(values)]


def columns_of(thresholds, features, missing, tables):
    def starts(parts):
        return np.cumsum([0, *map(len, parts)]).astype(np.int32)

    return BinColumns(
        np.array(features, dtype=np.int32),
        np.array(missing, dtype=np.uint8),
        starts(thresholds),
        np.concatenate(thresholds),
        starts(tables),
        np.concatenate(tables),
    )


def random_columns(rng, dtype, sizes, n_features, categories=0):
    """Return columns of all kinds, and rows on, beside and far from thresholds."""
    none, no_table = np.empty(0, dtype), np.empty(0, np.uint8)
    thresholds, features, missing, tables = [], [], [], []
    pool = rng.standard_normal(2 * max(sizes) + 40).astype(dtype)
    pool[:3] = [0.0, np.inf, -np.inf]
    pool = np.unique(pool)
    for feature in range(n_features):
        size = int(rng.choice(sizes))
        own = np.sort(rng.choice(pool, size, replace=False))
        for kind in range(5):
            is_table = categories > 0 and kind < 2 and feature % 3 == 0
            table = rng.integers(2, size=categories, dtype=np.uint8)
            thresholds.append(none if is_table else own)
            tables.append(table if is_table else no_table)
            features.append(feature)
            missing.append(kind)
    columns = columns_of(thresholds, features, missing, tables)
    return columns, awkward_rows(rng, pool, (1000, n_features))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float64"]),
    sizes=st.sampled_from([[0, 1], [15, 16, 17], [30, 31, 32], [255], [254, 3, 40]]),
    n_features=st.sampled_from([1, 3, 15, 16, 17, 20, 33]),
    categories=st.sampled_from([0, 1, 5]),
    n_rows=st.integers(0, 300),
)
def test_bins_of_8_bits(seed, dtype, sizes, n_features, categories, n_rows):
    rng = np.random.default_rng(seed)
    columns, values = random_columns(rng, dtype, sizes, n_features, categories)
    assert columns.bin_dtype == np.uint8
    assert_same(binned(columns, values[:n_rows]), bins_of(columns, values[:n_rows]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [256, 257, 4095, 4096, 4112, 65535])
def test_bins_of_16_bits(dtype, size):
    rng = np.random.default_rng(size)
    columns, values = random_columns(rng, dtype, [size, 3], 4, categories=5)
    for count in (0, 1, 64, 133):
        found = binned(columns, values[:count])
        assert_same(found, bins_of(columns, values[:count]))


@pytest.mark.parametrize("n_features", [4, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bins_of_any_layout(dtype, n_features):
    rng = np.random.default_rng(0)
    columns, values = random_columns(rng, dtype, [40, 255], n_features)
    wanted = bins_of(columns, values)
    wide = np.repeat(np.repeat(values, 2, axis=0), 3, axis=1)
    backward = np.ascontiguousarray(values[::-1, ::-1])[::-1, ::-1]
    frozen = values.copy()
    frozen.flags.writeable = False
    for form in (np.asfortranarray(values), wide[::2, ::3], backward, frozen):
        for count in (5, 1000):
            assert_same(binned(columns, form[:count]), wanted[:, :count])


def test_numbers_that_single_precision_does_not_tell_apart():
    rng = np.random.default_rng(0)
    single = rng.standard_normal(40).astype(np.float32).astype(np.float64)
    single = np.concatenate([single, [0.0, 1e-45, 1e-300, -1e-300, 1e300, -1e300]])
    near = np.concatenate([single, np.nextafter(single, 9), np.nextafter(single, -9)])
    values = np.concatenate([near, np.nextafter(near, 9), np.nextafter(near, -9)])
    own = np.unique(near)
    columns = columns_of([own] * 2, [0, 1], [0, 1], [np.empty(0, np.uint8)] * 2)
    rows = np.stack([values, rng.permutation(values)], axis=1)
    assert_same(binned(columns, rows), bins_of(columns, rows))


# Layout of trees.


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 64), st.booleans())
def test_pieces_are_parts_of_a_tree_from_the_root_down(seed, max_leaves, chains):
    ensemble, _ = random_ensemble(seed, max_leaves=max_leaves, chains=chains, n_trees=1)
    left, right = ensemble.left.tolist(), ensemble.right.tolist()
    groups = grouped(left, right)
    parent = {c: n for n in range(len(left)) for c in (left[n], right[n]) if c >= 0}
    done = set()
    for group in groups:
        assert len(group) <= MAX_PIECES
        assert sum(map(len, group)) <= GROUP
        for piece in group:
            root, *rest = piece
            assert root == 0 or parent[root] in done
            assert all(parent[node] in piece for node in rest)
            assert not done & set(piece)
            done |= set(piece)
    assert done == set(range(len(left)))


def test_columns_are_merged_and_dealt_out():
    ensemble, values = random_ensemble(
        5, n_trees=60, max_leaves=64, n_features=2, n_thresholds=4000, missing=(0, 1, 2)
    )
    trees, columns = arrays(ensemble)
    small, node_column, node_bin = with_small_bins(trees, columns)
    assert np.diff(columns.threshold_start).max() > 255
    assert np.diff(small.threshold_start).max() == 255
    old, new = bins_of(ensemble.columns, values), bins_of(BinColumns(*small), values)
    goes_left = old[trees.node_column] <= trees.node_bin[:, None]
    assert_same(new[node_column] <= node_bin[:, None], goes_left)
    assert set(node_column.tolist()) == set(range(small.feature.size))


# Predictions.


@settings(max_examples=40, deadline=None)
@given(ensembles(max_leaves=64))
def test_repeats_the_reference(case):
    ensemble, values = case
    assume(ensemble.leaf_width == 1)
    assert_repeats(bit_vectors(ensemble), ensemble, values, (0, 1, 64, 65, 1000))


@pytest.mark.parametrize("max_leaves", [31, 64])
@pytest.mark.parametrize("adds", ["float32", "float64"])
def test_any_number_of_rows(max_leaves, adds):
    ensemble, values = random_ensemble(
        0,
        n_trees=70,
        max_leaves=max_leaves,
        missing=(0, 1),
        n_outputs=3,
        divisor=3,
        adds=adds,
        compares=adds,
    )
    assert_repeats(bit_vectors(ensemble), ensemble, values, COUNTS)
    twice = np.concatenate([values, values[::-1]])[:1500]
    assert_repeats(bit_vectors(ensemble), ensemble, twice, (1500,))


def test_any_layout_and_any_range_of_rows():
    ensemble, values = random_ensemble(1, missing=(0, 1), categories=6, n_features=20)
    assert_any_layout(bit_vectors(ensemble), ensemble, values)


@pytest.mark.parametrize("compares", ["float32", "float64"])
def test_values_of_the_other_width(compares):
    other = "float64" if compares == "float32" else "float32"
    ensemble, values = random_ensemble(2, compares=compares, missing=(0, 1))
    with np.errstate(over="ignore"):
        values = values.astype(other)
    kernel = bit_vectors(ensemble)
    assert_repeats(kernel, ensemble, values, (0, 3, 1000))
    assert_any_layout(kernel, ensemble, values)


@pytest.mark.parametrize("n_thresholds", [300, 4000])
def test_more_thresholds_than_bins_of_8_bits(n_thresholds):
    ensemble, values = random_ensemble(
        3,
        n_trees=60,
        max_leaves=64,
        n_features=1,
        n_thresholds=n_thresholds,
        missing=(0, 1, 2, 3, 4),
    )
    assert np.unique(ensemble.columns.thresholds).size > 255
    assert_repeats(bit_vectors(ensemble), ensemble, values, (1, 64, 1000))


def test_no_trees_and_single_leaves():
    for n_trees in (0, 40):
        ensemble, values = random_ensemble(4, max_leaves=1, n_trees=n_trees)
        assert ensemble.columns.n_columns == 0
        assert_repeats(bit_vectors(ensemble), ensemble, values, (0, 1, 65, 1000))


def test_bins_above_all_thresholds_send_every_row_left():
    ensemble, values = random_ensemble(6, missing=(0, 1, 2), categories=4)
    trees, _ = arrays(ensemble)
    above = np.random.default_rng(0).random(trees.node_bin.size) < 0.3
    ensemble.node_bin[above] = 255
    assert_repeats(bit_vectors(ensemble), ensemble, values, (1, 64, 1000))


def test_values_of_other_types_are_refused():
    ensemble, values = random_ensemble(9)
    kernel = bit_vectors(ensemble)
    for dtype in (np.int64, np.float16, ">f8"):
        with pytest.raises(TypeError, match="float32 or float64"):
            kernel.raw(np.nan_to_num(values).clip(-9, 9).astype(dtype))


def test_copies_are_made_anew():
    ensemble, values = random_ensemble(8)
    kernel = bit_vectors(ensemble)
    for copied in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert_repeats(copied, ensemble, values, (65,))


def test_other_trees_are_not_taken():
    def reason(**changes):
        return BitVectorTrees.takes(*arrays(random_ensemble(0, **changes)[0]))

    assert reason(max_leaves=31) is True
    assert "hold 3 values" in reason(width=3)
    assert "leaves, more than 64" in reason(max_leaves=300)
    trees, columns = arrays(random_ensemble(0)[0])
    wide = columns._replace(feature=np.zeros(5000, dtype=np.int32))
    assert "columns, more than" in BitVectorTrees.takes(trees, wide)
    half = trees._replace(leaf_value=trees.leaf_value.astype(np.float32))
    assert "add to float64" in BitVectorTrees.takes(half, columns)


# Models.


def friedman(missing=0.0, n_samples=900):
    X, y = make_friedman1(n_samples, 6, noise=1.0, random_state=0)
    rng = np.random.default_rng(0)
    X[:, 5] = rng.integers(6, size=len(X))
    X[rng.random(X.shape) < missing] = np.nan
    return X, y


def assert_model(model, X, y, **fitted):
    model.fit(X, y, **fitted)
    ensemble = extract_trees(model)
    values = ensemble.inputs.read(X)
    kernel = bit_vectors(ensemble)
    assert_repeats(kernel, ensemble, values, (1, 64, 65, len(values)))
    return kernel.raw(values)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("categories", [None, [5]])
def test_repeats_hist_gradient_boosting(missing, categories):
    X, y = friedman(missing)
    model = HistGradientBoostingRegressor(
        max_iter=40, categorical_features=categories, early_stopping=False
    )
    raw = assert_model(model, X, y)
    assert_same(raw[:, 0], model.predict(X))


def test_repeats_hist_gradient_boosting_of_classes():
    X, y = friedman(0.1)
    classes = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    model = HistGradientBoostingClassifier(max_iter=15, early_stopping=False)
    raw = assert_model(model, X, classes)
    assert_same(raw, model.decision_function(X))


@pytest.mark.parametrize("leaves", [31, 60])
def test_repeats_lightgbm(leaves):
    lightgbm = pytest.importorskip("lightgbm")
    X, y = friedman(0.1)
    model = lightgbm.LGBMRegressor(
        n_estimators=40,
        num_leaves=leaves,
        min_child_samples=5,
        verbose=-1,
        n_jobs=1,
    )
    raw = assert_model(model, X, y, categorical_feature=[5])
    assert_same(raw[:, 0], model.predict(X))


@pytest.mark.parametrize("depth", [5, 6])
def test_repeats_xgboost(depth):
    xgboost = pytest.importorskip("xgboost")
    X, y = friedman(0.1)
    model = xgboost.XGBRegressor(n_estimators=40, max_depth=depth, n_jobs=1)
    raw = assert_model(model, X, y)
    assert raw.dtype == np.float32
    assert_same(raw[:, 0], model.predict(X))


def test_repeats_gradient_boosting():
    X, y = friedman()
    model = GradientBoostingRegressor(n_estimators=40, max_depth=5)
    raw = assert_model(model, X, y)
    assert_same(raw[:, 0], model.predict(X))
    X, y = load_digits(return_X_y=True)
    many = GradientBoostingClassifier(n_estimators=5, max_depth=3)
    raw = assert_model(many, X[:600], y[:600])
    assert_same(raw, many.decision_function(X[:600]))
