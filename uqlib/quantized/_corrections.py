r"""Repair what rounding did to a layer.

Bias. The outputs W f + b of the float model and What q + b' of the layer, f and q what
enters them, have the same mean over the rows of calibration with

    b' = b + W mean(f) - What mean(q).

Low rank. With E = W - What and any root L L^T = G of the Gram matrix, a correction of
rank r leaves the loss

    tr((E - U V) G (E - U V)^T) = |E L - U V L|^2 ,

which by Eckart and Young is least, the sum of the squares of the other singular values
of E L, where U V L is the truncated singular value decomposition of E L. With P its
first r left singular vectors this is P P^T E L, so that

    U V = P P^T E :

no root has to be inverted, and G may be singular.

Output affine. Each output q of the model is replaced by a q + c, which with

    a = cov(q, y) / var(q),      c = mean(y) - a mean(q)

is nearest to the exact y in the mean square.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.exceptions import QuantizationWarning, warn_user
from uqlib.quantized._grid import Grid
from uqlib.quantized._layers import LowRank, Outliers, QuantizedLayer
from uqlib.quantized._problem import InputMoments

_NEGLIGIBLE = 1e-10  # of the largest singular value
_SMALLEST_PEAK = 2.0**-12  # below it, the spacing of half precision shows
_SLOPES = (2.0**-10, 2.0**10)
_HALF, _SINGLE = np.finfo(np.float16), np.finfo(np.float32)


def corrected_bias(
    bias: FloatArray | None,
    weight: FloatArray,
    final: FloatArray,
    moments: InputMoments,
) -> FloatArray | None:
    """Return the bias with which the outputs are unbiased.

    A layer without a bias gets one where rounding moved its mean outputs: at n_out
    numbers it is the cheapest repair that there is.

    Parameters
    ----------
    bias : ndarray of shape (n_out,) or None
        Of the float model.
    weight : ndarray of shape (n_out, n_transformed)
        Weights of the float model after the transforms.
    final : ndarray of shape (n_out, n_transformed)
        What takes their place.
    moments : InputMoments
        Of what enters, after transforms and quantizer.

    Returns
    -------
    ndarray of shape (n_out,) or None
        float32; None where there was none and none is needed.

    Raises
    ------
    ValueError
        If the outputs are so large that it is infinite in float32.
    """
    shift = weight @ moments.mean_float - final @ moments.mean_quantized
    own = np.zeros(len(shift)) if bias is None else bias.astype(np.float64)
    if not (np.abs(own + shift) <= float(_SINGLE.max)).all():
        raise ValueError(
            "X makes outputs of a layer that are infinite or NaN in single precision. "
            "Scale its columns or leave out the rows that do."
        )
    corrected: FloatArray = (own + shift).astype(np.float32)
    return None if bias is None and not corrected.any() else corrected


def low_rank_correction(
    error: FloatArray, gram: FloatArray, rank: int
) -> LowRank | None:
    """Return the best correction of a rank.

    Parameters
    ----------
    error : ndarray of shape (n_out, n_transformed)
        Target less the rounded weights.
    gram : ndarray of shape (n_transformed, n_transformed)
        Mean of x x^T.
    rank : int
        At least 1.

    Returns
    -------
    LowRank or None
        Of a lower rank where that leaves no loss, in float16 unless the numbers do not
        fit it. None where no factors are needed, or where they would hold as many
        numbers as the matrix.

    Warns
    -----
    QuantizationWarning
        If the factors would hold as many numbers as the matrix, but those of a lower
        rank would not.
    """
    n_out, n_in = error.shape
    if rank * (n_out + n_in) >= n_out * n_in:
        _warn_rank(n_out, n_in, rank)
        return None
    size, vectors = np.linalg.eigh(gram)
    root = vectors * np.sqrt(np.maximum(size, 0.0))
    left, singular, _ = np.linalg.svd(error @ root, full_matrices=False)
    kept = singular[:rank] > _NEGLIGIBLE * singular[0]
    if not kept.any():
        return None
    left = left[:, :rank][:, kept]
    return _balanced(left, left.T @ error)


def with_output_affine(
    layer: QuantizedLayer,
    exact: FloatArray,
    quantized: FloatArray,
    row_weight: FloatArray | None = None,
) -> QuantizedLayer:
    """Return the last layer with the best scale and shift of every output.

    Parameters
    ----------
    layer : QuantizedLayer
        Whose outputs are those of the model.
    exact : ndarray of shape (n_samples, n_out)
        Outputs of the float model.
    quantized : ndarray of shape (n_samples, n_out)
        Outputs of the model with this layer, for the same samples.
    row_weight : ndarray of shape (n_samples,), default=None
        Importance of each sample, with a positive sum; None for equal ones.

    Returns
    -------
    QuantizedLayer
        With the same codes and zero points; scales, outliers, factors and bias are in
        float32. On these samples the mean square of no output is larger, but for
        rounding to float32. An output keeps its scale where it is constant, where the
        best one is not in [2^-10, 2^10] or leads out of float32, or where scales are
        powers of two.

    Raises
    ------
    ValueError
        If the outputs are not those of the layer, or not finite.
    """
    n_out = layer.codes.shape[0]
    y, q = _outputs(exact, n_out), _outputs(quantized, n_out)
    if y.shape != q.shape:
        raise ValueError(
            f"exact and quantized must be outputs for the same samples, got {len(y)} "
            f"and {len(q)} rows."
        )
    if len(y) == 0:
        return layer
    r = np.ones(len(y)) if row_weight is None else row_weight
    r = r / r.sum()
    slope: FloatArray = np.ones(n_out)
    if not _has_powers_of_two(layer):
        slope = _storable(layer, _slopes(y, q, r))
    shift = r @ y - slope * (r @ q)
    own = np.zeros(n_out) if layer.bias is None else layer.bias.astype(np.float64)
    bias: FloatArray = (slope * own + shift).astype(np.float32)
    moved = replace(layer, bias=bias)
    return moved if (slope == 1).all() else _scaled(moved, slope)


def _slopes(y: FloatArray, q: FloatArray, r: FloatArray) -> NDArray[np.float64]:
    size = np.einsum("i,ij,ij->j", r, q, q)
    y, q = y - r @ y, q - r @ q
    spread = np.einsum("i,ij,ij->j", r, q, q)
    shared = np.einsum("i,ij,ij->j", r, q, y)
    varies = spread > _NEGLIGIBLE**2 * size
    slope = shared / np.where(varies, spread, np.inf)
    low, high = _SLOPES
    return np.where((slope >= low) & (slope <= high), slope, 1.0)


def _storable(layer: QuantizedLayer, slope: FloatArray) -> FloatArray:
    """Return 1 in the place of slopes whose scales or weights leave float32."""
    scale = layer.grid.parameters(None)[0]
    largest = np.abs(layer.transformed_weight()).max(axis=1, initial=0.0)
    largest = slope * np.maximum(scale.max(axis=1), largest)
    smallest = slope * scale.min(axis=1)
    fits = (largest <= float(_SINGLE.max)) & (smallest >= float(_SINGLE.tiny))
    return np.where(fits, slope, 1.0)


def _scaled(layer: QuantizedLayer, slope: FloatArray) -> QuantizedLayer:
    """Multiply the rows of all that adds up to the weights."""
    return replace(
        layer,
        grid=_scaled_grid(layer.grid, slope),
        outliers=_scaled_outliers(layer, slope),
        low_rank=_scaled_factors(layer.low_rank, slope),
    )


def _scaled_grid(grid: Grid, slope: FloatArray) -> Grid:
    scale = grid.scale.astype(np.float64) * slope[:, None]
    zero_point = grid.zero_point
    if zero_point is not None:
        zero_point = np.broadcast_to(zero_point, scale.shape).copy()
    return replace(grid, scale=scale.astype(np.float32), zero_point=zero_point)


def _scaled_outliers(layer: QuantizedLayer, slope: FloatArray) -> Outliers | None:
    if layer.outliers is None:
        return None
    positions, values = layer.outliers
    rows = positions // layer.codes.shape[1]
    return Outliers(positions, (values * slope[rows]).astype(np.float32))


def _scaled_factors(low_rank: LowRank | None, slope: FloatArray) -> LowRank | None:
    if low_rank is None:
        return None
    return LowRank((low_rank.left * slope[:, None]).astype(np.float32), low_rank.right)


def _has_powers_of_two(layer: QuantizedLayer) -> bool:
    scheme = layer.details.get("scheme")
    if scheme is None:
        return False
    block_format = scheme.weights is not None and scheme.weights.startswith("bfp")
    return bool(block_format or scheme.scale_format == "pow2")


def _outputs(values: Any, n_out: int) -> NDArray[np.float64]:
    outputs = np.asarray(values, dtype=np.float64)
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.ndim != 2 or outputs.shape[1] != n_out:
        raise ValueError(
            f"The last layer has {n_out} outputs, but the model has outputs of shape "
            f"{outputs.shape}: something follows the layer. Leave 'output_affine' out "
            "of correction."
        )
    if not np.isfinite(outputs).all():
        raise ValueError(
            "The outputs of the model are infinite or NaN for some rows of X. Scale "
            "its columns or leave out the rows that do this."
        )
    return outputs


def _balanced(left: FloatArray, right: FloatArray) -> LowRank:
    """Give both factors of every component the same largest entry, as stored."""
    peaks = np.abs(right).max(axis=1) / np.abs(left).max(axis=0)
    factor = np.sqrt(peaks)
    left, right = left * factor, right / factor[:, None]
    largest, smallest = np.abs(left).max(), np.abs(left).max(axis=0).min()
    fits = smallest >= _SMALLEST_PEAK and largest <= float(_HALF.max)
    dtype = np.float16 if fits else np.float32
    return LowRank(left.astype(dtype), right.astype(dtype))


def _warn_rank(n_out: int, n_in: int, rank: int) -> None:
    most = (n_out * n_in - 1) // (n_out + n_in)
    if most < 1:  # nothing is of low rank here, and nobody can change that
        return
    warn_user(
        f"rank={rank} takes {rank * (n_out + n_in)} numbers for a layer of {n_out} x "
        f"{n_in} weights, which is no correction of low rank: the layer gets none. "
        f"Set rank to {most} or less for it.",
        QuantizationWarning,
    )
