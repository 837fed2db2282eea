"""What quantized estimators promise: models unharmed, scikit-learn's habits."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from uqlib.exceptions import AlreadyFittedWarning
from uqlib.quantized import (
    QuantizationScheme,
    QuantizedClassifier,
    QuantizedRegressor,
    allocate_bits,
    coverage_report,
    quantize,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = make_regression(80, 5, noise=2.0, random_state=0)
y = y / y.std()
X_C, y_C = make_classification(
    90, 6, n_informative=4, n_classes=3, class_sep=2, random_state=0
)
FRAME = pd.DataFrame(X, columns=list("abcde"))


def mlp(**parameters):
    settings = {"hidden_layer_sizes": (6,), "max_iter": 20, "random_state": 0}
    return MLPRegressor(**(settings | parameters))


def mlp_classifier():
    return MLPClassifier(hidden_layer_sizes=(6,), max_iter=40, random_state=0)


def voting():
    trees = HistGradientBoostingRegressor(max_iter=3)
    return VotingRegressor([("network", mlp()), ("trees", trees)])


# ---------------------------------------------------------------------------
# The model that was given


@pytest.mark.parametrize(
    "model",
    [
        mlp(),
        Ridge(),
        make_pipeline(StandardScaler(), mlp()),
        BaggingRegressor(mlp(), n_estimators=2, random_state=0),
        TransformedTargetRegressor(mlp(), transformer=StandardScaler()),
        voting(),
        HistGradientBoostingRegressor(max_iter=3),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("scheme", ["auto", "w8", "w8a8"])
def test_models_are_never_changed(model, scheme):
    model = clone(model).fit(X, y)
    before, predicted = pickle.dumps(model), model.predict(X)
    quantized = quantize(model, scheme, X)
    quantized.predict(X)
    quantized.drift(X)
    dequantized = quantized.dequantize()
    assert pickle.dumps(model) == before
    np.testing.assert_array_equal(model.predict(X), predicted)
    assert dequantized is not model


@pytest.mark.parametrize("training", [True, False])
def test_modules_are_never_changed(training):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 1))
    module.train(training)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    quantized = quantize(module, "w4a8", X)
    quantized.drift(X)
    quantized.dequantize()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(inner.training == training for inner in module.modules())
    assert all(value.requires_grad for value in module.parameters())
    assert not any(inner._forward_hooks for inner in module.modules())
    assert not any(inner._forward_pre_hooks for inner in module.modules())


def test_a_fitted_model_that_is_not_frozen_is_cloned_with_a_warning():
    model = mlp().fit(X, y)
    before = pickle.dumps(model)
    with pytest.warns(AlreadyFittedWarning, match="wrap it in sklearn.frozen"):
        quantized = QuantizedRegressor(model).fit(X[:40], y[:40])
    assert pickle.dumps(model) == before
    assert quantized.estimator_ is not model
    frozen = QuantizedRegressor(FrozenEstimator(model)).fit(X)
    assert frozen.estimator_.estimator is model


# ---------------------------------------------------------------------------
# Habits of scikit-learn


@pytest.mark.parametrize("scheme", ["auto", "w4", "w8a8"])
@pytest.mark.parametrize(
    "target",
    [
        y_C > 0,
        y_C,
        np.array(["a", "b", "c"])[y_C],
        np.column_stack([y_C > 0, y_C > 1]).astype(int),
    ],
    ids=["binary", "multiclass", "strings", "multilabel"],
)
def test_classifiers_of_every_kind_of_label(target, scheme):
    model = QuantizedClassifier(mlp_classifier(), scheme=scheme).fit(X_C, target)
    exact = model.estimator_
    np.testing.assert_array_equal(model.classes_, exact.classes_)
    labels, probabilities = model.predict(X_C), model.predict_proba(X_C)
    assert labels.dtype == exact.predict(X_C).dtype
    assert labels.shape == target.shape
    drift = probabilities - exact.predict_proba(X_C)
    np.testing.assert_array_equal(model.drift(X_C), drift)
    assert 0 < np.abs(drift).max() < 0.2


@pytest.mark.parametrize("scheme", ["w4", "w8a8"])
def test_several_targets_and_single_precision(scheme):
    two = np.column_stack([y, -y])
    model = QuantizedRegressor(mlp(), scheme=scheme).fit(X, two)
    assert model.predict(X).shape == model.drift(X).shape == (80, 2)
    rows, target = X.astype(np.float32), y.astype(np.float32)
    model = QuantizedRegressor(mlp(), scheme=scheme).fit(rows, target)
    assert model.predict(rows).dtype == model.estimator_.predict(rows).dtype


def test_networks_of_skorch_are_trained_on_columns():
    skorch, torch = pytest.importorskip("skorch"), pytest.importorskip("torch")
    seen = []

    class Loss(torch.nn.MSELoss):
        """Notes the shapes that it compares."""

        def forward(self, predicted, target):
            """Return the mean square."""
            seen.append((predicted.shape, target.shape))
            return super().forward(predicted, target)

    net = skorch.NeuralNetRegressor(
        torch.nn.Linear(5, 1), criterion=Loss, max_epochs=1, verbose=0
    )
    rows, target = X.astype(np.float32), y.astype(np.float32)[:, None]
    QuantizedRegressor(net, scheme="w4").fit(rows, target)
    assert seen
    assert all(predicted == target for predicted, target in seen)


def test_searches_clones_and_pickles():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), QuantizedRegressor(mlp(solver="lbfgs"))),
        {
            "quantizedregressor__scheme": ["w1", "w8"],
            "quantizedregressor__method": [None, "rtn"],
            "quantizedregressor__estimator__alpha": [1e-3],
        },
        cv=2,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_["quantizedregressor__scheme"] == "w8"
    model = search.best_estimator_[-1]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    copy = clone(model)
    assert repr(copy.get_params()) == repr(model.get_params())
    assert not hasattr(copy, "model_")
    found = cross_val_predict(
        QuantizedClassifier(LogisticRegression(), scheme="w4"),
        X_C,
        y_C,
        cv=2,
        method="predict_proba",
    )
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_weights_reach_training_and_rounding():
    weight = np.repeat([1.0, 0.0], 40)
    scheme = QuantizationScheme("int2", granularity="tensor")
    settings = {"scheme": scheme, "last_layer_bits": None}
    weighted = QuantizedRegressor(Ridge(), **settings).fit(X, y, weight)
    alone = QuantizedRegressor(Ridge(), **settings).fit(X[:40], y[:40])
    np.testing.assert_allclose(weighted.predict(X), alone.predict(X), rtol=1e-10)
    # Rows of no weight do not even widen the range of the activations.
    frozen = FrozenEstimator(Ridge().fit(X, y))
    settings["scheme"] = QuantizationScheme(
        activations="int8", activation_range="static"
    )
    far = X * np.repeat([1.0, 9.0], 40)[:, None]
    few = QuantizedRegressor(frozen, **settings).fit(far, sample_weight=weight)
    same = QuantizedRegressor(frozen, **settings).fit(far[:40])
    np.testing.assert_array_equal(few.predict(X), same.predict(X))


def test_a_second_fit_leaves_nothing_of_the_first():
    model = QuantizedRegressor(mlp(), scheme="w4").fit(FRAME, y)
    assert model.feature_names_in_.tolist() == list("abcde")
    model.fit(X[:, :3], y)
    once = QuantizedRegressor(mlp(), scheme="w4").fit(X[:, :3], y)
    assert vars(model).keys() == vars(once).keys()
    assert model.n_features_in_ == 3
    np.testing.assert_array_equal(model.predict(X[:, :3]), once.predict(X[:, :3]))
    with pytest.raises(ValueError, match="X has 5 features, but Quantized"):
        model.predict(X)


@pytest.mark.parametrize(
    "wrong", [{"scheme": "w77"}, {"backend": "gpu"}, {"last_layer_bits": 9}]
)
def test_bad_parameters_leave_a_fitted_model_as_it_was(wrong):
    model = QuantizedRegressor(mlp(), scheme="w4").fit(X, y)
    expected = model.predict(X)
    with pytest.raises(ValueError, match="must be"):
        model.set_params(**wrong).fit(X[:, :3], y)
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize(
    ("estimator", "takes"),
    [
        (Ridge(), False),
        (mlp(), False),
        (make_pipeline(Ridge()), False),
        (ExtraTreesRegressor(n_estimators=2, random_state=0), True),
        (HistGradientBoostingRegressor(max_iter=2), False),
    ],
    ids=["ridge", "mlp", "pipeline", "trees", "histogram trees"],
)
def test_sparse_rows_are_taken_by_trees_that_take_them(estimator, takes):
    model = QuantizedRegressor(estimator)
    assert get_tags(model).input_tags.sparse is takes
    if not takes:
        with pytest.raises(TypeError, match="dense data is required"):
            model.fit(csr_matrix(X), y)
        return
    model.fit(csr_matrix(X), y)
    expected = model.estimator_.predict(X)
    np.testing.assert_array_equal(model.predict(csr_matrix(X)), expected)


# ---------------------------------------------------------------------------
# Attributes


def test_rows_are_recognized():
    model = QuantizedRegressor(mlp(), scheme="w4").fit(X[:40], y[:40])
    assert model.rows_seen(X) == 0.5
    assert model.rows_seen(FRAME[20:60]) == 0.5
    assert model.rows_seen(X[40:]) == 0
    model.fit(X[40:], y[40:])
    assert model.rows_seen(X[:40]) == 0


def test_features_in_raw_units_survive_short_names():
    units = 10.0 ** np.arange(-4, 6, 2)
    model = LinearRegression().fit(X * units, y)
    named = quantize(model, "w8a8", X * units)
    plain = quantize(model, QuantizationScheme.parse("w8a8"), X * units)
    assert np.abs(named.drift(X * units)).max() < 0.05
    assert np.abs(plain.drift(X * units)).max() > 0.2
    assert quantize(model, X=X * units).drift(X * units) == pytest.approx(
        named.drift(X * units)
    )


def test_bytes_are_those_of_layers_and_of_what_stays_in_float():
    model = QuantizedRegressor(mlp(), scheme=QuantizationScheme(skip=("layer_1",)))
    model.fit(X, y)
    assert model.nbytes_ == model.layers_.nbytes.sum() + 4 * 7
    n_parameters = 5 * 6 + 6 + 7
    assert model.effective_bits_ == 8 * model.nbytes_ / n_parameters
    assert model.compression_ratio_ == 4 * n_parameters / model.nbytes_
    assert model.report_.skipped == ["layer_1: left in float by the scheme"]
    with pytest.raises(ValueError, match="strict=True, but these parts"):
        model.set_params(strict=True).fit(X, y)


def test_last_layers_have_their_least_bits():
    formats = {}
    for bits in (None, 2, 6, 8):
        model = QuantizedRegressor(mlp(), scheme="w4", last_layer_bits=bits)
        formats[bits] = model.fit(X, y).layers_.weights.tolist()
    last = {bits: found[-1] for bits, found in formats.items()}
    assert last == {None: "int4", 2: "int4", 6: "int6", 8: "int8"}
    assert all(found[0] == "int4" for found in formats.values())


def test_random_signs_follow_the_random_state():
    model = FrozenEstimator(mlp(hidden_layer_sizes=(16,)).fit(X, y))
    found = [
        QuantizedRegressor(model, scheme="w3", method="hadamard", random_state=seed)
        .fit(X)
        .predict(X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0


def test_norms_are_counted():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    module = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    model = quantize(module, "w4", X)
    assert model.report_.n_parameters == sum(p.numel() for p in module.parameters())
    assert model.nbytes_ == model.layers_.nbytes.sum() + 4 * 16


def test_dequantized_models_have_rounded_weights_alone():
    for model in (mlp(), Ridge(), make_pipeline(StandardScaler(), mlp())):
        quantized = QuantizedRegressor(model, scheme="w4a4").fit(X, y)
        dequantized = quantized.dequantize()
        assert type(dequantized) is type(model)
        assert getattr(dequantized, "steps", [("", dequantized)])[-1][1].get_params()
        moved = dequantized.predict(X) - quantized.predict(X)
        assert np.abs(moved).max() > 1e-6  # activations are not rounded


@pytest.mark.parametrize("scheme", ["w4", "w3g2"])
def test_dequantized_models_predict_the_same(scheme):
    for model in (mlp(), Ridge(), make_pipeline(StandardScaler(), mlp())):
        quantized = QuantizedRegressor(model, scheme=scheme).fit(X, y)
        dequantized = quantized.dequantize()
        assert type(dequantized) is type(model)
        np.testing.assert_allclose(
            dequantized.predict(X), quantized.predict(X), rtol=1e-10
        )


# ---------------------------------------------------------------------------
# Bits of layers and reports of coverage


def test_allocated_bits_are_those_of_a_scheme_whatever_stands_beside():
    model = voting().fit(X, y)
    bits = allocate_bits(model, X, budget=3)
    assert set(bits) == {"estimators_.0.layer_0", "estimators_.0.layer_1"}
    table = quantize(model, QuantizationScheme("int8", layer_bits=bits), X).layers_
    formats = table.loc[table.part == "estimators_.0", "weights"]
    assert formats.tolist() == [f"int{found}" for found in bits.values()]


def test_skipped_layers_have_the_names_that_schemes_have():
    model = BaggingRegressor(mlp(), n_estimators=2, random_state=0).fit(X, y)
    scheme = QuantizationScheme(skip=("estimators_.1.layer_0",))
    bits = allocate_bits(model, X, budget=3, scheme=scheme)
    assert "estimators_.1.layer_0" not in bits
    assert len(bits) == 3
    layers = quantize(model, scheme, X).layers_
    assert set(layers.part + "." + layers.layer) == set(bits)
    for name, message in (("layer_0", "write its part"), ("estimators_.1.x", r"\['x'")):
        with pytest.raises(ValueError, match=message):
            allocate_bits(model, X, budget=3, scheme=QuantizationScheme(skip=(name,)))


def test_a_module_is_reported_through_its_predictor():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(5, 1)
    quantized = quantize(module, "w4", X[:20])
    rows = X[20:50], y[20:50], X[50:], y[50:]
    with pytest.raises(TypeError, match=r"Linear is a torch module.*estimator_"):
        coverage_report(module, quantized, *rows)
    report = coverage_report(quantized.estimator_, quantized, *rows)
    assert report.n_test == 30
