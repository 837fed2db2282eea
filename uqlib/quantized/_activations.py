r"""Round what enters a layer.

All quantizers are symmetric. With b bits there are K = 2^(b-1) - 1 levels on each side
of 0, and a row x becomes

    A(x) = s q,      q = clip(rint(x / s), -K, K),

halves to even. They differ in the scale s: of the row itself, or fixed in calibration.

Cross scales (CrossQuant, arXiv:2410.07505) give each row i and column j their own,

    s_ij = t_i^a c_j^(1-a) / K,      a = 0.15,

with t_i the largest abs(x_ij) of the row and c_j that of the column in calibration. Put
f_j = c_j^(1-a). The transform `CrossScale` divides column j by f_j and multiplies that
of the weights by it, before these are rounded. On x'_ij = x_ij / f_j what is left is a
scale for the row,

    s_i = t_i^a / K,      t_i = max_j abs(x'_ij) f_j ,

so that the quantizer has to know f. It sees x' only, whose columns have the largest
values c_j / f_j = c_j^a in calibration, which gives f_j = (max_i abs(x'_ij))^((1-a)/a).
No value of calibration is cut: abs(x'_ij) = abs(x_ij)^a (abs(x_ij) / c_j)^(1-a) is at
most t_i^a. That bound holds for x' of any origin, since f then belongs to the inputs
x' f.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._grid import stored
from uqlib.quantized._layers import ActivationQuantizer
from uqlib.quantized._scheme import QuantizationScheme, format_bits
from uqlib.quantized._transforms import CROSS_ALPHA
from uqlib.quantized._transforms_loading import loaded_count, loaded_floats

Chunks = Callable[[], Iterator[FloatArray]]

KEPT = Fraction(999, 1000)  # share of values that a percentile does not cut
_HALF_BITS = 16  # of a number in single precision, for each pass
_SINGLE = np.finfo(np.float32)


def make_activation(
    scheme: QuantizationScheme, chunks: Chunks
) -> ActivationQuantizer | None:
    """Return the quantizer of what enters a layer.

    Parameters
    ----------
    scheme : QuantizationScheme
        With `activations` and `activation_range`.
    chunks : callable () -> iterator of ndarray of shape (n_rows, n_transformed)
        The rows of calibration after the transforms, some at a time. It is called
        never for "dynamic", once for "static" and "cross", twice for "percentile"; no
        row is kept.

    Returns
    -------
    ActivationQuantizer or None
        None where activations stay in float.

    Raises
    ------
    ValueError
        If a row is not finite in single precision, unless the range is "dynamic".
    """
    if scheme.activations is None:
        return None
    bits = int(format_bits(scheme.activations))
    made: ActivationQuantizer = _KINDS[scheme.activation_range].fit(bits, chunks)
    return made


def activation_from(
    kind: str, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]
) -> ActivationQuantizer:
    """Return the quantizer that was stored.

    Parameters
    ----------
    kind : str
        As the quantizer has it.
    arrays : mapping of str to ndarray
        As its `arrays()` gave them.
    settings : mapping of str to number or str
        As its `settings()` gave them.

    Returns
    -------
    ActivationQuantizer
        The same one.

    Raises
    ------
    ValueError
        If there is no such kind, or an array or setting is not what it must be.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"There is no activation quantizer {kind!r}. There are: "
            f"{', '.join(_KINDS)}."
        )
    bits = loaded_count(kind, settings, "bits", 2, 8)
    made: ActivationQuantizer = _KINDS[kind].load(bits, arrays)
    return made


