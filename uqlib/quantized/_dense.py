"""Networks of dense layers in NumPy: multilayer perceptrons and linear models.

What comes after the last layer (a link, labels for classes) is left to the model
itself: a copy of it that has one layer, the identity, gets the outputs of the network
as its features. So predictions, probabilities and labels are made by the code that made
them in float.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if

from uqlib._typing import FloatArray
from uqlib.quantized._adapter import LayerSpec, QuantizedLayers, SkippedLayer
from uqlib.quantized._dense_kernels import (
    CompiledLayers,
    compiled,
    network_operations,
)

ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": expit,
    "silu": lambda x: x * expit(x),
}
METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function")
_CHUNK = 2**22  # numbers held at once in the widest layer


@dataclass(frozen=True, eq=False)
class DenseNetwork:
    """Layers in a row with one activation between them; an adapter.

    Parameters
    ----------
    model : estimator
        The float model.
    layers : tuple of LayerSpec
        In order of execution.
    activation : str
        A name of `ACTIVATIONS`, between the layers.
    write : callable (model, weights) -> None
        Puts matrices (n_out, n_in) and biases into a copy of the model.
    head : estimator
        The model after its last layer: its features are the outputs of the network.
    """

    model: Any
    layers: tuple[LayerSpec, ...]
    activation: str
    write: Callable[[Any, list[tuple[FloatArray, Any]]], None]
    head: Any
    skipped: tuple[SkippedLayer, ...] = ()

    def layer_inputs(
        self, X: Any, name: str, quantized: QuantizedLayers
    ) -> Iterator[FloatArray]:
        """Yield what enters a layer, some rows at a time."""
        depth = [layer.name for layer in self.layers].index(name)
        for chunk in self._chunks(X):
            for k in range(depth):
                chunk = ACTIVATIONS[self.activation](self._layer(k, chunk, quantized))
            yield chunk

    def outputs(self, X: Any, quantized: QuantizedLayers) -> FloatArray:
        """Return the outputs of the last layer.

        `CompiledLayers` are computed in single precision, unless a number on the way is
        beyond it.
        """
        if isinstance(quantized, CompiledLayers):
            found = self._compiled_outputs(X, quantized)
            if _all_finite(found):
                return found
        last = self.layers[-1].name
        return np.concatenate(
            [
                self._layer(len(self.layers) - 1, chunk, quantized)
                for chunk in self.layer_inputs(X, last, quantized)
            ]
        )

    def quantized_model(
        self, quantized: QuantizedLayers, backend: str = "reference"
    ) -> Any:
        """Return a model that predicts from the codes."""
        layers = compiled(self.layers, quantized, backend)
        has_kernels = isinstance(layers, CompiledLayers)
        if not has_kernels and all(x.activation is None for x in layers.values()):
            return self.dequantized(quantized)
        return HeadModel(self, layers)

    def operations(self, quantized: QuantizedLayers, backend: str) -> dict[str, str]:
        """Return what computes each quantized layer, by name."""
        return network_operations(self.layers, quantized, backend)

    def dequantized(self, quantized: QuantizedLayers) -> Any:
        """Return a copy of the float model with the rounded weights."""
        model = deepcopy(self.model)
        self.write(model, [_effective(spec, quantized) for spec in self.layers])
        return model

    def predicted(
        self, method: str, X: Any, quantized: QuantizedLayers, *args: Any, **kwargs: Any
    ) -> Any:
        """Return what a method of the model makes of the outputs of the layers.

        Parameters
        ----------
        method : str
            Of the head.
        X : array-like of shape (n_samples, n_features)
            Rows.
        quantized : mapping of str to QuantizedLayer
            Layers that compute on their grids.
        *args, **kwargs
            Of the method.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        """
        outputs = self.outputs(X, quantized)
        if method == "predict" and _is_unchanged(self.head, outputs):
            return outputs[:, 0] if _is_flat(self.head, outputs) else outputs
        return getattr(self.head, method)(outputs, *args, **kwargs)

    def _layer(self, k: int, x: FloatArray, quantized: QuantizedLayers) -> FloatArray:
        spec = self.layers[k]
        if spec.name in quantized:
            return quantized[spec.name](x)
        y = x @ spec.weight.T
        return y if spec.bias is None else y + spec.bias

    def _compiled_outputs(self, X: Any, quantized: CompiledLayers) -> FloatArray:
        forward = quantized.forward(self)
        parts = [
            forward(chunk).astype(chunk.dtype, copy=False)
            for chunk in self._chunks(X, needs_finite=False)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _chunks(self, X: Any, needs_finite: bool = True) -> Iterator[FloatArray]:
        """Yield rows, some at a time; all but `needs_finite` is checked in any case."""
        X = checked_rows(X, needs_finite)
        n_rows = max(1, _CHUNK // self._widest)
        for first in range(0, len(X), n_rows):
            yield X[first : first + n_rows]

    @cached_property
    def _widest(self) -> int:
        return max(int(max(layer.weight.shape)) for layer in self.layers)


def checked_rows(X: Any, needs_finite: bool = True) -> FloatArray:
    """Return rows as an array of floats, as scikit-learn's `check_array` does.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Of an array of floats nothing but its shape and its numbers is looked at.
    needs_finite : bool, default=True
        Whether the numbers of an array of floats are looked at.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        float64 or float32.
    """
    is_plain = (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.size > 0
        and (X.dtype == np.float64 or X.dtype == np.float32)
        and X.dtype.isnative
    )
    if is_plain and (not needs_finite or np.isfinite(X).all()):
        return X  # type: ignore[no-any-return]
    checked: FloatArray = check_array(X, dtype=[np.float64, np.float32])
    return checked


# What scikit-learn's own regressors make of one layer, the identity, is its inputs;
# they look at them for some 50 microseconds.
def _is_unchanged(head: Any, outputs: FloatArray) -> bool:
    is_mlp = type(head) is MLPRegressor and head.out_activation_ == "identity"
    if not (is_mlp or type(head).predict is LinearRegression.predict):
        return False
    own = head.coefs_[0] if is_mlp else head.coef_
    return bool(own.dtype == outputs.dtype) and _all_finite(outputs)


def _all_finite(values: FloatArray) -> bool:
    if values.size == 1:  # a tenth of the time
        return isfinite(values.item())
    return bool(np.isfinite(values).all())


def _is_flat(head: Any, outputs: FloatArray) -> bool:
    if type(head) is MLPRegressor:
        return bool(outputs.shape[1] == 1)
    flat: bool = head.coef_.ndim == 1
    return flat


def _head_has(method: str) -> Any:
    return available_if(lambda model: hasattr(model.network.head, method))


class HeadModel:
    """A quantized network with the prediction methods of its float model.

    Parameters
    ----------
    network : DenseNetwork
        The float network.
    quantized : mapping of str to QuantizedLayer
        Its layers on grids.
    """

    def __init__(self, network: DenseNetwork, quantized: QuantizedLayers) -> None:
        self.network, self.quantized = network, quantized

    def __getattr__(self, name: str) -> Any:
        # The levels and classes of the float model; nothing before there is one.
        if name in ("quantiles_", "expectiles_", "classes_", "n_features_in_"):
            return getattr(self.network.model, name)
        raise AttributeError(name)

    def predict(self, X: Any) -> Any:
        """Return points or classes, of shape (n_samples,) or (n_samples, m)."""
        return self._ask("predict", X)

    @_head_has("predict_quantiles")
    def predict_quantiles(self, X: Any, quantiles: Any = None) -> FloatArray:
        """Return quantiles, of shape (n_samples, n_quantiles)."""
        values: FloatArray = self._ask("predict_quantiles", X, quantiles)
        return values

    @_head_has("predict_expectiles")
    def predict_expectiles(self, X: Any) -> FloatArray:
        """Return expectiles, of shape (n_samples, n_expectiles)."""
        values: FloatArray = self._ask("predict_expectiles", X)
        return values

    @_head_has("predict_proba")
    def predict_proba(self, X: Any) -> FloatArray:
        """Return probabilities, of shape (n_samples, n_classes)."""
        values: FloatArray = self._ask("predict_proba", X)
        return values

    @_head_has("predict_log_proba")
    def predict_log_proba(self, X: Any) -> FloatArray:
        """Return logarithms of probabilities, of shape (n_samples, n_classes)."""
        values: FloatArray = self._ask("predict_log_proba", X)
        return values

    @_head_has("decision_function")
    def decision_function(self, X: Any) -> FloatArray:
        """Return decisions, of shape (n_samples,) or (n_samples, n_classes)."""
        values: FloatArray = self._ask("decision_function", X)
        return values

    def _ask(self, method: str, X: Any, *args: Any) -> Any:
        return self.network.predicted(method, X, self.quantized, *args)


def mlp_network(model: Any) -> DenseNetwork:
    """Return a fitted `MLPRegressor` or `MLPClassifier` as layers.

    Parameters
    ----------
    model : MLPRegressor or MLPClassifier
        Fitted.

    Returns
    -------
    DenseNetwork
        Layers "layer_0", "layer_1", ...
    """
    layers = tuple(
        LayerSpec(f"layer_{k}", matrix.T.copy(), bias.copy())
        for k, (matrix, bias) in enumerate(
            zip(model.coefs_, model.intercepts_, strict=True)
        )
    )
    head = deepcopy(model)
    n_outputs = model.n_outputs_
    dtype = model.coefs_[0].dtype
    head.coefs_ = [np.eye(n_outputs, dtype=dtype)]
    head.intercepts_ = [np.zeros(n_outputs, dtype=dtype)]
    head.n_layers_ = 2
    return DenseNetwork(
        model, layers, model.activation, _write_mlp, _on_outputs(head, n_outputs)
    )


def linear_network(model: Any) -> DenseNetwork:
    """Return a fitted linear model as one layer.

    Parameters
    ----------
    model : estimator
        Fitted, with `coef_` and `intercept_`.

    Returns
    -------
    DenseNetwork
        One layer, "coef".
    """
    weight = np.atleast_2d(np.asarray(model.coef_))
    n_out = weight.shape[0]
    bias = np.broadcast_to(np.asarray(model.intercept_, weight.dtype), n_out).copy()
    head = deepcopy(model)
    identity = np.eye(n_out, dtype=weight.dtype)
    head.coef_ = identity if model.coef_.ndim == 2 else identity[0]
    head.intercept_ = np.zeros_like(np.asarray(model.intercept_))
    layer = LayerSpec("coef", weight.copy(), bias)
    return DenseNetwork(
        model, (layer,), "identity", _write_linear, _on_outputs(head, n_out)
    )


def _on_outputs(head: Any, n_outputs: int) -> Any:
    """Let a model take the outputs of its network for its features."""
    head.n_features_in_ = n_outputs
    if hasattr(head, "feature_names_in_"):
        del head.feature_names_in_
    return head


def _effective(
    spec: LayerSpec, quantized: QuantizedLayers
) -> tuple[FloatArray, FloatArray | None]:
    if spec.name not in quantized:
        return spec.weight, spec.bias
    layer = quantized[spec.name]
    weight = layer.effective_weight().astype(spec.weight.dtype)
    bias = layer.bias
    return weight, None if bias is None else bias.astype(spec.weight.dtype)


def _write_mlp(model: Any, weights: list[tuple[FloatArray, Any]]) -> None:
    model.coefs_ = [np.ascontiguousarray(weight.T) for weight, _ in weights]
    model.intercepts_ = [bias for _, bias in weights]


def _write_linear(model: Any, weights: list[tuple[FloatArray, Any]]) -> None:
    (weight, bias) = weights[0]
    model.coef_ = weight.reshape(np.shape(model.coef_))
    shape = np.shape(model.intercept_)
    model.intercept_ = bias.reshape(shape) if shape else bias.dtype.type(bias[0])
