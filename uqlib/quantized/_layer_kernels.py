r"""Quantized layers as weights and operations of `uqlib_kernels`.

A kernel takes weights (q - z') s' with integers q. A grid whose codebook has equal
steps, C[q] = C_0 + d q, is of that form,

    (C[q] - z) s = (q - z') s',        z' = (z - C_0) / d,    s' = d s,

as are all integers, one bit and ternary weights. Other codebooks of up to 16 values are
looked up in float. What fits neither is computed by the reference, NumPy in float.

Kernels compute in single precision: outputs equal the reference's to 1e-5 of the
largest one, and where double precision would round an input of a layer to the next
code, to one code of that input. Sums of integers are exact.

`uqlib_kernels` is imported when a kernel first runs, for torch modules when a kernel is
made; packed weights are made then and are no part of a pickle.

Which kernels of a GPU there are is said here as well; what runs them is written in
torch (`_torch_kernels`).
"""

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._activations import CrossRange, DynamicRange, StaticRange
from uqlib.quantized._grid import Grid
from uqlib.quantized._layers import QuantizedLayer

REFERENCE = "reference"
CUDA = "cuda"
FLOAT = "float weights (BLAS)"
_PACKED_BITS = (1, 2, 4, 8)
_CODEBOOK = 16  # levels that a kernel looks up
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)


class WeightForm(NamedTuple):
    """What a kernel takes a grid for.

    `bits` are those of a packed code; `scale` and `zero_point` have the shape of those
    of the grid, `codebook` is None for integers.
    """

    bits: int
    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    codebook: FloatArray | None


def weight_form(grid: Grid) -> WeightForm | str:
    """Return a grid as integers or a codebook of few values, or why it is neither.

    Parameters
    ----------
    grid : Grid
        Any.

    Returns
    -------
    WeightForm or str
        A reason where the reference must compute.
    """
    scale, zero_point = grid._parameters
    levels = grid.codebook.astype(np.float64)
    step = float(levels[1] - levels[0]) if levels.size > 1 else 1.0
    codebook = None
    if step > 0 and np.array_equal(levels[0] + step * np.arange(levels.size), levels):
        scale, zero_point = step * scale, (zero_point - levels[0]) / step
        bits = min(b for b in _PACKED_BITS if levels.size <= 2**b)
    elif levels.size <= _CODEBOOK and (np.diff(levels) > 0).all():
        bits, codebook = 4, grid.codebook
    else:
        return f"codebook of {levels.size} levels"
    if not (_is_single(scale) and _is_single(zero_point) and _has_normal(scale)):
        return "scales beyond single precision"
    return WeightForm(bits, scale, zero_point, codebook)


def _is_single(values: NDArray[np.float64]) -> bool:
    return bool((np.abs(values) <= _LARGEST).all())


# Scales that are smaller become inexact or 0, which does not show beside larger ones.
def _has_normal(scale: NDArray[np.float64]) -> bool:
    largest = np.abs(scale).max()
    return bool(largest >= _SMALLEST or largest == 0)


def layer_operation(layer: QuantizedLayer, backend: str) -> str:
    """Return the name of what computes a layer.

    Parameters
    ----------
    layer : QuantizedLayer
        Any.
    backend : {"auto", "cuda", "numba", "reference"}
        As in the estimators; "cuda" for a layer on a GPU whose kernels are there.

    Returns
    -------
    str
        An operation of `uqlib_kernels.ops` and what is added to it, or "reference",
        where need be with the reason, or "float weights (BLAS)".
    """
    if backend == REFERENCE or (backend == "auto" and not has_kernels()):
        return REFERENCE
    form, activation = weight_form(layer.grid), layer.activation
    if activation is None:
        if backend == "auto" or isinstance(form, str):
            return FLOAT
        return _with_sides(_float_operation(form, backend), layer)
    if isinstance(form, str):
        return f"{REFERENCE}: {form}"
    if not isinstance(activation, DynamicRange):
        return f"{REFERENCE}: activations of the kind {activation.kind!r}"
    if form.codebook is not None:
        return _with_sides("linear_w4a32: rounded inputs", layer)
    name = f"linear_w{form.bits}a8"
    if isinstance(activation, CrossRange):
        name += ": cross scales"
    return _with_sides(name, layer)


@cache
def has_kernels() -> bool:
    """Return whether there are kernels to import; "auto" does without if not."""
    return all(find_spec(name) is not None for name in ("numba", "uqlib_kernels"))


def has_cuda_kernels() -> bool:
    """Return whether there are kernels for the GPUs of this machine."""
    if not has_kernels():
        return False
    from uqlib_kernels import cuda

    return bool(cuda.is_available())


def load_cuda_kernels() -> None:
    """Load the kernels for GPUs.

    Raises
    ------
    KernelUnavailableError
        If they are not built, or there is no GPU; it says what to do.
    """
    from uqlib_kernels import cuda

    cuda.load()


def _float_operation(form: WeightForm, backend: str) -> str:
    if form.bits == 4 or (form.bits < 4 and backend != CUDA):
        return "linear_w4a32"
    return "linear_dequantized"


def _with_sides(name: str, layer: QuantizedLayer) -> str:
    name += " + outliers" if layer.outliers is not None else ""
    return name + (" + low rank" if layer.low_rank is not None else "")


def is_compiled(operation: str) -> bool:
    """Return whether an operation is one of `uqlib_kernels`."""
    return operation.startswith(("linear_", "mlp"))


