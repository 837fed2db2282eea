"""Linear layers of low bits on a GPU, ours and their peers: how each is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from _gpu_goals import (
    BF16,
    INT_MM,
    NF4,
    TINYGEMM,
    TWIN,
    W1,
    W1A6,
    W2,
    W2A8,
    W4,
    W4_HALF,
    W4A8,
    W8A8,
)

from uqlib_kernels import pack, torch_ops

GROUP = 128
Product = Callable[[Any], Any]  # of rows, to outputs

# Quantiles of a normal distribution, as codes of four bits that are no integers.
CODEBOOK = np.sinh(np.linspace(-2, 2, 16)).astype(np.float32) / 3.7


class Matrix:
    """Random codes and scales, w = (C[q] - z) s; scales are exact in bfloat16."""

    def __init__(self, n_out: int, n_in: int, bits: int, group: int, codebook: bool):
        rng = np.random.default_rng(n_out + 3 * n_in + bits)
        self.bits, self.n_out, self.n_in = bits, n_out, n_in
        self.group = min(group, n_in)
        self.codes = rng.integers(0, 2**bits, (n_out, n_in), dtype=np.uint8)
        scale = rng.integers(16, 32, (n_out, -(-n_in // self.group)))
        self.scale = (scale / 32 / n_in**0.5).astype(np.float32)
        self.scale = torch.from_numpy(self.scale).bfloat16().float().numpy()
        self.zero = 0.0 if codebook else float(pack.DEFAULT_ZERO[bits])
        self.codebook = CODEBOOK if codebook else None

    @cached_property
    def packed(self) -> pack.PackedWeight:
        """It as our layers take it: packed once for all of them."""
        if self.codebook is not None:
            return pack.pack_codebook(
                self.codes, self.codebook, self.group, scale=self.scale
            )
        packer = getattr(pack, f"pack_w{self.bits}")
        return packer(self.codes, self.group, scale=self.scale, zero_point=self.zero)

    def values(self, device: str, dtype: Any) -> Any:
        """Return it as floats, made in double precision by blocks of rows."""
        out = torch.empty(self.n_out, self.n_in, device=device, dtype=dtype)
        for start in range(0, self.n_out, 1024):
            rows = slice(start, start + 1024)
            codes = torch.from_numpy(self.codes[rows]).to(device)
            values = codes.double() - self.zero
            if self.codebook is not None:
                table = torch.from_numpy(self.codebook).to(device)
                values = table.double()[codes.long()]
            scale = torch.from_numpy(self.scale[rows]).to(device).double()
            scale = scale.repeat_interleave(self.group, dim=1)[:, : self.n_in]
            out[rows] = (values * scale).to(dtype)
        return out

    def n_bytes(self) -> int:
        """Return the bytes of codes and scales."""
        return self.codes.size * self.bits // 8 + self.scale.nbytes


@dataclass(frozen=True)
class Layer:
    """A layer to be timed.

    `make` returns one product for each copy of the weight; `few` is the most rows that
    it is timed with, `many` the fewest.
    """

    name: str
    bits: int
    make: Callable[[Matrix, str, int], Sequence[Product]]
    tolerance: float
    dtype: str = "bfloat16"
    grouped: bool = True
    codebook: bool = False
    few: int = 1 << 20
    many: int = 1
    stored: float = 0.0  # bytes of a weight, where they are not those of the matrix
    exact: bool = False  # sums of codes in integers: compared as such

    def takes(self, rows: int) -> bool:
        """Whether it is timed with so many rows."""
        return self.many <= rows <= self.few

    def n_bytes(self, matrix: Matrix) -> int:
        """Return the bytes of the weight that a product reads."""
        if self.stored:
            return int(matrix.codes.size * self.stored)
        return matrix.n_bytes()


# ---------------------------------------------------------------------------
# Ours.


def ours(operation: str, matrix: Matrix, device: str, copies: int) -> list[Product]:
    """Return products of one of our operations."""
    weight = torch_ops.packed_tensors(matrix.packed, device=device)
    weights = (_copied(weight) for _ in range(copies))
    return [partial(_product, operation, weight) for weight in weights]


def _copied(weight: Any) -> Any:
    parts = (part.clone() if torch.is_tensor(part) else part for part in weight)
    return type(weight)(*parts)


def _product(operation: str, weight: Any, x: Any) -> Any:
    return torch_ops.linear(x, weight, operation=operation)


# ---------------------------------------------------------------------------
# Peers.


def of_torch(matrix: Matrix, device: str, copies: int) -> list[Product]:
    """Return products with the float values in bfloat16."""
    values = matrix.values(device, torch.bfloat16)
    return [partial(_float_product, values.clone()) for _ in range(copies)]


def _float_product(weight: Any, x: Any) -> Any:
    return torch.nn.functional.linear(x, weight)


def tinygemm(matrix: Matrix, device: str, copies: int) -> list[Product]:
    """Return torch's products of four bits; its zero point is 8 as well."""
    aten = torch.ops.aten
    codes = torch.from_numpy(matrix.codes).to(device)
    pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
    try:
        packed = aten._convert_weight_to_int4pack(pairs, 8)
    except RuntimeError:  # versions before 2.5 take a code in each number
        packed = aten._convert_weight_to_int4pack(codes.int(), 8)
    scale = torch.from_numpy(matrix.scale.T.copy()).to(device).bfloat16()
    scales = torch.stack([scale, torch.zeros_like(scale)], dim=-1).contiguous()
    return [
        partial(_tinygemm_product, packed.clone(), matrix.group, scales.clone())
        for _ in range(copies)
    ]


