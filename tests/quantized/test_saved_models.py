"""Saved models: the same predictions bit for bit, for all models and schemes."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import LinearSVC, LinearSVR

from tests.quantized._saving import (
    N_FEATURES,
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
from uqlib.quantized._models import QuantizedRegressor, quantize
from uqlib.quantized._saved_files import read_file
from uqlib.quantized._saved_models import save_model
from uqlib.quantized._scheme import QuantizationScheme


@pytest.fixture(scope="module")
def network():
    return quantized(mlp(), y)


# ---------------------------------------------------------------------------
# Schemes.


SCHEMES = {
    "auto": "auto",
    "w8a8": "w8a8",
    "w4": "w4",
    "w3g4 hadamard": QuantizationScheme(
        weights="int3", granularity="group", group_size=4, transform=("hadamard",)
    ),
    "w2 outliers": QuantizationScheme(weights="int2", outliers=0.05),
    "w1": "w1",
    "w1.58": "w1.58",
    "nf4": "wnf4",
    "codebook": "wcb3",
    "power": "wpow4",
    "bfp": "wbfp4g4",
    "pow2": QuantizationScheme(scale_format="pow2"),
    "low rank": QuantizationScheme(
        weights="int2", correction=("bias", "low_rank"), rank=1
    ),
    "affine": QuantizationScheme(weights="int2", correction=("output_affine",)),
    "static": QuantizationScheme(activations="int8", activation_range="static"),
    "percentile": QuantizationScheme(activations="int6", activation_range="percentile"),
    "cross": QuantizationScheme(activations="int4", activation_range="cross"),
    "klt reorder": QuantizationScheme(
        activations="int8", transform=("reorder", "klt", "smooth")
    ),
    "skip": QuantizationScheme(skip=("layer_1",), layer_bits={"layer_0": 2}),
}


@pytest.mark.parametrize("kind", list(SCHEMES))
def test_schemes_predict_the_same(kind, tmp_path):
    model = quantized(mlp(), y, SCHEMES[kind])
    assert_comes_back(model, tmp_path)


@pytest.mark.parametrize("kind", ["w8a8", "w3g4 hadamard", "w2 outliers", "cross"])
def test_schemes_in_single_precision(kind, tmp_path):
    rows = X.astype(np.float32)
    model = quantized(mlp(), y.astype(np.float32), SCHEMES[kind], rows)
    assert model.estimator_.estimator.coefs_[0].dtype == np.float32
    again = assert_comes_back(model, tmp_path, rows)
    assert_same_predictions(again, model)  # rows in double precision


def test_parameters_and_table_come_back(tmp_path):
    model = QuantizedRegressor(
        mlp(), scheme="w3", method="gptq", last_layer_bits=5, random_state=3
    ).fit(X, y)
    again = assert_comes_back(model, tmp_path)
    assert again.method == "gptq"
    assert again.last_layer_bits == 5
    assert again.random_state == 3
    assert again.scheme == model.scheme_
    assert again.estimator.get_params() == model.estimator.get_params()
    pd.testing.assert_frame_equal(again.layers_, model.layers_, rtol=1e-6)
    # It can be cloned, fitted anew and pickled.
    refitted = clone(again).fit(X, y)
    np.testing.assert_array_equal(refitted.predict(X), model.predict(X))
    assert_same_predictions(pickle.loads(pickle.dumps(again)), model)
    assert again.rows_seen(X) == 0  # rows are not in the file
    dequantized = again.dequantize()
    assert type(dequantized) is MLPRegressor
    np.testing.assert_array_equal(dequantized.predict(X), model.dequantize().predict(X))


# ---------------------------------------------------------------------------
# Models.


MODELS = {
    "several outputs": (mlp(), np.c_[y, -y]),
    "tanh": (mlp(activation="tanh"), y),
    "logistic": (mlp(activation="logistic", sizes=()), y),
    "classes of strings": (mlp(MLPClassifier), names),
    "two classes": (mlp(MLPClassifier), y > 0),
    "classes of floats": (mlp(MLPClassifier), np.where(y > 0, 1.0, -3.0)),
    "objects": (mlp(MLPClassifier), names.astype(object)),
    "several labels": (mlp(MLPClassifier), np.c_[y > 0, X[:, 0] > 0].astype(int)),
    "linear": (linear_model.LinearRegression(), y),
    "linear outputs": (linear_model.Ridge(), np.c_[y, -y]),
    "without intercept": (linear_model.Ridge(fit_intercept=False), y),
    "lasso": (linear_model.Lasso(0.1), y),
    "huber": (linear_model.HuberRegressor(), y),
    "quantile": (linear_model.QuantileRegressor(alpha=0.0), y),
    "bayes": (linear_model.BayesianRidge(), y),
    "poisson": (linear_model.PoissonRegressor(), np.abs(y)),
    "gamma": (linear_model.GammaRegressor(), np.abs(y) + 0.1),
    "tweedie": (linear_model.TweedieRegressor(power=1.5), np.abs(y)),
    "tweedie identity": (linear_model.TweedieRegressor(link="identity"), y),
    "tweedie log": (linear_model.TweedieRegressor(link="log"), np.abs(y) + 0.1),
    "LinearSVR": (LinearSVR(), y),
    "logistic regression": (linear_model.LogisticRegression(), names),
    "logistic of two": (linear_model.LogisticRegression(), y > 0),
    "ridge classes": (linear_model.RidgeClassifier(), names),
    "ridge of two": (linear_model.RidgeClassifier(), y > 0),
    "ridge of labels": (
        linear_model.RidgeClassifier(),
        np.c_[y > 0, X[:, 0] > 0].astype(int),
    ),
    "SGD": (linear_model.SGDClassifier(loss="modified_huber", random_state=0), names),
    "SGD log": (linear_model.SGDClassifier(loss="log_loss", random_state=0), y > 0),
    "LinearSVC": (LinearSVC(), names),
    "discriminant": (LinearDiscriminantAnalysis(), names),
}


@pytest.mark.parametrize("scheme", ["w3", "w8a8"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_models_predict_the_same(kind, scheme, tmp_path):
    model = quantized(*MODELS[kind], scheme)
    again = assert_comes_back(model, tmp_path)
    assert type(again.estimator) is type(model.estimator_.estimator)
    if hasattr(model, "classes_"):
        assert again.classes_.dtype == model.classes_.dtype
        np.testing.assert_array_equal(again.classes_, model.classes_)


@pytest.mark.parametrize("scheme", ["auto", "w8"])
@pytest.mark.parametrize("kind", list(TREES))
def test_trees_predict_the_same(kind, scheme, tmp_path):
    model, target = TREES[kind]
    rows = X.copy()
    rows[::7, 1] = np.nan if "forest" not in kind and "boost" not in kind else 0.5
    model = quantized(model, target, scheme, rows)
    again = assert_comes_back(model, tmp_path, rows)
    assert_same_predictions(pickle.loads(pickle.dumps(again)), model, rows)
    clone(again)
    with pytest.raises(ValueError, match=r"set_params\(estimator"):
        clone(again).fit(rows, target)
    refitted = clone(again).set_params(estimator=TREES[kind][0]).fit(rows, target)
    assert_same_predictions(
        refitted, quantized(TREES[kind][0], target, scheme, rows), rows
    )


def test_names_of_features(tmp_path):
    frame = pd.DataFrame(X, columns=[f"größe_{k}" for k in range(N_FEATURES)])
    for model in (
        mlp(),
        linear_model.Ridge(),
        HistGradientBoostingRegressor(max_iter=2),
    ):
        model = quantized(model, y, "auto", frame)
        again = assert_comes_back(model, tmp_path, frame)
        assert again.feature_names_in_.tolist() == list(frame.columns)
        with pytest.raises(ValueError, match="feature names"):
            again.predict(frame.rename(columns={"größe_0": "other"}))


# ---------------------------------------------------------------------------
# Size.


@pytest.mark.parametrize("scheme", ["w4", "w8", "w4g32"])
def test_effective_bits_are_those_of_the_file(scheme, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 20))
    model = mlp(sizes=(256, 256, 256)).fit(rows, rows[:, 0])
    model = quantize(model, scheme, rows, method="rtn")
    n_parameters = sum(
        array.size
        for arrays in (model.estimator_.coefs_, model.estimator_.intercepts_)
        for array in arrays
    )
    path = saved(model, tmp_path)
    bits = 8 * path.stat().st_size / n_parameters
    assert bits == pytest.approx(model.effective_bits_, rel=0.02)


def test_what_lies_in_a_file_is_what_the_report_counts(network, tmp_path):
    for model in (
        network,
        quantized(HistGradientBoostingRegressor(max_iter=5), y, "w8"),
    ):
        _, tensors = read_file(saved(model, tmp_path))
        assert sum(tensor.nbytes for tensor in tensors.values()) == model.nbytes_


# ---------------------------------------------------------------------------
# Writing.


def test_files_are_replaced_at_once(network, tmp_path, monkeypatch):
    path = saved(network, tmp_path)
    before = path.read_bytes()

    def failing(self, target):
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="no space"):
        save_model(path, quantized(mlp(), -y))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    save_model(str(path), quantized(mlp(), -y))  # a string too
    assert path.read_bytes() != before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_names_are_kept_as_given(network, tmp_path):
    for name in ("model", "model.bin", "model.safetensors"):
        assert saved(network, tmp_path, name).name == name
        assert (tmp_path / name).exists()


def test_saving_changes_nothing(network, tmp_path):
    before = network.predict(X)
    first = saved(network, tmp_path).read_bytes()
    assert saved(network, tmp_path).read_bytes() == first
    np.testing.assert_array_equal(network.predict(X), before)
