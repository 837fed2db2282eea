r"""Functions of 16 numbers in single precision, for activations between layers.

With n = rint(x / log 2) and r = x - n log 2, abs(r) <= log(2) / 2,

    exp(x) = 2^n exp(r),        exp(r) = 1 + r + r^2 P(r),

where P interpolates (exp(r) - 1 - r) / r^2 at the Chebyshev points to 1e-8. The
hyperbolic tangent is (1 - e) / (1 + e) with e = exp(-2 abs(x)); below 0.625, where
1 - e loses digits, it is x + x^3 Q(x^2), interpolated to 2e-8 in the same way. NaN
stays NaN in all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from uqlib_kernels import _ir as v

__all__ = [
    "FUNCTIONS",
    "absolute_bits",
    "fma",
    "greater",
    "smaller",
]

_EXP = (
    0.5,
    0.16666576266288757,
    0.04166646674275398,
    0.008363175205886364,
    0.0013933643931522965,
)
_TANH = (
    -0.333333283662796,
    0.13332782685756683,
    -0.05385249853134155,
    0.021003641188144684,
    -0.006104947999119759,
)
_SMALL = 0.625
_LOG2_E = 1.4426950216293335
# log 2 in two parts: n times the first is exact.
_LN2_HIGH, _LN2_LOW = 0.693359375, -0.00021219444170128554
_REACH = 87.0  # exp of what is further out is not a normal number
_MAGIC, _MAGIC_BITS = 12582912.0, 0x4B400000  # see _mlp_vectors


def fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z, rounded once."""
    return v.call(b, "llvm.fma.v16f32", v.F32X16, x, y, z)


def smaller(b: Any, x: Any, bound: Any) -> Any:
    """Return the smaller of x and a bound, NaN where x is."""
    return b.select(b.fcmp_ordered(">", x, bound), bound, x)


def greater(b: Any, x: Any, bound: Any) -> Any:
    """Return the greater of x and a bound, NaN where x is."""
    return b.select(b.fcmp_ordered("<", x, bound), bound, x)


def absolute_bits(b: Any, x: Any) -> Any:
    """Return the bits of abs(x), which are ordered as these numbers are."""
    return b.and_(b.bitcast(x, v.I32X16), v.constant(v.I32X16, 0x7FFFFFFF))


def _number(value: float) -> Any:
    return v.constant(v.F32X16, value)


def _polynomial(b: Any, x: Any, coefficients: Sequence[float]) -> Any:
    value = _number(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = fma(b, value, x, _number(coefficient))
    return value


def _exponential(b: Any, x: Any) -> Any:
    x = greater(b, smaller(b, x, _number(_REACH)), _number(-_REACH))
    shifted = fma(b, x, _number(_LOG2_E), _number(_MAGIC))
    n = b.fsub(shifted, _number(_MAGIC))
    r = fma(b, n, _number(-_LN2_HIGH), x)
    r = fma(b, n, _number(-_LN2_LOW), r)
    value = _polynomial(b, r, (1.0, 1.0, *_EXP))
    power = b.add(b.bitcast(shifted, v.I32X16), _integers(127 - _MAGIC_BITS))
    return b.fmul(value, b.bitcast(b.shl(power, _integers(23)), v.F32X16))


def _integers(value: int) -> Any:
    return v.constant(v.I32X16, value)


def _logistic(b: Any, x: Any) -> Any:
    one = _number(1.0)
    return b.fdiv(one, b.fadd(one, _exponential(b, b.fneg(x))))


def _silu(b: Any, x: Any) -> Any:
    one = _number(1.0)
    return b.fdiv(x, b.fadd(one, _exponential(b, b.fneg(x))))


def _tanh(b: Any, x: Any) -> Any:
    bits = absolute_bits(b, x)
    size = b.bitcast(bits, v.F32X16)
    sign = b.xor(b.bitcast(x, v.I32X16), bits)
    e = _exponential(b, b.fmul(size, _number(-2.0)))
    far = b.fdiv(b.fsub(_number(1.0), e), b.fadd(_number(1.0), e))
    square = b.fmul(size, size)
    cube = b.fmul(square, size)
    near = fma(b, cube, _polynomial(b, square, _TANH), size)
    value = b.select(b.fcmp_ordered("<", size, _number(_SMALL)), near, far)
    return b.bitcast(b.or_(b.bitcast(value, v.I32X16), sign), v.F32X16)


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": _tanh,
    "logistic": _logistic,
    "silu": _silu,
}