def _tinygemm_product(packed: Any, group: int, scales: Any, x: Any) -> Any:
    return torch.ops.aten._weight_int4pack_mm(x, packed, group, scales)


def int_mm(matrix: Matrix, device: str, copies: int) -> list[Product]:
    """Return products of bytes alone: nothing is rounded or scaled."""
    signed = torch.from_numpy((matrix.codes ^ 0x80).view(np.int8)).to(device)
    return [partial(_integer_product, signed.clone()) for _ in range(copies)]


def _integer_product(weight: Any, x: Any) -> Any:
    return torch._int_mm(x, weight.t())


def twin(matrix: Matrix, device: str, copies: int) -> list[Product]:
    """Return products of the Triton twin, which reads what ours read."""
    if device == "cpu":
        raise NotImplementedError("the Triton twin is timed on a GPU alone")
    from uqlib_kernels import triton_twins

    weight = triton_twins.arranged_tensors(matrix.packed, device)
    weights = (_copied(weight) for _ in range(copies))
    return [partial(_twin_product, triton_twins.linear, weight) for weight in weights]


def _twin_product(function: Any, weight: Any, x: Any) -> Any:
    return function(x, weight)


# ---------------------------------------------------------------------------


def _ours(name: str, bits: int, operation: str, tolerance: float, **parts: Any):
    return Layer(name, bits, partial(ours, operation), tolerance, **parts)


# Relative errors of bfloat16 stay below 1 %, those of rows of 8 and 6 bits are more.
LAYERS = (
    _ours(W4, 4, "linear_w4a32", 1e-2),
    _ours(W4_HALF, 4, "linear_w4a32", 1e-2, dtype="float16"),
    _ours(NF4, 4, "linear_w4a32", 1e-2, codebook=True),
    _ours(W2, 2, "linear_dequantized", 1e-2),
    _ours(W1, 1, "linear_dequantized", 1e-2),
    _ours(W8A8, 8, "linear_w8a8", 3e-2, grouped=False),
    _ours(W4A8, 4, "linear_w4a8", 3e-2),
    _ours(W2A8, 2, "linear_w2a8", 3e-2),
    _ours(W1A6, 1, "linear_w1", 1e-1),
    Layer(BF16, 4, of_torch, 2e-2, stored=2.0),
    Layer(TINYGEMM, 4, tinygemm, 2e-2, few=128),
    Layer(INT_MM, 8, int_mm, 0.0, "int8", many=17, grouped=False, exact=True),
    Layer(TWIN, 4, twin, 1e-2, few=16),
)
