r"""The values of the number formats, before scales.

A codebook C is increasing; a weight is (C[q] - z) s. All but those of learned values
and of the power exponent are known from the name of the format.
"""

import re

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from uqlib._typing import FloatArray

Levels = NDArray[np.float64]
_LLOYD_STEPS = 1000
_STORED = ("power", "codebook")


def has_own_codebook(weights: str) -> bool:
    """Return whether the values of a format are stored with the weights.

    Parameters
    ----------
    weights : str
        A number format.

    Returns
    -------
    bool
        False where the name of the format tells the values.
    """
    return re.sub(r"\d", "", weights) in _STORED


def integer_levels(bits: int, symmetric: bool) -> Levels:
    """Return the integers of a number of bits.

    Parameters
    ----------
    bits : int
        At least 2.
    symmetric : bool
        From -(2^(bits-1) - 1) to 2^(bits-1) - 1, one less than there is room for, so
        that negation is exact; else from 0 to 2^bits - 1.

    Returns
    -------
    ndarray of shape (n_levels,)
        The integers.
    """
    top = 2 ** (bits - 1) - 1
    return np.arange(-top, top + 1.0) if symmetric else np.arange(2.0**bits)


def block_float_levels(bits: int) -> Levels:
    """Return the mantissas of block floating point, in two's complement.

    Parameters
    ----------
    bits : int
        At least 2.

    Returns
    -------
    ndarray of shape (2^bits,)
        From -2^(bits-1) to 2^(bits-1) - 1.
    """
    half = 2 ** (bits - 1)
    return np.arange(-half, float(half))


def float_levels(exponent_bits: int, mantissa_bits: int, *, reserved: int) -> Levels:
    """Return the finite values of a small floating-point format.

    With e the exponent field, m the mantissa field of M bits and bias B = 2^(E-1) - 1
    the values are 2^(e-B) (1 + m / 2^M), and 2^(1-B) m / 2^M at e = 0.

    Parameters
    ----------
    exponent_bits, mantissa_bits : int
        E and M.
    reserved : int
        How many of the largest codes are no numbers.

    Returns
    -------
    ndarray of shape (n_levels,)
        Increasing; the two zeros are one level.

    References
    ----------
    Micikevicius et al. (2022), arXiv:2209.05433.
    """
    codes = np.arange(2 ** (exponent_bits + mantissa_bits) - reserved)
    exponent, mantissa = codes >> mantissa_bits, codes % 2**mantissa_bits
    bias = 2 ** (exponent_bits - 1) - 1
    leading = np.where(exponent > 0, 1.0, 0.0) + mantissa / 2.0**mantissa_bits
    values = np.ldexp(leading, np.maximum(exponent, 1) - bias)
    return np.concatenate([-values[:0:-1], values])


def normal_levels() -> Levels:
    """Return the 16 values of the 4-bit normal float.

    Quantiles of the normal law at evenly spaced levels, 8 of them above 0 and 7 below,
    from its middle to where half a code would remain beyond; 0 is exact and the
    outermost are -1 and 1.

    Returns
    -------
    ndarray of shape (16,)
        From -1 to 1.

    References
    ----------
    Dettmers et al. (2023), arXiv:2305.14314.
    """
    # Half a code of the 15 and of the 16 that the two sides would have, averaged.
    outermost = 1 - (1 / 30 + 1 / 32) / 2
    above = ndtri(np.linspace(0.5, outermost, 9)[1:])
    below = ndtri(np.linspace(0.5, outermost, 8)[1:])
    return np.concatenate([-below[::-1] / below[-1], [0.0], above / above[-1]])


def signed_power(x: FloatArray, exponent: float) -> NDArray[np.float64]:
    """Return sign(x) abs(x)^exponent, which maps products to products.

    Parameters
    ----------
    x : ndarray
        Any numbers.
    exponent : float
        Positive.

    Returns
    -------
    ndarray of the shape of x
        The powers.
    """
    return np.asarray(np.sign(x) * np.abs(x) ** exponent, dtype=np.float64)


def power_levels(bits: int, exponent: float) -> Levels:
    """Return the values that are evenly spaced after a power map.

    C[q] = sign(q) abs(q / k)^(1 / a) for q = -k, ..., k, with k = 2^(bits-1) - 1.

    Parameters
    ----------
    bits : int
        At least 2.
    exponent : float
        a in (0, 1]; 1 gives symmetric integers divided by k.

    Returns
    -------
    ndarray of shape (2 k + 1,)
        From -1 to 1.

    References
    ----------
    Yvinec et al. (2023), arXiv:2301.09858 and arXiv:2308.05600.
    """
    levels = integer_levels(bits, symmetric=True)
    return signed_power(levels / levels[-1], 1 / exponent)


# Lloyd's two steps, on the line. With the values x sorted, those next to a level are a
# run of them, between the midpoints to the levels beside it. The best level for a run
# is its weighted mean, and the sums of runs are differences of cumulative sums: a step
# takes one binary search for each level. Neither step can raise the squared error.


def learned_levels(values: FloatArray, weight: FloatArray, n_levels: int) -> Levels:
    """Return levels that no step of Lloyd's method improves.

    Started once from quantiles and once from evenly spaced levels; the better end is
    kept.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        What is to be represented.
    weight : ndarray of shape (n_values,)
        At least 0: of the squared error of each.
    n_levels : int
        At least 1.

    Returns
    -------
    ndarray of shape (n_found,)
        Increasing; fewer than asked for where there are fewer different values, or
        where no value is next to a level. One 0 if no value has weight.

    References
    ----------
    Lloyd (1982), IEEE Transactions on Information Theory 28(2), 129-137.
    """
    order = np.argsort(values[weight > 0], kind="stable")
    x, w = values[weight > 0][order], weight[weight > 0][order]
    different = np.unique(x)
    if different.size <= n_levels:
        return different.astype(np.float64) if different.size else np.zeros(1)
    starts = [_crowded(different, n_levels), np.linspace(x[0], x[-1], n_levels)]
    moments = np.pad(np.cumsum([w, w * x], axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    ends = [_lloyd(x, moments, start) for start in starts]
    return min(ends, key=lambda end: end[0])[1]


def _crowded(different: FloatArray, n_levels: int) -> Levels:
    # Many levels have the least squared error where their density is as the cube root
    # of that of the values (Panter and Dite). With gaps g that density is about 1 / g,
    # so that g^(-1/3) g levels belong into a gap.
    share = np.cumsum(np.diff(different) ** (2 / 3))
    wanted = (np.arange(n_levels) + 0.5) / n_levels * share[-1]
    levels: Levels = np.interp(wanted, np.concatenate([[0.0], share]), different)
    return levels


def _lloyd(
    x: FloatArray, moments: NDArray[np.float64], levels: Levels
) -> tuple[float, Levels]:
    """Return what is gained over levels at 0 (negative), and the levels."""
    runs, gain = np.zeros(0), 0.0
    for _ in range(_LLOYD_STEPS):
        before = runs
        inner = np.searchsorted(x, (levels[1:] + levels[:-1]) / 2, side="right")
        runs = np.concatenate([[0], inner, [x.size]])
        if np.array_equal(runs, before):
            break
        mass, moment = np.diff(moments[:, runs], axis=1)
        mass, moment = mass[mass > 0], moment[mass > 0]
        levels, gain = moment / mass, -float(np.sum(moment**2 / mass))
    return gain, levels
