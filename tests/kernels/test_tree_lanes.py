"""Trees side by side: equal to the reference, bit by bit."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from sklearn.datasets import make_friedman1
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from tests.kernels._tree_portable_cases import (
    arrays,
    assert_any_layout,
    assert_repeats,
    assert_same,
    ensembles,
    random_ensemble,
)
from uqlib.quantized._tree_extraction import extract_trees
from uqlib_kernels.registry import available_isas

if "vnni" not in available_isas():
    pytest.skip("the machine lacks the instructions", allow_module_level=True)

from uqlib_kernels._tree_lanes import LaneTrees, leaf_masks


def lanes(ensemble):
    trees, columns = arrays(ensemble)
    assert LaneTrees.takes(trees, columns)
    return LaneTrees(trees, columns)


@settings(max_examples=30, deadline=None)
@given(ensembles(max_leaves=64, max_trees=70))
def test_repeats_the_reference(case):
    ensemble, values = case
    assume(ensemble.columns.n_columns <= 128)
    assert_repeats(lanes(ensemble), ensemble, values, (0, 1, 6, 50))


@pytest.mark.parametrize("n_trees", [1, 15, 16, 17, 32, 33, 63, 64, 65, 130])
@pytest.mark.parametrize("max_leaves", [32, 64])
def test_any_number_of_trees(n_trees, max_leaves):
    ensemble, values = random_ensemble(n_trees, n_trees=n_trees, max_leaves=max_leaves)
    assert_repeats(lanes(ensemble), ensemble, values, (1, 100))


@pytest.mark.parametrize("n_features", [40, 60, 63, 64, 65, 127, 128])
def test_columns_in_one_and_in_two_registers(n_features):
    ensemble, values = random_ensemble(
        n_features, n_trees=90, n_features=n_features, n_thresholds=30
    )
    assert ensemble.columns.n_columns == n_features
    assert_repeats(lanes(ensemble), ensemble, values, (1, 100))


def test_any_number_of_rows():
    ensemble, values = random_ensemble(0, missing=(0, 1), n_outputs=2, divisor=3)
    assert_repeats(lanes(ensemble), ensemble, values)


def test_any_layout_and_any_range_of_rows():
    ensemble, values = random_ensemble(1, missing=(0, 1), categories=6)
    assert_any_layout(lanes(ensemble), ensemble, values)


@pytest.mark.parametrize("compares", ["float32", "float64"])
def test_values_of_the_other_width(compares):
    other = "float64" if compares == "float32" else "float32"
    ensemble, values = random_ensemble(2, compares=compares, missing=(0, 1))
    assert_repeats(lanes(ensemble), ensemble, values.astype(other), (3, 1000))


def test_every_bin_of_a_column():
    ensemble, _ = random_ensemble(
        3, n_trees=200, max_leaves=64, n_features=2, n_thresholds=255
    )
    assert ensemble.columns.thresholds.size == 2 * 255
    on = np.sort(ensemble.columns.thresholds)
    rows = np.concatenate([on, np.nextafter(on, -9e9), np.nextafter(on, 9e9)])
    assert_repeats(lanes(ensemble), ensemble, np.stack([rows, rows[::-1]], axis=1))


def test_masks_clear_the_leaves_of_the_left_subtree():
    ensemble, _ = random_ensemble(4, n_trees=20, max_leaves=64, chains=True)
    trees, _ = arrays(ensemble)

    def leaves(offset, child):
        if child < 0:
            return {~child}
        node = offset + child
        return leaves(offset, trees.left[node]) | leaves(offset, trees.right[node])

    masks = leaf_masks(trees, 64)
    for tree in range(ensemble.n_trees):
        offset = trees.node_start[tree]
        for node in range(offset, trees.node_start[tree + 1]):
            cleared = {k for k in range(64) if not int(masks[node]) >> (63 - k) & 1}
            assert cleared == leaves(offset, trees.left[node])


def test_copies_predict_the_same():
    ensemble, values = random_ensemble(6)
    kernel = lanes(ensemble)
    for again in (pickle.loads(pickle.dumps(kernel)), copy.deepcopy(kernel)):
        assert_repeats(again, ensemble, values, (1, 100))


def test_what_does_not_fit_is_not_taken():
    trees, columns = arrays(random_ensemble(5)[0])
    assert LaneTrees.takes(trees, columns)
    wide = columns._replace(feature=np.zeros(129, dtype=np.int32))
    assert not LaneTrees.takes(trees, wide)
    many = np.array([0, 256], dtype=np.int32)
    assert not LaneTrees.takes(trees, columns._replace(threshold_start=many))
    leaves = np.array([0, 65], dtype=np.int32)
    assert not LaneTrees.takes(trees._replace(leaf_start=leaves), columns)


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingRegressor(max_iter=70),
        HistGradientBoostingClassifier(max_iter=5, categorical_features=[0]),
        HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=60),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
    ],
    ids=["regressor", "classifier", "60 leaves", "exact"],
)
def test_repeats_scikit_learn(model):
    X, y = make_friedman1(600, 6, noise=1.0, random_state=0)
    if type(model) is not GradientBoostingRegressor:
        X[:, 0] = np.floor(9 * X[:, 0])
        X[::7, 2] = np.nan
    if type(model) is HistGradientBoostingClassifier:
        y = np.digitize(y, np.quantile(y, [0.3, 0.6]))
    model.fit(X, y)
    ensemble = extract_trees(model)
    values = ensemble.inputs.read(X)
    assert_repeats(lanes(ensemble), ensemble, values, (1, 6, 600))
    if type(model) is not HistGradientBoostingClassifier:
        assert_same(lanes(ensemble).raw(values)[:, 0], model.predict(X))
