"""What quantized estimators promise: models unharmed, scikit-learn's habits, errors."""

import pickle
import warnings

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
    RandomForestClassifier,
    VotingRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from uqlib.exceptions import AlreadyFittedWarning, QuantizationWarning
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
    frozen = FrozenEstimator(Ridge(alpha=10).fit(X, y))
    moved = X * np.repeat([1.0, 1.0, 1.0, 9.0], 20)[:, None] ** np.arange(5)
    few = QuantizedRegressor(frozen, **settings).fit(moved, sample_weight=weight)
    same = QuantizedRegressor(frozen, **settings).fit(moved[:40])
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


def test_rows_are_recognized():
    model = QuantizedRegressor(mlp(), scheme="w4").fit(X[:40], y[:40])
    assert model.rows_seen(X) == 0.5
    assert model.rows_seen(FRAME[20:60]) == 0.5
    assert model.rows_seen(X[40:]) == 0
    model.fit(X[40:], y[40:])
    assert model.rows_seen(X[:40]) == 0


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


def test_forests_by_their_labels():
    labels = np.array(["x", "y", "z"])[y_C]
    forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(X_C, labels)
    model = quantize(forest, X=X_C)
    np.testing.assert_array_equal(model.predict_proba(X_C), forest.predict_proba(X_C))
    np.testing.assert_array_equal(model.predict(X_C), forest.predict(X_C))
