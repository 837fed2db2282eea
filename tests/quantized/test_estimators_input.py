"""Degenerate rows, models of another kind and parameters that nothing has."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uqlib.exceptions import QuantizationWarning
from uqlib.quantized import (
    QuantizationScheme,
    QuantizedClassifier,
    QuantizedRegressor,
    allocate_bits,
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
# Degenerate rows


@pytest.mark.parametrize("scheme", ["w4", "w4a8"])
@pytest.mark.parametrize(
    "rows",
    [X[:, :1], X * [1, 0, 1, 0, 1] + 3, np.zeros_like(X), X * 1e-300],
    ids=["one feature", "constant features", "zeros", "tiny"],
)
def test_degenerate_rows(rows, scheme):
    model = QuantizedRegressor(mlp(), scheme=scheme).fit(rows, y)
    assert np.isfinite(model.predict(rows)).all()


def test_two_rows_are_damped_with_a_warning_and_one_is_an_error():
    model = mlp().fit(X, y)
    with pytest.warns(QuantizationWarning, match="the rounding is damped"):
        quantized = quantize(model, "w4", X[:2])
    assert np.isfinite(quantized.predict(X)).all()
    for n_rows in (0, 1):
        with pytest.raises(ValueError, match="at least 2 rows of calibration"):
            quantize(model, "w4", X[:n_rows])


@pytest.mark.parametrize("scheme", ["w4", "w8a8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite(scheme, value):
    model, rows = mlp().fit(X, y), X.copy()
    rows[3, 2] = value
    quantized = quantize(model, scheme, X)
    for ask in (lambda: quantize(model, scheme, rows), lambda: quantized.predict(rows)):
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            ask()


# ---------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("frozen", [False, True])
def test_models_for_another_task(frozen):
    for kind, model, target, message in (
        (QuantizedRegressor, LogisticRegression(), y_C, "Use QuantizedClassifier"),
        (QuantizedClassifier, Ridge(), y_C, "Use QuantizedRegressor"),
    ):
        if frozen:
            model = FrozenEstimator(make_pipeline(model).fit(X_C, target))
        with pytest.raises(ValueError, match=message):
            kind(model).fit(X_C, target)
    with pytest.raises(ValueError, match="Use QuantizedRegressor"):
        quantize(Ridge().fit(X, y), "w4", X, task="classification")


@pytest.mark.parametrize("model", [mlp(), Ridge(), make_pipeline(mlp())])
def test_frozen_models_must_be_fitted(model):
    with pytest.raises(NotFittedError):
        quantize(model, "w4", X)


@pytest.mark.parametrize("scheme", ["w4", "w8a8"])
def test_frozen_models_get_their_own_columns(scheme):
    model = mlp().fit(FRAME, y)
    with pytest.raises(ValueError, match="X has 3 features, but MLPRegressor"):
        quantize(mlp().fit(X, y), scheme, X[:, :3])
    with pytest.raises(ValueError, match="feature names should match"):
        quantize(model, scheme, FRAME[list("edcba")])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        quantize(model, scheme, X)
    found = quantize(model, scheme, FRAME)
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(FRAME[list("edcba")])
    with pytest.raises(ValueError, match="X has 3 features, but MLPRegressor"):
        allocate_bits(mlp().fit(X, y), X[:, :3], budget=3)


def test_trees_get_their_own_columns_and_transformers_choose_theirs():
    trees = HistGradientBoostingRegressor(max_iter=3).fit(FRAME, y)
    with pytest.raises(ValueError, match="feature names should match"):
        quantize(trees, X=FRAME[list("edcba")])
    chosen = make_column_transformer((StandardScaler(), ["a", "b"]))
    model = make_pipeline(chosen, mlp()).fit(FRAME, y)
    frame = FRAME[["b", "a"]]
    found = quantize(model, "w4a8", frame)
    expected = quantize(model, "w4a8", FRAME).predict(FRAME)
    np.testing.assert_array_equal(found.predict(frame), expected)


@pytest.mark.parametrize("model", [mlp(), Ridge()])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(model, value):
    model = clone(model).fit(X, y)
    weights = model.coefs_[1] if hasattr(model, "coefs_") else model.coef_
    weights.flat[0] = value
    with pytest.raises(ValueError, match=r"(coef|layer_1).*weights that are not fini"):
        quantize(model, "w4", X)


@pytest.mark.parametrize("part", [{"skip": ("x",)}, {"layer_bits": {"x": 4}}])
def test_names_of_layers_that_nothing_has(part):
    scheme = QuantizationScheme("int8", **part)
    trees = HistGradientBoostingRegressor(max_iter=2)
    for model in (mlp(), trees):
        with pytest.raises(ValueError, match=r"do(es)? not have: \['x'\]"):
            QuantizedRegressor(model, scheme=scheme).fit(X, y)
    with pytest.raises(ValueError, match="write its part before it"):
        QuantizedRegressor(voting(), scheme=scheme).fit(X, y)
    for name in ("estimators_.0.x", "estimators_.1.x"):
        key, value = next(iter(part.items()))
        named = {key: (name,) if key == "skip" else {name: value["x"]}}
        scheme = QuantizationScheme("int8", **named)
        with pytest.raises(ValueError, match=r"not have: \['x'\]"):
            QuantizedRegressor(voting(), scheme=scheme).fit(X, y)


@pytest.mark.parametrize("method", ["gptq3", 3, ["rtn"]])
def test_methods_that_do_not_exist(method):
    with pytest.raises(ValueError, match=r"method=.* must be one of"):
        QuantizedRegressor(mlp(), method=method).fit(X, y)


def test_what_stays_in_float_is_said():
    with pytest.warns(QuantizationWarning, match="Nothing of the model was"):
        model = QuantizedRegressor(KNeighborsRegressor()).fit(X, y)
    np.testing.assert_array_equal(model.drift(X), 0)
    with pytest.raises(ValueError, match="strict=True, but these parts would stay"):
        QuantizedRegressor(KNeighborsRegressor(), strict=True).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QuantizationWarning)
        model = QuantizedRegressor(mlp(), scheme="w16").fit(X, y)
    np.testing.assert_array_equal(model.drift(X), 0)


def test_a_module_without_layers_warns():
    torch = pytest.importorskip("torch")
    with pytest.warns(QuantizationWarning, match="Nothing of the model was"):
        quantize(torch.nn.Flatten(), "w4", X)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.predict(X),
        lambda model: model.drift(X),
        lambda model: model.dequantize(),
        lambda model: model.rows_seen(X),
        lambda model: model.save("nowhere"),
    ],
)
def test_a_model_must_be_fitted(ask):
    for model in (QuantizedRegressor(mlp()), QuantizedClassifier(mlp_classifier())):
        with pytest.raises(NotFittedError):
            ask(model)
