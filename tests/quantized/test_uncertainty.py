"""Calibrators around quantized models: they work unchanged, and mind the rows."""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor

import uqlib
from uqlib import QuantizedClassifier, QuantizedRegressor
from uqlib.exceptions import QuantizationWarning


@pytest.fixture(scope="module")
def data():
    X, y = load_diabetes(return_X_y=True)
    return X, (y - y.mean()) / y.std()


def quantized(X, y, bits=4):
    model = MLPRegressor(hidden_layer_sizes=(16,), max_iter=300, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is not the point
        model.fit(X, y)
    return uqlib.quantize(model, f"w{bits}", X)


def test_rows_of_the_quantization_must_not_calibrate(data):
    X, y = data
    model = FrozenEstimator(quantized(X[:200], y[:200]))
    for calibrator in (
        uqlib.SplitConformalRegressor(model),
        uqlib.BatchPredictiveInference(model),
    ):
        with pytest.warns(QuantizationWarning, match=r"^50% of the calibration rows"):
            calibrator.fit(X[100:300], y[100:300])
        calibrator.fit(X[200:350], y[200:350])
        with pytest.warns(QuantizationWarning, match=r"^100% of the calibration rows"):
            calibrator.calibrate(X[:200], y[:200])


def test_rows_are_recognized_in_other_types(data):
    X, y = data
    model = quantized(X[:200], y[:200])
    assert model.rows_seen(X[:200]) == 1
    assert model.rows_seen(X[:200].astype(np.float32)) == 1
    assert model.rows_seen(np.asfortranarray(X[150:250])) == 0.5
    assert model.rows_seen(X[200:]) == 0
    assert model.rows_seen([["a"] * 10]) == 0


def test_a_model_that_is_fitted_inside_does_not_see_calibration_rows(data):
    X, y = data
    model = uqlib.SplitConformalRegressor(
        QuantizedRegressor(Ridge(), scheme="w8"), random_state=0
    ).fit(X, y)
    interval = model.predict_interval(X)
    assert np.isfinite(interval).all()


def test_a_quantized_model_is_any_model(data):
    X, y = data
    frozen = FrozenEstimator(quantized(X[:200], y[:200]))
    point = frozen.predict(X[300:])
    rows = slice(200, 300)
    interval = uqlib.SplitConformalRegressor(frozen).fit(X[rows], y[rows])
    score = np.sort(np.abs(y[rows] - frozen.predict(X[rows])))
    threshold = score[int(np.ceil(101 * 0.9)) - 1]
    np.testing.assert_allclose(
        interval.predict_interval(X[300:]),
        np.column_stack([point - threshold, point + threshold]),
        rtol=1e-12,
    )
    batch = uqlib.BatchPredictiveInference(frozen).fit(X[rows], y[rows])
    assert np.isfinite(batch.predict_batch_interval(X[300:304])).all()
    bias = uqlib.SPARegressor(frozen).fit(X[rows], y[rows]).predict_uncertainty(X)
    assert np.isfinite(bias.bias).all()
    labels = y > 0
    classifier = QuantizedClassifier(LogisticRegression(), scheme="w4")
    sets = uqlib.ConformalClassifier(classifier, random_state=0).fit(X, labels)
    assert sets.predict_set(X).shape == (442, 2)


def test_a_search_over_schemes(data):
    X, y = data
    search = GridSearchCV(
        QuantizedRegressor(Ridge(), last_layer_bits=None),
        {"scheme": ["w8", "w2", uqlib.QuantizationScheme.parse("w4g2")]},
        cv=3,
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert search.best_params_["scheme"] == "w8" or scores[2] >= scores[0]
    assert scores[1] < scores[0]
