r"""Weights that depend on the features: a network read from arrays.

For a row x the network gives one number g a weight. With columns c = (model, source
level), C of them, for each output level k,

    simplex:     w_ck = exp(g_ck) / sum_c exp(g_ck),
    sum to one:  w_ck = g_ck - mean_c g_ck + 1 / C,
    free:        w_ck = g_ck.

The hidden layers are ELU, the last one linear. Training needs torch; prediction does
not: the fitted network is a list of arrays, and a large one is applied to a few rows at
a time, because a row of the fine resolution has n_models n_quantiles^2 weights.
"""

from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from uqlib._typing import FloatArray

_CHUNK = 2**19  # weights held at once
# A network sees features up to this many standard deviations from the mean: beyond the
# training rows it extrapolates as a constant.
_FEATURE_BOUND = 5.0


def feature_encoder(X: Any) -> Any:
    """Return an unfitted transformer of X to standardized numbers.

    Parameters
    ----------
    X : {array-like, dataframe} of shape (n_samples, n_features)
        Numbers, missing ones included; in a dataframe other columns are one-hot
        encoded.

    Returns
    -------
    transformer
        Of scikit-learn.
    """
    numeric = make_pipeline(
        SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    if not hasattr(X, "columns"):
        return numeric
    kinds = [_kind(X[name]) for name in X.columns]
    numbers = [j for j, kind in enumerate(kinds) if kind in "fiub"]
    others = [j for j, kind in enumerate(kinds) if kind not in "fiub"]
    one_hot = make_pipeline(
        FunctionTransformer(_as_text),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False, max_categories=30),
    )
    return make_column_transformer((numeric, numbers), (one_hot, others))


def _as_text(X: Any) -> Any:
    # Whatever is in a column is a category: mixed types, dates, missing values.
    values = np.asarray(X, dtype=object)
    return np.array([[str(value) for value in row] for row in values], dtype=object)


def can_encode(X: Any) -> bool:
    """Return whether `feature_encoder` takes features of this kind.

    Parameters
    ----------
    X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    bool
        True for dataframes and for dense arrays of numbers.
    """
    if issparse(X):
        return False
    return hasattr(X, "columns") or np.asarray(X).dtype.kind in "fiub"


def gate_features(encoder: Any, X: Any) -> FloatArray:
    """Return the features that the network sees.

    Parameters
    ----------
    encoder : transformer
        Fitted.
    X : {array-like, dataframe} of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    ndarray of shape (n_samples, n_inputs)
        Standardized and bounded, float32.
    """
    encoded = np.asarray(encoder.transform(X), dtype=np.float64)
    return np.clip(encoded, -_FEATURE_BOUND, _FEATURE_BOUND).astype(np.float32)


def gate_weights(
    features: FloatArray, layers: list[Any], shape: tuple[int, ...], constraint: str
) -> FloatArray:
    """Return the weights of each row.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_inputs)
        As `gate_features` gives them.
    layers : list of (ndarray of shape (n_in, n_out), ndarray of shape (n_out,))
        Matrix and bias of each layer.
    shape : tuple of int
        (n_models, n_sources, n_outputs), the shape of the weights of a row.
    constraint : {"simplex", "sum_to_one", "free"}
        How the network's numbers become weights.

    Returns
    -------
    ndarray of shape (n_samples, n_models, n_sources, n_outputs)
        Weights, float32.
    """
    value = features
    for matrix, bias in layers[:-1]:
        value = value @ matrix + bias
        value = np.where(value > 0, value, np.expm1(np.minimum(value, 0)))
    matrix, bias = layers[-1]
    value = (value @ matrix + bias).reshape(-1, shape[0] * shape[1], shape[2])
    if constraint == "sum_to_one":
        value -= value.mean(axis=1, keepdims=True) - 1 / value.shape[1]
    if constraint == "simplex":
        value -= value.max(axis=1, keepdims=True)
        np.exp(value, out=value)
        value /= value.sum(axis=1, keepdims=True)
    return value.reshape(-1, *shape)


def mean_weights(
    features: FloatArray, networks: list[Any], shape: tuple[int, ...], constraint: str
) -> FloatArray:
    """Return the mean weights of several networks, with sums that are exactly one.

    Parameters
    ----------
    features, shape, constraint
        See `gate_weights`.
    networks : list of layers
        See `gate_weights`.

    Returns
    -------
    ndarray of shape (n_samples, n_models, n_sources, n_outputs)
        Weights, float64. Quantiles far from zero would lose digits to a sum that is off
        by the rounding of float32.
    """
    weights = np.zeros((len(features), *shape))
    for layers in networks:
        weights += gate_weights(features, layers, shape, constraint)
    weights /= len(networks)
    total = weights.sum(axis=(1, 2), keepdims=True)
    if constraint == "simplex":
        weights /= total
    elif constraint == "sum_to_one":
        weights += (1 - total) / (shape[0] * shape[1])
    return weights


def gated_quantiles(
    base_quantiles: FloatArray,
    features: FloatArray,
    networks: list[Any],
    sources: Any,
    shape: tuple[int, ...],
    constraint: str,
) -> FloatArray:
    """Return the quantiles with the mean weights of several networks.

    Parameters
    ----------
    base_quantiles : ndarray of shape (n_samples, n_models, n_quantiles)
        Quantiles of the models.
    features : ndarray of shape (n_samples, n_inputs)
        As `gate_features` gives them.
    networks : list of layers
        See `gate_weights`.
    sources : ndarray of int of shape (n_sources, n_quantiles)
        The level that each source of each output level is.
    shape, constraint
        See `gate_weights`.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        Weighted sums, float64.
    """
    n_samples, n_models, n_quantiles = base_quantiles.shape
    result = np.empty((n_samples, n_quantiles))
    n_rows = max(1, _CHUNK // (n_models * sources.size))
    for first in range(0, n_samples, n_rows):
        rows = slice(first, first + n_rows)
        weights = mean_weights(features[rows], networks, shape, constraint)
        part = base_quantiles[rows]
        if sources.shape[0] == 1:
            result[rows] = (part * weights[:, :, 0]).sum(axis=1)
        else:
            result[rows] = (part[:, :, sources] * weights).sum(axis=(1, 2))
    return result


def _kind(column: Any) -> str:
    return getattr(column.dtype, "kind", None) or np.asarray(column).dtype.kind
