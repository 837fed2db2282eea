r"""From a number format to a grid: the one door.

Whatever the format, scales and zero points are rounded to the type that they are stored
in before any code is chosen. A block, here, is what shares a scale: the matrix, a row
of it, or a group of columns of a row.

==================  =====================================  ===========================
weights             C                                      s and z of a block
==================  =====================================  ===========================
int2 ... int8       0, ..., 2^b - 1; symmetric             from its range, see `_clips`
                    -(2^(b-1) - 1), ..., 2^(b-1) - 1
nf4, fp4, fp8       normal quantiles; e2m1; e4m3           from its range
power2 ... power8   sign(q) abs(q / k)^(1 / a)             from its range
int1                -1, 1                                  of least squared error
ternary             -1, 0, 1                               of least squared error
bfp2 ... bfp8       -2^(m-1), ..., 2^(m-1) - 1             exponent of the largest
codebook1 ... 8     learned on the whole layer             root mean square
==================  =====================================  ===========================
"""

import re
from collections.abc import Callable

import numpy as np

from uqlib._typing import BoolArray, FloatArray
from uqlib.quantized._clip_blocks import (
    Blocks,
    as_stored,
    block_grid,
    block_loss,
    cut_blocks,
    joined,
    power_of_two_grid,
    power_scale,
    scale_type,
)
from uqlib.quantized._clips import (
    MSE_NORM,
    RangeFitter,
    percentile_grid,
    shrunk_grid,
)
from uqlib.quantized._codebooks import (
    block_float_levels,
    float_levels,
    integer_levels,
    learned_levels,
    normal_levels,
    power_levels,
)
from uqlib.quantized._grid import Grid
from uqlib.quantized._learned_clip import half_quadratic_grid, learned_grid
from uqlib.quantized._scheme import QuantizationScheme

BLOCK_FLOAT_SIZE = 16
_EXPONENTS = np.linspace(0.2, 1.0, 9)
_GOLDEN = (np.sqrt(5) - 1) / 2
_GOLDEN_STEPS = 16  # from a width of 0.2 to one of 1e-4
_HALF = np.finfo(np.float16)
_CONSTANT = 1e-6  # a block with a smaller spread than this share of its mean
_HALF_ZERO_POINT = 16.0  # a larger one would err too much in half precision


def fit_grid(
    weight: FloatArray,
    scheme: QuantizationScheme,
    included: BoolArray | None = None,
) -> Grid:
    """Return the legal values for a weight matrix.

    Parameters
    ----------
    weight : ndarray of shape (n_out, n_in)
        Float64, finite where included.
    scheme : QuantizationScheme
        Its weights, granularity, group_size, symmetric, scale_format and clip. Symmetry
        concerns integers alone, the clip formats with a range; block floating point
        always has groups, of 16 columns by default, and powers of two.
    included : ndarray of shape (n_out, n_in), default=None
        Which weights the grid must respect, bool; None for all.

    Returns
    -------
    Grid
        For the matrix. A block of zeros has the scale 1, unless its format has no 0:
        then the smallest that the type of the scales has.
    """
    if scheme.weights is None:
        raise ValueError("weights=None has no grid. Name a format, for example 'int4'.")
    family = re.sub(r"\d", "", scheme.weights)
    granularity, group_size = scheme.granularity, scheme.group_size
    if family == "bfp":
        granularity, group_size = "group", group_size or BLOCK_FLOAT_SIZE
    blocks = cut_blocks(weight, granularity, group_size, included)
    grid = _block_fitter(scheme.weights)(blocks, scheme)
    return joined(_with_small_scales(grid, scheme), blocks, weight.shape[1])


def _with_small_scales(grid: Grid, scheme: QuantizationScheme) -> Grid:
    """Return a grid that stores powers of two as their exponents, a byte each."""
    if scheme.scale_format != "pow2" and not _is_block_float(scheme):
        return grid
    exponent = np.clip(np.frexp(grid.scale)[1] - 1, -126, 127)
    return block_grid(grid.codebook, exponent.astype(np.int8), grid.zero_point)


def _is_block_float(scheme: QuantizationScheme) -> bool:
    return scheme.weights is not None and scheme.weights.startswith("bfp")


Fitter = Callable[[Blocks, QuantizationScheme], Grid]


def _block_fitter(weights: str) -> Fitter:
    if weights == "int1":
        return _binary
    if weights == "ternary":
        return _ternary
    if weights.startswith("bfp"):
        return _block_float
    return _codebook if weights.startswith("codebook") else _over_range


def _bits(scheme: QuantizationScheme) -> int:
    return int(scheme.bits)


def _is_pow2(scheme: QuantizationScheme) -> bool:
    return scheme.scale_format == "pow2"


