"""Networks and lines that give quantiles or expectiles, as layers.

Fitted networks are made by hand here, from arrays: training needs torch, and nothing
else does.
"""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit, ndtri

from uqlib import (
    ExpectileRegressor,
    LinearQuantileRegressor,
    TorchQuantileRegressor,
)
from uqlib.quantized._dense import HeadModel
from uqlib.quantized._driver import quantize_network
from uqlib.quantized._quantile_networks import (
    is_quantile_network,
    line_network,
    quantile_network,
)
from uqlib.quantized._scheme import QuantizationScheme

LEVELS = np.array([0.1, 0.25, 0.5, 0.9])
N_FEATURES, WIDTH = 5, 8
N_OUTPUTS = {"quantiles": 4, "softplus": 4, "gaussian": 2, "level": 1}
KINDS = list(N_OUTPUTS)
REPAIRS = (None, "sort", "isotonic")


def fitted_network(kind, hidden=(WIDTH, WIDTH), non_crossing=None, seed=0):
    """A network as `fit` leaves it, with random weights."""
    rng = np.random.default_rng(seed)
    model = TorchQuantileRegressor(
        LEVELS,
        hidden=hidden,
        head="quantiles" if kind == "level" else kind,
        tau_input=kind == "level",
        non_crossing=non_crossing,
    )
    n_in = N_FEATURES + 2 * (kind == "level")
    sizes = [n_in, *hidden, N_OUTPUTS[kind]]
    pairs = list(pairwise(sizes))
    model.coefs_ = [rng.normal(size=pair) / np.sqrt(pair[0]) for pair in pairs]
    model.intercepts_ = [rng.normal(size=n_out) for _, n_out in pairs]
    model.feature_center_ = rng.normal(size=N_FEATURES)
    model.feature_scale_ = rng.uniform(0.5, 200, size=N_FEATURES)
    model.target_center_, model.target_scale_ = 3.0, 70.0
    model.quantiles_, model._kind, model.n_features_in_ = LEVELS, kind, N_FEATURES
    return model


