"""Quantized parts of a model: a network or an ensemble of trees."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from uqlib._typing import FloatArray
from uqlib.quantized._adapter import NetworkAdapter, SkippedLayer
from uqlib.quantized._driver import QuantizedNetwork, quantize_network, warn_if_few_rows
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._resolve import NETWORK_SCHEME, with_input_scales
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._tree_part import LEAVES


@dataclass(frozen=True, eq=False)
class NetworkPart:
    """A quantized network."""

    adapter: NetworkAdapter
    network: QuantizedNetwork

    @property
    def layers(self) -> dict[str, QuantizedLayer]:
        """Quantized layers by name."""
        return self.network.layers

    @property
    def skipped(self) -> tuple[SkippedLayer, ...]:
        """What stayed in float."""
        return self.network.skipped

    @property
    def nbytes(self) -> int:
        """Bytes stored; what stays in float counts as float32."""
        return 4 * self._n_float + sum(layer.nbytes for layer in self.layers.values())

    @property
    def n_parameters(self) -> int:
        """Parameters of the float network."""
        specs = {spec.name: spec for spec in self.adapter.layers}
        return self._n_float + sum(specs[name].n_parameters for name in self.layers)

    @property
    def float_nbytes(self) -> int:
        """Bytes of the float network, at four for each parameter."""
        return 4 * self.n_parameters

    @property
    def _n_float(self) -> int:
        small = int(getattr(self.adapter, "n_small_parameters", 0))
        return small + sum(layer.n_parameters for layer in self.skipped)

    def quantized_model(self, backend: str) -> Any:
        """Return a model that predicts from the codes."""
        return self.adapter.quantized_model(self.layers, backend)

    def dequantized(self) -> Any:
        """Return the float model with the rounded weights."""
        return self.adapter.dequantized(self.layers)

    def table(self, backend: str) -> list[dict[str, Any]]:
        """Return one row of the report for each quantized layer."""
        operations = self.adapter.operations(self.layers, backend)
        return [
            {**_layer_row(layer), "op": operations[name]}
            for name, layer in self.layers.items()
        ]


def quantize_part(
    adapter: Any,
    scheme: QuantizationScheme | None,
    X: Any,
    *,
    last_layer_bits: int | None,
    random_state: Any,
    row_weight: FloatArray | None,
) -> Any:
    """Quantize one part of a model.

    Parameters
    ----------
    adapter : NetworkAdapter or tree adapter
        The part.
    scheme : QuantizationScheme or None
        None takes what is safe: w8a8 for networks, exact integer bins for trees.
    X : array-like of shape (n_samples, n_features)
        What enters the part.
    last_layer_bits : int or None
        Least bits of the last layer of a network.
    random_state : RandomState
        For random signs and learned rounding.
    row_weight : ndarray of shape (n_samples,) or None
        Importance of each row.

    Returns
    -------
    object
        With `layers`, `skipped`, `nbytes`, `n_parameters`, `quantized_model`,
        `dequantized` and `table`.
    """
    if hasattr(adapter, "quantize"):  # trees know how
        _check_tree_names(scheme)
        return adapter.quantize(scheme)
    if hasattr(adapter, "traced"):  # layers in the order in which the rows meet them
        adapter = adapter.traced(X)
    if scheme is None:
        scheme = with_input_scales(QuantizationScheme.parse(NETWORK_SCHEME))
    network = quantize_network(
        adapter,
        scheme,
        X,
        last_layer_bits=last_layer_bits,
        random_state=random_state,
        row_weight=row_weight,
    )
    fewest = min((row["n_rows"] for row in _rows(network)), default=0)
    widest = max((row["n_in"] for row in _rows(network)), default=0)
    warn_if_few_rows(fewest, widest)
    return NetworkPart(adapter, network)


def _check_tree_names(scheme: QuantizationScheme | None) -> None:
    if scheme is None:
        return
    named = {*scheme.skip, *(name for name, _ in scheme.layer_bits)}
    unknown = sorted(named - {LEAVES})
    if unknown:
        raise ValueError(
            f"The scheme names layers that the trees do not have: {unknown}. They have "
            f"{[LEAVES]}; thresholds are always exact."
        )


def _rows(network: QuantizedNetwork) -> list[dict[str, Any]]:
    # Rounding to nearest uses no rows, so that there cannot be too few of them.
    layers = network.layers.values()
    rounded = [layer for layer in layers if layer.details["scheme"].rounding != "rtn"]
    return [layer.details for layer in rounded]


def _layer_row(layer: QuantizedLayer) -> dict[str, Any]:
    scheme = layer.details["scheme"]
    loss, energy = layer.details.get("loss"), layer.details.get("energy")
    relative = np.nan if not energy or loss is None else np.sqrt(loss / energy)
    return {
        "layer": layer.name,
        "n_out": layer.codes.shape[0],
        "n_in": layer.details["n_in"],
        "weights": scheme.weights,
        "activations": scheme.activations,
        "rounding": scheme.rounding,
        "bits": layer.weight_bits,
        "nbytes": layer.nbytes,
        "relative_error": float(relative),
    }
