"""Small models to quantize, save and load."""

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.neural_network import MLPRegressor

from uqlib.quantized._models import quantize
from uqlib.quantized._saved_models import load_estimator, save_model

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")
N_FEATURES = 6
_rng = np.random.default_rng(0)
X = _rng.normal(size=(80, N_FEATURES))
y = X @ np.arange(N_FEATURES) / 3 + _rng.normal(size=80)
names = np.array(["no", "yes", "other"])[_rng.integers(0, 3, size=80)]
# Stops after two steps without a warning.
SHORT = {"max_iter": 50, "tol": 1e9, "n_iter_no_change": 1, "random_state": 0}


def mlp(kind=MLPRegressor, sizes=(7, 5), **parameters):
    return kind(hidden_layer_sizes=sizes, **(SHORT | parameters))


def quantized(model, target, scheme="w4", rows=X, **parameters):
    parameters = {"last_layer_bits": None, "random_state": 0} | parameters
    return quantize(clone(model).fit(rows, target), scheme, rows, **parameters)


def saved(model, folder, name="model.safetensors"):
    path = folder / name
    save_model(path, model)
    return path


def assert_same_predictions(found, expected, rows=X):
    for method in METHODS:
        assert hasattr(found, method) == hasattr(expected, method), method
        if hasattr(expected, method):
            mine, other = getattr(found, method)(rows), getattr(expected, method)(rows)
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)


def assert_comes_back(model, folder, rows=X, estimator=None):
    path = saved(model, folder)
    again = load_estimator(type(model), path, estimator)
    assert_same_predictions(again, model, rows)
    assert again.nbytes_ == model.nbytes_
    assert again.effective_bits_ == model.effective_bits_
    assert again.scheme_ == model.scheme_
    assert again.n_features_in_ == model.n_features_in_
    assert again.report_.skipped == model.report_.skipped
    save_model(folder / "again", again)
    if estimator is None or hasattr(again, "estimator_"):
        assert (folder / "again").read_bytes() == path.read_bytes()
    return again


TREES = {
    "hist": (HistGradientBoostingRegressor(max_iter=5), y),
    "hist classes": (HistGradientBoostingClassifier(max_iter=3), names),
    "boosting": (GradientBoostingRegressor(n_estimators=3, random_state=0), y),
    "forest": (RandomForestRegressor(3, random_state=0), y),
    "forest classes": (RandomForestClassifier(3, random_state=0), names),
}
