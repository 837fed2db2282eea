"""Tree ensembles predict what the library predicts, bit for bit."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from tests.quantized._trees import assert_repeats, cancer, digits, friedman, with_nan
from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._tree_bins import bin_columns
from uqlib.quantized._tree_extraction import extract_trees

X, y = friedman()
POSITIVE = np.exp(y / 10)


# ---------------------------------------------------------------------------
# scikit-learn


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("squared_error", y),
        ("absolute_error", y),
        ("poisson", POSITIVE),
        ("gamma", POSITIVE),
    ],
)
def test_hist_gradient_boosting_losses(loss, target):
    model = HistGradientBoostingRegressor(loss=loss, max_iter=10)
    assert_repeats(model.fit(X, target), X)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_hist_gradient_boosting_missing_values(early_stopping):
    model = HistGradientBoostingRegressor(
        loss="quantile", quantile=0.9, max_iter=15, early_stopping=early_stopping
    )
    trees = assert_repeats(model.fit(with_nan(X), y), with_nan(X))
    # Some nodes send missing values left, others right: two columns of a feature.
    assert trees.columns.n_columns > X.shape[1]


def test_hist_gradient_boosting_splits_on_being_missing():
    binary = with_nan(X > 0.5, 0.3)
    target = y + 3 * np.isnan(binary[:, 0])
    model = HistGradientBoostingRegressor(max_iter=10).fit(binary, target)
    trees = assert_repeats(model, binary)
    assert np.isinf(trees.columns.thresholds).any()


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array(["no", "yes"])])
def test_hist_gradient_boosting_two_classes(labels):
    rows, target = cancer()
    model = HistGradientBoostingClassifier(max_iter=6).fit(rows, labels[target])
    assert_repeats(model, rows)


def test_hist_gradient_boosting_many_classes():
    rows, target = digits()
    model = HistGradientBoostingClassifier(max_iter=4).fit(rows, target)
    trees = assert_repeats(model, rows)
    np.testing.assert_array_equal(trees.tree_output, np.tile(np.arange(10), 4))


def test_hist_gradient_boosting_ties_are_no_positive_class():
    rows = np.zeros((40, 1))
    target = np.tile([0, 1], 20)
    model = HistGradientBoostingClassifier(max_iter=2).fit(rows, target)
    assert model.decision_function(rows[:1]) == 0
    assert_repeats(model, rows)


def test_warm_start():
    model = HistGradientBoostingRegressor(max_iter=3, warm_start=True).fit(X, y)
    before = extract_trees(model)
    model.set_params(max_iter=7).fit(X, y)
    assert assert_repeats(model, X).n_trees == 7 > before.n_trees == 3


def test_stumps_and_constants():
    stumps = HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=2).fit(X, y)
    assert set(assert_repeats(stumps, X).leaf_counts) == {2}
    for model in (HistGradientBoostingRegressor, GradientBoostingRegressor):
        constant = assert_repeats(model().fit(X, np.full_like(y, 3.0)), X)
        assert constant.columns.n_columns == 0
        assert set(constant.depths()) == {0}


@pytest.mark.parametrize("loss", ["squared_error", "absolute_error", "huber"])
def test_gradient_boosting_losses(loss):
    model = GradientBoostingRegressor(loss=loss, n_estimators=10)
    assert_repeats(model.fit(X, y), X)


def test_gradient_boosting_stops_early_from_zero():
    model = GradientBoostingRegressor(
        init="zero", n_iter_no_change=2, n_estimators=200, learning_rate=0.4
    ).fit(X, y)
    assert assert_repeats(model, X).n_trees < 200


@pytest.mark.parametrize("loss", ["log_loss", "exponential"])
def test_gradient_boosting_two_classes(loss):
    rows, target = cancer()
    model = GradientBoostingClassifier(loss=loss, n_estimators=5)
    assert_repeats(model.fit(rows, target), rows)


@pytest.mark.parametrize("init", [None, "zero", DummyClassifier(strategy="prior")])
def test_gradient_boosting_many_classes(init):
    rows, target = digits()
    model = GradientBoostingClassifier(init=init, n_estimators=3, max_depth=2)
    assert_repeats(model.fit(rows, target), rows)


def test_gradient_boosting_ties_are_the_positive_class():
    rows, target = np.zeros((40, 1)), np.tile([0, 1], 20)
    model = GradientBoostingClassifier(n_estimators=2).fit(rows, target)
    assert model.decision_function(rows[:1]) == 0
    assert_repeats(model, rows)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", [RandomForestRegressor, ExtraTreesRegressor])
def test_regression_forests(kind, missing):
    rows = with_nan(X) if missing else X
    trees = assert_repeats(kind(12, random_state=0, n_jobs=1).fit(rows, y), rows)
    assert trees.inputs.dtype == "float32"
    assert trees.divisor == 12


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_classification_forests(kind, missing):
    rows, target = digits()
    rows = with_nan(rows) if missing else rows
    model = kind(10, random_state=0, n_jobs=1).fit(rows, target)
    trees = assert_repeats(model, rows)
    assert trees.leaf_width == trees.n_outputs == 10


@pytest.mark.parametrize("kind", [DecisionTreeRegressor, ExtraTreeRegressor])
def test_single_regression_trees(kind):
    trees = assert_repeats(kind(random_state=0).fit(X, y), X)
    assert trees.n_trees == 1


@pytest.mark.parametrize("kind", [DecisionTreeClassifier, ExtraTreeClassifier])
def test_single_classification_trees(kind):
    rows, target = digits()
    # Grown best first, so that nodes are not in preorder.
    model = kind(max_leaf_nodes=25, random_state=0).fit(rows, target)
    assert_repeats(model, rows)


def test_forest_of_several_targets():
    model = RandomForestRegressor(5, random_state=0).fit(X, np.c_[y, POSITIVE])
    assert assert_repeats(model, X).leaf_width == 2


def test_wide_bins():
    rows, target = friedman(900)
    model = ExtraTreesRegressor(4, random_state=0).fit(rows, target)
    trees = assert_repeats(model, rows)
    assert bin_columns(trees, rows).dtype == np.uint16
    narrow = extract_trees(DecisionTreeRegressor(max_depth=3).fit(rows, target))
    assert bin_columns(narrow, rows).dtype == np.uint8


# ---------------------------------------------------------------------------
# The structure


def test_nodes_are_in_preorder_and_leaves_from_left_to_right():
    rows, target = digits()
    model = DecisionTreeClassifier(max_leaf_nodes=25, random_state=0)
    trees = extract_trees(model.fit(rows, target))
    seen, leaves, waiting = [], [], [0]
    while waiting:
        node = waiting.pop()
        if node < 0:
            leaves.append(~node)
            continue
        seen.append(node)
        waiting += [trees.right[node], trees.left[node]]
    assert seen == list(range(24))
    assert leaves == list(range(25))
    assert trees.depths()[0] == model.get_depth()


def test_leaves_are_those_of_the_model():
    model = RandomForestRegressor(6, random_state=0).fit(X, y)
    trees = extract_trees(model)
    leaves = reference.leaf_indices(trees, bin_columns(trees, X))
    for tree, (found, expected) in enumerate(
        zip(leaves, model.apply(X).T, strict=True)
    ):
        pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
        assert len(pairs) == len(set(found)) == len(set(expected))
        assert found.min() >= trees.leaf_start[tree]
        assert found.max() < trees.leaf_start[tree + 1]


def test_chunks_do_not_matter(monkeypatch):
    model = HistGradientBoostingRegressor(max_iter=5).fit(X, y)
    trees = extract_trees(model)
    whole = reference.predict_raw(trees, X)
    monkeypatch.setattr(reference, "_CHUNK", 40)
    np.testing.assert_array_equal(reference.predict_raw(trees, X), whole)


def test_model_and_rows_are_not_changed():
    rows = with_nan(X)
    model = HistGradientBoostingRegressor(max_iter=5).fit(rows, y)
    before, values = model.predict(rows), rows.copy()
    reference.predict(extract_trees(model), rows)
    np.testing.assert_array_equal(rows, values)
    np.testing.assert_array_equal(model.predict(rows), before)