def _over_range(blocks: Blocks, scheme: QuantizationScheme) -> Grid:
    asymmetric = False
    if scheme.weights == "nf4":
        levels = normal_levels()
    elif scheme.weights == "fp4":
        levels = float_levels(2, 1, reserved=0)
    elif scheme.weights == "fp8":
        levels = float_levels(4, 3, reserved=1)
    elif str(scheme.weights).startswith("power"):
        levels = power_levels(_bits(scheme), best_exponent(blocks, _bits(scheme)))
    else:
        asymmetric = not scheme.symmetric
        levels = integer_levels(_bits(scheme), scheme.symmetric)
    fitter = RangeFitter(blocks, levels, asymmetric)
    return fit_range(fitter, scheme.clip, _is_pow2(scheme))


def fit_range(fitter: RangeFitter, clip: str, power_of_two: bool) -> Grid:
    """Return the grid of blocks whose range a clip chooses.

    Parameters
    ----------
    fitter : RangeFitter
        Weights and levels.
    clip : {"minmax", "mse", "percentile", "learned", "half_quadratic"}
        Which range.
    power_of_two : bool
        Whether the scales become powers of two, those of the smaller squared error.

    Returns
    -------
    Grid
        Of the blocks.
    """
    if clip == "half_quadratic":
        grid = half_quadratic_grid(fitter, power_of_two)
    elif clip == "learned":
        grid = learned_grid(fitter)
    elif clip == "mse":
        grid, _, _ = shrunk_grid(fitter, MSE_NORM)
    elif clip == "percentile":
        grid = percentile_grid(fitter)
    else:
        grid = fitter.grid(*fitter.whole())
    return power_of_two_grid(grid, fitter.blocks) if power_of_two else grid


def best_exponent(blocks: Blocks, bits: int) -> float:
    """Return the power exponent of least squared error over the whole range.

    The best of 0.2, 0.3, ..., 1, then a golden section between its neighbors; the
    squared error has several minima.

    Parameters
    ----------
    blocks : Blocks
        Weights.
    bits : int
        At least 2; with 2 bits the exponent makes no difference and is 1.

    Returns
    -------
    float
        In [0.2, 1].
    """
    if bits == 2:
        return 1.0
    weight = (blocks.size / blocks.size.max(initial=0.0)) ** 2

    def loss(exponent: float) -> float:
        fitter = RangeFitter(blocks, power_levels(bits, exponent), False)
        grid = fitter.grid(*fitter.whole())
        return float(np.sum(weight * block_loss(grid, blocks, 2)))

    losses = [loss(exponent) for exponent in _EXPONENTS]
    at = len(losses) - 1 - int(np.argmin(losses[::-1]))  # of equal ones the largest
    low = float(_EXPONENTS[max(at - 1, 0)])
    high = float(_EXPONENTS[min(at + 1, len(losses) - 1)])
    found = _golden_section(loss, low, high)
    return min([(losses[at], float(_EXPONENTS[at])), found])[1]


def _golden_section(
    function: Callable[[float], float], low: float, high: float
) -> tuple[float, float]:
    """Return the smaller of the last two values and where it is."""
    points = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    values = [function(point) for point in points]
    for _ in range(_GOLDEN_STEPS):
        if values[0] <= values[1]:
            high, points[1], values[1] = points[1], points[0], values[0]
            points[0] = high - _GOLDEN * (high - low)
            values[0] = function(points[0])
        else:
            low, points[0], values[0] = points[0], points[1], values[1]
            points[1] = low + _GOLDEN * (high - low)
            values[1] = function(points[1])
    return min(zip(values, points, strict=True))


# One bit: the levels mu - alpha and mu + alpha are the means of the weights below and
# above a cut. With a cut after the k smallest of n the squared error falls below that
# of one level by k (n - k) / n times the squared distance of the two means, so that the
# best cut is found among n - 1 of them. With mu = 0, alpha is the mean of abs(w).


def _binary(blocks: Blocks, scheme: QuantizationScheme) -> Grid:
    levels = np.array([-1.0, 1.0])
    n = np.maximum(blocks.counted.sum(axis=1, keepdims=True), 1)
    if scheme.symmetric:
        alpha = np.abs(blocks.values / blocks.size).sum(axis=1, keepdims=True) / n
        grid = block_grid(levels, _scales(alpha, blocks), None)
        return power_of_two_grid(grid, blocks) if _is_pow2(scheme) else grid
    center, alpha = _two_means(blocks)
    # A constant c is the level sign(c) of the scale abs(c); 0 is 1 - z for z = 1.
    constant = alpha <= _CONSTANT * np.abs(center)
    alpha = np.where(constant, np.abs(center), alpha)
    center = np.where(constant, 0.0, center) * blocks.size
    scale = np.where(alpha > 0, alpha * blocks.size, 1.0)
    scale = as_stored(scale, scale_type(scale))
    if _is_pow2(scheme):
        scale = _binary_power(levels, scale, center, blocks)
    return _binary_grid(levels, scale, center, blocks)


