"""Trees as parts: exact thresholds, leaves of fewer bits, counts, copies."""

import pickle

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.quantized._trees import (
    assert_same_bits,
    cancer,
    digits,
    friedman,
    lightgbm_model,
    xgboost_model,
)
from uqlib.quantized import quantize
from uqlib.quantized._report import COLUMNS
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._tree_extraction import extract_trees
from uqlib.quantized._tree_leaves import drift_bound
from uqlib.quantized._tree_part import (
    TreeAdapter,
    TreeModel,
    TreePart,
    is_tree_model,
    leaf_format,
)
from uqlib.quantized._tree_storage import (
    stored_trees,
    trees_from_stored,
    trees_nbytes,
)
from uqlib.quantized._trees import UnsupportedTreesError

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")
X, y = friedman()
TWO_TARGETS = np.column_stack([y, y**2])
CANCER, DIGITS = cancer(), digits()

MODELS = {
    "hist": lambda: HistGradientBoostingRegressor(max_iter=8).fit(X, y),
    "hist-poisson": lambda: HistGradientBoostingRegressor(
        loss="poisson", max_iter=8
    ).fit(X, np.abs(y)),
    "hist-binary": lambda: HistGradientBoostingClassifier(max_iter=4).fit(*CANCER),
    "hist-classes": lambda: HistGradientBoostingClassifier(max_iter=2).fit(*DIGITS),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=8).fit(X, y),
    "boosting-classes": lambda: GradientBoostingClassifier(n_estimators=2).fit(*DIGITS),
    "forest": lambda: RandomForestRegressor(5, random_state=0).fit(X, y),
    "forest-targets": lambda: ExtraTreesRegressor(5, random_state=0).fit(
        X, TWO_TARGETS
    ),
    "forest-classes": lambda: RandomForestClassifier(
        5, max_depth=4, random_state=0
    ).fit(*DIGITS),
    "tree": lambda: DecisionTreeRegressor(max_depth=5).fit(X, y),
    "tree-classes": lambda: DecisionTreeClassifier(max_depth=4).fit(*CANCER),
    "lightgbm": lambda: lightgbm_model("LGBMRegressor").fit(X, y),
    "xgboost": lambda: xgboost_model("XGBClassifier").fit(*CANCER),
}
# What holds rounded leaves as a model of its own library.
COPIED = {
    "hist",
    "hist-poisson",
    "hist-binary",
    "hist-classes",
    "boosting",
    "boosting-classes",
    "forest",
    "forest-targets",
    "tree",
}


@pytest.fixture(scope="module", params=list(MODELS))
def named_model(request):
    return request.param, MODELS[request.param]()


def rows_of(model):
    widths = {
        X.shape[1]: X,
        CANCER[0].shape[1]: CANCER[0],
        DIGITS[0].shape[1]: DIGITS[0],
    }
    return widths[int(model.n_features_in_)]


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_trees_by_default_predict_the_same_bits(named_model):
    _, model = named_model
    rows = rows_of(model)
    state = pickle.dumps(model)
    part = TreeAdapter(model).quantize(None)
    quantized = pickle.loads(pickle.dumps(part.quantized_model("auto")))
    float_methods = [name for name in METHODS if hasattr(model, name)]
    assert [name for name in METHODS if hasattr(quantized, name)] == float_methods
    assert list(quantized.methods) == float_methods
    for name in float_methods:
        expected = getattr(model, name)(rows)
        assert_same_bits(getattr(quantized, name)(rows), expected)
        assert_same_bits(getattr(part.dequantized(), name)(rows), expected)
    assert part.dequantized() is not model
    assert type(part.dequantized()) is type(model)
    assert quantized.n_features_in_ == rows.shape[1]
    assert pickle.dumps(model) == state