def rows(n_samples=23, seed=1):
    """Rows of which some lie far outside of where features are bounded."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n_samples, N_FEATURES))
        * rng.choice([50, 1e5], n_samples)[:, None]
    )


def inputs_by_hand(model, X, levels=None):
    """What enters the first layer, row by row; `levels` has one for each row."""
    result = []
    for i, row in enumerate(X):
        x = (row - model.feature_center_) / model.feature_scale_
        x = np.clip(x, -10, 10)
        if model._kind == "level":
            tau = LEVELS[i % LEVELS.size] if levels is None else levels[i]
            x = np.append(x, [np.sqrt(12) * (tau - 0.5), ndtri(tau)])
        result.append(x)
    return np.array(result)


def through(layers, value):
    """Layers given as functions, with silu between them; all inputs and the output."""
    seen = []
    for k, layer in enumerate(layers):
        seen.append(value)
        value = layer(value)
        if k + 1 < len(layers):
            value = value * expit(value)
    return seen, value


def float_layers(model):
    return [
        lambda x, w=w, b=b: x @ w + b
        for w, b in zip(model.coefs_, model.intercepts_, strict=True)
    ]


def read_by_hand(model, X, layers, levels):
    """Quantiles before any repair, one level and row at a time."""
    result = np.empty((len(X), len(levels)))
    for k, tau in enumerate(levels):
        at = inputs_by_hand(model, X, np.full(len(X), tau))
        _, z = through(layers, at)
        if model._kind == "level":
            column = z[:, 0]
        elif model._kind == "gaussian":
            column = z[:, 0] + (1e-3 + np.log1p(np.exp(z[:, 1]))) * ndtri(tau)
        else:
            j, center = int(np.flatnonzero(tau == LEVELS)[0]), LEVELS.size // 2
            column = z[:, j]
            if model._kind == "softplus":
                gaps = np.log1p(np.exp(z))
                column = z[:, center] + gaps[:, center + 1 : j + 1].sum(axis=1)
                column = column - gaps[:, j:center].sum(axis=1)
        result[:, k] = column
    return model.target_center_ + model.target_scale_ * result


def quantized_layers(adapter, scheme, X, last_layer_bits=8):
    network = quantize_network(
        adapter,
        QuantizationScheme.parse(scheme) if isinstance(scheme, str) else scheme,
        X,
        last_layer_bits=last_layer_bits,
        random_state=np.random.RandomState(0),
    )
    return network.layers


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# ---------------------------------------------------------------------------
# The float network through its layers


@pytest.mark.parametrize("hidden", [(), (WIDTH,), (WIDTH, WIDTH)])
@pytest.mark.parametrize("non_crossing", REPAIRS)
def test_layers_and_head_are_the_model(kind, hidden, non_crossing):
    model, X = fitted_network(kind, hidden, non_crossing), rows()
    assert is_quantile_network(model)
    network = quantile_network(model)
    for asked in (None, [0.5], LEVELS[[0, 3]]):
        expected = model.predict_quantiles(X, asked)
        found = network.predicted("predict_quantiles", X, {}, asked)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(
        network.predicted("predict", X, {}), model.predict(X), rtol=1e-12, atol=1e-11
    )
    if kind in ("gaussian", "level"):
        asked = [0.001, 0.37, 0.99]
        expected = model.predict_quantiles(X, asked)
        found = network.predicted("predict_quantiles", X, {}, asked)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)


def test_the_slow_reading_is_the_model(kind):
    model, X = fitted_network(kind), rows()
    found = read_by_hand(model, X, float_layers(model), LEVELS)
    np.testing.assert_allclose(found, model.predict_quantiles(X), rtol=1e-11)


def test_what_enters_each_layer(kind):
    model, X = fitted_network(kind), rows()
    network = quantile_network(model)
    seen, outputs = through(float_layers(model), inputs_by_hand(model, X))
    assert [layer.name for layer in network.layers] == ["layer_0", "layer_1", "layer_2"]
    for layer, expected in zip(network.layers, seen, strict=True):
        found = np.concatenate(list(network.layer_inputs(X, layer.name, {})))
        assert found.shape == (len(X), layer.weight.shape[1])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(network.outputs(X, {}), outputs, rtol=1e-12, atol=1e-13)


def test_chunks_do_not_change_what_rows_bring(kind, monkeypatch):
    model, X = fitted_network(kind), rows(50)
    network = quantile_network(model)
    whole = np.concatenate(list(network.layer_inputs(X, "layer_1", {})))
    monkeypatch.setattr("uqlib.quantized._dense._CHUNK", 7 * WIDTH)
    chunks = list(network.layer_inputs(X, "layer_1", {}))
    assert len(chunks) > 5
    np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=1e-13, atol=1e-14)


# ---------------------------------------------------------------------------
# Quantized


@pytest.mark.parametrize("non_crossing", [None, "sort"])
@pytest.mark.parametrize("scheme", ["w4", "w8", "w2g3"])
def test_rounded_weights_in_a_copy_or_through_layers(kind, scheme, non_crossing):
    model, X = fitted_network(kind, non_crossing=non_crossing), rows(60)
    state = pickle.dumps(model)
    network = quantile_network(model)
    layers = quantized_layers(network, scheme, X)
    copied = network.quantized_model(layers)
    assert type(copied) is TorchQuantileRegressor
    assert pickle.dumps(model) == state
    for k, layer in enumerate(layers.values()):
        np.testing.assert_array_equal(copied.coefs_[k].T, layer.effective_weight())
    found = HeadModel(network, layers)
    for asked in (None, [0.5]):
        np.testing.assert_allclose(
            found.predict_quantiles(X, asked),
            copied.predict_quantiles(X, asked),
            rtol=1e-9,
            atol=1e-8,
        )
    drift = copied.predict_quantiles(X) - model.predict_quantiles(X)
    assert np.abs(drift).max() > 0


@pytest.mark.parametrize("hidden", [(), (WIDTH, WIDTH)])
def test_rounded_activations_compute_through_the_layers(kind, hidden):
    model, X = fitted_network(kind, hidden), rows(60)
    state = pickle.dumps(model)
    network = quantile_network(model)
    scheme = QuantizationScheme(
        weights="int8", activations="int8", transform=("input_scale",)
    )
    layers = quantized_layers(network, scheme, X)
    quantized = pickle.loads(pickle.dumps(network.quantized_model(layers)))
    assert isinstance(quantized, HeadModel)
    assert pickle.dumps(model) == state
    by_hand = read_by_hand(model, X, list(layers.values()), LEVELS)
    np.testing.assert_allclose(
        quantized.predict_quantiles(X), by_hand, rtol=1e-9, atol=1e-8
    )
    # The level 0.5 is fitted, so that points are that column in every kind.
    np.testing.assert_allclose(quantized.predict(X), by_hand[:, 2], rtol=1e-9)
    np.testing.assert_array_equal(quantized.quantiles_, LEVELS)
    drift = np.sqrt(np.mean((by_hand - model.predict_quantiles(X)) ** 2))
    assert 0 < drift < 0.05 * model.predict_quantiles(X).std()


def test_repaired_rows_are_those_of_all_levels():
    # A level asked for alone is repaired with the fitted ones, as in the float model.
    model, X = fitted_network("level", non_crossing="isotonic", seed=3), rows(60)
    network = quantile_network(model)
    scheme = QuantizationScheme(weights="int8", activations="int8")
    quantized = HeadModel(network, quantized_layers(network, scheme, X))
    values = quantized.predict_quantiles(X)
    assert (np.diff(values, axis=1) >= 0).all()
    raw = read_by_hand(model, X, list(quantized.quantized.values()), LEVELS)
    assert (np.diff(raw, axis=1) < 0).any()
    np.testing.assert_allclose(
        quantized.predict_quantiles(X, [0.25])[:, 0], values[:, 1], rtol=1e-12
    )


def test_only_what_the_head_has():
    network = quantile_network(fitted_network("quantiles"))
    model = HeadModel(network, {})
    assert hasattr(model, "predict_quantiles")
    for name in ("predict_expectiles", "predict_proba", "decision_function", "other"):
        assert not hasattr(model, name)
    assert not is_quantile_network(LinearQuantileRegressor())
    assert not is_quantile_network(TorchQuantileRegressor())


def test_levels_that_were_not_fitted_are_an_error():
    network = quantile_network(fitted_network("quantiles"))
    with pytest.raises(ValueError, match=r"0\.3"):
        HeadModel(network, {}).predict_quantiles(rows(), [0.3])


# ---------------------------------------------------------------------------
# Lines


def line_data(n_samples=120):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(n_samples, 4)) * [1, 10, 100, 0.1]
    return X, X @ [1, 0.1, 0.01, 3] + rng.normal(size=n_samples)


@pytest.mark.parametrize("non_crossing", [None, "sort"])
def test_lines_of_quantiles(non_crossing):
    X, y = line_data()
    model = LinearQuantileRegressor(LEVELS, non_crossing=non_crossing).fit(X, y)
    network = line_network(model)
    outputs = X @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(network.outputs(X, {}), outputs, rtol=1e-12)
    for asked in (None, [0.25, 0.9]):
        np.testing.assert_allclose(
            network.predicted("predict_quantiles", X, {}, asked),
            model.predict_quantiles(X, asked),
            rtol=1e-10,
        )
    scheme = QuantizationScheme(
        weights="int8", activations="int8", transform=("input_scale",)
    )
    layers = quantized_layers(network, scheme, X)
    quantized = network.quantized_model(layers)
    by_hand = layers["coef"](X)
    if non_crossing == "sort":
        by_hand = np.sort(by_hand, axis=1)
    np.testing.assert_allclose(quantized.predict_quantiles(X), by_hand, rtol=1e-12)
    np.testing.assert_allclose(quantized.predict(X), by_hand[:, 2], rtol=1e-12)
    copied = network.dequantized(quantized_layers(network, "w4", X, None))
    assert type(copied) is LinearQuantileRegressor
    assert len(np.unique(copied.coef_[0])) <= 16


def test_lines_of_expectiles():
    X, y = line_data()
    model = ExpectileRegressor(LEVELS).fit(X, y)
    state = pickle.dumps(model)
    network = line_network(model)
    (layer,) = network.layers
    assert layer.weight.shape == (LEVELS.size + 1, X.shape[1])
    for method in ("predict", "predict_expectiles"):
        np.testing.assert_allclose(
            network.predicted(method, X, {}), getattr(model, method)(X), rtol=1e-11
        )
    layers = quantized_layers(network, "w8", X)
    copied = network.dequantized(layers)
    rounded = layers["coef"](X)
    np.testing.assert_allclose(copied.predict_expectiles(X), rounded[:, :-1], rtol=1e-6)
    np.testing.assert_allclose(copied.predict(X), rounded[:, -1], rtol=1e-6)
    scheme = QuantizationScheme(weights="int8", activations="int8")
    layers = quantized_layers(network, scheme, X)
    quantized = pickle.loads(pickle.dumps(network.quantized_model(layers)))
    np.testing.assert_allclose(
        quantized.predict_expectiles(X), layers["coef"](X)[:, :-1], rtol=1e-12
    )
    assert pickle.dumps(model) == state
    np.testing.assert_array_equal(quantized.expectiles_, LEVELS)
    assert not hasattr(quantized, "predict_quantiles")


@pytest.mark.parametrize("settings", [{}, {"head": "gaussian"}, {"tau_input": True}])
def test_a_network_that_was_trained(settings):
    pytest.importorskip("torch")
    X, y = line_data(400)
    model = TorchQuantileRegressor(
        LEVELS, hidden=(16,), max_iter=200, early_stopping=False, random_state=0
    )
    model.set_params(**settings).fit(X, y)
    network = quantile_network(model)
    np.testing.assert_allclose(
        network.predicted("predict_quantiles", X, {}),
        model.predict_quantiles(X),
        rtol=1e-11,
        atol=1e-11,
    )
    copied = network.quantized_model(quantized_layers(network, "w8", X))
    drift = copied.predict_quantiles(X) - model.predict_quantiles(X)
    assert np.sqrt(np.mean(drift**2)) < 0.02 * y.std()
