"""What the user passes where a file is not enough, and what names in a file may be."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model
from sklearn.base import clone
from sklearn.ensemble import (
    BaggingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.quantized._saving import (
    TREES,
    X,
    assert_comes_back,
    assert_same_predictions,
    mlp,
    names,
    quantized,
    saved,
    y,
)
from uqlib.quantized._models import QuantizedClassifier, QuantizedRegressor
from uqlib.quantized._saved_estimators import (
    CLASSES,
    labels_from,
    stored_estimator,
    stored_labels,
    unfitted_from,
)
from uqlib.quantized._saved_models import load_estimator, save_model
from uqlib.quantized._scheme import QuantizationScheme


@pytest.fixture(scope="module")
def network():
    return quantized(mlp(), y)


def test_the_float_model_can_be_passed(network, tmp_path):
    path = saved(network, tmp_path)
    alone = load_estimator(QuantizedRegressor, path)
    assert not hasattr(alone, "estimator_")
    with pytest.raises(ValueError, match=r"load\(path, estimator="):
        alone.drift(X)
    model = network.estimator_.estimator
    for own in (model, FrozenEstimator(model)):
        again = load_estimator(QuantizedRegressor, path, own)
        assert_same_predictions(again, network)
        np.testing.assert_array_equal(again.drift(X), network.drift(X))
        assert again.estimator is own
    # Saved again without it, the file still knows which model it was.
    save_model(tmp_path / "again", alone)
    again = load_estimator(QuantizedRegressor, tmp_path / "again", model)
    np.testing.assert_array_equal(again.drift(X), network.drift(X))


@pytest.mark.parametrize("kind", ["hist", "forest classes"])
def test_the_float_trees_can_be_passed(kind, tmp_path):
    model = quantized(*TREES[kind], "w8")
    again = assert_comes_back(model, tmp_path, estimator=model.estimator_)
    np.testing.assert_array_equal(again.drift(X), model.drift(X))
    pd.testing.assert_frame_equal(again.layers_, model.layers_)
    other = clone(TREES[kind][0]).set_params(random_state=7).fit(X, TREES[kind][1])
    if kind == "forest classes":
        again = load_estimator(type(model), tmp_path / "model.safetensors", other)
        assert_same_predictions(again, model)
        assert not hasattr(again, "estimator_")


def test_a_model_with_other_weights_is_no_float_model(network, tmp_path):
    """Layers come from the file; there is nothing that drift could compare with."""
    path = saved(network, tmp_path)
    other = mlp(random_state=7).fit(X, y)
    again = load_estimator(QuantizedRegressor, path, other)
    assert_same_predictions(again, network)
    assert not hasattr(again, "estimator_")
    unfitted = load_estimator(QuantizedRegressor, path, mlp())
    assert_same_predictions(unfitted, network)


DIFFERENT = {
    "wider": (mlp(sizes=(7, 6)), r"'layer_1' has the shape \(5, 7\)"),
    "deeper": (mlp(sizes=(7, 5, 5)), "'layer_3' is in the estimator alone"),
    "shallower": (mlp(sizes=(7,)), "'layer_2' is in the file alone"),
    "activation": (mlp(activation="tanh"), "activation is 'relu' there and 'tanh'"),
    "class": (linear_model.Ridge(), "class is 'MLPRegressor' there and 'Ridge' here"),
    "trees": (RandomForestRegressor(2), "holds a network, the estimator has trees"),
    "pipeline": (make_pipeline(StandardScaler(), mlp()), r"has the parts \[''\]"),
    "nothing": (StandardScaler(), r"the estimator has \[\]"),
}


@pytest.mark.parametrize("kind", list(DIFFERENT))
def test_models_that_are_made_otherwise(kind, network, tmp_path):
    model, match = DIFFERENT[kind]
    path = saved(network, tmp_path)
    with pytest.raises(ValueError, match=match):
        load_estimator(QuantizedRegressor, path, clone(model).fit(X, y))


def test_trees_that_are_made_otherwise(tmp_path):
    path = saved(quantized(*TREES["hist"], "auto"), tmp_path)
    for model, match in (
        (RandomForestRegressor(5), "source is 'hist_gradient_boosting' there"),
        (HistGradientBoostingRegressor(max_iter=4), "n_trees is 5 there and 4 here"),
        (mlp(), "holds trees, the estimator has a network"),
    ):
        with pytest.raises(ValueError, match=match):
            load_estimator(QuantizedRegressor, path, model.fit(X, y))


def test_layers_in_float_are_stored_and_compared(tmp_path):
    model = quantized(mlp(), y, QuantizationScheme(skip=("layer_1", "layer_2")))
    path = saved(model, tmp_path)
    assert_comes_back(model, tmp_path)
    again = load_estimator(QuantizedRegressor, path, model.estimator_)
    assert_same_predictions(again, model)
    with pytest.raises(ValueError, match=r"'layer_1' stayed in float.*weight"):
        load_estimator(QuantizedRegressor, path, mlp(random_state=7).fit(X, y))


@pytest.mark.parametrize("last", [mlp(MLPClassifier), RandomForestClassifier(3)])
def test_pipelines_need_their_steps(last, tmp_path):
    pipeline = make_pipeline(StandardScaler(), "passthrough", clone(last))
    model = quantized(pipeline, names, "auto")
    pipeline = model.estimator_.estimator
    path = saved(model, tmp_path)
    with pytest.raises(ValueError, match="cannot be made from a file"):
        load_estimator(QuantizedClassifier, path)
    again = assert_comes_back(model, tmp_path, estimator=pipeline)
    np.testing.assert_array_equal(again.drift(X), model.drift(X))
    # Only the steps before the model are fitted.
    steps = [*pipeline.steps[:-1], (pipeline.steps[-1][0], clone(last))]
    again = load_estimator(QuantizedClassifier, path, Pipeline(steps))
    assert_same_predictions(again, model)
    assert not hasattr(again, "estimator_")
    nested = make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), last))
    model = quantized(nested, names, "auto")
    nested = model.estimator_.estimator
    path = saved(model, tmp_path)
    assert_comes_back(model, tmp_path, estimator=nested)
    (one, scaler), (two, inner) = nested.steps
    inner = Pipeline([inner.steps[0], (inner.steps[1][0], clone(last))])
    pipeline = Pipeline([(one, scaler), (two, inner)])
    again = load_estimator(QuantizedClassifier, path, pipeline)
    assert_same_predictions(again, model)


@pytest.mark.parametrize(
    "model",
    [
        BaggingRegressor(mlp(), 2, random_state=0),
        VotingRegressor([("a", mlp()), ("b", RandomForestRegressor(2))]),
    ],
)
def test_models_of_models(model, tmp_path):
    model = quantized(clone(model), y, "w8")
    path = saved(model, tmp_path)
    with pytest.raises(ValueError, match=r"quantized parts \['estimators_\.0'"):
        load_estimator(QuantizedRegressor, path)
    assert_comes_back(model, tmp_path, estimator=model.estimator_)


def test_estimators_that_are_not_in_the_list(tmp_path):
    class Own(linear_model.Ridge):
        pass

    model = quantized(Own(), y, "w4")
    path = saved(model, tmp_path)
    with pytest.raises(ValueError, match="holds the quantized weights of a model that"):
        load_estimator(QuantizedRegressor, path)
    assert_comes_back(model, tmp_path, estimator=model.estimator_)


def test_a_regressor_is_no_classifier(network, tmp_path):
    path = saved(network, tmp_path)
    with pytest.raises(ValueError, match=r"QuantizedRegressor\.load"):
        load_estimator(QuantizedClassifier, path)
    path = saved(quantized(mlp(MLPClassifier), names), tmp_path)
    with pytest.raises(ValueError, match=r"QuantizedClassifier\.load"):
        load_estimator(QuantizedRegressor, path)


@pytest.mark.filterwarnings("ignore:Nothing of the model")
def test_nothing_to_save(tmp_path):
    model = quantized(mlp(), y)
    model.parts_ = {}
    with pytest.raises(ValueError, match="nothing to save"):
        save_model(tmp_path / "model", model)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------
# Classes and parameters.


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_classes_in_the_list_are_public(name):
    """A file can name these classes only, all of them of scikit-learn itself."""
    assert CLASSES[name].__name__ == name
    assert CLASSES[name].__module__.startswith("sklearn.")


def test_subclasses_are_not_in_the_list():
    class Ridge(linear_model.Ridge):
        def predict(self, X):
            return super().predict(X) + 1

    assert stored_estimator(Ridge().fit(X, y)) is None


def test_parameters_that_are_not_numbers_are_left_out():
    model = linear_model.LogisticRegression(
        class_weight={"a": 1}, C=np.float64(2), max_iter=np.int64(7), tol=1e-9
    )
    model.coef_, model.intercept_ = np.zeros((1, 2)), np.zeros(1)
    stored = stored_estimator(model)["parameters"]
    assert stored == {"C": 2.0, "max_iter": 7, "tol": 1e-9}
    assert json.loads(json.dumps(stored)) == stored
    short = linear_model.RidgeCV(alphas=(0.1, 1.0, 7.0))
    short.coef_, short.intercept_ = np.zeros(2), 0.0
    again = unfitted_from(json.loads(json.dumps(stored_estimator(short))))
    assert again.alphas == (0.1, 1.0, 7.0)


# ---------------------------------------------------------------------------
# Labels.


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 2, -7]),
        np.array([0, 2**64 - 1], np.uint64),
        np.array([0.1, 1e300], np.float64),
        np.array([0.1, 2], np.float32),
        np.array([False, True]),
        np.array(["a", 'quo"te', "größe"]),
        np.array(["a", 1, True, 0.5], dtype=object),
        np.empty(0, dtype=int),
    ],
)
def test_labels_come_back(labels):
    again = labels_from(json.loads(json.dumps(stored_labels(labels))))
    assert again.dtype == labels.dtype
    np.testing.assert_array_equal(again, labels)
    assert [type(v) for v in again.tolist()] == [type(v) for v in labels.tolist()]


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.array([None], dtype=object),
        np.array([(1, 2)], dtype=object),
        np.array([[1]]),
        np.array([np.nan]),
        np.array([1j]),
        np.array(["a" * 20_000]),
    ],
)
def test_labels_that_cannot_be_saved(labels):
    with pytest.raises(ValueError, match="cannot be saved: labels must be"):
        stored_labels(labels)


@pytest.mark.parametrize(
    "stored",
    [
        {"type": "M8[D]", "values": [1]},
        {"type": "V8", "values": ["a"]},
        {"type": "i4,f4", "values": [1]},
        {"type": "<U99999999", "values": ["a"]},
        {"type": "O", "values": [None]},
        {"type": "O", "values": [[1]]},
        {"type": "<i8", "values": ["a"]},
        {"type": "<i8", "values": 3},
        {"type": 3, "values": []},
    ],
)
def test_damaged_labels(stored):
    with pytest.raises(ValueError, match=r"damaged|invalid literal"):
        labels_from(stored)
