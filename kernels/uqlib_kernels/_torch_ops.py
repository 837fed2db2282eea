"""Registers products with packed weights with torch, for the CPU; see `torch_ops`.

An operation gets tensors; the kernels want a `PackedWeight`, which keeps what it makes
from its fields (codes a byte each, the float matrix). So the object made for some
tensors is remembered as long as the tensor of codes lives, and made anew when any of
them was written to or now lies elsewhere.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uqlib_kernels import ops
from uqlib_kernels._packed import LANES, PackedWeight, columns_of_word, inner_group
from uqlib_kernels.torch_ops import OPERATIONS, PackedTensors

NAMESPACE = "uqlib_kernels"
_SCHEMA = (
    "(Tensor x, Tensor codes, Tensor scale, Tensor? zero_point, Tensor? codebook, "
    "int bits, int n_out, int n_in, int group_size, int twice_zero, "
    "Tensor? bias=None) -> Tensor"
)
# Rows rounded to integers between -top and top, with a scale of their own or a given
# one, times any integers: what networks of all formats come down to.
_INTEGER_SCHEMA = _SCHEMA.replace(
    "Tensor? bias=None", "Tensor? bias, int top, float? static_scale"
)
_MAX_TWICE_ZERO = 510  # for which sums in 32 bits are exact; see pack

# By the id of the tensor of codes: that tensor, the state of all, and the weight, which
# must not hold the tensor of codes itself, or neither would ever be freed.
_weights: dict[int, tuple[Any, tuple[Any, ...], PackedWeight]] = {}


def operation(name: str) -> Any:
    """Return an operation by its name."""
    return getattr(getattr(torch.ops, NAMESPACE), name)


def tensors_of(packed: PackedWeight) -> PackedTensors:
    """Return a packed weight as tensors on its memory."""
    if not isinstance(packed, PackedWeight):
        raise TypeError(
            f"packed must be a PackedWeight, got {type(packed).__name__}: see "
            "uqlib_kernels.pack."
        )
    tensors = PackedTensors(
        _tensor(packed.codes),
        _tensor(packed.scale),
        _tensor(packed.zero_point),
        _tensor(packed.codebook),
        *_numbers(packed),
    )
    _remember(tensors, _state(tensors), packed)
    return tensors


def device_of(device: Any) -> torch.device:
    """Return a device with its number; None is the CPU, "cuda" the current GPU."""
    found = torch.device("cpu" if device is None else device)
    if found.type == "cuda" and found.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return found


def tensors_on(packed: PackedWeight, device: torch.device) -> PackedTensors:
    """Return a packed weight as tensors on a device, the same ones at each call."""
    if device.type == "cpu":
        return tensors_of(packed)
    if device.type != "cuda":
        raise ValueError(
            f"device={str(device)!r} has no kernels: it must be a CPU or a GPU of CUDA."
        )
    from uqlib_kernels import cuda

    cuda.load()
    found: PackedTensors = packed.kept(
        f"tensors on {device}", lambda packed: _moved(arranged_tensors(packed), device)
    )
    return found


def _moved(tensors: PackedTensors, device: torch.device) -> PackedTensors:
    parts = tensors._asdict()
    for name, part in parts.items():
        parts[name] = part.to(device) if isinstance(part, Tensor) else part
    return PackedTensors(**parts)


def arranged_tensors(packed: PackedWeight) -> PackedTensors:
    """Return tensors in the order in which the kernels of a GPU read them.

    They are on the CPU. The codebook becomes the bits of its 16 values, then those of
    the 256 pairs of them in half precision, in bfloat16, and of what bfloat16 leaves
    of them, (784,) of int32.
    """
    from uqlib_kernels.cuda._arrange import arranged_codes

    codes = torch.from_numpy(arranged_codes(packed))
    return PackedTensors(
        codes.view(torch.int8) if packed.bits == 8 else codes,
        _tensor(packed.scale),
        _tensor(packed.zero_point),
        None if packed.codebook is None else _codebook_words(packed.codebook),
        *_numbers(packed),
    )


def _numbers(own: PackedWeight) -> tuple[int, int, int, int, int]:
    return own.bits, own.n_out, own.n_in, own.group_size, own.twice_zero


def _codebook_words(codebook: NDArray[np.float32]) -> Tensor:
    values = torch.tensor(codebook)
    rounded = values.to(torch.bfloat16)
    words, i = [values.view(torch.int32)], torch.arange(256)
    for table in (values.half(), rounded, (values - rounded.float()).to(rounded.dtype)):
        bits = table.view(torch.int16).to(torch.int32) & 0xFFFF
        words.append(bits[i % 16] | bits[i // 16] << 16)
    return torch.cat(words)


def weight_of(tensors: PackedTensors) -> PackedWeight:
    """Return the packed weight of some tensors, the same one as long as they stay."""
    state, known = _state(tensors), _weights.get(id(tensors.codes))
    if known is not None and known[0]() is tensors.codes and known[1] == state:
        return known[2]
    packed = _checked(tensors)
    _remember(tensors, state, packed)
    return packed


def _remember(
    tensors: PackedTensors, state: tuple[Any, ...] | None, packed: PackedWeight
) -> None:
    key = id(tensors.codes)
    if state is not None:
        codes = weakref.ref(tensors.codes, lambda _: _weights.pop(key, None))
        _weights[key] = (codes, state, packed)


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    if array is None:
        return None
    # torch has no tensors that must not be written to.
    return torch.from_numpy(array) if array.flags.writeable else torch.tensor(array)


def _state(tensors: PackedTensors) -> tuple[Any, ...] | None:
    """Return what changes when a tensor is written to or replaced.

    None if that cannot be known: tensors of inference mode count no writes.
    """
    found: list[Any] = [*tensors[4:]]
    for tensor in tensors[:4]:
        if tensor is None:
            found.append(None)
            continue
        if tensor.is_inference():
            return None
        found += [tensor.data_ptr(), tensor._version]
    return tuple(found)


# ---------------------------------------------------------------------------
# Tensors may come from anywhere, and kernels read memory by address: everything that
# they take for granted is checked once.


def _checked(tensors: PackedTensors) -> PackedWeight:
    bits, n_out, n_in, group_size, twice_zero = tensors[4:]
    if (
        bits not in (8, 4, 2, 1)
        or min(n_out, n_in, group_size) < 1
        or abs(twice_zero) > _MAX_TWICE_ZERO
    ):
        raise ValueError(
            f"bits={bits}, n_out={n_out}, n_in={n_in}, group_size={group_size}, "
            f"twice_zero={twice_zero} are not those of a packed weight: take them from "
            "packed_tensors."
        )
    inner = inner_group(group_size, n_in)
    tiles = -(-n_out // LANES)
    groups = -(-n_in // min(group_size, n_in)) * inner.parts
    words = inner.padded // columns_of_word(bits)
    scales = (tiles, groups, LANES)
    return PackedWeight(
        bits,
        n_out,
        n_in,
        group_size,
        _array("codes", tensors.codes, (tiles, groups, words, LANES, 4), torch.uint8),
        _array("scale", tensors.scale, scales, torch.float32),
        twice_zero,
        _optional("zero_point", tensors.zero_point, scales),
        _optional("codebook", tensors.codebook, (16,)),
    )


def _optional(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> Any:
    return None if tensor is None else _array(name, tensor, shape, torch.float32)


def _array(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> NDArray[Any]:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise ValueError(
            f"{name} must be of shape {shape} and {dtype}, got {tuple(tensor.shape)} "
            f"and {tensor.dtype}: take it from packed_tensors."
        )
    # detach: the array holds another tensor on the memory, not this one.
    array: NDArray[Any] = tensor.detach().numpy()
    return array


# ---------------------------------------------------------------------------
# The operations.


def _on_cpu(function: Callable[..., NDArray[np.float32]]) -> Callable[..., Tensor]:
    def run(x: Tensor, *arguments: Any) -> Tensor:
        *fields, bias = arguments if len(arguments) == 10 else (*arguments, None)
        packed = weight_of(PackedTensors(*fields))
        _check_rows(x, packed.n_in)
        rows = x if x.dtype == torch.float32 else x.float()
        if x.dim() != 2:
            rows = rows.reshape(-1, packed.n_in)
        if bias is not None:
            bias = bias.float().numpy(force=True)
        out = torch.from_numpy(function(rows.numpy(force=True), packed, bias))
        if x.dim() != 2:
            out = out.reshape(*x.shape[:-1], packed.n_out)
        return out if x.dtype == torch.float32 else out.to(x.dtype)

    return run


def _integer_on_cpu(x: Tensor, *arguments: Any) -> Tensor:
    """Multiply rows of bytes, rounded as asked for, with integers of any bits."""
    *weight_and_bias, top, static_scale = arguments

    def function(rows: Any, packed: PackedWeight, bias: Any) -> NDArray[np.float32]:
        from uqlib_kernels._integer import integer_linear

        rows, bias = ops._operands(rows, packed, bias, None)
        return integer_linear(rows, packed, bias, top=top, static_scale=static_scale)

    return _on_cpu(function)(x, *weight_and_bias)


def _shape_only(x: Tensor, *arguments: Any) -> Tensor:
    """Return an empty tensor of the shape of the result, for tracing."""
    n_out, n_in = arguments[5], arguments[6]
    _check_rows(x, n_in)
    # torch comes here with all operands as soon as one of them has no memory.
    devices = {str(part.device) for part in (x, *arguments) if isinstance(part, Tensor)}
    if len(devices) > 1:
        raise ValueError(
            f"x, the weight and the bias are on {sorted(devices)}: all must be on one "
            "device. packed_tensors puts a weight there."
        )
    return x.new_empty((*x.shape[:-1], n_out))


def _check_rows(x: Tensor, n_in: int) -> None:
    if not x.dtype.is_floating_point:
        raise ValueError(f"x must be of a floating type, got {x.dtype}: use x.float().")
    if x.dim() == 0 or x.shape[-1] != n_in:
        raise ValueError(
            f"x must have shape (..., {n_in}), got shape {tuple(x.shape)}."
        )


def _no_gradient(name: str) -> Callable[..., Any]:
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            f"{NAMESPACE}::{name} has no gradient: call it under torch.no_grad(), or "
            "detach its input."
        )

    return backward


class Operation(NamedTuple):
    """What torch is told of an operation: `shape` gives results without values."""

    schema: str
    function: Callable[..., Tensor]
    shape: Callable[..., Tensor]


def define(
    library: Any, operations: Mapping[str, Operation], on_cpu: bool = True
) -> None:
    """Define operations, which have no gradient, and what they do on a CPU."""
    for name, operation in operations.items():
        library.define(name + operation.schema, tags=(torch.Tag.pt2_compliant_tag,))
        if on_cpu:
            library.impl(name, operation.function, "CPU")
        full = f"{library.ns}::{name}"
        torch.library.register_fake(full, operation.shape, lib=library)
        torch.library.register_autograd(full, _no_gradient(name), lib=library)


# Held by this module: when a library is collected its operations are gone.
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

PRODUCTS = {
    name: Operation(_SCHEMA, _on_cpu(getattr(ops, name)), _shape_only)
    for name in OPERATIONS
}
PRODUCTS["linear_integer"] = Operation(_INTEGER_SCHEMA, _integer_on_cpu, _shape_only)

define(LIBRARY, PRODUCTS)
