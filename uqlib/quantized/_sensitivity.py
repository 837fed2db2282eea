r"""How much a model suffers when one of its layers alone has few bits.

With f the float network, f_lb the one whose layer l alone is quantized at b bits and
means over the rows of calibration, the criteria are

    interval_drift    mean |f_lb(x) - f(x)|^2,
    kl                mean KL(f(x) || f_lb(x)),
    interval_width    width(f_lb) - width(f), of `smoothed_width`,
    trace             tr(H_l) / n_l * |W_lb - W_l|_F^2,
    taylor            sum of abs(g_l * (W_lb - W_l)),

with n_l weights W_l, the Gauss-Newton matrix H_l of the outputs and the gradient g_l of
the mean loss. A shift that all logits of a row have in common changes no probability
and is left out of their drift.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax

from uqlib._core.levels import central_pair
from uqlib._typing import FloatArray
from uqlib.quantized._adapter import LayerSpec
from uqlib.quantized._corrections import with_output_affine
from uqlib.quantized._driver import (
    LayerRows,
    layer_scheme,
    quantize_layer,
    reason_to_skip,
)
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._sensitivity_gradients import gradient_function, output_traces

Bits = tuple[Any, ...]
Layers = Mapping[str, QuantizedLayer]


class CalibratedNetwork:
    """A network with its rows of calibration, at any bits of its layers.

    A quantized layer depends on the bits of the layers before it alone, so that models
    with the same first layers share them.

    Parameters
    ----------
    adapter : NetworkAdapter
        The float network.
    X : array-like of shape (n_samples, n_features)
        What enters it.
    scheme : QuantizationScheme
        Of all layers, but for the bits.
    classes : array-like of shape (n_classes,) or None
        Of a classifier, whose outputs are logits.
    seed : int
        Of the random parts of every layer.
    """

    def __init__(
        self, adapter: Any, X: Any, scheme: QuantizationScheme, classes: Any, seed: int
    ) -> None:
        self.adapter = adapter.traced(X) if hasattr(adapter, "traced") else adapter
        self.X, self._scheme, self._seed = X, scheme, seed
        any_bits = scheme.at_bits(8)  # of a scheme in float too
        self.layers = tuple(
            spec
            for spec in self.adapter.layers
            if reason_to_skip(spec, layer_scheme(any_bits, spec.name, None)) is None
        )
        self.exact = self.outputs({})
        self.classes = classes
        self.link = _link(self.adapter, self.exact, classes)
        self._alone: dict[tuple[int, Any], QuantizedLayer] = {}
        self._first: dict[Bits, dict[str, QuantizedLayer]] = {(): {}}
        self._drifts: dict[tuple[str, Bits], float] = {}

    def outputs(self, layers: Layers) -> NDArray[np.float64]:
        """Return the outputs (n_samples, n_outputs) with some layers quantized."""
        return np.asarray(self.adapter.outputs(self.X, layers), dtype=np.float64)

    def alone(self, position: int, bits: Any) -> dict[str, QuantizedLayer]:
        """Return one layer at some bits, as it is where all others are in float."""
        key, name = (position, bits), self.layers[position].name
        if key not in self._alone:
            self._alone[key] = self._quantized(self.layers[position], bits, {})
        return {name: self._alone[key]}

    def joint(self, bits: Bits) -> dict[str, QuantizedLayer]:
        """Return the layers as `quantize_network` gives them at these bits."""
        layers = self._joint(bits)
        last = self.adapter.layers[-1].name
        if "output_affine" not in self._scheme.correction or last not in layers:
            return layers
        scaled = with_output_affine(layers[last], self.exact, self.outputs(layers))
        return layers | {last: scaled}

    @property
    def names(self) -> list[str]:
        """Names of all layers of the adapter, those that stay in float included."""
        return [spec.name for spec in self.adapter.layers]

    def damage(self, bits: Bits, measure: str) -> float:
        """Return the drift or the divergence of the outputs at these bits."""
        key = (measure, bits)
        if key not in self._drifts:
            self._drifts[key] = self.measured(self.joint(bits), measure)
        return self._drifts[key]

    def measured(self, layers: Layers, measure: str) -> float:
        """Return the drift or the divergence of the outputs with these layers."""
        found = self.outputs(layers)
        if measure == "kl":
            return divergence(self.exact, found, self.link)
        return drift(self.exact, found, self.link)

    def _joint(self, bits: Bits) -> dict[str, QuantizedLayer]:
        if bits not in self._first:
            before = self._joint(bits[:-1])
            spec = self.layers[len(bits) - 1]
            layer = self._quantized(spec, bits[-1], before)
            self._first[bits] = before | {spec.name: layer}
        return self._first[bits]

    def _quantized(self, spec: LayerSpec, bits: Any, before: Any) -> QuantizedLayer:
        scheme = replace(self._scheme.at_bits(bits), skip=(), layer_bits=())
        rows = LayerRows(self.adapter, self.X, spec, before, None)
        random = np.random.RandomState(self._seed)
        return quantize_layer(spec, scheme, rows, random)


def drift(exact: FloatArray, found: FloatArray, link: str) -> float:
    """Return the mean over rows of the squared norm of what changed.

    Parameters
    ----------
    exact, found : ndarray of shape (n_samples, n_outputs)
        Outputs.
    link : {"identity", "logistic", "softmax"}
        With "softmax" the mean of a row does not count.

    Returns
    -------
    float
        At least 0.
    """
    change = found - exact
    if link == "softmax":
        change = change - change.mean(axis=1, keepdims=True)
    return float(np.mean(np.einsum("ij,ij->i", change, change)))


def divergence(exact: FloatArray, found: FloatArray, link: str) -> float:
    r"""Return the mean Kullback-Leibler divergence of the exact law from the found one.

    For regressors both are normal with the same variance, that of the exact outputs
    over the rows, and the divergence is (found - exact)^2 / (2 variance).

    Parameters
    ----------
    exact, found : ndarray of shape (n_samples, n_outputs)
        Outputs.
    link : {"identity", "logistic", "softmax"}
        What makes probabilities of them.

    Returns
    -------
    float
        At least 0, up to rounding.
    """
    if link == "softmax":
        ratio = log_softmax(exact, axis=1) - log_softmax(found, axis=1)
        terms = softmax(exact, axis=1) * ratio
    elif link == "logistic":
        terms = expit(exact) * (log_expit(exact) - log_expit(found))
        terms += expit(-exact) * (log_expit(-exact) - log_expit(-found))
    else:
        variance = exact.var(axis=0)
        terms = (found - exact) ** 2 / (2 * np.where(variance > 0, variance, 1.0))
    return float(np.mean(terms.sum(axis=1)))


def measured_sensitivity(
    network: CalibratedNetwork, choices: Bits, measure: Callable[[Layers], float]
) -> NDArray[np.float64]:
    """Return a measure with each layer alone at each choice of bits.

    Parameters
    ----------
    network : CalibratedNetwork
        The network.
    choices : tuple of n_choices numbers
        Bits.
    measure : callable
        From quantized layers to a number.

    Returns
    -------
    ndarray of shape (n_layers, n_choices)
        Its values.
    """
    rows = [
        [measure(network.alone(position, bits)) for bits in choices]
        for position in range(len(network.layers))
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(choices))


def trace_sensitivity(
    network: CalibratedNetwork, choices: Bits, rng: np.random.RandomState
) -> NDArray[np.float64]:
    """Return trace / n_weights * squared rounding error.

    Parameters
    ----------
    network : CalibratedNetwork
        With gradients.
    choices : tuple of n_choices numbers
        Bits.
    rng : RandomState
        Draws the signs of the probes where there are any.

    Returns
    -------
    ndarray of shape (n_layers, n_choices)
        At least 0.
    """
    n_outputs = network.exact.shape[1]
    traces = output_traces(network.adapter, network.X, n_outputs, rng)

    def omega(spec: LayerSpec, error: FloatArray) -> float:
        return traces[spec.name] / spec.weight.size * float(np.sum(error * error))

    return _of_errors(network, choices, omega)


def taylor_sensitivity(
    network: CalibratedNetwork, choices: Bits, y: Any, quantiles: Any
) -> NDArray[np.float64]:
    """Return sum of abs(gradient * rounding error), the gradient that of a loss.

    Parameters
    ----------
    network : CalibratedNetwork
        With gradients.
    choices : tuple of n_choices numbers
        Bits.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    quantiles : ndarray of shape (n_outputs,) or None
        Levels of the outputs where they are quantiles of one target.

    Returns
    -------
    ndarray of shape (n_layers, n_choices)
        At least 0.
    """
    cotangents = loss_gradient(network, y, quantiles)
    gradients = gradient_function(network.adapter, network.X, "taylor")(cotangents)

    def first_order(spec: LayerSpec, error: FloatArray) -> float:
        return float(np.abs(gradients[spec.name] * error).sum())

    return _of_errors(network, choices, first_order)


def loss_gradient(
    network: CalibratedNetwork, y: Any, quantiles: Any
) -> NDArray[np.float64]:
    """Return the derivatives of the mean loss by the outputs.

    The loss is the log loss of a classifier, the pinball loss of quantiles, else half
    the squared error.

    Parameters
    ----------
    network : CalibratedNetwork
        With float outputs.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    quantiles : ndarray of shape (n_outputs,) or None
        Levels.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Derivatives.
    """
    f = network.exact
    if network.link != "identity":
        target = _targets(y, network.classes, f.shape)
        p = softmax(f, axis=1) if network.link == "softmax" else expit(f)
        slope = p - target
    elif quantiles is not None:
        slope = ((y[:, None] < f) - np.asarray(quantiles)) / f.shape[1]
    else:
        slope = f - y.reshape(f.shape)
    return np.asarray(slope / len(f), dtype=np.float64)


def output_levels(model: Any, y: Any, n_outputs: int, confidence_level: float) -> Any:
    """Return the levels of the outputs of a network where they are quantiles.

    Parameters
    ----------
    model : object
        With `quantiles_`, or not.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    n_outputs : int
        Columns of the outputs.
    confidence_level : float
        Two outputs for one target are the ends of this level.

    Returns
    -------
    ndarray of shape (n_outputs,) or None
        None where the outputs are points.
    """
    levels = getattr(model, "quantiles_", None)
    if levels is not None and np.size(levels) == n_outputs:
        return np.asarray(levels, dtype=np.float64)
    if y.size == len(y) * n_outputs:
        return None
    if y.ndim == 1 and n_outputs == 2:
        return np.array(central_pair(confidence_level))
    raise ValueError(
        f"criterion='taylor' needs a loss, but the model has {n_outputs} outputs for y "
        f"of shape {y.shape}, and no quantiles_. Use criterion='interval_drift'."
    )


def _of_errors(
    network: CalibratedNetwork,
    choices: Bits,
    score: Callable[[LayerSpec, FloatArray], float],
) -> NDArray[np.float64]:
    specs = {spec.name: spec for spec in network.layers}

    def measure(layers: Layers) -> float:
        ((name, layer),) = layers.items()
        return score(specs[name], layer.effective_weight() - specs[name].weight)

    return measured_sensitivity(network, choices, measure)


def _link(adapter: Any, outputs: FloatArray, classes: Any) -> str:
    if classes is None:
        return "identity"
    model = getattr(adapter, "model", None)
    multilabel = getattr(model, "out_activation_", "softmax") == "logistic"
    return "logistic" if outputs.shape[1] == 1 or multilabel else "softmax"


def _targets(y: Any, classes: Any, shape: tuple[int, ...]) -> Any:
    y, classes = np.asarray(y), np.asarray(classes)
    if y.shape == shape and y.ndim == 2 and shape[1] > 1:
        return y  # one column for each label
    unknown = sorted(set(y.ravel().tolist()) - set(classes.tolist()))
    if unknown:
        raise ValueError(
            f"y has labels that the model does not know: {unknown}. It has "
            f"{classes.tolist()}."
        )
    if shape[1] == 1:
        return (y.reshape(-1, 1) == classes[1]).astype(np.float64)
    return (y.reshape(-1, 1) == classes).astype(np.float64)
