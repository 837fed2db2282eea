"""What is found in a fitted model: linear models of every kind, wrappers, reasons."""

import pickle

import numpy as np
import pytest
from sklearn import linear_model
from sklearn.cross_decomposition import CCA, PLSRegression
from sklearn.datasets import make_classification, make_regression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

from uqlib import (
    ExpectileRegressor,
    LinearQuantileRegressor,
    MultiQuantileRegressor,
    QuantileEnsembleRegressor,
    SplitConformalRegressor,
)
from uqlib.exceptions import QuantizationWarning
from uqlib.quantized._dense import METHODS
from uqlib.quantized._models import QuantizedClassifier, QuantizedRegressor
from uqlib.quantized._open import open_model
from uqlib.quantized._open_linear import NotOneLayerError, is_linear, linear_part
from uqlib.quantized._tree_part import TreeAdapter

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:divide by zero encountered in log:RuntimeWarning",
    "ignore:.*deprecated.*:FutureWarning",
    "ignore:rows of calibration:uqlib.exceptions.QuantizationWarning",
)

X, y = make_regression(90, 5, noise=5.0, random_state=0)
X = X * [1, 10, 0.1, 1, 100]
POSITIVE, TWO = np.abs(y) / 50 + 0.1, np.column_stack([y, y**2 / 50])
X_C, y_C = make_classification(
    120, 6, n_informative=4, n_classes=3, class_sep=2, random_state=0
)
BINARY = np.array(["no", "yes"])[(y_C > 0).astype(int)]
LEVELS = (0.1, 0.5, 0.9)

REGRESSORS = [
    linear_model.ARDRegression(),
    linear_model.BayesianRidge(),
    linear_model.ElasticNetCV(cv=2),
    linear_model.HuberRegressor(),
    linear_model.Lars(),
    linear_model.Lasso(),
    linear_model.LassoLarsIC(),
    linear_model.LinearRegression(fit_intercept=False),
    linear_model.LinearRegression(positive=True),
    linear_model.OrthogonalMatchingPursuit(),
    linear_model.QuantileRegressor(alpha=0.0, quantile=0.9),
    linear_model.RidgeCV(),
    linear_model.SGDRegressor(random_state=0),
    linear_model.TheilSenRegressor(random_state=0, max_subpopulation=50),
    LinearSVR(random_state=0),
    ExpectileRegressor(LEVELS),
    LinearQuantileRegressor(LEVELS),
    LinearQuantileRegressor(LEVELS, non_crossing="isotonic"),
]
POSITIVE_REGRESSORS = [
    linear_model.GammaRegressor(),
    linear_model.PoissonRegressor(),
    linear_model.TweedieRegressor(power=1.5),
]
TWO_TARGETS = [
    linear_model.Lasso(),
    linear_model.LinearRegression(),
    linear_model.MultiTaskLasso(),
    linear_model.MultiTaskElasticNetCV(cv=2),
    linear_model.Ridge(),
]
CLASSIFIERS = [
    linear_model.LogisticRegression(),
    linear_model.LogisticRegression(fit_intercept=False),
    linear_model.Perceptron(random_state=0),
    linear_model.RidgeClassifier(),
    linear_model.RidgeClassifierCV(),
    linear_model.SGDClassifier(loss="log_loss", random_state=0),
    linear_model.SGDClassifier(loss="modified_huber", random_state=0),
    LinearDiscriminantAnalysis(),
    LinearSVC(random_state=0),
]
ASKED = (*METHODS, "predict_quantiles", "predict_expectiles")
LINEAR = [
    *((model, X, y) for model in REGRESSORS),
    *((model, X, POSITIVE) for model in POSITIVE_REGRESSORS),
    *((model, X, TWO) for model in TWO_TARGETS),
    *((model, X_C, y_C) for model in CLASSIFIERS),
    *((model, X_C, BINARY) for model in CLASSIFIERS),
]


def scaled(rows):
    return rows / rows.std(axis=0)


def quiet_fit(model, rows, target):
    return model.fit(scaled(rows), target)


# ---------------------------------------------------------------------------
# Linear models


@pytest.mark.parametrize(
    ("model", "rows", "target"),
    LINEAR,
    ids=[f"{type(model).__name__}-{k}" for k, (model, _, _) in enumerate(LINEAR)],
)
def test_linear_models_are_one_layer_before_their_own_link(model, rows, target):
    model = quiet_fit(model, rows, target)
    rows, state = scaled(rows), pickle.dumps(model)
    (part,) = open_model(model).parts
    network = part.adapter
    (layer,) = network.layers
    outputs = rows @ layer.weight.T + layer.bias
    np.testing.assert_allclose(network.outputs(rows, {}), outputs, rtol=1e-12)
    asked = [name for name in ASKED if hasattr(model, name)]
    assert asked
    for name in asked:
        expected = getattr(model, name)(rows)
        found = network.predicted(name, rows, {})
        assert found.shape == expected.shape
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        else:
            np.testing.assert_array_equal(found, expected)
    assert pickle.dumps(model) == state