class LayerKernel:
    """A quantized layer that is computed in single precision by a compiled kernel.

    Parameters
    ----------
    layer : QuantizedLayer
        What `layer_operation` has a kernel for.
    backend : {"auto", "numba"}
        As in the estimators.
    pack : callable () -> PackedWeight, default=None
        Who has the packed weight already; None makes it.
    """

    def __init__(
        self,
        layer: QuantizedLayer,
        backend: str,
        pack: Callable[[], Any] | None = None,
    ) -> None:
        self.layer = layer
        self.operation = layer_operation(layer, backend)
        self._pack = pack
        self._packed: Any = None

    def __call__(self, x: FloatArray) -> NDArray[np.float32]:
        """Return the outputs of the layer.

        Parameters
        ----------
        x : ndarray of shape (n_rows, n_in)
            Inputs, cast to single precision.

        Returns
        -------
        ndarray of shape (n_rows, n_out)
            float32; rows whose inputs are not finite are NaN.
        """
        layer = self.layer
        x = np.asarray(x, dtype=np.float32)
        for transform in layer.transforms:
            x = np.asarray(transform.inputs(x), dtype=np.float32)
        activation: Any = layer.activation
        packed, bias = self.packed(), layer.bias
        has_sides = layer.outliers is not None or layer.low_rank is not None
        if activation is None:
            return self._with_sides(self._in_float(x, packed, bias), x)
        if has_sides or packed.codebook is not None or _is_cross(activation):
            return self._encoded(x, packed, bias)
        from uqlib_kernels._integer import integer_linear

        y: NDArray[np.float32] = integer_linear(
            x,
            packed,
            bias,
            top=activation.largest_code,
            static_scale=fixed_scale(activation),
        )
        return y

    def packed(self) -> Any:
        """Return the packed weight, made when it is first needed."""
        packed = self._packed
        if packed is None:
            floats = self.operation.startswith("linear_w4a32")
            own = partial(packed_weight, self.layer, 4 if floats else 1)
            self._packed = packed = (self._pack or own)()
        return packed

    def _in_float(self, x: FloatArray, packed: Any, bias: Any) -> NDArray[np.float32]:
        from uqlib_kernels.ops import linear_dequantized, linear_w4a32

        operation = linear_w4a32 if packed.bits == 4 else linear_dequantized
        y: NDArray[np.float32] = operation(x, packed, bias)
        return y

    # Where the rounded inputs are needed for themselves NumPy makes the codes.
    def _encoded(self, x: FloatArray, packed: Any, bias: Any) -> NDArray[np.float32]:
        layer: Any = self.layer
        is_finite = np.isfinite(x).all(axis=1)
        if not is_finite.all():
            y = np.full((len(x), packed.n_out), np.nan, dtype=np.float32)
            y[is_finite] = self._encoded(x[is_finite], packed, bias)
            return y
        codes, scale = layer.activation.encode(x)
        rounded = codes.astype(np.float32) * scale
        if packed.codebook is not None:
            return self._with_sides(self._in_float(rounded, packed, bias), rounded)
        from uqlib_kernels._integer import integer_product

        padded, sums = _padded(codes, packed)
        row_scale = np.ascontiguousarray(np.broadcast_to(scale[:, 0], len(x)))
        y = integer_product(padded, sums, row_scale, packed, bias)
        return self._with_sides(y, rounded)

    def _with_sides(self, y: Any, seen: FloatArray) -> NDArray[np.float32]:
        layer = self.layer
        if layer.outliers is not None:
            y = y + seen @ self._sparse().T
        if layer.low_rank is not None:
            left, right = (part.astype(np.float32) for part in layer.low_rank)
            y = y + (seen @ right.T) @ left.T
        found: NDArray[np.float32] = np.asarray(y, dtype=np.float32)
        return found

    def _sparse(self) -> Any:
        from scipy.sparse import csr_array

        layer: Any = self.layer
        shape = layer.codes.shape
        row, column = np.divmod(layer.outliers.positions.astype(np.int64), shape[1])
        values = layer.outliers.values.astype(np.float32)
        return csr_array((values, (row, column)), shape=shape)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_pack": None, "_packed": None}


def packed_weight(layer: QuantizedLayer, least_bits: int = 1) -> Any:
    """Return the weights of a layer as the kernels read them.

    Parameters
    ----------
    layer : QuantizedLayer
        Whose grid has a `weight_form`.
    least_bits : {1, 2, 4, 8}, default=1
        Of a packed code.

    Returns
    -------
    PackedWeight
        Without outliers and low-rank corrections.
    """
    from uqlib_kernels import pack

    form = weight_form(layer.grid)
    if isinstance(form, str):
        raise ValueError(f"Layer {layer.name!r} has no kernel: {form}.")
    group = None if form.scale.shape[1] == 1 else layer.grid.group_size
    parts = {"scale": form.scale, "zero_point": form.zero_point}
    if form.codebook is not None:
        return pack.pack_codebook(layer.codes, form.codebook, group, **parts)
    packers = {1: pack.pack_w1, 2: pack.pack_w2, 4: pack.pack_w4, 8: pack.pack_w8}
    return packers[max(form.bits, least_bits)](layer.codes, group, **parts)


def fixed_scale(activation: Any) -> float | None:
    """Return the one scale of an activation quantizer, None where each row has its."""
    if isinstance(activation, StaticRange):
        return float(activation.scale[0])
    return None


def _is_cross(activation: Any) -> bool:
    return isinstance(activation, CrossRange)


def _padded(codes: NDArray[np.int8], packed: Any) -> tuple[Any, Any]:
    """Return codes in the columns of a packed weight, and their sums of groups."""
    from uqlib_kernels.pack import aligned_empty

    padded = aligned_empty((len(codes), packed.n_padded), np.int8)
    padded[:] = 0
    padded[:, packed.columns] = codes
    groups = padded.reshape(len(codes), packed.n_groups, packed.padded_group)
    return padded, groups.sum(axis=2, dtype=np.int32)
