r"""Networks as arrays: how quantiles are read from a multilayer perceptron.

A hidden layer is h -> silu(h W + b) with silu(t) = t / (1 + exp(-t)), the last layer
is linear. With z its output for one row, the quantile of level tau_k is, by kind,

    "quantiles"   z_k,
    "softplus"    z_c + softplus(z_{c+1}) + ... + softplus(z_k)   above the center c,
                  z_c - softplus(z_{c-1}) - ... - softplus(z_k)   below it,
    "gaussian"    z_1 + s Phi^{-1}(tau_k),  s = MIN_SCALE + softplus(z_2),
    "level"       z_1, where sqrt(12) (tau_k - 1/2) and Phi^{-1}(tau_k) are two inputs
                  more: of a uniform level both have mean 0 and variance 1, and the
                  second tells extreme levels apart.

Training needs torch; prediction does not. It is done in float64, so that what a row is
given depends on the row alone, not on the rows beside it.
"""

from typing import Any

import numpy as np
from scipy.special import ndtri

from uqlib._typing import FloatArray
from uqlib.quantile._neural_data import Scaling, standardize

KINDS = ("quantiles", "softplus", "gaussian", "level")
ANY_LEVEL = ("gaussian", "level")
# Of the normal law, in units of the spread of the target: without a floor the
# likelihood of a target that can be predicted exactly has no maximum.
MIN_SCALE = 1e-3
LEVEL_SCALE = 12**0.5
N_LEVEL_INPUTS = 2
_CHUNK = 2**21  # numbers held at once in the widest layer


def network_quantiles(
    X: FloatArray, scaling: Scaling, layers: list[Any], levels: FloatArray, kind: str
) -> FloatArray:
    """Return the quantiles that a network gives, a few rows at a time.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    scaling : Scaling
        Of the training rows.
    layers : list of (ndarray of shape (n_in, n_out), ndarray of shape (n_out,))
        Matrix and bias of each layer, float64.
    levels : ndarray of shape (n_quantiles,)
        The levels; those of the last layer unless the kind gives any level.
    kind : {"quantiles", "softplus", "gaussian", "level"}
        How quantiles are read.

    Returns
    -------
    ndarray of shape (n_samples, n_quantiles)
        Quantiles of the target, float64.
    """
    result = np.empty((X.shape[0], levels.size))
    widest = max([X.shape[1], levels.size, *(bias.size for _, bias in layers)])
    n_rows = max(1, _CHUNK // widest)
    for first in range(0, X.shape[0], n_rows):
        rows = slice(first, first + n_rows)
        result[rows] = _read(standardize(X[rows], scaling), layers, levels, kind)
    result *= scaling.target_scale
    result += scaling.target_center
    return result


def start_bias(quantiles: FloatArray, kind: str) -> FloatArray:
    """Return the last bias with which a network gives the same quantiles in all rows.

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles,)
        Non-decreasing quantiles of the standardized target.
    kind : {"quantiles", "softplus", "gaussian", "level"}
        How quantiles are read.

    Returns
    -------
    ndarray of shape (n_outputs,)
        With a last matrix of zeros it gives `quantiles`; in the kind "gaussian" those
        of the standard normal law, in the kind "level" 0.
    """
    if kind == "quantiles":
        return quantiles
    if kind == "gaussian":
        return np.array([0.0, _inverse_softplus(1.0 - MIN_SCALE)])
    if kind == "level":
        return np.zeros(1)
    center = quantiles.size // 2
    gaps = _inverse_softplus(np.maximum(np.diff(quantiles), MIN_SCALE))
    return np.concatenate([gaps[:center], quantiles[[center]], gaps[center:]])


def _read(
    features: FloatArray, layers: list[Any], levels: FloatArray, kind: str
) -> FloatArray:
    if kind == "level":
        inputs = np.column_stack([LEVEL_SCALE * (levels - 0.5), ndtri(levels)])
        return np.column_stack(
            [_outputs(features, layers, row)[:, 0] for row in inputs]
        )
    z = _outputs(features, layers)
    if kind == "gaussian":
        return z[:, [0]] + (MIN_SCALE + _softplus(z[:, [1]])) * ndtri(levels)
    return _increasing(z) if kind == "softplus" else z


def _outputs(
    features: FloatArray, layers: list[Any], level: FloatArray | None = None
) -> FloatArray:
    value = features
    for k, (matrix, bias) in enumerate(layers):
        if k == 0 and level is not None:  # the same in all rows: part of the bias
            matrix, bias = matrix[: -level.size], bias + level @ matrix[-level.size :]
        value = value @ matrix + bias
        if k + 1 < len(layers):
            value *= _sigmoid(value)
    return value


def _increasing(z: FloatArray) -> FloatArray:
    center = z.shape[1] // 2
    gaps = _softplus(z)
    result = np.empty_like(z)
    result[:, center] = z[:, center]
    for k in range(center + 1, z.shape[1]):
        result[:, k] = result[:, k - 1] + gaps[:, k]
    for k in range(center - 1, -1, -1):
        result[:, k] = result[:, k + 1] - gaps[:, k]
    return result


def _sigmoid(t: FloatArray) -> FloatArray:
    # Written with tanh it overflows nowhere.
    return 0.5 * np.tanh(0.5 * t) + 0.5


def _softplus(t: FloatArray) -> FloatArray:
    return np.logaddexp(0.0, t)


def _inverse_softplus(t: Any) -> Any:
    return np.log(np.expm1(t))