@pytest.mark.parametrize(
    ("model", "target", "reason"),
    [
        (PLSRegression(), TWO, "does not predict from coef_"),
        (PLSRegression(), y, "does not predict from coef_"),
        (CCA(), TWO, "does not predict from coef_"),
        (SVR(kernel="linear"), y, "does not predict from coef_"),
        (SVC(kernel="linear"), BINARY[: len(y)], "does not predict from coef_"),
    ],
)
def test_coefficients_that_are_not_all(model, target, reason):
    model = model.fit(scaled(X), target)
    assert is_linear(model)
    with pytest.raises(NotOneLayerError, match=reason):
        linear_part(model)
    opened = open_model(model, "step")
    assert opened.parts == ()
    assert opened.assembled({}) is model
    assert opened.skipped[0].name == "step"
    assert reason in opened.skipped[0].reason


class Centered(linear_model.LinearRegression):
    """Predicts more than its coefficients say, without an error anywhere."""

    def predict(self, X):
        """Return predictions for squares."""
        return super().predict(X) + 1e-3 * (np.asarray(X) ** 2).sum(axis=1)


def test_predictions_are_compared_and_not_only_computed():
    with pytest.raises(NotOneLayerError, match="Centered makes more of X than"):
        linear_part(Centered().fit(X, y))


def test_sparse_coefficients_are_named():
    model = linear_model.LogisticRegression().fit(X_C, y_C).sparsify()
    with pytest.raises(NotOneLayerError, match="sparse: call its densify"):
        linear_part(model)
    assert open_model(model.densify()).parts


def test_lasso_keeps_its_sparse_view():
    model = linear_model.Lasso(alpha=5.0).fit(scaled(X), y)
    quantized = QuantizedRegressor(FrozenEstimator(model), scheme="w8").fit(scaled(X))
    assert isinstance(quantized.dequantize().sparse_coef_, type(model.sparse_coef_))
    zero = model.coef_ == 0
    assert zero.any()
    step = np.ptp(np.append(model.coef_, 0)) / 255
    assert np.abs(quantized.dequantize().coef_[zero]).max() <= 2 * step


def test_models_in_single_precision_and_of_frames():
    pandas = pytest.importorskip("pandas")
    rows = scaled(X).astype(np.float32)
    model = linear_model.Ridge().fit(rows, y.astype(np.float32))
    assert model.coef_.dtype == np.float32
    assert open_model(model).parts
    frame = pandas.DataFrame(scaled(X), columns=list("abcde"))
    for model in (linear_model.Ridge(), LinearQuantileRegressor(LEVELS)):
        (part,) = open_model(model.fit(frame, y)).parts
        assert part.adapter.model.feature_names_in_.tolist() == list("abcde")
        found = part.adapter.predicted("predict", frame, {})
        np.testing.assert_allclose(found, model.predict(frame), rtol=1e-8)


# ---------------------------------------------------------------------------
# Wrappers and what is left


def mlp(**parameters):
    return MLPRegressor(
        hidden_layer_sizes=(6,), max_iter=15, random_state=0, **parameters
    )


def test_wrappers_are_looked_through():
    model = mlp().fit(scaled(X), y)
    search = GridSearchCV(mlp(), {"alpha": [1e-3, 1e-2]}, cv=2).fit(scaled(X), y)
    pipeline = make_pipeline(StandardScaler(), "passthrough", mlp()).fit(X, y)
    for outer, names in (
        (model, [""]),
        (FrozenEstimator(model), [""]),
        (FrozenEstimator(FrozenEstimator(model)), [""]),
        (search, [""]),
        (FrozenEstimator(pipeline), ["mlpregressor"]),
        (Pipeline([("in", pipeline)]), ["in.mlpregressor"]),
        (HistGradientBoostingRegressor(max_iter=2).fit(X, y), [""]),
    ):
        opened = open_model(outer)
        assert [part.name for part in opened.parts] == names
        assert opened.skipped == ()
        again = pickle.loads(pickle.dumps(opened))
        whole = again.assembled(
            {
                part.name: part.adapter.model
                if isinstance(part.adapter, TreeAdapter)
                else part.adapter.quantized_model({})
                for part in again.parts
            }
        )
        np.testing.assert_array_equal(whole.predict(X), outer.predict(X))


def test_inputs_of_a_part_are_those_after_the_steps():
    pipeline = make_pipeline(
        StandardScaler(), Pipeline([("s", StandardScaler())]), mlp()
    )
    pipeline.fit(X, y)
    (part,) = open_model(pipeline).parts
    np.testing.assert_array_equal(part.inputs(X), pipeline[:-1].transform(X))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (KNeighborsRegressor(), "KNeighborsRegressor has no layers or trees"),
        (
            GradientBoostingRegressor(n_estimators=2, init=linear_model.Ridge()),
            "starts with the predictions of Ridge",
        ),
        (linear_model.RANSACRegressor(random_state=0), "RANSACRegressor has no layers"),
    ],
)
def test_what_is_left_has_a_reason(model, reason):
    opened = open_model(model.fit(X, y))
    assert opened.parts == ()
    assert reason in opened.skipped[0].reason
    assert opened.assembled({}) is model


