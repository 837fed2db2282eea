"""Launchers of the twins: what fits is checked, and all is contiguous."""

from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from torch import Tensor

from uqlib_kernels._packed import PackedWeight
from uqlib_kernels.cuda._arrange import arranged_codes, device_columns
from uqlib_kernels.rows import _scaled_weight
from uqlib_kernels.triton_twins import ArrangedTensors
from uqlib_kernels.triton_twins._torch_products import (
    integer_kernel,
    linear_kernel,
    quantize_kernel,
)
from uqlib_kernels.triton_twins._torch_rows import (
    isotonic_kernel,
    mass_kernel,
    sort_kernel,
)

_ROW_TYPES = (torch.float16, torch.bfloat16, torch.float32)
_MATRIX_TYPES = (torch.float32, torch.float64)
_TOP_OF_BITS = {8: 127, 4: 127, 2: 127, 1: 31}


def is_compiled(kernel: Any) -> bool:
    """Return whether a kernel runs on a GPU only, and not by the interpreter."""
    return isinstance(kernel, triton.JITFunction)


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any
) -> None:
    """Run a kernel: on the GPU of its tensors, or by the interpreter.

    Sums and products are never contracted to one operation.
    """
    tensors = [part for part in arguments if isinstance(part, Tensor)]
    devices = sorted({str(part.device) for part in tensors})
    if len(devices) > 1:
        raise ValueError(f"all tensors must be on one device, got {devices}.")
    if is_compiled(kernel) and not tensors[0].is_cuda:
        raise RuntimeError(
            f"a compiled kernel cannot read tensors on {devices[0]!r}: give tensors on "
            "'cuda', or set TRITON_INTERPRET=1 before triton is imported."
        )
    if all(part.numel() for part in tensors):
        kernel[grid](*arguments, **constants, num_warps=1, enable_fp_fusion=False)


# ---------------------------------------------------------------------------
# Products.


def arranged_tensors(packed: PackedWeight, device: Any) -> ArrangedTensors:
    """Return what the kernels read of a packed weight, on a device."""
    if not isinstance(packed, PackedWeight):
        raise TypeError(
            f"packed must be a PackedWeight, got {type(packed).__name__}: see "
            "uqlib_kernels.pack."
        )

    def moved(array: NDArray[Any] | None) -> Tensor | None:
        return None if array is None else torch.tensor(array, device=device)

    words = np.int8 if packed.bits == 8 else np.int32
    return ArrangedTensors(
        moved(arranged_codes(packed).view(words)),
        moved(packed.scale),
        moved(packed.zero_point),
        moved(packed.codebook),
        packed.bits,
        packed.n_out,
        packed.twice_zero / 2,
        device_columns(packed.bits, packed.n_in, packed.group_size),
    )


def linear(x: Tensor, weight: ArrangedTensors, bias: Tensor | None) -> Tensor:
    """Multiply rows of floats with a weight; see the package."""
    rows, bias = _operands(x, weight, bias)
    y = rows.new_empty((len(rows), weight.n_out))
    launch(
        linear_kernel,
        _grid(rows, weight),
        rows,
        *weight[:4],
        bias,
        y,
        weight.uniform_zero,
        len(rows),
        weight.n_out,
        *weight.columns,
        BITS=weight.bits,
        # The interpreter holds bfloat16 as bits, which it cannot multiply.
        IS_WIDE=x.dtype == torch.bfloat16 and not is_compiled(linear_kernel),
    )
    return y.reshape(*x.shape[:-1], weight.n_out)


