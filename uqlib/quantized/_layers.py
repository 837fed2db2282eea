r"""A quantized layer: what is stored of it and what it computes.

With transforms T of its inputs (a product of them, T = T_k ... T_1), the quantizer A of
its activations, legal weights What, sparse outliers O and a low-rank correction U V,

    y = (What + O + U V) A(T x) + b .

What + O + U V stands for W T^{-1}, so that without A the layer is a matrix again,

    y = W_eff x + b,       W_eff = (What + O + U V) T .
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._grid import Codes, Grid
from uqlib.quantized._packing import packed_size


class InputTransform(Protocol):
    """An invertible linear map T of the inputs of a layer, which W T^{-1} undoes."""

    kind: str

    def inputs(self, x: FloatArray) -> FloatArray:
        """Return the rows T x, of shape (n_rows, n_transformed)."""

    def weight(self, weight: FloatArray) -> FloatArray:
        """Return W T^{-1}, of shape (n_out, n_transformed)."""

    def restored(self, weight: FloatArray) -> FloatArray:
        """Return W' T, of shape (n_out, n_in)."""

    def gram(self, gram: FloatArray) -> FloatArray:
        """Return T G T^T, of shape (n_transformed, n_transformed)."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored, in the types in which it is stored."""

    def settings(self) -> dict[str, Any]:
        """Return the JSON numbers and strings that rebuild it beside the arrays."""


class ActivationQuantizer(Protocol):
    """Rounds what enters a layer, after the transforms."""

    kind: str
    bits: int

    def quantize(self, x: FloatArray) -> FloatArray:
        """Return the rounded rows (n_rows, n_transformed) in units of x."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored, in the types in which it is stored."""

    def settings(self) -> dict[str, Any]:
        """Return the JSON numbers and strings that rebuild it beside the arrays."""


class Outliers(NamedTuple):
    """Weights beside the grid: flat positions (int32) and values (float16 or 32)."""

    positions: NDArray[np.int32]
    values: FloatArray


class LowRank(NamedTuple):
    """Factors (n_out, rank) and (rank, n_transformed) of a correction."""

    left: FloatArray
    right: FloatArray


def seen_inputs(
    x: FloatArray,
    transforms: tuple[InputTransform, ...],
    activation: ActivationQuantizer | None,
) -> FloatArray:
    """Return A(T x), what the weights of a layer are multiplied by.

    Parameters
    ----------
    x : ndarray of shape (n_rows, n_in)
        Inputs.
    transforms : tuple of InputTransform
        In their order.
    activation : ActivationQuantizer or None
        None leaves T x in float.

    Returns
    -------
    ndarray of shape (n_rows, n_transformed)
        In the type of x.
    """
    for transform in transforms:
        x = transform.inputs(x)
    return x if activation is None else activation.quantize(x)


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One layer of a quantized model.

    Parameters
    ----------
    name : str
        Name of the layer in its model.
    codes : ndarray of shape (n_out, n_transformed)
        Codes of the weights, uint8.
    grid : Grid
        Their values.
    bias : ndarray of shape (n_out,) or None
        In float32.
    transforms : tuple of InputTransform
        In the order in which they act on the inputs.
    outliers : Outliers or None
        Added to the weights.
    low_rank : LowRank or None
        Added to the weights.
    activation : ActivationQuantizer or None
        None leaves the inputs in float.
    details : dict
        What a report says of the layer, and its number of inputs, `n_in`.
    """

    name: str
    codes: Codes
    grid: Grid
    bias: FloatArray | None = None
    transforms: tuple[InputTransform, ...] = ()
    outliers: Outliers | None = None
    low_rank: LowRank | None = None
    activation: ActivationQuantizer | None = None
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return the outputs of the layer, the reference for every kernel.

        Parameters
        ----------
        x : ndarray of shape (n_rows, n_in)
            Inputs.

        Returns
        -------
        ndarray of shape (n_rows, n_out)
            In the type of x.
        """
        x = seen_inputs(x, self.transforms, self.activation)
        y = x @ self.transformed_weight().T.astype(x.dtype)
        return y if self.bias is None else y + self.bias.astype(x.dtype)

    def transformed_weight(self) -> NDArray[np.float64]:
        """Return What + O + U V.

        Returns
        -------
        ndarray of shape (n_out, n_transformed)
            Float64.
        """
        weight = self.grid.decode(self.codes)
        if self.outliers is not None:
            weight.reshape(-1)[self.outliers.positions] += self.outliers.values
        if self.low_rank is not None:
            left, right = (part.astype(np.float64) for part in self.low_rank)
            weight += left @ right
        return weight

    def effective_weight(self) -> NDArray[np.float64]:
        """Return W_eff, which acts on the inputs as the model has them.

        Returns
        -------
        ndarray of shape (n_out, n_in)
            Float64.
        """
        weight: FloatArray = self.transformed_weight()
        for transform in reversed(self.transforms):
            weight = transform.restored(weight)
        return np.asarray(weight, dtype=np.float64)

    @property
    def weight_bits(self) -> float:
        """Bits stored for every weight of the layer, scales and all else included.

        A bias that the float layer has as well is not counted.
        """
        counted = self.bias is None or not self.details.get("has_bias", True)
        bias = 0 if counted or self.bias is None else self.bias.nbytes
        return 8 * (self.nbytes - bias) / max(1, self.n_weights)

    @property
    def n_weights(self) -> int:
        """Number of weights of the float layer."""
        return int(self.codes.shape[0] * self._n_in)

    @property
    def nbytes(self) -> int:
        """Bytes stored for the layer: packed codes, scales, bias, and all else."""
        codes = packed_size(self.codes.shape, self.grid.code_bits)
        return codes + sum(part.nbytes for part in self._side_arrays())

    @property
    def _n_in(self) -> int:
        return int(self.details.get("n_in", self.grid.n_in))

    def _side_arrays(self) -> list[NDArray[Any]]:
        grid = self.grid
        parts: list[Any] = [grid.scale, grid.zero_point, self.bias]
        parts += [*(self.outliers or ()), *(self.low_rank or ())]
        for piece in (*self.transforms, self.activation):
            parts += [] if piece is None else piece.arrays().values()
        if not self.details.get("named_codebook", True):
            parts.append(grid.codebook)
        return [part for part in parts if part is not None]
