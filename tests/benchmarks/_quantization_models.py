"""Models to quantize, rows that they have not seen, and what is measured of them."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits, make_friedman1
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests._data import data_folder
from tests._real_data import block_splits
from uqlib import TorchQuantileRegressor, pinball_loss
from uqlib.quantized import coverage_report

N_QUANTIZATION = 256  # rows, all of them rows of training
ENDS = (0.05, 0.95)


class Case(NamedTuple):
    """A fitted float model with its four sets of rows."""

    model: Any
    X_train: np.ndarray
    X_quantization: np.ndarray
    calibration: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def friedman(seed, weight_decay=1e-4):
    """Return a network on Friedman's first function with noise that grows with x_0."""
    rng = np.random.default_rng(seed)
    X, y = make_friedman1(6000, n_features=20, random_state=seed)
    y = y + (0.5 + 2 * X[:, 0]) * rng.normal(size=len(y))
    train, calibration, test = np.split(np.arange(6000), [4000, 5000])
    y = (y - y[train].mean()) / y[train].std()
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64, 64),
        alpha=weight_decay,
        batch_size=64,
        early_stopping=True,
        random_state=seed,
    )
    model = make_pipeline(StandardScaler(), network).fit(X[train], y[train])
    return _case(model, X, y, train, calibration, test)


def digits(seed):
    """Return a network on scikit-learn's digits."""
    X, y = load_digits(return_X_y=True)
    train, rest = train_test_split(
        np.arange(len(y)), test_size=0.5, stratify=y, random_state=seed
    )
    calibration, test = np.array_split(rest, 2)
    network = MLPClassifier(
        hidden_layer_sizes=(64, 64, 64),
        batch_size=64,
        max_iter=30,
        n_iter_no_change=30,
        random_state=seed,
    )
    return _case(
        network.fit(X[train] / 16, y[train]), X / 16, y, train, calibration, test
    )


def real_rows(name):
    """Return the rows of a real data set, or None where it is absent."""
    path = data_folder() / f"{name}.csv.gz"
    if not path.is_file():
        print(f"{name} is not at {path}: left out")
        return None
    table = pd.read_csv(path)
    return table.drop(columns="target").to_numpy(float), table["target"].to_numpy(float)


def real_model(kind, seed):
    """Return an unfitted model of a kind."""
    if kind == "boosting":
        return HistGradientBoostingRegressor(max_iter=200, random_state=seed)
    if kind == "quantile network":
        return TorchQuantileRegressor(ENDS, random_state=seed)
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64),
        alpha=1e-2,
        batch_size=64,
        learning_rate_init=2e-3,
        early_stopping=True,
        n_iter_no_change=20,
        max_iter=150,
        random_state=seed,
    )
    return make_pipeline(StandardScaler(), network)


def real_case(kind, X, y, seed):
    """Return a model of a kind fitted in a split; test rows of splits are disjoint."""
    split = block_splits(len(y))[seed]
    y = (y - y[split.train].mean()) / y[split.train].std()
    model = real_model(kind, seed).fit(X[split.train], y[split.train])
    return _case(model, X, y, split.train, split.calibration, split.test)


def _case(model, X, y, train, calibration, test):
    rows = np.random.default_rng(0).permutation(train)[:N_QUANTIZATION]
    held = (X[calibration], y[calibration]), (X[test], y[test])
    return Case(model, X[train], X[rows], *held)


def measure(case, quantized, confidence_level):
    """Return what a quantized model is worth, as numbers."""
    rows = (*case.calibration, *case.test)
    report = coverage_report(
        case.model, quantized, *rows, confidence_level=confidence_level
    )
    return {
        "error": error(quantized, *case.test),
        "float_error": error(case.model, *case.test),
        "width": report.recalibrated.mean_width,
        "width_ratio": report.width_ratio,
        "stale": report.stale.coverage,
        "coverage": report.recalibrated.coverage,
        "n_test": report.n_test,
        "bits": getattr(quantized, "effective_bits_", 32.0),
        "compression": getattr(quantized, "compression_ratio_", 1.0),
    }


def error(model, X, y):
    """Return the RMSE, the pinball loss of both ends, or the share of wrong labels."""
    if hasattr(model, "predict_proba"):
        return float(np.mean(model.predict(X) != y))
    if hasattr(model, "predict_quantiles"):
        return pinball_loss(y, model.predict_quantiles(X, list(ENDS)), ENDS)
    return float(np.sqrt(np.mean((model.predict(X) - y) ** 2)))
