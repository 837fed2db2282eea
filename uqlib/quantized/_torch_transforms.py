"""Transforms of the inputs of a layer, written in torch.

Each equals one of `_transforms` and `_hadamard`, in single precision, but for the order
of the sums in a rotation.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uqlib.quantized._hadamard import BlockHadamard, block_sizes
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._transforms import InputScale, Klt, Reorder

_FACTOR = 64  # rows of the Hadamard matrices that a larger one is a product of


def unknown_transform(layer: QuantizedLayer) -> str | None:
    """Return the kind of a transform of a layer that is not here, None if all are.

    Parameters
    ----------
    layer : QuantizedLayer
        Any.

    Returns
    -------
    str or None
        The first one.
    """
    kinds = tuple(_MODULES)
    unknown = (part.kind for part in layer.transforms if not isinstance(part, kinds))
    return next(unknown, None)


def transform_module(transform: Any) -> nn.Module:
    """Return a transform in torch.

    Parameters
    ----------
    transform : InputTransform
        One that is known.

    Returns
    -------
    nn.Module
        Takes and returns rows in single precision.
    """
    makers = (make for kind, make in _MODULES.items() if isinstance(transform, kind))
    return next(makers)(transform)


def as_float(array: Any) -> Tensor:
    """Return an array as a tensor of its own in single precision."""
    return torch.tensor(np.asarray(array, dtype=np.float32))


def keep(module: nn.Module, **tensors: Tensor | None) -> None:
    """Give a module tensors that are in no state_dict.

    Parameters
    ----------
    module : nn.Module
        Changed.
    **tensors : Tensor or None
        By their names.
    """
    for name, tensor in tensors.items():
        if tensor is None:  # torch.export knows no buffers that are None
            setattr(module, name, None)
        else:
            module.register_buffer(name, tensor, persistent=False)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """Return a product in single precision, also where autocast is on.

    Parameters
    ----------
    x : Tensor of shape (..., n_in)
        Rows in single precision.
    matrix : Tensor of shape (n_in, n_out)
        In single precision.

    Returns
    -------
    Tensor of shape (..., n_out)
        In single precision.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):  # as a rule; graphs then know nothing of it
        return x @ matrix
    with torch.autocast(kind, enabled=False):
        return x @ matrix


class _Divided(nn.Module):
    scale: Tensor

    def __init__(self, transform: InputScale) -> None:
        super().__init__()
        keep(self, scale=as_float(transform.scale))

    def forward(self, x: Tensor) -> Tensor:
        return x / self.scale


class _Reordered(nn.Module):
    order: Tensor

    def __init__(self, transform: Reorder) -> None:
        super().__init__()
        keep(self, order=torch.from_numpy(transform.order.astype(np.int64)))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.order)


class _Turned(nn.Module):
    matrix: Tensor

    def __init__(self, transform: Klt) -> None:
        super().__init__()
        keep(self, matrix=as_float(transform.matrix))

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.matrix.t())


# The Walsh-Hadamard matrix of b = f_1 f_2 ... is the Kronecker product of those of the
# factors: each acts on one digit of the index of an input, the last one first. The
# transpose after a product brings the next digit to the end, and the last one the order
# of before.
class _Rotated(nn.Module):
    signs: Tensor

    def __init__(self, transform: BlockHadamard) -> None:
        super().__init__()
        self.sizes = block_sizes(transform.signs.size)
        keep(self, signs=as_float(transform.signs))
        factors = sorted({f for size in self.sizes for f in _factors(size)})
        keep(self, **{f"matrix_{f}": _hadamard(f) for f in factors})

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x * self.signs, self.sizes, dim=1)
        return torch.cat(list(map(self._rotated, parts, self.sizes)), dim=1)

    def _rotated(self, x: Tensor, size: int) -> Tensor:
        n_rows = x.shape[0]
        for factor in _factors(size):
            digits = x.reshape(n_rows, size // factor, factor)
            x = product(digits, getattr(self, f"matrix_{factor}")).transpose(1, 2)
        return x.reshape(n_rows, size) / sqrt(size)


def _factors(size: int) -> list[int]:
    """Return powers of two whose product is a power of two."""
    factors = []
    while size > 1:
        factors.append(min(size, _FACTOR))
        size //= factors[-1]
    return factors


def _hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


_MODULES: dict[type, Callable[[Any], nn.Module]] = {
    InputScale: _Divided,
    Reorder: _Reordered,
    BlockHadamard: _Rotated,
    Klt: _Turned,
}
