"""Which kernels a module of torch has, and what computes it without one.

Where there are kernels for its device, a module has a `TorchKernel`. It is made with
the module, when this is moved (``module.to("cuda")``) and when it is read from a
pickle, never by a call: compiled code and CUDA graphs find all of it there. On a CPU,
calls that are not compiled take the same kernels through NumPy, which is faster for few
rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from uqlib.quantized._layer_kernels import (
    CUDA,
    FLOAT,
    REFERENCE,
    LayerKernel,
    has_cuda_kernels,
    is_compiled,
    layer_operation,
    load_cuda_kernels,
)
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._torch_operations import TorchKernel
from uqlib.quantized._torch_transforms import unknown_transform

_HALVES = (torch.float16, torch.bfloat16)


def module_operation(module: Any, layer: QuantizedLayer, backend: str) -> str:
    """Return the name of what computes a layer of a module.

    Parameters
    ----------
    module : module of a type in LAYERS
        In float or quantized.
    layer : QuantizedLayer
        Of the same shape.
    backend : {"auto", "cuda", "numba", "reference"}
        As in the estimators.

    Returns
    -------
    str
        As `operation_on`, for the device of the module. Modules in double precision,
        which kernels do not have, and convolutions whose inputs stay in float are
        computed by torch.
    """
    operation = operation_on(module.weight.device, layer, backend)
    if not is_compiled(operation):
        return operation
    if module.weight.dtype == torch.float64:
        is_float = layer.activation is None
        return FLOAT if is_float else f"{REFERENCE}: module in double precision"
    if layer.activation is None and not isinstance(module, nn.Linear):
        return FLOAT
    return operation


def device_type(device: torch.device) -> str:
    """Return "cpu", "cuda" or what else computes on a device."""
    return device.type


def operation_on(device: torch.device, layer: QuantizedLayer, backend: str) -> str:
    """Return the name of what computes a layer on a device.

    Parameters
    ----------
    device : torch.device
        Where the weights are.
    layer : QuantizedLayer
        Any.
    backend : {"auto", "cuda", "numba", "reference"}
        As in the estimators. "cuda" is "auto" for what has been moved to the CPU.

    Returns
    -------
    str
        As `layer_operation`.

    Raises
    ------
    KernelUnavailableError
        For the backend "cuda" on such a device if its kernels are not there.
    """
    kind = device_type(device)
    if backend == REFERENCE:
        return REFERENCE
    if kind == "cpu":
        return layer_operation(layer, "auto" if backend == CUDA else backend)
    if kind == backend == CUDA:
        load_cuda_kernels()
    if kind == CUDA and backend != "numba" and has_cuda_kernels():
        operation = layer_operation(layer, CUDA)
        unknown = unknown_transform(layer)
        if unknown is None or not operation.startswith("linear_"):
            return operation
        return f"{REFERENCE}: transform {unknown!r}"
    if layer.activation is None:
        return FLOAT
    return f"{REFERENCE}: no kernels on {kind!r}"


class QuantizedModule(nn.Module):
    """What modules have in common that compute with a quantized layer.

    Attributes
    ----------
    quantized_layer : QuantizedLayer
        The layer.
    quantized_backend : str
        As in the estimators.
    torch_kernel : TorchKernel or None
        What computes it, on the device of its weights.
    layer_kernel : LayerKernel or None
        What takes its place on a CPU in calls that are not compiled.
    """

    quantized_layer: QuantizedLayer
    quantized_backend: str
    layer_kernel: Any
    torch_kernel: Any

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = _place(self)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if _place(self) != before:
            set_kernels(self)
        return self

    def __getstate__(self) -> dict[str, Any]:
        modules = self._modules | {"torch_kernel": None}
        return vars(self) | {"_modules": modules, "layer_kernel": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        set_kernels(self)


def set_kernels(module: Any) -> None:
    """Make what computes a module where it is now, if there is such a thing.

    Parameters
    ----------
    module : QuantizedModule
        Changed; with `quantized_layer` and `quantized_backend`.
    """
    layer, backend = module.quantized_layer, module.quantized_backend
    module.layer_kernel = module.torch_kernel = None
    operation = module_operation(module, layer, backend)
    if not is_compiled(operation):
        return
    if unknown_transform(layer) is None:
        module.torch_kernel = TorchKernel(layer, operation, module.weight.device)
    if device_type(module.weight.device) == "cpu":
        module.layer_kernel = _with_numpy(layer, backend, module.torch_kernel)


def _with_numpy(layer: QuantizedLayer, backend: str, kernel: Any) -> LayerKernel:
    pack = None if kernel is None else lambda: kernel.packed
    return LayerKernel(layer, "auto" if backend == CUDA else backend, pack)


def _place(module: Any) -> tuple[torch.device, bool]:
    """Return what the kernels of a module depend on."""
    return module.weight.device, module.weight.dtype == torch.float64


def own_type(module: Any, input: Tensor) -> Tensor:
    """Return an input of a quantized module in the type that is computed with.

    Parameters
    ----------
    module : QuantizedModule
        Any.
    input : Tensor
        Its input.

    Returns
    -------
    Tensor
        As it is where kernels of a GPU take halves, else in the type of the weights.
    """
    takes_halves = module.layer_kernel is None  # looked up faster than a module
    if takes_halves and input.dtype in _HALVES and module.torch_kernel is not None:
        return input
    return input.to(module.weight.dtype)


def kernel_outputs(module: Any, rows: Tensor) -> Tensor | None:
    """Return what the kernels of a quantized module make of rows.

    Parameters
    ----------
    module : QuantizedModule
        Any.
    rows : Tensor of shape (n_rows, n_in)
        As `own_type` gives them.

    Returns
    -------
    Tensor of shape (n_rows, n_out) or None
        Without gradients; in single precision or the type of the rows. None where the
        module has no kernels, or rows are on another device.
    """
    plain, kernel = module.layer_kernel, module.torch_kernel
    if plain is not None and _is_plain(rows):
        x = rows.detach()
        x = x if x.dtype == torch.float32 else x.float()
        return torch.from_numpy(plain(x.numpy()))
    if kernel is not None and rows.device == kernel.codes.device:
        y: Tensor = kernel(rows.detach())
        return y
    return None


def _is_plain(rows: Tensor) -> bool:
    """Return whether rows are numbers in memory, not those of a trace."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():  # of torch.jit
        return False
    return type(rows) is Tensor and rows.device.type == "cpu"
