r"""Quantized layers as operations of torch, which stay on a device and in a graph.

With the transforms T of the inputs, codes a and scales t of their rounding, packed
weights What, outliers O and a low-rank correction U V a layer is

    y = What (t a) + (O + U V) (t a) + b,      t a = A(T x),

whose first product is one of ``torch.ops.uqlib_kernels.linear_*`` and all else plain
torch. Where nothing but that product needs a and t, the operation rounds by itself;
else it gets the integers a as floats, with a scale of 1, and its sums are multiplied by
t afterwards. A row that holds NaN or infinity has t = NaN, and so becomes NaN.

Nothing here looks at a value on the host, so that a layer can be compiled as one graph
and captured as a CUDA graph. Its constants are buffers, which compiled code does not
copy; they are in no state_dict, and of one device: weights of a GPU lie in another
order than those of a CPU.
"""

from collections.abc import Callable, Iterator
from math import inf, nan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uqlib.quantized._activations import CrossRange
from uqlib.quantized._layer_kernels import fixed_scale, packed_weight
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._torch_transforms import as_float, keep, product, transform_module
from uqlib.quantized._transforms import CROSS_ALPHA

_BYTE = 127  # the largest code of the operations that are named after their bits


_OF_FLOATS = ("linear_w4a32", "linear_dequantized")


class TorchKernel(nn.Module):
    """A quantized layer on one device.

    Parameters
    ----------
    layer : QuantizedLayer
        With a `weight_form` and no `unknown_transform`.
    operation : str
        What computes it, as `layer_operation` gives it.
    device : torch.device
        Where its tensors are, a CPU or a GPU whose kernels are there.

    Attributes
    ----------
    packed : PackedWeight or None
        The weight in memory, on a CPU.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    codebook: Tensor | None
    bias: Tensor | None

    @torch.inference_mode(False)  # tensors of that mode count no writes
    def __init__(
        self, layer: QuantizedLayer, operation: str, device: torch.device
    ) -> None:
        super().__init__()
        from uqlib_kernels.torch_ops import packed_tensors, register

        register()
        packed = packed_weight(layer, 4 if operation.startswith("linear_w4a32") else 1)
        tensors = packed_tensors(packed, device=device)
        self.packed = packed if device.type == "cpu" else None
        self.numbers = tensors[4:]
        self.operation, self.rounding, self.settings = _plan(layer, packed)
        transforms = [transform_module(part) for part in layer.transforms]
        sides = list(_sides(layer))
        # What goes through all modules, as a prediction does, finds no empty ones.
        self.transforms = nn.Sequential(*transforms) if transforms else None
        self.sides = nn.ModuleList(sides) if sides else ()
        keep(self, **dict(zip(tensors._fields[:4], tensors[:4], strict=True)))
        keep(self, bias=None if layer.bias is None else as_float(layer.bias))
        super()._apply(lambda tensor: tensor.to(device))  # type: ignore[no-untyped-call]
        super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the layer.

        Parameters
        ----------
        x : Tensor of shape (n_rows, n_in)
            float32, float16 or bfloat16.

        Returns
        -------
        Tensor of shape (n_rows, n_out)
            In the type of x; sums are in single precision.
        """
        seen = x if self.transforms is None else self.transforms(x.float())
        if self.rounding is not None:
            y, seen = self._of_codes(*self.rounding(seen.float()))
        else:
            if self.operation in _OF_FLOATS:
                seen = seen.to(x.dtype)  # halves, where they came in, are fastest
            y = self._product(seen, self.bias)
        for side in self.sides:
            y = y.float() + side(seen.float())
        return y.to(x.dtype)

    def _of_codes(self, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return What (t a) + b and t a."""
        seen = codes * scale
        if self.operation in _OF_FLOATS:
            return self._product(seen, self.bias), seen
        y = self._product(codes, None) * scale
        return (y if self.bias is None else y + self.bias), seen

    def _product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        operation = getattr(torch.ops.uqlib_kernels, self.operation)
        weight = (self.codes, self.scale, self.zero_point, self.codebook)
        y: Tensor = operation(x, *weight, *self.numbers, bias, *self.settings)
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return self  # it keeps types and device: what holds it makes another one

    def train(self, mode: bool = True) -> Any:
        """Do nothing: it computes the same in every mode."""
        return self


def _plan(layer: Any, packed: Any) -> tuple[str, Any, tuple[Any, ...]]:
    """Return the operation, what rounds before it, and its last arguments."""
    activation = layer.activation
    floats = "linear_w4a32" if packed.bits == 4 else "linear_dequantized"
    if activation is None:
        return floats, None, ()
    if packed.codebook is not None:
        return floats, _Rounding(activation), ()
    has_sides = layer.outliers is not None or layer.low_rank is not None
    if has_sides or isinstance(activation, CrossRange):
        return "linear_integer", _Rounding(activation), (_BYTE, 1.0)
    top, fixed = activation.largest_code, fixed_scale(activation)
    if top == _BYTE and fixed is None and packed.bits > 1:
        return f"linear_w{packed.bits}a8", None, ()
    return "linear_integer", None, (top, fixed)


class _Rounding(nn.Module):
    """What an activation quantizer does: codes as floats, and the scale of each row."""

    column: Tensor | None

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.top, self.fixed = activation.largest_code, fixed_scale(activation)
        is_cross = isinstance(activation, CrossRange)
        keep(self, column=as_float(activation.column) if is_cross else None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = x.abs()
        largest = size.amax(dim=1, keepdim=True)
        scale = torch.where(largest < inf, self._scale(size, largest), nan)
        return torch.clamp(torch.round(x / scale), -self.top, self.top), scale

    def _scale(self, size: Tensor, largest: Tensor) -> Tensor:
        if self.fixed is not None:
            return torch.full_like(largest, self.fixed)
        if self.column is not None:
            row = (size * self.column).amax(dim=1, keepdim=True)
            largest = row.clamp(max=torch.finfo(row.dtype).max) ** CROSS_ALPHA
        scale = largest / self.top
        return torch.where(scale > 0, scale, 1.0)


# --- what is added to the product ---------------------------------------------


def _sides(layer: QuantizedLayer) -> Iterator[nn.Module]:
    if layer.outliers is not None and layer.outliers.positions.size:
        yield _Outliers(layer)
    if layer.low_rank is not None:
        yield _LowRank(layer)


class _Outliers(nn.Module):
    """x O^T for a matrix O of few entries that are not 0.

    An output is the sum of some inputs, each with a weight: a bag of rows of x^T.
    """

    columns: Tensor
    starts: Tensor
    values: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        n_out, n_in = layer.codes.shape
        row, column = np.divmod(layer.outliers.positions.astype(np.int64), n_in)
        order = np.argsort(row, kind="stable")
        starts = np.searchsorted(row[order], np.arange(n_out))
        keep(
            self,
            columns=torch.from_numpy(column[order]),
            starts=torch.from_numpy(starts.astype(np.int64)),
            values=as_float(layer.outliers.values[order]),
        )

    def forward(self, x: Tensor) -> Tensor:
        table = x.t().contiguous()
        y = F.embedding_bag(
            self.columns, table, self.starts, mode="sum", per_sample_weights=self.values
        )
        return y.t()


class _LowRank(nn.Module):
    """x (U V)^T."""

    left: Tensor
    right: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        left, right = layer.low_rank
        keep(self, left=as_float(left), right=as_float(right))

    def forward(self, x: Tensor) -> Tensor:
        return product(product(x, self.right.t()), self.left.t())