def _binary_grid(
    levels: FloatArray, scale: FloatArray, center: FloatArray, blocks: Blocks
) -> Grid:
    zero_point = np.where(blocks.is_zero, 1.0, -center / scale.astype(np.float64))
    zero_point = np.where(np.abs(zero_point) < _HALF.tiny, 0.0, zero_point)
    large = np.abs(zero_point).max(initial=0.0) > _HALF_ZERO_POINT
    kind = np.float32 if large else np.float16
    return block_grid(levels, scale, zero_point.astype(kind))


def _binary_power(
    levels: FloatArray, scale: FloatArray, center: FloatArray, blocks: Blocks
) -> FloatArray:
    fraction, exponent = np.frexp(scale.astype(np.float64))
    below = power_scale(exponent - 1)
    above = power_scale(exponent - (fraction == 0.5))
    losses = [
        block_loss(_binary_grid(levels, each, center, blocks), blocks, 2)
        for each in (below, above)
    ]
    return np.where(losses[1] < losses[0], above, below)


def _two_means(blocks: Blocks) -> tuple[FloatArray, FloatArray]:
    """Return mu and alpha of least squared error, in units of the size."""
    unit = blocks.values / blocks.size
    ordered = np.sort(np.where(blocks.counted, unit, np.inf), axis=1)
    ordered = np.where(np.isfinite(ordered), ordered, 0.0)
    n = blocks.counted.sum(axis=1, keepdims=True)
    k = np.arange(1, ordered.shape[1] + 1)
    sums = np.cumsum(ordered, axis=1)
    below = sums / k
    above = (sums[:, -1:] - sums) / np.maximum(n - k, 1)
    gain = np.where(k < n, k * (n - k) * (above - below) ** 2, -1.0)
    at = np.argmax(gain, axis=1)[:, None]
    low = np.take_along_axis(below, at, axis=1)
    high = np.where(n > 1, np.take_along_axis(above, at, axis=1), low)
    return (low + high) / 2, (high - low) / 2


# Ternary: with the k largest magnitudes at +-alpha and the others at 0 the squared
# error is sum w^2 - 2 alpha S_k + k alpha^2, S_k their sum. Its minimum,
# sum w^2 - S_k^2 / k at alpha = S_k / k, is found among n values of k.


def _ternary(blocks: Blocks, scheme: QuantizationScheme) -> Grid:
    magnitude = -np.sort(-np.abs(blocks.values / blocks.size), axis=1)
    k = np.arange(1, magnitude.shape[1] + 1)
    mean = np.cumsum(magnitude, axis=1) / k
    at = np.argmax(k * mean**2, axis=1)[:, None]
    alpha = np.take_along_axis(mean, at, axis=1)
    scale = np.where(alpha > 0, alpha * blocks.size, 1.0)
    levels = np.array([-1.0, 0.0, 1.0])
    grid = block_grid(levels, as_stored(scale, scale_type(scale)), None)
    return power_of_two_grid(grid, blocks) if _is_pow2(scheme) else grid


def _block_float(blocks: Blocks, scheme: QuantizationScheme) -> Grid:
    # The largest magnitude is in [2^e, 2^(e+1)); 2^e is the bit below that of the sign.
    bits = _bits(scheme)
    _, exponent = np.frexp(blocks.size)
    exponent = np.where(blocks.is_zero, 0, exponent - 1 - (bits - 2))
    return block_grid(block_float_levels(bits), power_scale(exponent), None)


# Learned values: the squared error of a weight is s^2 times that of w / s, which weighs
# the blocks in the search for levels that all share.


def _codebook(blocks: Blocks, scheme: QuantizationScheme) -> Grid:
    n = np.maximum(blocks.counted.sum(axis=1, keepdims=True), 1)
    square = ((blocks.values / blocks.size) ** 2).sum(axis=1, keepdims=True)
    scale = _scales(np.sqrt(square / n), blocks)
    grid = _with_learned_levels(scale, blocks, 2 ** _bits(scheme))
    if _is_pow2(scheme):
        scale = power_of_two_grid(grid, blocks).scale
        grid = _with_learned_levels(scale, blocks, 2 ** _bits(scheme))
    return grid


def _with_learned_levels(scale: FloatArray, blocks: Blocks, n_levels: int) -> Grid:
    exact = scale.astype(np.float64)
    weight = np.where(blocks.is_zero, 0.0, (exact / exact.max(initial=0.0)) ** 2)
    levels = learned_levels(
        (blocks.values / exact).ravel(),
        np.where(blocks.counted, weight, 0.0).ravel(),
        n_levels,
    )
    return block_grid(np.unique(levels.astype(np.float32)), scale, None)


def _scales(relative: FloatArray, blocks: Blocks) -> FloatArray:
    """Return scales in units of the size as stored, the least for blocks of zeros."""
    kind = scale_type(np.where(blocks.is_zero, 1.0, relative * blocks.size))
    return as_stored(np.where(blocks.is_zero, 0.0, relative * blocks.size), kind)