def test_unfitted_searches_and_other_objects():
    assert open_model(object()).parts == ()
    assert "list has no layers" in open_model([]).skipped[0].reason
    search = GridSearchCV(mlp(), {"alpha": [1e-3]}, cv=2)
    assert "GridSearchCV has no layers" in open_model(search).skipped[0].reason


def test_quantized_models_are_not_quantized_again():
    quantized = QuantizedRegressor(mlp(), scheme="w8").fit(scaled(X), y)
    (left,) = open_model(quantized).skipped
    assert left.reason == "QuantizedRegressor is quantized already"


def test_torch_modules_are_parts():
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU())
    (part,) = open_model(module).parts
    traced = part.adapter.traced(X.astype(np.float32))
    assert [layer.weight.shape for layer in traced.layers] == [(4, 5)]


# ---------------------------------------------------------------------------
# Through the estimators


def relative_drift(quantized, model, method, rows):
    expected = getattr(model, method)(rows)
    return np.sqrt(np.mean((getattr(quantized, method)(rows) - expected) ** 2)) / (
        expected.std()
    )


@pytest.mark.parametrize("scheme", ["w8", "w8a8", "w4"])
def test_networks_in_composites_through_the_estimator(scheme):
    ensemble = QuantileEnsembleRegressor(
        [
            ("lines", LinearQuantileRegressor(LEVELS)),
            (
                "each",
                MultiQuantileRegressor(
                    linear_model.QuantileRegressor(alpha=0.0), quantiles=LEVELS
                ),
            ),
        ],
        quantiles=LEVELS,
        cv=2,
        random_state=0,
    ).fit(scaled(X), y)
    quantized = QuantizedRegressor(
        FrozenEstimator(ensemble), scheme=scheme, last_layer_bits=None, random_state=0
    ).fit(scaled(X))
    assert sorted(quantized.parts_) == [
        "estimators_.0",
        *(f"estimators_.1.estimators_.{k}" for k in range(3)),
    ]
    limit = 0.2 if scheme == "w4" else 0.05
    assert (
        0 < relative_drift(quantized, ensemble, "predict_quantiles", scaled(X)) < limit
    )
    np.testing.assert_array_equal(quantized.quantiles_, LEVELS)
    again = pickle.loads(pickle.dumps(quantized))
    np.testing.assert_array_equal(
        again.predict_quantiles(scaled(X)), quantized.predict_quantiles(scaled(X))
    )
    assert isinstance(quantized.dequantize(), QuantileEnsembleRegressor)


@pytest.mark.parametrize("scheme", ["w8", "w8a8"])
def test_pipelines_with_quantiles_through_the_estimator(scheme):
    pipeline = make_pipeline(StandardScaler(), LinearQuantileRegressor(LEVELS)).fit(
        X, y
    )
    quantized = QuantizedRegressor(FrozenEstimator(pipeline), scheme=scheme).fit(X)
    rows = pipeline[:-1].transform(X)
    expected = pipeline[-1].predict_quantiles(rows)
    found = quantized.predict_quantiles(X)
    assert 0 < np.sqrt(np.mean((found - expected) ** 2)) < 0.05 * expected.std()
    np.testing.assert_allclose(
        quantized.predict_quantiles(X, [0.5])[:, 0], found[:, 1], rtol=1e-12, atol=1e-12
    )


def test_classifiers_in_pipelines_through_the_estimator():
    model = MLPClassifier(hidden_layer_sizes=(8,), max_iter=60, random_state=0)
    quantized = QuantizedClassifier(
        make_pipeline(StandardScaler(), model), scheme="w8a8", random_state=0
    ).fit(X_C, BINARY)
    drift = quantized.drift(X_C)
    assert 0 < np.abs(drift).max() < 0.1
    labels = quantized.estimator_.predict(X_C)
    assert np.mean(quantized.predict(X_C) == labels) > 0.95
    assert quantized.classes_.tolist() == ["no", "yes"]


def test_conformal_on_a_quantized_composite():
    trees = HistGradientBoostingRegressor(max_iter=5)
    model = make_pipeline(StandardScaler(), trees)
    quantized = QuantizedRegressor(model).fit(X[:50], y[:50])
    np.testing.assert_array_equal(quantized.drift(X), 0)
    frozen = FrozenEstimator(quantized)
    calibrated = SplitConformalRegressor(frozen).fit(X[50:], y[50:])
    assert calibrated.predict_interval(X).shape == (len(X), 2)


def test_a_calibrator_inside_warns_through_the_estimator():
    calibrated = SplitConformalRegressor(
        HistGradientBoostingRegressor(max_iter=3), random_state=0
    ).fit(X, y)
    with pytest.warns(QuantizationWarning, match="its coverage does not hold"):
        QuantizedRegressor(FrozenEstimator(calibrated)).fit(X)
