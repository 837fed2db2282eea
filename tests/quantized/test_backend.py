"""Estimators say what computes, and predict the same whatever it is."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import BaggingRegressor, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from uqlib.quantized import (
    QuantizationScheme,
    QuantizedClassifier,
    QuantizedRegressor,
    quantize,
)
from uqlib.quantized._dense import HeadModel, checked_rows
from uqlib.quantized._dense_kernels import CompiledLayers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = make_regression(120, 6, n_targets=1, noise=2.0, random_state=0)
y = y / y.std()
X_C, y_C = make_classification(90, 6, n_informative=4, n_classes=3, random_state=0)
FUSED = {"mlp: w8a8 fused"}


def mlp(**parameters):
    settings = {"hidden_layer_sizes": (12, 9), "max_iter": 30, "random_state": 0}
    return fitted(MLPRegressor(**(settings | parameters)), X, y)


def fitted(model, rows, target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows, target)


def classifier():
    net = MLPClassifier(hidden_layer_sizes=(8,), max_iter=40, random_state=0)
    return fitted(net, X_C, y_C)


def operations(model):
    return set(model.layers_["op"])


def assert_close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    error = np.abs(found - expected).reshape(len(found), -1).max(axis=1)
    size = np.abs(expected).max()
    # Codes of ties may differ by one between layers, in few rows.
    assert (error < 1e-5 * size).mean() > 0.9
    assert error.max() < 0.05 * size


# ---------------------------------------------------------------------------
# The same predictions


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("scheme", ["auto", "w4a8", "w4a8g4", "w2a8", "wnf4a8"])
def test_networks(scheme, activation):
    model = mlp(activation=activation)
    reference = quantize(model, scheme, X, backend="reference")
    assert operations(reference) == {"reference"}
    for backend in ("auto", "numba"):
        found = quantize(model, scheme, X, backend=backend)
        assert not any(op.startswith("reference") for op in operations(found))
        for rows in (X, X.astype(np.float32)):
            assert_close(found.predict(rows), reference.predict(rows))


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), mlp()),
        LinearRegression(),
        Ridge(),
        BaggingRegressor(mlp(), n_estimators=2, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_around_networks(model):
    model = clone(model).fit(X, y)
    reference = quantize(model, "w8a8", X, backend="reference")
    found = quantize(model, "w8a8", X)
    assert operations(found) <= FUSED | {"linear_w8a8"}
    assert_close(found.predict(X), reference.predict(X))


@pytest.mark.parametrize("scheme", ["w4", "w8a8"])
def test_linear_models_in_single_precision(scheme):
    rows = X.astype(np.float32)
    model = Ridge().fit(rows, y.astype(np.float32))
    found = quantize(model, scheme, rows, backend="numba").predict(rows)
    assert found.dtype == model.predict(rows).dtype == np.float32


def test_several_targets():
    targets = np.column_stack([y, X[:, 0], -y])
    for model in (Ridge(), MLPRegressor(max_iter=20, random_state=0)):
        fitted = clone(model).fit(X, targets)
        found = quantize(fitted, "w8a8", X).predict(X)
        expected = quantize(fitted, "w8a8", X, backend="reference").predict(X)
        assert_close(found, expected)
    one = Ridge().fit(X, targets[:, :1])
    assert quantize(one, "w8a8", X).predict(X).shape == one.predict(X).shape


@pytest.mark.parametrize(
    "model", [classifier(), LogisticRegression().fit(X_C, y_C)], ids=["mlp", "linear"]
)
def test_classifiers(model):
    found = quantize(model, "w8a8", X_C)
    reference = quantize(model, "w8a8", X_C, backend="reference")
    assert_close(found.predict_proba(X_C), reference.predict_proba(X_C))
    agree = found.predict(X_C) == reference.predict(X_C)
    assert agree.mean() > 0.95


def test_what_comes_after_the_last_layer():
    if "loss" not in MLPRegressor().get_params():
        pytest.skip("this scikit-learn has no other loss")
    model = MLPRegressor(loss="poisson", max_iter=20, random_state=0)
    model = fitted(model, X, np.exp(y))
    reference = quantize(model, "w8a8", X, backend="reference")
    found = quantize(model, "w8a8", X)
    assert_close(found.predict(X), reference.predict(X))
    assert (found.predict(X) > 0).all()


def test_quantile_networks():
    pytest.importorskip("torch")
    from uqlib.quantile import TorchQuantileRegressor

    model = TorchQuantileRegressor(
        [0.1, 0.5, 0.9], hidden=(8,), max_iter=20, random_state=0
    ).fit(X, y)
    found = quantize(model, "w8a8", X)
    reference = quantize(model, "w8a8", X, backend="reference")
    assert operations(found) == FUSED
    assert_close(found.predict_quantiles(X), reference.predict_quantiles(X))
    bad = X.copy()
    bad[3, 1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        found.predict(bad)


def test_trees_are_equal():
    model = HistGradientBoostingRegressor(max_iter=5).fit(X, y)
    found = [quantize(model, "auto", X, backend=b) for b in ("auto", "reference")]
    np.testing.assert_array_equal(found[0].predict(X), found[1].predict(X))
    assert operations(found[1]) == {"reference"}


# ---------------------------------------------------------------------------
# What runs


def test_skipped_layers_break_the_fusion():
    scheme = QuantizationScheme("int8", "int8", skip=("layer_1",))
    found = quantize(mlp(), scheme, X)
    assert operations(found) == {"linear_w8a8"}
    reference = quantize(mlp(), scheme, X, backend="reference")
    assert_close(found.predict(X), reference.predict(X))


def test_weights_alone():
    found = quantize(mlp(), "w4", X)
    assert operations(found) == {"float weights (BLAS)"}
    assert type(found.model_) is MLPRegressor
    compiled = quantize(mlp(), "w4", X, backend="numba", last_layer_bits=None)
    assert operations(compiled) == {"linear_w4a32"}
    assert isinstance(compiled.model_, HeadModel)
    same = quantize(mlp(), "w4", X, last_layer_bits=None)
    np.testing.assert_allclose(compiled.predict(X), same.predict(X), atol=1e-5)


def test_values_that_no_kernel_looks_up():
    found = quantize(mlp(), QuantizationScheme("fp8", "int8"), X, last_layer_bits=None)
    (name,) = operations(found)
    assert name.startswith("reference: codebook of 2")
    reference = quantize(
        *(mlp(), QuantizationScheme("fp8", "int8"), X),
        backend="reference",
        last_layer_bits=None,
    )
    np.testing.assert_array_equal(found.predict(X), reference.predict(X))


def test_unknown_backends():
    for make in (QuantizedRegressor, QuantizedClassifier):
        with pytest.raises(ValueError, match="backend='tpu' must be one of"):
            make(mlp(), backend="tpu").fit(X, y)
    with pytest.raises(ValueError, match="backend='gpu' must be one of"):
        QuantizedRegressor.load("nowhere", backend="gpu")


# ---------------------------------------------------------------------------
# Torch


def torch_module(dtype=None):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    return net.to(dtype or torch.float32)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8g4", "wnf4a8", "w4"])
def test_torch_modules(scheme):
    torch = pytest.importorskip("torch")
    found = quantize(torch_module(), scheme, X, backend="numba", last_layer_bits=None)
    reference = quantize(
        torch_module(), scheme, X, backend="reference", last_layer_bits=None
    )
    assert all(op.startswith("linear_w") for op in operations(found))
    assert_close(found.predict(X), reference.predict(X))
    module = found.model_.module
    rows = torch.randn(3, 4, 6)
    with torch.no_grad():
        assert_close(module(rows), reference.model_.module(rows))
    again = pickle.loads(pickle.dumps(module))
    assert again[0].layer_kernel._packed is None
    with torch.no_grad():
        assert torch.equal(again(rows), module(rows))
        assert module(rows.half()).dtype == torch.float16
        assert module(rows[:, :0]).shape == (3, 0, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("scheme", ["w8a8", "wfp8a8", "wnf4a8"])
def test_torch_rows_that_are_not_finite(scheme, backend, bad):
    torch = pytest.importorskip("torch")
    model = quantize(torch_module(), scheme, X, backend=backend)
    rows = torch.randn(4, 6)
    with torch.no_grad():
        expected = model.model_.module(rows)
        rows[2, 1] = bad
        expected[2] = torch.nan
        found = model.model_.module(rows)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_torch_convolutions():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 1),
    )  # fmt: skip
    found = quantize(net, "w8a8", X)
    assert operations(found) == {"linear_w8a8"}
    reference = quantize(net, "w8a8", X, backend="reference")
    assert_close(found.predict(X), reference.predict(X))
    weights_alone = quantize(net, "w4", X, backend="numba")
    assert list(weights_alone.layers_["op"]) == [
        "float weights (BLAS)",
        "linear_dequantized",
    ]


def test_torch_modules_in_double_precision():
    torch = pytest.importorskip("torch")
    found = quantize(torch_module(torch.float64), "w8a8", X)
    assert operations(found) == {"reference: module in double precision"}
    reference = quantize(torch_module(torch.float64), "w8a8", X, backend="reference")
    np.testing.assert_array_equal(found.predict(X), reference.predict(X))


# ---------------------------------------------------------------------------
# Copies, threads and files


def test_copies_pack_for_themselves():
    model = quantize(mlp(), "w8a8", X)
    before = pickle.dumps(model)
    expected = model.predict(X)
    assert model.model_.quantized._made is not None
    assert len(pickle.dumps(model)) == len(before)
    for again in (pickle.loads(before), deepcopy(model)):
        assert again.model_.quantized._made is None
        np.testing.assert_array_equal(again.predict(X), expected)
    copied = clone(QuantizedRegressor(mlp(), backend="numba"))
    assert copied.backend == "numba"


def test_threads_share_a_model():
    expected = quantize(mlp(), "w8a8", X).predict(X)
    model = quantize(mlp(), "w8a8", X)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.predict(X), range(16)):
            np.testing.assert_array_equal(found, expected)


def test_files_do_not_say_what_computes(tmp_path):
    for backend in ("auto", "numba", "reference"):
        model = quantize(mlp(), "w8a8", X, backend=backend)
        path = tmp_path / f"{backend}.safetensors"
        model.save(path)
        again = QuantizedRegressor.load(path, backend=backend)
        assert again.backend == backend
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        assert operations(again) == operations(model)
    files = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    assert files[0] == files[1] == files[2]


# ---------------------------------------------------------------------------
# Rows


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8g4", "w8"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite(scheme, bad):
    rows = X.copy()
    rows[5, 2] = bad
    messages = []
    for backend in ("auto", "reference"):
        model = quantize(mlp(), scheme, X, backend=backend)
        with pytest.raises(ValueError, match="contains") as error:
            model.predict(rows)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "scheme",
    [
        "w4",
        QuantizationScheme("int8", "int8", skip=("layer_0",)),
        QuantizationScheme("fp8", "int8", layer_bits={"layer_1": 4}),
    ],
    ids=["floats", "skipped", "reference"],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_lost_before_an_activation(scheme, bad):
    rows = X.copy()
    rows[5, 2] = bad
    model = quantize(mlp(activation="tanh"), scheme, X, backend="numba")
    assert any(op.startswith("linear_w") for op in operations(model))
    with pytest.raises(ValueError, match="contains"):
        model.predict(rows)


def test_rows_beyond_single_precision():
    rows = X.copy()
    rows[5] *= 1e300
    model = quantize(mlp(), "w8a8", X)
    reference = quantize(mlp(), "w8a8", X, backend="reference")
    np.testing.assert_array_equal(model.predict(rows), reference.predict(rows))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_rows_of_any_kind(backend):
    model = quantize(mlp(), "w8a8", X, backend=backend)
    expected = model.predict(X)
    readonly = X.copy()
    readonly.setflags(write=False)
    for rows in (np.asfortranarray(X), X[::-1][::-1], readonly, X.astype(">f8")):
        np.testing.assert_array_equal(model.predict(rows), expected)
    np.testing.assert_array_equal(model.predict(X.tolist()), expected)
    np.testing.assert_array_equal(model.predict(X.astype(object)), expected)
    single = [model.predict(X[i : i + 1])[0] for i in range(9)]
    if backend == "auto":
        np.testing.assert_array_equal(single, expected[:9])
    integers = np.rint(3 * X).astype(int)
    assert_close(model.predict(integers), model.predict(integers.astype(float)))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_errors_of_rows_stay_those_of_scikit_learn(backend):
    model = QuantizedRegressor(mlp(), backend=backend)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    with pytest.raises(ValueError, match="X has 5 features, but QuantizedRegressor"):
        model.predict(X[:, :5])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D"):
        model.predict(X[0])
    with pytest.raises(ValueError, match="0 sample"):
        model.predict(X[:0])
    with pytest.raises(ValueError, match="features"):
        model.predict(X[None])


def test_models_fitted_with_names_warn_of_arrays():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    network = MLPRegressor(max_iter=5, random_state=0).fit(frame, y)
    model = quantize(network, "w8a8", frame)
    expected = model.predict(frame)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_array_equal(model.predict(X), expected)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("bacdef")])


def test_checked_rows_are_those_of_scikit_learn():
    for rows in (X, X.astype(np.float32)):
        assert checked_rows(rows) is rows
    for rows in (X[:0], X[:, :0], X[0], X * np.nan, X[None]):
        with pytest.raises(ValueError, match=r".") as expected:
            check_array(rows, dtype=[np.float64, np.float32])
        with pytest.raises(ValueError, match=r".") as found:
            checked_rows(rows)
        assert str(found.value) == str(expected.value)
    assert checked_rows(X * np.nan, needs_finite=False).shape == X.shape
    assert checked_rows(X.astype(int)).dtype == np.float64
    assert checked_rows(X.astype(np.float16)).dtype == np.float64


def test_layers_are_those_that_were_given():
    model = quantize(mlp(), "w8a8", X)
    layers = model.model_.quantized
    assert isinstance(layers, CompiledLayers)
    assert dict(layers) == model.parts_[""].layers
