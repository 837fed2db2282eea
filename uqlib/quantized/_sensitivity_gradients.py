r"""How outputs and losses of a network move with the weights of its layers.

With the layers y_l = W_l x_l + b_l, x_{l+1} = a(y_l) and cotangents v of shape
(n_samples, n_outputs), the backward pass

    d_L = v,     d_{l-1} = a'(y_{l-1}) * (d_l W_l)

gives the gradient of <v, f> with respect to W_l as the sum over rows of d_l x_l^T. A
row alone contributes d x^T, of squared norm |d|^2 |x|^2.

Trace. The Gauss-Newton matrix of mean over rows of |f|^2 / 2 is H = J^T J / n, with J
the derivative of all outputs of all rows with respect to W_l, so that

    tr H = |J|_F^2 / n = mean over rows of sum_k |d_k|^2 |x|^2,

with d_k the backward pass of output k: exact, one pass for each output. With random
signs v

    E |J^T v|^2 = tr(J J^T) = n tr H

(Hutchinson): one pass for each probe, whatever the number of outputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from uqlib._typing import FloatArray
from uqlib.quantized._dense import ACTIVATIONS, DenseNetwork

Gradients = Callable[[FloatArray], Mapping[str, FloatArray]]
_FEWEST_PROBES, _MOST_PROBES = 32, 512
_RELATIVE_ERROR = 0.05  # of the estimates, one standard error
_MOST_PASSES = 64  # outputs for which the exact trace is taken


def _silu_slope(z: FloatArray) -> FloatArray:
    s = expit(z)
    slope: FloatArray = s * (1 + z * (1 - s))
    return slope


SLOPES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "identity": np.ones_like,
    "relu": lambda z: (z > 0).astype(z.dtype),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "logistic": lambda z: expit(z) * expit(-z),
    "silu": _silu_slope,
}


def output_traces(
    adapter: Any, X: Any, n_outputs: int, rng: np.random.RandomState
) -> dict[str, float]:
    """Return the trace of the Gauss-Newton matrix of the outputs for each layer.

    Parameters
    ----------
    adapter : DenseNetwork or TorchNetwork
        The float network.
    X : array-like of shape (n_samples, n_features)
        Rows.
    n_outputs : int
        Columns of its outputs.
    rng : RandomState
        Draws the signs of the probes where there are any.

    Returns
    -------
    dict of str to float
        Exact for dense networks of at most 64 outputs, else from 32 to 512 probes,
        until the standard errors are below 5 %.
    """
    if isinstance(adapter, DenseNetwork) and n_outputs <= _MOST_PASSES:
        return exact_traces(adapter, X, n_outputs)
    shape = (len(adapter.outputs(X, {})), n_outputs)
    return hutchinson_traces(gradient_function(adapter, X, "trace"), shape, rng)


def gradient_function(adapter: Any, X: Any, criterion: str) -> Gradients:
    """Return the map from cotangents to the gradients of the weights.

    Parameters
    ----------
    adapter : NetworkAdapter
        The float network.
    X : array-like of shape (n_samples, n_features)
        Rows.
    criterion : str
        Named in the error.

    Returns
    -------
    callable
        From an array (n_samples, n_outputs) to matrices (n_out, n_in) by layer.

    Raises
    ------
    ValueError
        If the network has no gradients.
    """
    if isinstance(adapter, DenseNetwork):
        return lambda cotangents: weight_gradients(adapter, X, cotangents)
    if hasattr(adapter, "host"):
        from uqlib.quantized._torch_sensitivity import torch_weight_gradients

        return lambda cotangents: torch_weight_gradients(adapter, X, cotangents)
    raise ValueError(
        f"criterion={criterion!r} needs gradients, which {type(adapter).__name__} does "
        "not have. Use criterion='interval_drift', which needs outputs alone."
    )


def weight_gradients(
    network: DenseNetwork, X: Any, cotangents: FloatArray
) -> dict[str, FloatArray]:
    """Return the gradients of <cotangents, outputs> with respect to the weights.

    Parameters
    ----------
    network : DenseNetwork
        In float.
    X : array-like of shape (n_samples, n_features)
        Rows.
    cotangents : ndarray of shape (n_samples, n_outputs)
        Weights of the outputs.

    Returns
    -------
    dict of str to ndarray of shape (n_out, n_in)
        By layer, float64.
    """
    inputs, slopes = _forward(network, X)
    backward = _backward(network, slopes, cotangents)
    return {
        spec.name: delta.T @ x
        for spec, delta, x in zip(network.layers, backward, inputs, strict=True)
    }


def exact_traces(network: DenseNetwork, X: Any, n_outputs: int) -> dict[str, float]:
    """Return mean over rows of sum_k |d_k|^2 |x|^2 for each layer.

    Parameters
    ----------
    network : DenseNetwork
        In float.
    X : array-like of shape (n_samples, n_features)
        Rows.
    n_outputs : int
        Columns of the outputs.

    Returns
    -------
    dict of str to float
        By layer.
    """
    inputs, slopes = _forward(network, X)
    energies = [np.einsum("ij,ij->i", x, x) for x in inputs]
    total = np.zeros(len(inputs))
    for k in range(n_outputs):
        cotangents = np.zeros((len(inputs[0]), n_outputs))
        cotangents[:, k] = 1.0
        for depth, delta in enumerate(_backward(network, slopes, cotangents)):
            total[depth] += np.einsum("ij,ij,i->", delta, delta, energies[depth])
    names = [spec.name for spec in network.layers]
    return dict(zip(names, (total / len(inputs[0])).tolist(), strict=True))


def hutchinson_traces(
    gradients: Gradients, shape: tuple[int, int], rng: np.random.RandomState
) -> dict[str, float]:
    """Return the mean over probes v of |J^T v|^2 / n_samples for each layer.

    Parameters
    ----------
    gradients : callable
        From cotangents to gradients, as `gradient_function` gives it.
    shape : tuple of int
        (n_samples, n_outputs).
    rng : RandomState
        Draws the signs.

    Returns
    -------
    dict of str to float
        From 32 to 512 probes, until the standard errors are below 5 %.
    """
    norms: list[list[float]] = []
    names: list[str] = []
    while len(norms) < _MOST_PROBES:
        signs = 2.0 * rng.randint(0, 2, size=shape) - 1.0
        found = gradients(signs)
        names = list(found)
        norms.append([float(np.sum(g * g)) / shape[0] for g in found.values()])
        if len(norms) >= _FEWEST_PROBES and _is_precise(np.array(norms)):
            break
    return dict(zip(names, np.mean(norms, axis=0).tolist(), strict=True))


def _is_precise(norms: NDArray[np.float64]) -> bool:
    error = norms.std(axis=0, ddof=1) / np.sqrt(len(norms))
    return bool((error <= _RELATIVE_ERROR * norms.mean(axis=0)).all())


def _forward(
    network: DenseNetwork, X: Any
) -> tuple[list[NDArray[np.float64]], list[FloatArray]]:
    """Return what enters each layer, and the slopes of the activations between."""
    first = network.layers[0].name
    chunks = list(network.layer_inputs(X, first, {}))
    inputs = [np.concatenate(chunks).astype(np.float64)]
    slopes: list[FloatArray] = []
    for spec in network.layers[:-1]:
        y = inputs[-1] @ spec.weight.T.astype(np.float64)
        y = y if spec.bias is None else y + spec.bias
        inputs.append(ACTIVATIONS[network.activation](y).astype(np.float64))
        slopes.append(SLOPES[network.activation](y))
    return inputs, slopes


def _backward(
    network: DenseNetwork, slopes: list[FloatArray], cotangents: FloatArray
) -> list[FloatArray]:
    """Return d of every layer, each of shape (n_samples, n_out), first layer first."""
    delta: FloatArray = np.asarray(cotangents, dtype=np.float64)
    deltas = [delta]
    for spec, slope in zip(network.layers[:0:-1], reversed(slopes), strict=True):
        delta = slope * (delta @ spec.weight.astype(np.float64))
        deltas.append(delta)
    return deltas[::-1]