def quantize_rows(
    x: Tensor, weight: ArrangedTensors, top: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Round rows to bytes in the order of a weight; see the package."""
    if not 1 <= top <= 127:
        raise ValueError(f"top={top!r} must lie between 1 and 127, to fit a byte.")
    rows, _ = _operands(x, weight, None)
    columns = weight.columns
    codes = rows.new_zeros((len(rows), columns.n_columns), dtype=torch.int8)
    sums = rows.new_empty((len(rows), columns.n_groups), dtype=torch.int32)
    out = codes, sums, rows.new_empty(len(rows), dtype=torch.float32)
    sizes = {"BITS": weight.bits, "TOP": top}
    launch(quantize_kernel, (len(rows),), rows, *out, *columns, **sizes)
    return out


def integer_linear(x: Tensor, weight: ArrangedTensors, bias: Tensor | None) -> Tensor:
    """Multiply rows of bytes with a weight; see the package."""
    rows, bias = _operands(x, weight, bias)
    if weight.codebook is not None:
        raise ValueError("weight holds a codebook, which is no integer: use linear.")
    codes, sums, row_scale = quantize_rows(rows, weight, _TOP_OF_BITS[weight.bits])
    y = rows.new_empty((len(rows), weight.n_out))
    launch(
        integer_kernel,
        _grid(rows, weight),
        codes,
        *weight[:3],
        bias,
        row_scale,
        sums,
        y,
        weight.uniform_zero,
        len(rows),
        weight.n_out,
        *weight.columns[4:],
        BITS=weight.bits,
    )
    return y.reshape(*x.shape[:-1], weight.n_out)


def _grid(rows: Tensor, weight: ArrangedTensors) -> tuple[int, int]:
    return -(-len(rows) // 16), -(-weight.n_out // 16)


def _operands(
    x: Tensor, weight: ArrangedTensors, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return contiguous rows, and the bias in single precision."""
    if not isinstance(weight, ArrangedTensors):
        raise TypeError(
            f"weight must be ArrangedTensors, got {type(weight).__name__}: see "
            "arranged_tensors."
        )
    n_in, n_out = weight.columns.n_in, weight.n_out
    if x.dtype not in _ROW_TYPES:
        raise ValueError(f"x must be of one of {list(_ROW_TYPES)}, got {x.dtype}.")
    if x.dim() == 0 or x.shape[-1] != n_in:
        raise ValueError(f"x must have shape (..., {n_in}), got {tuple(x.shape)}.")
    if bias is not None:
        if tuple(bias.shape) != (n_out,):
            raise ValueError(
                f"bias must have shape ({n_out},), got shape {tuple(bias.shape)}."
            )
        bias = bias.float().contiguous()
    return x.reshape(-1, n_in).contiguous(), bias


# ---------------------------------------------------------------------------
# Rows.


def sort_rows(q: Tensor) -> Tensor:
    """Sort each row; see the package."""
    q = _matrix("q", q)
    out, found_nan = torch.empty_like(q), q.new_zeros(1, dtype=torch.int32)
    launch(sort_kernel, (len(q),), q, out, found_nan, q.shape[1], BLOCK=_block(q))
    if found_nan.item():
        raise ValueError("q contains NaN, which has no place in an order.")
    return out


def isotonic_rows(q: Tensor, level_weight: Tensor | None) -> Tensor:
    """Project each row on the non-decreasing ones; see the package."""
    q = _matrix("q", q)
    given = None
    if level_weight is not None:
        _check_shape("level_weight", level_weight, q.shape[1])
        given = level_weight.double().numpy(force=True)
    weight = torch.from_numpy(_scaled_weight(given, q.shape[1])).to(q.device)
    out = torch.empty_like(q)
    launch(isotonic_kernel, (len(q),), q, weight, out, q.shape[1], BLOCK=_block(q))
    return out


def mass_sets(
    proba: Tensor, threshold: Tensor, u: Tensor, k_reg: int, penalty: float
) -> Tensor:
    """Return the sets of labels; see the package."""
    proba = _matrix("proba", proba)
    _check_shape("threshold", threshold, len(proba))
    _check_shape("u", u, len(proba))
    sets = torch.empty(proba.shape, dtype=torch.int8, device=proba.device)
    launch(
        mass_kernel,
        (len(proba),),
        proba,
        threshold.double().contiguous(),
        u.double().contiguous(),
        # A number would be rounded to single precision.
        proba.new_tensor([penalty], dtype=torch.float64),
        sets,
        k_reg,
        proba.shape[1],
        BLOCK=_block(proba),
    )
    return sets.bool()


def _matrix(name: str, matrix: Tensor) -> Tensor:
    if matrix.dim() != 2 or matrix.dtype not in _MATRIX_TYPES:
        raise TypeError(
            f"{name} must be a 2-D tensor of float32 or float64, got {matrix.dim()}-D "
            f"{matrix.dtype}: use {name}.double()."
        )
    return matrix.contiguous()


def _check_shape(name: str, vector: Tensor, size: int) -> None:
    if tuple(vector.shape) != (size,):
        raise ValueError(
            f"{name} must have shape ({size},), got shape {tuple(vector.shape)}."
        )


def _block(matrix: Tensor) -> int:
    return int(triton.next_power_of_2(matrix.shape[1]))
