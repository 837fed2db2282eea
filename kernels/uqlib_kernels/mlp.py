r"""Networks of dense layers in one call, with bytes between the layers.

Layer l divides its inputs by scales d, rounds every row to codes a with a scale t (its
largest absolute value over `top`, or a fixed one), multiplies in integers and applies a
function f,

    y[m, n] = t_m s[n] sum_k (q[n, k] - z[n]) a[m, k] + b[n],       x' = f(y),

and the last layer leaves y. Sums of integers are exact. The divisors of a later layer
are folded: into s and b of the layer before where f(c y) = c f(y), into a
multiplication elsewhere, so that a code there may differ by one from that of a division
where the two round differently.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib_kernels._threads import SERIAL_WORK, in_parts, n_threads
from uqlib_kernels.pack import (
    LANES,
    MAX_GROUP,
    PackedWeight,
    aligned_empty,
    pack_w8,
    unpack_codes,
)
from uqlib_kernels.registry import isa

__all__ = ["ACTIVATIONS", "FusedMLP", "MLPLayer"]

Floats = NDArray[np.float32]

ACTIVATIONS = ("identity", "relu", "tanh", "logistic", "silu")
_HOMOGENEOUS = ("identity", "relu")  # f(c y) = c f(y) for c > 0
_BENT = {"tanh": 1, "logistic": 2, "silu": 3}  # as _mlp numbers them
# Tiles of bytes multiply wide layers several times faster than vectors, from so many
# outputs and rows on.
_TILED_OUTPUTS, _TILED_ROWS = 256, 64
_SOME_ROWS = 1024
_BLOCK_ROWS = 32  # as _mlp takes them together


class MLPLayer(NamedTuple):
    """A layer of a fused network.

    Parameters
    ----------
    packed : PackedWeight
        Its weight: integers with one scale and one zero point for each output.
    bias : ndarray of shape (n_out,) or None
        Added.
    top : int
        Largest code of its inputs, 1 to 127.
    static_scale : float or None
        Scale of all inputs; None takes that of each row.
    divisor : ndarray of shape (n_in,) or None
        What its inputs are divided by first, positive.
    """

    packed: PackedWeight
    bias: Any = None
    top: int = 127
    static_scale: float | None = None
    divisor: Any = None


class FusedMLP:
    """A network of dense layers that keeps all between its layers in the cache.

    Parameters
    ----------
    layers : sequence of MLPLayer
        At least one; each has as many inputs as the one before has outputs.
    activation : {"identity", "relu", "tanh", "logistic", "silu"}
        Between the layers.
    level : {"amx", "vnni", "portable"}, default=None
        Instructions, of `uqlib_kernels.registry.available_isas`; None takes the best.

    Raises
    ------
    ValueError
        If the layers do not fit together, or `takes` refuses them.

    Examples
    --------
    >>> import numpy as np
    >>> from uqlib_kernels.mlp import FusedMLP, MLPLayer
    >>> from uqlib_kernels.pack import pack_w8
    >>> first = MLPLayer(pack_w8(np.array([[127.0, 0.0], [0.0, -127.0]])))
    >>> last = MLPLayer(pack_w8(np.array([[127.0, 127.0]])))
    >>> FusedMLP([first, last], "relu")(np.array([[127.0, 2.0]])).tolist()
    [[2048383.0]]
    """

    def __init__(
        self, layers: Sequence[MLPLayer], activation: str, *, level: str | None = None
    ) -> None:
        reason = self.takes(layers, activation)
        if reason:
            raise ValueError(f"These layers cannot be fused: {reason}.")
        self.layers, self.activation = tuple(layers), activation
        self.level = isa() if level is None else level
        self.n_columns = layers[0].packed.n_in
        self.n_outputs = layers[-1].packed.n_out
        self._work = sum(layer.packed.n_out * layer.packed.n_in for layer in layers)
        hidden = [layer.packed.n_out for layer in layers[:-1]]
        is_wide = bool(hidden) and min(hidden) >= _TILED_OUTPUTS
        self._has_tiles = self.level == "amx" and is_wide
        self._plan: Any = None
        self._kept: Any = None  # what the plan points to
        self._run: Any = None
        if self.level != "portable":
            from uqlib_kernels._mlp import forward

            self._run = forward
            self._plan, self._kept = _plan(self.layers, activation)

    @staticmethod
    def takes(layers: Sequence[MLPLayer], activation: str) -> str:
        """Return why layers cannot be fused, or "" if they can.

        Parameters
        ----------
        layers : sequence of MLPLayer
            Any.
        activation : str
            Between them.

        Returns
        -------
        str
            A reason.
        """
        if activation not in ACTIVATIONS:
            return f"activation={activation!r} is none of {list(ACTIVATIONS)}"
        if not layers:
            return "there are none"
        for k, layer in enumerate(layers):
            reason = _refused(layer)
            if not reason and k and layer.packed.n_in != layers[k - 1].packed.n_out:
                reason = "its inputs are not the outputs of the layer before"
            if reason:
                return f"layer {k}: {reason}"
        return ""

    def __call__(self, x: Any) -> Floats:
        """Return the outputs of the network.

        Parameters
        ----------
        x : array-like of shape (n_rows, n_in)
            Rows, float64 or float32; of any strides.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
            float32; NaN in rows with an infinite value or NaN, or where numbers leave
            single precision between the layers.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        if type(x) is not np.ndarray or not _is_plain(x):
            x = np.asarray(x)
            if x.dtype.kind != "f" or x.dtype.itemsize != 8:
                x = np.asarray(x, dtype=np.float32)
            x = np.require(x, x.dtype.newbyteorder("="), ["C", "A", "W"])
        if x.ndim != 2 or x.shape[1] != self.n_columns:
            raise ValueError(
                f"x must have shape (n_rows, {self.n_columns}), got shape {x.shape}."
            )
        if self._plan is None or (self._has_tiles and len(x) >= _TILED_ROWS):
            return self._layer_by_layer(x)
        return self._forward(x)

    def _forward(self, x: NDArray[Any]) -> Floats:
        n_rows, plan, run = x.shape[0], self._plan, self._run
        out = np.empty((n_rows, self.n_outputs), np.float32)
        work = n_rows * self._work
        if work < SERIAL_WORK or n_threads(work) == 1:
            run(x, plan, out, 0)
        else:
            in_parts(
                lambda start, stop: run(x[start:stop], plan, out, start),
                n_rows,
                work,
                multiple=_BLOCK_ROWS,
            )
        return out

    # A layer at a time, of so many rows that what is between stays near.
    def _layer_by_layer(self, x: NDArray[Any]) -> Floats:
        out = np.empty((len(x), self.n_outputs), dtype=np.float32)
        with np.errstate(all="ignore"):  # of rows that become NaN
            for first in range(0, len(x), _SOME_ROWS):
                h: Any = x[first : first + _SOME_ROWS].astype(np.float32)
                for k, layer in enumerate(self.layers):
                    h = self._layer(layer, _FUNCTIONS[self.activation](h) if k else h)
                h[~np.isfinite(h).all(axis=1)] = np.nan
                out[first : first + _SOME_ROWS] = h
        return out

    def _layer(self, layer: MLPLayer, h: Floats) -> Floats:
        from uqlib_kernels._integer import integer_linear

        if layer.divisor is not None:
            divided: Floats = np.divide(h, layer.divisor, dtype=np.float32)
            h = divided
        return integer_linear(
            h,
            layer.packed,
            _single(layer.bias),
            top=layer.top,
            static_scale=layer.static_scale,
            level=self.level,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses are of this process. The level is chosen anew.
        return FusedMLP, (self.layers, self.activation)


def _is_plain(x: NDArray[Any]) -> bool:
    flags = x.flags
    native = x.dtype == np.float64 or x.dtype == np.float32
    return native and flags.c_contiguous and flags.writeable and flags.aligned


def _single(values: Any) -> Floats | None:
    return None if values is None else np.ascontiguousarray(values, dtype=np.float32)


def _refused(layer: MLPLayer) -> str:
    packed = layer.packed
    if packed.codebook is not None:
        return "its weights are of a codebook"
    if packed.n_groups != 1:
        return f"its weights have several scales in a row, or over {MAX_GROUP} columns"
    if _factor(packed) is None:
        return "its zero points are no whole or half numbers from 0 to 255"
    if not 1 <= layer.top <= 127:
        return f"top={layer.top} is not from 1 to 127"
    if layer.bias is not None and not np.isfinite(layer.bias).all():
        return "its bias is not finite"
    if layer.divisor is not None and not _are_normal(np.asarray(layer.divisor)):
        return "its divisors are not positive normal numbers"
    return ""


def _are_normal(values: NDArray[Any]) -> bool:
    bounds = np.finfo(np.float32)
    inside = (values >= bounds.tiny) & (1 / bounds.tiny >= values)
    return bool(inside.all())


def _zeros(packed: PackedWeight) -> NDArray[np.float64]:
    """Return the zero points of the outputs, of shape (n_out,)."""
    if packed.zero_point is None:
        return np.full(packed.n_out, packed.twice_zero / 2)
    return packed.zero_point.reshape(-1)[: packed.n_out].astype(np.float64)


def _factor(packed: PackedWeight) -> int | None:
    """Return 1, or 2 if codes must be doubled for zero points to be integers."""
    zero, largest = _zeros(packed), 2**packed.bits - 1
    for factor in (1, 2):
        scaled = zero * factor
        whole = (scaled == np.rint(scaled)).all()
        if whole and scaled.min() >= 0 and max(scaled.max(), factor * largest) <= 255:
            return factor
    return None


_FUNCTIONS: dict[str, Any] = {
    "identity": lambda y: y,
    "relu": lambda y: np.maximum(y, np.float32(0)),
    "tanh": np.tanh,
    "logistic": lambda y: 1 / (1 + np.exp(-y)),
    "silu": lambda y: y / (1 + np.exp(-y)),
}


# ---------------------------------------------------------------------------
# What the vector kernel reads.


def _plan(
    layers: tuple[MLPLayer, ...], activation: str
) -> tuple[NDArray[np.int64], list[Any]]:
    """Return the numbers that _mlp.forward takes, and the arrays they point to."""
    from uqlib_kernels._mlp import FIELDS, HEAD

    kept: list[Any] = []

    def address(array: NDArray[Any]) -> int:
        kept.append(array)
        return int(array.ctypes.data)

    plan = np.zeros(HEAD + FIELDS * len(layers), dtype=np.int64)
    numbers = plan.view(np.float64)
    width = 64
    for k, layer in enumerate(layers):
        following = layers[k + 1] if k + 1 < len(layers) else None
        packed = _as_bytes(layer.packed)
        after = None if following is None else following.divisor
        folds = activation in _HOMOGENEOUS
        padded = 0 if following is None else _as_bytes(following.packed).n_padded
        at = HEAD + FIELDS * k
        plan[at : at + 8] = (
            address(packed.codes),
            address(_constants(layer, after if folds else None)),
            address(_factors(packed.n_out, after)),
            packed.codes.shape[2],
            packed.n_tiles,
            packed.n_out,
            padded,
            0 if folds or following is None else _BENT[activation],
        )
        is_relu = activation == "relu" and following is not None
        fixed = 0.0 if layer.static_scale is None else layer.static_scale
        numbers[at + 8 : at + 11] = layer.top, fixed, 0.0 if is_relu else -np.inf
        width = max(width, packed.n_padded, LANES * packed.n_tiles)
    n_columns = layers[0].packed.n_in
    divisor = layers[0].divisor
    ones = np.ones(n_columns) if divisor is None else np.asarray(divisor)
    width = -(-width // 64) * 64
    first = address(np.ascontiguousarray(ones, dtype=np.float32))
    plan[:HEAD] = len(layers), n_columns, width, first
    return plan, kept


def _as_bytes(packed: PackedWeight) -> PackedWeight:
    factor = _factor(packed)
    if packed.bits == 8 and factor == 1:
        return packed
    codes = unpack_codes(packed) * np.uint8(factor or 1)
    return pack_w8(codes, scale=1.0)


def _constants(layer: MLPLayer, folded: Any) -> NDArray[np.int32]:
    """Return the bits of z, s and b of the outputs, of shape (n_tiles, 3, 16)."""
    packed = layer.packed
    factor = _factor(packed) or 1
    n_out, tiles = packed.n_out, packed.n_tiles
    scale = packed.scale.reshape(-1)[:n_out].astype(np.float64) / factor
    bias = np.zeros(n_out) if layer.bias is None else np.asarray(layer.bias, np.float64)
    if folded is not None:
        divisor = np.asarray(folded, dtype=np.float64)
        scale, bias = scale / divisor, bias / divisor
    zero = np.rint(_zeros(packed) * factor).astype(np.int32)
    out = aligned_empty((tiles, 3, LANES), np.int32)
    padded = np.zeros((3, tiles * LANES), dtype=np.int32)
    padded[0, :n_out] = zero + (zero << 23)  # 16 bits of z, then of 128 z
    padded[1, :n_out] = scale.astype(np.float32).view(np.int32)
    padded[2, :n_out] = bias.astype(np.float32).view(np.int32)
    out[:] = padded.reshape(3, tiles, LANES).transpose(1, 0, 2)
    return out


def _factors(n_out: int, divisor: Any) -> Floats:
    factors = np.ones(-(-n_out // LANES) * LANES, dtype=np.float32)
    if divisor is not None:
        factors[:n_out] = 1 / np.asarray(divisor, dtype=np.float64)
    return factors