@dataclass(frozen=True, eq=False)
class DynamicRange:
    """A scale for each row: its largest absolute value.

    Parameters
    ----------
    bits : int
        2 to 8.
    """

    bits: int
    kind = "dynamic"

    @classmethod
    def fit(cls, bits: int, chunks: Chunks) -> "DynamicRange":
        """Return the quantizer, which needs no rows."""
        return cls(bits)

    @classmethod
    def load(cls, bits: int, arrays: Mapping[str, NDArray[Any]]) -> "DynamicRange":
        """Return the quantizer of stored arrays."""
        return cls(bits)

    @property
    def largest_code(self) -> int:
        """Levels on each side of 0."""
        return int(2 ** (self.bits - 1) - 1)

    def scales(self, x: FloatArray) -> FloatArray:
        """Return the scales of rows, in a shape that broadcasts with theirs."""
        largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
        return _or_one(largest / self.largest_code)

    def encode(self, x: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
        """Return codes and scales, for products in integers.

        Parameters
        ----------
        x : ndarray of shape (n_rows, n_transformed)
            Finite, float32 or float64.

        Returns
        -------
        codes : ndarray of shape (n_rows, n_transformed)
            int8.
        scale : ndarray of shape (n_rows, 1) or (1, 1)
            Positive, in the type of x.
        """
        scale = self.scales(x)
        with np.errstate(over="ignore"):  # what is beyond all numbers is cut as well
            level = np.rint(x / scale)
        top = self.largest_code
        return np.clip(level, -top, top).astype(np.int8), scale

    def quantize(self, x: FloatArray) -> FloatArray:
        """Return the rounded rows in units and type of x."""
        codes, scale = self.encode(x)
        rounded: FloatArray = codes.astype(x.dtype) * scale
        return rounded

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing: scales are made from the rows."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return the bits."""
        return {"bits": self.bits}


@dataclass(frozen=True, eq=False)
class StaticRange(DynamicRange):
    """One scale: the largest absolute value in calibration. What is larger is cut.

    Parameters
    ----------
    bits : int
        2 to 8.
    scale : ndarray of shape (1,)
        Positive, float32.
    """

    scale: FloatArray
    kind = "static"

    @classmethod
    def fit(cls, bits: int, chunks: Chunks) -> "StaticRange":
        """Return the quantizer of the largest value in calibration."""
        return cls._reaching(bits, largest_value(chunks))

    @classmethod
    def load(cls, bits: int, arrays: Mapping[str, NDArray[Any]]) -> "StaticRange":
        """Return the quantizer of stored arrays."""
        scale = loaded_floats(cls.kind, arrays, "scale", 1)
        if scale.size != 1:
            raise ValueError(
                f"The stored part {cls.kind!r} has one scale, got {scale.size}: the "
                "file is damaged."
            )
        return cls(bits, scale)

    @classmethod
    def _reaching(cls, bits: int, largest: float) -> "StaticRange":
        scale = np.array([largest / (2 ** (bits - 1) - 1)])
        scale[scale < _SINGLE.tiny] = 1.0  # nothing but zeros
        return cls(bits, scale.astype(np.float32))

    def scales(self, x: FloatArray) -> FloatArray:
        """Return the one scale."""
        return self.scale.astype(x.dtype)[:, None]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the scale."""
        return {"scale": self.scale}


@dataclass(frozen=True, eq=False)
class PercentileRange(StaticRange):
    """One scale: what 99.9 % of the absolute values in calibration do not exceed.

    The others are cut, which pays where a few are far out. Where nearly all are 0, so
    is the percentile, and the largest one takes its place.
    """

    kind = "percentile"

    @classmethod
    def fit(cls, bits: int, chunks: Chunks) -> "PercentileRange":
        """Return the quantizer of the percentile in calibration."""
        reach = percentile_value(chunks) or largest_value(chunks)
        return cast(PercentileRange, cls._reaching(bits, reach))


@dataclass(frozen=True, eq=False)
class CrossRange(DynamicRange):
    """A scale t^a for each row of inputs whose columns were divided by f = c^(1-a).

    A value that is larger than all of its column in calibration may be cut.

    Parameters
    ----------
    bits : int
        2 to 8.
    column : ndarray of shape (n_transformed,)
        f, positive, float16 or float32.
    """

    column: FloatArray
    kind = "cross"

    @classmethod
    def fit(cls, bits: int, chunks: Chunks) -> "CrossRange":
        """Return the quantizer of the columns in calibration."""
        largest = largest_of_columns(chunks)
        dead = largest == 0
        power = np.where(dead, 1.0, largest) ** ((1 - CROSS_ALPHA) / CROSS_ALPHA)
        return cls(bits, stored(np.clip(power, _SINGLE.tiny, _SINGLE.max)))

    @classmethod
    def load(cls, bits: int, arrays: Mapping[str, NDArray[Any]]) -> "CrossRange":
        """Return the quantizer of stored arrays."""
        return cls(bits, loaded_floats(cls.kind, arrays, "column", 1))

    def scales(self, x: FloatArray) -> FloatArray:
        """Return t^a / K for each row."""
        with np.errstate(over="ignore"):  # where f itself is beyond single precision
            largest = np.abs(x) * self.column.astype(x.dtype)
        row = largest.max(axis=1, keepdims=True, initial=0.0)
        row = np.minimum(row, np.finfo(x.dtype).max)
        return _or_one(row**CROSS_ALPHA / self.largest_code)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the parts of columns."""
        return {"column": self.column}


_KINDS: dict[str, Any] = {
    part.kind: part for part in (DynamicRange, StaticRange, PercentileRange, CrossRange)
}


def largest_of_columns(chunks: Chunks) -> NDArray[np.float64]:
    """Return the largest absolute value of every column.

    Parameters
    ----------
    chunks : callable () -> iterator of ndarray of shape (n_rows, n_columns)
        Rows, some at a time; at least one chunk.

    Returns
    -------
    ndarray of shape (n_columns,)
        Float64, 0 where there are no rows.
    """
    largest = np.zeros(1)
    for chunk in chunks():
        own = np.abs(chunk).max(axis=0, initial=0.0)
        largest = np.maximum(largest, own.astype(np.float64))
    _check_finite(float(largest.max(initial=0.0)))
    return largest


def largest_value(chunks: Chunks) -> float:
    """Return the largest absolute value.

    Parameters
    ----------
    chunks : callable () -> iterator of ndarray of shape (n_rows, n_columns)
        Rows, some at a time.

    Returns
    -------
    float
        0 where there are no values.
    """
    return float(largest_of_columns(chunks).max(initial=0.0))


# Numbers of at least 0 in single precision are ordered as their bits are as integers.
# So the k-th smallest is found exactly in two passes without keeping any: counts of the
# upper 16 bits tell those of the k-th, then counts of the lower 16 bits among the
# numbers that begin so tell the rest.
def percentile_value(chunks: Chunks) -> float:
    """Return the k-th smallest absolute value, k = ceil(0.999 m) of m values.

    Parameters
    ----------
    chunks : callable () -> iterator of ndarray of shape (n_rows, n_columns)
        Rows, some at a time; the same when called again.

    Returns
    -------
    float
        Exact in single precision, 0 where there are no values.
    """
    counts: NDArray[np.int64] = np.zeros(2**_HALF_BITS, dtype=np.int64)
    for chunk in chunks():
        counts += _counted(_bits(chunk) >> _HALF_BITS)
    below = np.cumsum(counts)
    n_values = int(below[-1])
    if n_values == 0:
        return 0.0
    _check_finite(_number(int(np.flatnonzero(counts)[-1]), 0))
    rank = -(-n_values * KEPT.numerator // KEPT.denominator)
    upper = int(np.searchsorted(below, rank))
    counts = np.zeros_like(counts)
    for chunk in chunks():
        bits = _bits(chunk)
        counts += _counted(bits[bits >> _HALF_BITS == upper] & (2**_HALF_BITS - 1))
    before = int(below[upper - 1]) if upper else 0
    return _number(upper, int(np.searchsorted(np.cumsum(counts), rank - before)))


def _bits(chunk: FloatArray) -> NDArray[np.uint32]:
    with np.errstate(over="ignore"):
        single = np.abs(chunk).astype(np.float32)
    return np.ascontiguousarray(single).reshape(-1).view(np.uint32)


def _counted(bits: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(bits, minlength=2**_HALF_BITS).astype(np.int64, copy=False)


def _number(upper: int, lower: int) -> float:
    bits = np.array([upper << _HALF_BITS | lower], dtype=np.uint32)
    return float(bits.view(np.float32)[0])


def _or_one(scale: FloatArray) -> FloatArray:
    """Return scales, 1 in the place of 0: a row of zeros stays one."""
    return np.where(scale > 0, scale, np.ones_like(scale))


def _check_finite(largest: float) -> None:
    if not largest <= float(_SINGLE.max):
        raise ValueError(
            "X makes inputs of a layer that are infinite or NaN in single precision. "
            "Scale its columns or leave out the rows that do."
        )
