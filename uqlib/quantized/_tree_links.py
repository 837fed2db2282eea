"""From raw values of trees to means, classes and probabilities, rounded as the library.

scikit-learn computes with NumPy's and SciPy's functions, which are called here too.
LightGBM calls the C library, whose exponential differs from NumPy's in the last bit now
and then. SciPy's functions call that of the C library: `expit`, and `inv_boxcox`, which
is the exponential itself where its second argument is 0. XGBoost calls the C library in
single precision; there the exponential is computed in double precision and rounded,
which is the nearest number where XGBoost's is one of the two nearest.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, inv_boxcox
from sklearn.utils.extmath import softmax

from uqlib._typing import FloatArray
from uqlib.quantized._trees import TreeEnsemble


def means(ensemble: TreeEnsemble, raw: FloatArray) -> FloatArray:
    """Return the predictions of a regressor.

    Parameters
    ----------
    ensemble : TreeEnsemble
        Its trees.
    raw : ndarray of shape (n_samples, n_outputs)
        Raw values.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        In the type of raw.
    """
    values = raw.ravel() if raw.shape[1] == 1 else np.ascontiguousarray(raw)
    if ensemble.link == "identity":
        return values
    if ensemble.link == "exp":
        return _exp(ensemble.source, values)
    if ensemble.link == "square":
        return np.sign(values) * values * values
    return _logistic(ensemble, values)


def probabilities(ensemble: TreeEnsemble, raw: FloatArray) -> FloatArray:
    """Return the probabilities of a classifier.

    Parameters
    ----------
    ensemble : TreeEnsemble
        Its trees.
    raw : ndarray of shape (n_samples, n_outputs)
        Raw values.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        In the type of raw.
    """
    if ensemble.link == "average":
        return _averaged(ensemble, raw)
    if ensemble.link == "softmax":
        return _softmax(ensemble.source, raw)
    if raw.shape[1] > 1:  # one against the rest
        return _logistic(ensemble, raw)
    positive = _logistic(ensemble, raw[:, 0])
    return np.stack([1 - positive, positive], axis=1)


def labels(ensemble: TreeEnsemble, raw: FloatArray) -> NDArray[Any]:
    """Return the classes that a classifier predicts.

    Parameters
    ----------
    ensemble : TreeEnsemble
        Its trees.
    raw : ndarray of shape (n_samples, n_outputs)
        Raw values.

    Returns
    -------
    ndarray of shape (n_samples,)
        Entries of `classes`.
    """
    if ensemble.classes is None:
        raise ValueError("labels needs the trees of a classifier, got a regressor.")
    chosen = ensemble.classes[_class_numbers(ensemble, raw)]
    return np.asarray(chosen)


def _class_numbers(ensemble: TreeEnsemble, raw: FloatArray) -> NDArray[np.int64]:
    """Break ties as the library does."""
    if ensemble.source in ("hist_gradient_boosting", "gradient_boosting"):
        if raw.shape[1] > 1:
            return np.asarray(np.argmax(raw, axis=1))
        ties_win = ensemble.source == "gradient_boosting"
        positive = raw[:, 0] >= 0 if ties_win else raw[:, 0] > 0
        return positive.astype(np.int64)
    proba = probabilities(ensemble, raw)
    if ensemble.source == "xgboost" and proba.shape[1] == 2:
        return np.asarray(proba[:, 1] > 0.5).astype(np.int64)
    return np.asarray(np.argmax(proba, axis=1))


def _averaged(ensemble: TreeEnsemble, raw: FloatArray) -> FloatArray:
    """Return averages, which sum to 1 but for rounding if the leaves are exact."""
    if ensemble.leaf_grid is None:
        return np.ascontiguousarray(raw)
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def _logistic(ensemble: TreeEnsemble, raw: FloatArray) -> FloatArray:
    if ensemble.source == "xgboost":
        raw = np.maximum(raw, np.float32(-88.7))  # below, XGBoost stops there
    scale = raw.dtype.type(ensemble.link_scale)
    return np.asarray(expit(scale * np.ascontiguousarray(raw)))


def _softmax(source: str, raw: FloatArray) -> FloatArray:
    if source == "hist_gradient_boosting":
        return np.asarray(softmax(np.asfortranarray(raw)))
    if source == "gradient_boosting":
        return np.asarray(softmax(np.ascontiguousarray(raw)))
    powers = _exp(source, raw - raw.max(axis=1, keepdims=True))
    total = np.zeros(len(raw))  # float64, class after class
    for column in powers.T:
        total += column
    return np.asarray(powers / total.astype(raw.dtype)[:, None])


def _exp(source: str, values: FloatArray) -> FloatArray:
    if source == "hist_gradient_boosting":
        return np.asarray(np.exp(values))
    powers = inv_boxcox(values.astype(np.float64), 0.0)
    with np.errstate(over="ignore"):
        return np.asarray(powers.astype(values.dtype))
