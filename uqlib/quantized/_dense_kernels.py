r"""Dense networks computed by compiled kernels, all layers at once where they can.

A network whose layers all have inputs of 8 or fewer bits, one scale and one whole zero
point for each output, and no more than a scale for each input before that, is one call:
between its layers are bytes. Else each layer is an operation of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uqlib._typing import FloatArray
from uqlib.quantized._activations import CrossRange, DynamicRange
from uqlib.quantized._adapter import LayerSpec, QuantizedLayers
from uqlib.quantized._layer_kernels import (
    REFERENCE,
    LayerKernel,
    fixed_scale,
    is_compiled,
    layer_operation,
    packed_weight,
    weight_form,
)
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._transforms import InputScale

_MOST_INPUTS = 2**14  # of a fused layer
_SINGLE = np.finfo(np.float32)


def network_operations(
    layers: Sequence[LayerSpec], quantized: QuantizedLayers, backend: str
) -> dict[str, str]:
    """Return the names of what computes the quantized layers of a dense network.

    Parameters
    ----------
    layers : sequence of LayerSpec
        All layers in their order.
    quantized : mapping of str to QuantizedLayer
        Those that are quantized.
    backend : {"auto", "numba", "reference"}
        As in the estimators.

    Returns
    -------
    dict of str to str
        By the name of the layer.
    """
    own = {name: layer_operation(layer, backend) for name, layer in quantized.items()}
    if not any(is_compiled(operation) for operation in own.values()):
        return own
    if not _is_fused(layers, quantized):
        return own
    return {
        name: f"mlp: w{layer.grid.code_bits}a{_bits(layer)} fused"
        for name, layer in quantized.items()
    }


def _bits(layer: QuantizedLayer) -> int:
    return 0 if layer.activation is None else layer.activation.bits


def _is_fused(layers: Sequence[LayerSpec], quantized: QuantizedLayers) -> bool:
    names = [spec.name for spec in layers]
    return len(names) > 1 and all(
        name in quantized and _can_be_fused(quantized[name]) for name in names
    )


def _can_be_fused(layer: QuantizedLayer) -> bool:
    """Return whether a layer is one that `uqlib_kernels.mlp.FusedMLP` takes."""
    form, activation = weight_form(layer.grid), layer.activation
    if isinstance(form, str) or form.codebook is not None or form.scale.shape[1] != 1:
        return False
    if not isinstance(activation, DynamicRange) or isinstance(activation, CrossRange):
        return False
    if layer.outliers is not None or layer.low_rank is not None:
        return False
    n_in, zero = layer.codes.shape[1], form.zero_point
    factor = 1 if (zero == np.rint(zero)).all() else 2
    largest = max(float(zero.max()), 2**form.bits - 1)
    return (
        n_in <= _MOST_INPUTS
        and bool((factor * zero == np.rint(factor * zero)).all())
        and float(zero.min()) >= 0
        and factor * largest <= 255
        and _divides(layer)
    )


def _divides(layer: QuantizedLayer) -> bool:
    """Return whether all that happens to the inputs is a division by normal numbers."""
    if not layer.transforms:
        return True
    if len(layer.transforms) > 1 or not isinstance(layer.transforms[0], InputScale):
        return False
    scale = layer.transforms[0].scale.astype(np.float64)
    return bool(((scale >= _SINGLE.tiny) & (scale <= 1 / _SINGLE.tiny)).all())


class CompiledLayers(dict[str, QuantizedLayer]):
    """Quantized layers of a dense network, and what computes all of it.

    Parameters
    ----------
    quantized : mapping of str to QuantizedLayer
        Layers by name.
    backend : {"auto", "numba"}
        As in the estimators.
    """

    def __init__(self, quantized: QuantizedLayers, backend: str) -> None:
        super().__init__(quantized)
        self.backend = backend
        self._made: Any = None

    def forward(self, network: Any) -> Any:
        """Return what makes outputs (n_rows, n_outputs) of inputs in single precision.

        Parameters
        ----------
        network : DenseNetwork
            With the layers.

        Returns
        -------
        callable
            Rows that are not finite on the way become NaN in it.
        """
        made = self._made
        if made is None:
            operations = network_operations(network.layers, self, self.backend)
            is_fused = all(name.startswith("mlp") for name in operations.values())
            make = _fused if is_fused else _LayerByLayer
            self._made = made = make(network, self, operations)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self.backend, "_made": None}


def compiled(
    layers: Sequence[LayerSpec], quantized: QuantizedLayers, backend: str
) -> QuantizedLayers:
    """Return quantized layers that are computed by kernels if any of them is.

    Parameters
    ----------
    layers : sequence of LayerSpec
        All layers in their order.
    quantized : mapping of str to QuantizedLayer
        Those that are quantized.
    backend : {"auto", "numba", "reference"}
        As in the estimators.

    Returns
    -------
    dict of str to QuantizedLayer
        `CompiledLayers` where there is a kernel for any.
    """
    operations = network_operations(layers, quantized, backend)
    if any(is_compiled(operation) for operation in operations.values()):
        return CompiledLayers(quantized, backend)
    return dict(quantized)


def _fused(network: Any, quantized: CompiledLayers, operations: Any) -> Any:
    from uqlib_kernels.mlp import FusedMLP, MLPLayer

    parts = []
    for spec in network.layers:
        layer: Any = quantized[spec.name]
        activation, transforms = layer.activation, layer.transforms
        parts.append(
            MLPLayer(
                packed_weight(layer),
                layer.bias,
                activation.largest_code,
                fixed_scale(activation),
                transforms[0].scale.astype(np.float32) if transforms else None,
            )
        )
    return FusedMLP(parts, network.activation)


class _LayerByLayer:
    """The layers of a network, each with an operation of its own."""

    def __init__(
        self, network: Any, quantized: CompiledLayers, operations: Mapping[str, str]
    ) -> None:
        from uqlib.quantized._dense import ACTIVATIONS

        self.activation = ACTIVATIONS[network.activation]
        self.layers: list[Any] = []
        for spec in network.layers:
            layer = quantized.get(spec.name)
            if layer is None:
                self.layers.append(_FloatLayer(spec.weight, spec.bias))
            elif is_compiled(operations[spec.name]):
                self.layers.append(LayerKernel(layer, quantized.backend))
            elif operations[spec.name].startswith(REFERENCE):
                self.layers.append(layer)
            else:
                weight = layer.effective_weight()
                self.layers.append(_FloatLayer(weight, layer.bias))

    def __call__(self, x: FloatArray) -> FloatArray:
        with np.errstate(all="ignore"):  # of rows that become NaN
            h: FloatArray = x.astype(np.float32)
            for k, layer in enumerate(self.layers):
                # An activation, or rounding, may make finite numbers of others. A sum
                # is the fastest look at all of them, if not at which.
                is_fine = bool(np.isfinite(h.sum()))
                is_lost = None if is_fine else ~np.isfinite(h).all(axis=1)
                h = layer(self.activation(h) if k else h)
                if is_lost is not None:
                    h[is_lost] = np.nan
        return h


class _FloatLayer:
    def __init__(self, weight: FloatArray, bias: FloatArray | None) -> None:
        self.weight = np.ascontiguousarray(weight.T, dtype=np.float32)
        self.bias = None if bias is None else bias.astype(np.float32)

    def __call__(self, x: FloatArray) -> FloatArray:
        y = x @ self.weight
        return y if self.bias is None else y + self.bias
