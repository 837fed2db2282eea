"""Tree models of all libraries, and rows that lie on their thresholds."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits, make_friedman1

from uqlib.quantized import _tree_reference as reference
from uqlib.quantized._tree_extraction import extract_trees

METHODS = ("predict", "predict_proba", "decision_function")


def friedman(n_samples=250):
    """Return X (n_samples, 6) and a noisy target."""
    return make_friedman1(n_samples, 6, noise=1.0, random_state=0)


def cancer():
    """Return a binary data set."""
    return load_breast_cancer(return_X_y=True)


def digits(n_samples=300):
    """Return a data set of ten classes."""
    X, y = load_digits(return_X_y=True)
    return X[:n_samples], y[:n_samples]


def with_nan(X, share=0.1, seed=0):
    """Return X with missing values anywhere."""
    X = np.array(X, dtype=float)
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


def beside(threshold, rng):
    """Return a threshold, or the next float on either side in either precision."""
    if np.isinf(threshold):
        return threshold
    toward = rng.choice([threshold, -np.inf, np.inf])
    value = np.nextafter(threshold, threshold.dtype.type(toward))
    return np.nextafter(float(value), rng.choice([float(value), -np.inf, np.inf]))


def threshold_rows(trees, X, seed=0):
    """Return rows with values on thresholds and at the next float on either side."""
    rng = np.random.default_rng(seed)
    rows = np.array(X[rng.integers(len(X), size=120)], dtype=float)
    columns = trees.columns
    for row in rows:
        for column in rng.integers(max(1, columns.n_columns), size=3):
            if columns.n_columns and columns.numbers(column).size:
                on = rng.choice(columns.numbers(column))
                row[columns.feature[column]] = beside(on, rng)
    return rows if trees.inputs.allow_inf else np.clip(rows, -1e30, 1e30)


def awkward_inputs(trees, X):
    """Yield X in all forms that a model may meet, with all values that it takes."""
    rng = np.random.default_rng(1)
    rows = threshold_rows(trees, X)
    signed = rows.copy()
    signed[rng.random(rows.shape) < 0.1] = 0.0
    signed[rng.random(rows.shape) < 0.1] = -0.0
    signed[rng.random(rows.shape) < 0.05] = 1e-36
    yield from (X, rows, signed, rows.astype(np.float32), X[:1])
    yield np.asfortranarray(X)
    yield np.repeat(X, 2, axis=0)[::2]
    yield np.nan_to_num(10 * X).astype(int)
    if trees.inputs.allow_nan:
        yield with_nan(signed, 0.2)
        yield np.full_like(X[:2], np.nan)
    if trees.inputs.allow_inf:
        infinite = with_nan(signed, 0.1)
        infinite[rng.random(rows.shape) < 0.1] = np.inf
        infinite[rng.random(rows.shape) < 0.1] = -np.inf
        yield infinite


def assert_same_bits(found, expected):
    """Equal shape, type and values; -0.0 == 0.0 as everywhere."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def assert_repeats(model, X):
    """All methods of the trees equal those of the model, on all kinds of rows."""
    trees = extract_trees(model)
    for rows in awkward_inputs(trees, X):
        for method in METHODS:
            if hasattr(model, method):
                found = getattr(reference, method)(trees, rows)
                assert_same_bits(found, getattr(model, method)(rows))
    return trees


def lightgbm_model(name, **parameters):
    lightgbm = pytest.importorskip("lightgbm")
    common = {"n_estimators": 8, "n_jobs": 1, "verbose": -1, "min_child_samples": 5}
    return getattr(lightgbm, name)(**{**common, **parameters})


def xgboost_model(name, **parameters):
    xgboost = pytest.importorskip("xgboost")
    return getattr(xgboost, name)(**{"n_estimators": 8, "n_jobs": 1, **parameters})