@pytest.mark.parametrize("weights", ["int8", "int16"])
def test_leaves_move_by_at_most_half_a_step(named_model, weights):
    name, model = named_model
    part = TreeAdapter(model).quantize(QuantizationScheme(weights=weights))
    exact, rounded = part.exact, part.ensemble
    levels = 2 ** int(weights[3:]) - 1
    worst = 0.0
    for first, last in zip(exact.leaf_start[:-1], exact.leaf_start[1:], strict=True):
        before = exact.leaf_value[first:last].astype(float)
        step = (before.max() - before.min()) / levels
        moved = np.abs(rounded.leaf_value[first:last] - before).max()
        slack = 1e-6 * np.abs(before).max()  # of scales and sums in single precision
        assert moved <= step / 2 * (1 + 1e-6) + slack
        worst = max(worst, moved)
    assert part.table()[1]["weights"] == weights
    if name not in ("forest-classes", "tree-classes"):
        assert worst > 0
        assert part.table()[1]["relative_error"] > 0


def test_dequantized_predicts_as_the_rounded_trees(named_model):
    name, model = named_model
    rows = rows_of(model)
    state = pickle.dumps(model)
    part = TreeAdapter(model).quantize(QuantizationScheme(weights="int8"))
    float_model, quantized = part.dequantized(), part.quantized_model("reference")
    assert pickle.dumps(model) == state
    assert isinstance(float_model, type(model) if name in COPIED else TreeModel)
    for method in METHODS[:2]:
        if hasattr(model, method):
            found = getattr(float_model, method)(rows)
            expected = getattr(quantized, method)(rows)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    if name in COPIED:
        again = extract_trees(float_model)
        np.testing.assert_allclose(
            again.leaf_value, part.ensemble.leaf_value, rtol=1e-13, atol=0
        )
        np.testing.assert_array_equal(again.node_bin, part.ensemble.node_bin)


def test_raw_drift_is_within_the_bound_of_the_leaves():
    model = MODELS["hist"]()
    part = TreeAdapter(model).quantize(QuantizationScheme(weights="int8"))
    moved = np.abs(part.quantized_model("auto").predict(X) - model.predict(X))
    assert 0 < moved.max() <= drift_bound(part.ensemble) * (1 + 1e-12)


def test_probabilities_of_rounded_forests_sum_to_one():
    model = MODELS["forest-classes"]()
    part = TreeAdapter(model).quantize(QuantizationScheme(weights="int8"))
    proba = part.quantized_model("auto").predict_proba(DIGITS[0])
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    assert np.abs(proba - model.predict_proba(DIGITS[0])).max() < 1 / 255


# ---------------------------------------------------------------------------
# What is counted


def test_parameters_are_the_nodes_of_the_library():
    # One number a node: a threshold where it splits, a value where it is a leaf.
    forest = MODELS["forest"]()
    n_nodes = sum(tree.tree_.node_count for tree in forest.estimators_)
    assert TreeAdapter(forest).quantize(None).n_parameters == n_nodes
    hist = MODELS["hist"]()
    n_nodes = sum(p.nodes.size for stage in hist._predictors for p in stage)
    assert TreeAdapter(hist).quantize(None).n_parameters == n_nodes
    wide = MODELS["forest-targets"]()
    trees = [tree.tree_ for tree in wide.estimators_]
    by_hand = sum(
        int((t.children_left >= 0).sum()) + 2 * int((t.children_left < 0).sum())
        for t in trees
    )
    assert TreeAdapter(wide).quantize(None).n_parameters == by_hand


def test_rows_of_the_report_add_up_to_the_stored_bytes(named_model):
    _, model = named_model
    adapter = TreeAdapter(model)
    for scheme in (None, QuantizationScheme(weights="int8")):
        part = adapter.quantize(scheme)
        rows = part.table()
        assert all(set(row) | {"part"} == set(COLUMNS) for row in rows)
        assert [row["layer"] for row in rows] == ["thresholds", "leaves"]
        stored = sum(a.nbytes for a in stored_trees(part.ensemble)[1].values())
        assert sum(row["nbytes"] for row in rows) == part.nbytes == stored
        assert sum(row["n_out"] * row["n_in"] for row in rows) == part.n_parameters
        for row in rows:
            size = max(1, row["n_out"] * row["n_in"])
            assert row["bits"] == pytest.approx(8 * row["nbytes"] / size, rel=1e-12)
        assert rows[0]["relative_error"] == 0
        assert part.layers == {}
        assert part.skipped == ()
        assert part.nbytes == trees_nbytes(part.ensemble)
        assert part.float_nbytes == part.ensemble.source_nbytes > part.nbytes


