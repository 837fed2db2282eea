"""Quantized layers as JSON numbers and strings and arrays, and back.

Codes are packed. A codebook that the format of the scheme tells is not stored. Of the
scheme of a layer only what differs from that of the model is stored.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uqlib._typing import FloatArray
from uqlib.quantized._activations import activation_from
from uqlib.quantized._grid import Codes, Grid, check_codes
from uqlib.quantized._layers import (
    ActivationQuantizer,
    InputTransform,
    LowRank,
    Outliers,
    QuantizedLayer,
)
from uqlib.quantized._packing import pack_codes, unpack_codes
from uqlib.quantized._saved_checks import (
    array_of,
    count_of,
    demand,
    floats_of,
    number_of,
    text_of,
)
from uqlib.quantized._saved_grids import grid_from, is_named
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._transforms import transform_from

Arrays = dict[str, NDArray[Any]]
Settings = dict[str, Any]
_PIECE = "{}{}."  # prefix of the arrays of a transform
# What a report says of a layer beside its arrays: read by people, so in few digits.
_NOTES = ("n_rows", "loss", "energy")
_NOTE_FORMAT = ".8g"


# ---------------------------------------------------------------------------
# Schemes.


def stored_scheme(
    scheme: QuantizationScheme, base: QuantizationScheme | None = None
) -> Settings:
    """Return the fields of a scheme as JSON takes them.

    Parameters
    ----------
    scheme : QuantizationScheme
        Any.
    base : QuantizationScheme, default=None
        Fields that are as here are left out; None takes the default scheme.

    Returns
    -------
    dict
        For `scheme_from`.
    """
    base = base or QuantizationScheme()
    return {
        part.name: getattr(scheme, part.name)
        for part in fields(scheme)
        if getattr(scheme, part.name) != getattr(base, part.name)
    }


def scheme_from(
    settings: Mapping[str, Any], base: QuantizationScheme | None = None
) -> QuantizationScheme:
    """Return a scheme from its fields.

    Parameters
    ----------
    settings : mapping
        As `stored_scheme` gave them, of any origin.
    base : QuantizationScheme, default=None
        As in `stored_scheme`.

    Returns
    -------
    QuantizationScheme
        With all names checked.
    """
    return replace(base or QuantizationScheme(), **settings)


# ---------------------------------------------------------------------------
# Layers.


def stored_layer(
    layer: QuantizedLayer, base: QuantizationScheme | None = None
) -> tuple[Settings, Arrays]:
    """Return what is stored of a layer.

    Parameters
    ----------
    layer : QuantizedLayer
        Its details have the scheme.
    base : QuantizationScheme, default=None
        Scheme of the model, which most layers share.

    Returns
    -------
    settings : dict
        Numbers, strings and lists of them, as JSON takes them.
    arrays : dict of str to ndarray
        As many bytes as `layer.nbytes`.
    """
    grid, scheme = layer.grid, layer.details["scheme"]
    settings: Settings = {"name": layer.name, "n_in": grid.n_in}
    arrays: Arrays = {"codes": pack_codes(layer.codes, grid.code_bits)}
    arrays["scale"] = grid.scale
    optional: dict[str, Any] = {"zero_point": grid.zero_point, "bias": layer.bias}
    if not is_named(grid, scheme):
        optional["codebook"] = grid.codebook
    if layer.outliers is not None:
        optional["positions"], optional["values"] = layer.outliers
    if layer.low_rank is not None:
        optional["left"], optional["right"] = layer.low_rank
    arrays |= {name: part for name, part in optional.items() if part is not None}
    settings |= _differing(layer, base)
    _store_pieces(layer, settings, arrays)
    return settings, arrays


def layer_from(
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    base: QuantizationScheme | None = None,
) -> QuantizedLayer:
    """Return the layer that was stored, which computes the same bit for bit.

    Parameters
    ----------
    settings, arrays : mapping
        As `stored_layer` gave them, of any origin.
    base : QuantizationScheme, default=None
        As in `stored_layer`.

    Returns
    -------
    QuantizedLayer
        The layer.

    Raises
    ------
    ValueError
        If they do not fit together. Settings that are not there or of another type may
        raise LookupError, TypeError and AttributeError as well.
    """
    scheme = scheme_from(settings.get("scheme", {}), base)
    grid = grid_from(settings, arrays, scheme)
    codes = unpack_codes(array_of(arrays, "codes", 2, "u"), grid.code_bits, grid.n_in)
    codes = check_codes(codes, grid)
    demand(len(grid.scale) in (1, len(codes)), "scales do not fit the codes")
    transforms, activation = _pieces(settings, arrays)
    layer = QuantizedLayer(
        text_of(settings["name"]),
        codes,
        grid,
        _bias(arrays, len(codes)),
        transforms,
        _outliers(arrays, codes),
        _low_rank(arrays, codes),
        activation,
        _details(settings, arrays, scheme, grid),
    )
    _check_inputs(layer)
    return layer


def _differing(layer: QuantizedLayer, base: QuantizationScheme | None) -> Settings:
    """Return the settings that most layers do not need."""
    details, grid = layer.details, layer.grid
    has_bias = layer.bias is not None
    had_bias = bool(details.get("has_bias", has_bias))
    settings: Settings = {
        "scheme": stored_scheme(details["scheme"], base) or None,
        "group_size": None if grid.group_size == grid.n_in else grid.group_size,
        "n_inputs": None if details["n_in"] == grid.n_in else details["n_in"],
        "has_bias": None if had_bias == has_bias else had_bias,
        "notes": [_note(details.get(name)) for name in _NOTES],
    }
    return {name: value for name, value in settings.items() if value is not None}


def _details(
    settings: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    scheme: QuantizationScheme,
    grid: Grid,
) -> Settings:
    n_inputs = count_of(settings.get("n_inputs", grid.n_in))
    demand(n_inputs <= grid.n_in, "transforms take inputs away")
    notes = dict(zip(_NOTES, map(number_of, settings["notes"]), strict=True))
    demand(all((note or 0) >= 0 for note in notes.values()), "an error is negative")
    return notes | {
        "n_in": n_inputs,
        "scheme": scheme,
        "named_codebook": "codebook" not in arrays,
        "has_bias": bool(settings.get("has_bias", "bias" in arrays)),
    }


def _note(value: Any) -> int | float | None:
    number = number_of(value)
    return float(format(number, _NOTE_FORMAT)) if isinstance(number, float) else number


# ---------------------------------------------------------------------------
# What is added to the weights.


def _bias(arrays: Mapping[str, NDArray[Any]], n_out: int) -> FloatArray | None:
    if "bias" not in arrays:
        return None
    bias = floats_of(arrays, "bias", 1)
    demand(bias.dtype == np.float32 and bias.size == n_out, "the bias does not fit")
    return bias


def _outliers(arrays: Mapping[str, NDArray[Any]], codes: Codes) -> Outliers | None:
    if "positions" not in arrays:
        return None
    positions, values = (
        array_of(arrays, "positions", 1, "i"),
        floats_of(arrays, "values", 1),
    )
    ends = np.concatenate([[-1], positions, [codes.size]])
    demand(
        positions.dtype == np.int32
        and positions.size == values.size
        and bool((ends[1:] > ends[:-1]).all()),
        "the outliers do not fit the codes",
    )
    return Outliers(positions, values)


def _low_rank(arrays: Mapping[str, NDArray[Any]], codes: Codes) -> LowRank | None:
    if "left" not in arrays:
        return None
    left, right = floats_of(arrays, "left", 2), floats_of(arrays, "right", 2)
    fits = (len(left), right.shape[1]) == codes.shape and left.shape[1] == len(right)
    demand(fits, "the factors of low rank do not fit the codes")
    return LowRank(left, right)


# ---------------------------------------------------------------------------
# Transforms and activations.


def _store_pieces(layer: QuantizedLayer, settings: Settings, arrays: Arrays) -> None:
    if layer.transforms:
        settings["transforms"] = [_piece(part) for part in layer.transforms]
    if layer.activation is not None:
        settings["activation"] = _piece(layer.activation)
    for k, part in enumerate(layer.transforms):
        arrays |= _prefixed(_PIECE.format("transform", k), part.arrays())
    if layer.activation is not None:
        arrays |= _prefixed(_PIECE.format("activation", ""), layer.activation.arrays())


def _piece(piece: InputTransform | ActivationQuantizer) -> list[Any]:
    settings = piece.settings()
    return [piece.kind, settings] if settings else [piece.kind]


def _pieces(
    settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> tuple[tuple[InputTransform, ...], ActivationQuantizer | None]:
    def own(prefix: str) -> Arrays:
        return {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    transforms = tuple(
        transform_from(kind, own(_PIECE.format("transform", k)), *given or [{}])
        for k, (kind, *given) in enumerate(settings.get("transforms", ()))
    )
    if "activation" not in settings:
        return transforms, None
    kind, *given = settings["activation"]
    mine = own(_PIECE.format("activation", ""))
    return transforms, activation_from(kind, mine, *given or [{}])


def _prefixed(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {prefix + name: array for name, array in arrays.items()}


def _check_inputs(layer: QuantizedLayer) -> None:
    """Send a row of zeros through what stands before the weights, and back."""
    n_in, n_transformed = layer.details["n_in"], layer.grid.n_in
    x: FloatArray = np.zeros((1, n_in))
    for transform in layer.transforms:
        x = transform.inputs(x)
    if layer.activation is not None and x.shape == (1, n_transformed):
        x = layer.activation.quantize(x)
    back: FloatArray = np.zeros((1, n_transformed))
    for transform in reversed(layer.transforms):
        back = transform.restored(back)
    fits = x.shape == (1, n_transformed) and back.shape == (1, n_in)
    demand(fits, "the transforms do not fit the weights")
