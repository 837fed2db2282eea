"""Trees in plain loops: equal to the reference and to the libraries, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.datasets import make_friedman1
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from tests.kernels._tree_portable_cases import (
    arrays,
    assert_any_layout,
    assert_repeats,
    assert_same,
    ensembles,
    expected,
    random_ensemble,
)
from uqlib.quantized._tree_extraction import extract_trees
from uqlib_kernels._tree_arrays import BinArrays, bin_dtype
from uqlib_kernels._tree_portable import PortableTrees
from uqlib_kernels._tree_portable_bins import bin_rows, search_trees
from uqlib_kernels._tree_portable_nodes import MAX_COLUMNS, node_levels


def portable(ensemble):
    trees, columns = arrays(ensemble)
    assert PortableTrees.takes(trees, columns)
    return PortableTrees(trees, columns)


@settings(max_examples=30, deadline=None)
@given(ensembles())
def test_repeats_the_reference(case):
    ensemble, values = case
    assert_repeats(portable(ensemble), ensemble, values, (0, 1, 6, 7, 200))


def test_any_number_of_rows():
    ensemble, values = random_ensemble(0, missing=(0, 1), n_outputs=2, divisor=3)
    assert_repeats(portable(ensemble), ensemble, values)


def test_any_layout_and_any_range_of_rows():
    ensemble, values = random_ensemble(1, missing=(0, 1), n_outputs=3)
    assert_any_layout(portable(ensemble), ensemble, values)


@pytest.mark.parametrize("compares", ["float32", "float64"])
def test_values_of_the_other_width(compares):
    other = "float64" if compares == "float32" else "float32"
    ensemble, values = random_ensemble(2, compares=compares, missing=(0, 1))
    values = values.astype(other)  # 1e30 is the largest of the finite ones
    values = np.concatenate([values, np.nextafter(values, values.dtype.type(0))])
    assert_repeats(portable(ensemble), ensemble, values, (3, 1500))


def test_bins_of_16_bits():
    ensemble, values = random_ensemble(
        3, n_trees=20, max_leaves=500, n_features=2, n_thresholds=4000, missing=(0, 1)
    )
    assert ensemble.columns.bin_dtype == np.uint16
    assert_repeats(portable(ensemble), ensemble, values)


def test_every_bin_of_the_longest_column():
    thresholds = np.arange(65535, dtype=np.float64)
    ends = np.array([0, thresholds.size], dtype=np.int32)
    none = np.zeros(2, dtype=np.int32)
    feature, missing = np.zeros(1, np.int32), np.zeros(1, np.uint8)
    columns = BinArrays(
        feature, missing, ends, thresholds, none, np.empty(0, dtype=np.uint8)
    )
    assert bin_dtype(columns) == np.uint16
    values = np.concatenate([thresholds, thresholds + 0.5, [np.nan, -1.0, np.inf]])
    bins = np.zeros(-(-values.size // 8) * 8, dtype=np.uint32)
    search = search_trees(columns)
    bin_rows(values[:, None].copy(), 0, values.size, *search, bins, 8, 8, 0)
    wanted = np.concatenate(
        [np.arange(65535), np.arange(1, 65536), [65535, 0, thresholds.size]]
    )
    np.testing.assert_array_equal(bins[: values.size], wanted)


def test_single_leaves_need_no_columns():
    ensemble, values = random_ensemble(4, max_leaves=1, n_trees=9)
    assert ensemble.columns.n_columns == 0
    assert_repeats(portable(ensemble), ensemble, values)


def test_infinite_leaves_and_baseline():
    ensemble, values = random_ensemble(5, missing=(0, 1))
    ensemble.leaf_value[::7] = np.inf
    ensemble.leaf_value[3::11] = -np.inf
    ensemble.baseline[0] = np.inf
    with np.errstate(invalid="ignore"):  # infinity less infinity
        assert_repeats(portable(ensemble), ensemble, values, (1, 9))


def test_levels_of_nodes_agree_with_depths():
    ensemble, _ = random_ensemble(6, chains=True, n_trees=11)
    levels = node_levels(arrays(ensemble)[0])
    bounds = zip(ensemble.node_start[:-1], ensemble.node_start[1:], strict=True)
    depths = [levels[a:b].max(initial=-1) + 1 for a, b in bounds]
    np.testing.assert_array_equal(depths, ensemble.depths())


def test_too_many_columns_are_not_taken():
    trees, columns = arrays(random_ensemble(7)[0])
    wide = columns._replace(feature=np.zeros(MAX_COLUMNS + 1, dtype=np.int32))
    assert not PortableTrees.takes(trees, wide)


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(9, random_state=0),
        ExtraTreesRegressor(9, random_state=0),
        RandomForestClassifier(9, random_state=0),
        ExtraTreesClassifier(9, max_depth=4, random_state=0),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
        HistGradientBoostingRegressor(max_iter=20),
        HistGradientBoostingClassifier(max_iter=5, categorical_features=[0]),
    ],
    ids=lambda model: type(model).__name__,
)
def test_repeats_scikit_learn(model):
    X, y = make_friedman1(600, 6, noise=1.0, random_state=0)
    if hasattr(model, "classes_") or "Classifier" in type(model).__name__:
        y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    if "Hist" in type(model).__name__:
        X[:, 0] = np.floor(9 * X[:, 0])
        X[::7, 2] = np.nan
    model.fit(X, y)
    ensemble = extract_trees(model)
    values = ensemble.inputs.read(X)
    kernel = portable(ensemble)
    assert_repeats(kernel, ensemble, values, (0, 1, 5, 63, 64, 65, 600))
    raw = kernel.raw(values)
    if "Forest" in type(model).__name__ or "Extra" in type(model).__name__:
        # Regressors have one value a row, classifiers probabilities.
        proba = getattr(model, "predict_proba", model.predict)(X)
        assert_same(raw, proba.reshape(raw.shape))
    elif type(model) is not HistGradientBoostingClassifier:
        assert_same(raw[:, 0], model.predict(X))


def test_repeats_lightgbm():
    lightgbm = pytest.importorskip("lightgbm")
    X, y = make_friedman1(600, 6, noise=1.0, random_state=0)
    X[::5, 1] = np.nan
    model = lightgbm.LGBMRegressor(n_estimators=20, n_jobs=1, verbose=-1).fit(X, y)
    ensemble = extract_trees(model)
    values = ensemble.inputs.read(X)
    assert_repeats(portable(ensemble), ensemble, values)
    wanted = model.booster_.predict(X, raw_score=True)
    assert_same(portable(ensemble).raw(values)[:, 0], wanted)


def test_repeats_xgboost():
    xgboost = pytest.importorskip("xgboost")
    X, y = make_friedman1(600, 6, noise=1.0, random_state=0)
    X[::5, 1] = np.nan
    y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    model = xgboost.XGBClassifier(n_estimators=5, max_depth=4, n_jobs=1).fit(X, y)
    ensemble = extract_trees(model)
    values = ensemble.inputs.read(X)
    assert_repeats(portable(ensemble), ensemble, values)
    raw = portable(ensemble).raw(values)
    assert_same(raw, model.predict(X, output_margin=True))
    assert expected(ensemble, values).dtype == np.float32