def test_fewer_bits_of_leaves_take_fewer_bytes():
    adapter = TreeAdapter(MODELS["hist"]())
    schemes = [QuantizationScheme(weights=name) for name in ("int8", "int16", None)]
    sizes = [adapter.quantize(scheme).nbytes for scheme in schemes]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3


def test_a_part_without_its_float_model_predicts():
    part = TreeAdapter(MODELS["hist"]()).quantize(QuantizationScheme(weights="int8"))
    again = TreePart(trees_from_stored(*stored_trees(part.ensemble)))
    expected = part.quantized_model("auto").predict(X)
    for model in (again.quantized_model("auto"), again.dequantized()):
        assert_same_bits(model.predict(X), expected)
    assert again.nbytes == part.nbytes
    assert np.isnan(again.table()[1]["relative_error"])
    exact = TreeAdapter(MODELS["hist"]()).quantize(None)
    again = TreePart(trees_from_stored(*stored_trees(exact.ensemble)))
    assert again.table() == exact.table()


def test_names_and_classes_of_the_model():
    frame_model = HistGradientBoostingClassifier(max_iter=2)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(CANCER[0][:, :3], columns=["a", "b", "c"])
    labels = np.array(["no", "yes"])[CANCER[1]]
    frame_model.fit(frame, labels)
    quantized = TreeAdapter(frame_model).quantize(None).quantized_model("auto")
    assert quantized.feature_names_in_.tolist() == ["a", "b", "c"]
    assert quantized.classes_.tolist() == ["no", "yes"]
    assert_same_bits(quantized.predict(frame), frame_model.predict(frame))
    plain = TreeAdapter(MODELS["hist"]()).quantize(None).quantized_model("auto")
    assert not hasattr(plain, "classes_")
    assert not hasattr(plain, "feature_names_in_")


# ---------------------------------------------------------------------------
# Schemes


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        (None, None),
        (QuantizationScheme(weights=None), None),
        (QuantizationScheme.parse("w16"), None),
        (QuantizationScheme.parse("w8"), 8),
        (QuantizationScheme.parse("w8a8"), 8),
        (QuantizationScheme.recipe("hadamard", bits=8), 8),
        (QuantizationScheme(weights="int4", skip=("leaves",)), None),
        (QuantizationScheme(weights="int4", layer_bits={"leaves": 8}), 8),
        (QuantizationScheme(weights="int8", layer_bits={"leaves": 32}), None),
        (QuantizationScheme(weights="int16"), 16),
    ],
)
def test_bits_of_leaves_in_a_scheme(scheme, bits):
    assert leaf_format(scheme) == (None if bits is None else f"int{bits}")


@pytest.mark.parametrize("name", ["w4", "w1", "w1.58", "wnf4", "wfp8", "wcb8", "wpow8"])
def test_in_other_formats_leaves_stay_exact_and_say_so(name):
    model = MODELS["tree"]()
    part = TreeAdapter(model).quantize(QuantizationScheme.parse(name))
    (skipped,) = part.skipped
    assert skipped.name == "leaves"
    assert "no format for the leaves of trees" in skipped.reason
    np.testing.assert_array_equal(
        part.quantized_model("auto").predict(X), model.predict(X)
    )
    with pytest.raises(ValueError, match=r"strict=True.*no format for the leaves"):
        quantize(model, name, X, strict=True)


def test_models_that_are_no_trees_or_no_exact_ones():
    assert is_tree_model(MODELS["tree"]())
    assert not is_tree_model(Ridge())
    assert not is_tree_model(object())
    model = GradientBoostingRegressor(n_estimators=2, init=Ridge()).fit(X, y)
    assert is_tree_model(model)
    with pytest.raises(UnsupportedTreesError, match="no constant"):
        TreeAdapter(model)


def test_boosting_that_learned_nothing_keeps_its_leaves():
    model = GradientBoostingRegressor(n_estimators=2, learning_rate=0.0).fit(X, y)
    part = TreeAdapter(model).quantize(QuantizationScheme(weights="int8"))
    np.testing.assert_array_equal(part.dequantized().predict(X), model.predict(X))
    np.testing.assert_array_equal(
        part.quantized_model("auto").predict(X), model.predict(X)
    )
