r"""Linear layers and convolutions of torch that compute with a quantized layer.

A module becomes one that computes from codes by a change of its class, in place: all
that refers to it (a list, a second name, the code of a forward pass) then sees the
quantized layer, and its hooks and attributes stay. It is done to copies only.

A convolution is a linear layer on patches. With x padded as the module says, the patch
p of an output position t holds x[c, s t + d k] for every channel c and every entry k of
the kernel (stride s, dilation d), and

    y[o, t] = sum_{c, k} W[o, c, k] p_t[c, k] + b[o] ,

which is W p_t + b with W of shape (n_out, C k_h k_w). In a grouped convolution an
output sees some channels only, so that outputs have no common patch.

Numbers are in single precision, in double where the module is; results have the type of
the inputs. Where activations stay in float, y = W_eff x + b (see `_layers`).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uqlib._typing import FloatArray
from uqlib.quantized._adapter import LayerSpec
from uqlib.quantized._layer_kernels import REFERENCE
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._torch_kernels import (
    QuantizedModule,
    kernel_outputs,
    own_type,
    set_kernels,
)

_CHUNK = 2**22  # numbers held at once in patches


class QuantizedLinear(QuantizedModule, nn.Linear):
    """A linear layer whose class was changed by `set_quantized`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs of the quantized layer."""
        x = own_type(self, input)
        if _has_float_inputs(self) and self.torch_kernel is None:
            return F.linear(x, self.weight, self.bias).to(input.dtype)
        if x.dim() == 2 and x.shape[1] == self.in_features:
            return _outputs_of_rows(self, x).to(input.dtype)
        y = _outputs_of_rows(self, x.reshape(-1, self.in_features))
        return y.reshape(*x.shape[:-1], self.out_features).to(input.dtype)


class QuantizedConv1d(QuantizedModule, nn.Conv1d):
    """A convolution whose class was changed by `set_quantized`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs of the quantized layer."""
        return _convolution(self, input)


class QuantizedConv2d(QuantizedModule, nn.Conv2d):
    """A convolution whose class was changed by `set_quantized`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs of the quantized layer."""
        return _convolution(self, input)


_QUANTIZED: dict[type, type] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
}
LAYERS = tuple(_QUANTIZED)  # of exactly these types


def layer_spec(name: str, module: Any) -> LayerSpec:
    """Return a layer as arrays.

    Parameters
    ----------
    name : str
        Of the layer in the model.
    module : module of a type in LAYERS
        In float.

    Returns
    -------
    LayerSpec
        Of the kind "linear", "conv" or "grouped".
    """
    kind = "linear"
    if not isinstance(module, nn.Linear):
        kind = "conv" if module.groups == 1 else "grouped"
    weight = numpy_array(module.weight)
    weight = weight.reshape(len(weight), math.prod(weight.shape[1:]))
    bias = None if module.bias is None else numpy_array(module.bias)
    return LayerSpec(name, weight, bias, kind)


def layer_rows(module: Any, x: Tensor) -> Iterator[FloatArray]:
    """Yield what a layer multiplies its weights with, some rows at a time.

    Parameters
    ----------
    module : module of a type in LAYERS, quantized or not
        With groups=1 if it is a convolution.
    x : Tensor
        Its input.

    Yields
    ------
    ndarray of shape (n_rows, n_in)
        Rows, for a convolution one for each patch, all of a sample together.
    """
    if isinstance(module, nn.Linear):
        yield numpy_array(x.reshape(-1, module.in_features))
        return
    for patches, _ in _patches(module, _batched(module, x)):
        yield numpy_array(patches.reshape(-1, patches.shape[2]))


def set_quantized(module: Any, layer: QuantizedLayer, backend: str = REFERENCE) -> None:
    """Let a module compute with a quantized layer, in place.

    Its `weight` and `bias` become buffers that hold W_eff and b, `transformed_weight`
    holds What + O + U V where activations are rounded.

    Parameters
    ----------
    module : module of a type in LAYERS
        Changed.
    layer : QuantizedLayer
        Of the same shape.
    backend : {"auto", "cuda", "numba", "reference"}, default="reference"
        What computes it.
    """
    dtype = _compute_dtype(module.weight.dtype)
    place = {"device": module.weight.device, "dtype": dtype}
    weight = torch.as_tensor(effective_weight(module, layer), **place)
    bias = None if layer.bias is None else torch.as_tensor(layer.bias, **place)
    transformed = None
    if layer.activation is not None:
        if getattr(module, "groups", 1) != 1:
            raise ValueError(
                f"Layer {layer.name!r} is a grouped convolution, whose outputs have no "
                "common inputs: its activations must stay in float."
            )
        transformed = torch.as_tensor(layer.transformed_weight(), **place)
    for name in ("weight", "bias"):
        del module._parameters[name]
    module.__class__ = _QUANTIZED[type(module)]
    module.register_buffer("weight", weight)
    module.register_buffer("bias", bias)
    module.register_buffer("transformed_weight", transformed)
    module.quantized_layer, module.quantized_backend = layer, backend
    module.register_module("torch_kernel", None)
    set_kernels(module)


def write_weights(module: Any, layer: QuantizedLayer) -> None:
    """Put W_eff and the bias of a quantized layer into a float module, in place.

    Parameters
    ----------
    module : module of a type in LAYERS
        Changed; it gets a bias if only the layer has one.
    layer : QuantizedLayer
        Of the same shape.
    """
    weight = effective_weight(module, layer)
    with torch.no_grad():
        module.weight.copy_(torch.as_tensor(weight))
        if layer.bias is None:
            module.bias = None
        elif module.bias is None:
            module.bias = nn.Parameter(
                torch.as_tensor(layer.bias).to(module.weight, copy=True),
                requires_grad=module.weight.requires_grad,
            )
        else:
            module.bias.copy_(torch.as_tensor(layer.bias))


def effective_weight(module: Any, layer: QuantizedLayer) -> FloatArray:
    """Return W_eff in the shape of the weights of a module.

    Parameters
    ----------
    module : module of a type in LAYERS
        In float.
    layer : QuantizedLayer
        Of the same shape.

    Returns
    -------
    ndarray of the shape of module.weight
        Float64.
    """
    weight = layer.effective_weight()
    shape = tuple(module.weight.shape)
    if weight.shape != (shape[0], math.prod(shape[1:])):
        raise ValueError(
            f"The quantized layer {layer.name!r} has weights of shape {weight.shape}, "
            f"but the layer of the module has {shape}. Use the module that was "
            "quantized."
        )
    return weight.reshape(shape)


def numpy_array(tensor: Tensor) -> FloatArray:
    """Return a tensor as an array of its own in single or double precision.

    Parameters
    ----------
    tensor : Tensor
        On any device.

    Returns
    -------
    ndarray of the shape of tensor
        float64 for float64, else float32.
    """
    exact = tensor.detach().to("cpu", _compute_dtype(tensor.dtype), copy=True)
    array: FloatArray = exact.numpy()
    return array


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _has_float_inputs(module: Any) -> bool:
    return module.quantized_layer.activation is None


def _outputs_of_rows(module: Any, rows: Tensor) -> Tensor:
    """Return (What + O + U V) A(T x) + b, NaN for rows that are not finite."""
    y = kernel_outputs(module, rows)
    if y is not None:
        return y
    if _has_float_inputs(module):
        return F.linear(rows.to(module.weight.dtype), module.weight, module.bias)
    reference: Tensor = _reference_outputs(module, rows)
    return reference


@torch.compiler.disable  # NumPy, which no graph holds
def _reference_outputs(module: Any, rows: Tensor) -> Tensor:
    """Return the same with T and A computed by the reference."""
    layer: QuantizedLayer = module.quantized_layer
    seen: FloatArray = numpy_array(rows)
    is_lost = ~np.isfinite(seen).all(axis=1)
    seen[is_lost] = 0.0  # there is no code for them
    for transform in layer.transforms:
        seen = transform.inputs(seen)
    if layer.activation is not None:
        seen = layer.activation.quantize(seen)
    inputs = torch.as_tensor(np.ascontiguousarray(seen)).to(module.transformed_weight)
    outputs = F.linear(inputs, module.transformed_weight, module.bias)
    outputs[torch.from_numpy(is_lost)] = torch.nan
    return outputs


def _convolution(module: Any, input: Tensor) -> Tensor:
    x = own_type(module, input)
    if _has_float_inputs(module):
        y: Tensor = module._conv_forward(x, module.weight, module.bias)
        return y.to(input.dtype)
    batched = _batched(module, x)
    parts = []
    for patches, shape in _patches(module, batched):
        rows = _outputs_of_rows(module, patches.reshape(-1, patches.shape[2]))
        columns = rows.reshape(*patches.shape[:2], module.out_channels).transpose(1, 2)
        parts.append(columns.reshape(len(columns), module.out_channels, *shape))
    y = torch.cat(parts)
    return (y if batched is x else y[0]).to(input.dtype)


def _batched(module: Any, x: Tensor) -> Tensor:
    return x if x.dim() == len(module.kernel_size) + 2 else x[None]


def _patches(module: Any, x: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Yield patches (n, n_positions, C k_h k_w) of some samples, and the shape of y.

    A convolution over one dimension is one over two of which the first has size 1.
    """
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    sizes = (module.kernel_size, module.dilation, module.stride)
    shape = tuple(
        (length - dilation * (kernel - 1) - 1) // stride + 1
        for length, kernel, dilation, stride in zip(x.shape[2:], *sizes, strict=True)
    )
    if len(shape) == 1:
        x = x.unsqueeze(2)
    kernel, dilation, stride = ((1, *s) if len(s) == 1 else s for s in sizes)
    numbers = math.prod(shape) * x.shape[1] * math.prod(kernel)
    for part in torch.split(x, max(1, _CHUNK // max(1, numbers))):
        columns = F.unfold(part, kernel, dilation, 0, stride)
        yield columns.transpose(1, 2), shape
