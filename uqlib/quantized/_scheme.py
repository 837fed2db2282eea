"""What a quantization is made of, as data."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from uqlib.quantized._recipes import RECIPES

# The names that each part may take; a number format with bits is checked by pattern.
GRANULARITIES = ("tensor", "channel", "group")
SCALE_FORMATS = ("float", "pow2")
CLIPS = ("minmax", "mse", "percentile", "learned", "half_quadratic")
TRANSFORMS = ("input_scale", "smooth", "reorder", "hadamard", "klt")
ROUNDINGS = ("rtn", "gptq", "cd", "gptq+cd", "adaround", "flexround", "discquant")
TARGETS = ("fp", "quantized")
CORRECTIONS = ("bias", "low_rank", "output_affine")
ACTIVATION_RANGES = ("dynamic", "static", "percentile", "cross")
# Formats by their bits; the others have one size each.
SIZED_FORMATS = {"int": (1, 8), "power": (2, 8), "bfp": (2, 8), "codebook": (1, 8)}
FIXED_FORMATS = {"ternary": 1.58, "nf4": 4.0, "fp4": 4.0, "fp8": 8.0, "int16": 16.0}
_TOKEN = re.compile(
    r"w(?P<weights>1\.58|(?:int|nf|fp|bfp|pow|cb)?\d+)"
    r"(?:a(?P<activations>\d+))?(?:g(?P<group>\d+))?"
)
_SHORT_FORMATS = {
    "": "int",
    "int": "int",
    "pow": "power",
    "bfp": "bfp",
    "cb": "codebook",
}
_FLOAT_BITS = (16, 32)


@dataclass(frozen=True)
class QuantizationScheme:
    r"""How weights and activations of a model are put on grids.

    .. math:: y = (C[q] - z)\, s \; A(T x) + b,

    with codes q of `weights`, a scale s and a zero point z for each part that
    `granularity` names, transforms T of the inputs and the quantizer A of the
    activations.

    Parameters
    ----------
    weights : str or None, default="int4"
        Number format: "int1" to "int8", "ternary" (1.58 bits), "nf4", "fp4", "fp8",
        "power2" to "power8" (a power exponent), "bfp2" to "bfp8" (block floating
        point), "codebook1" to "codebook8" (learned values), for the leaves of trees
        also "int16"; None leaves them in float.
    activations : str or None, default=None
        "int2" to "int8"; None leaves them in float.
    activation_range : {"dynamic", "static", "percentile", "cross"}, default="dynamic"
        Scale of the activations: one for each row, the largest seen in calibration, a
        percentile of it, or one for each row and column.
    granularity : {"tensor", "channel", "group"}, default="channel"
        What shares a scale: all weights, those of an output, or a group of
        `group_size` inputs of an output.
    group_size : int or None, default=None
        Inputs in a group, at least 1; the last group may have fewer. Needed for
        "group", and for the blocks of "bfp" formats.
    symmetric : bool, default=False
        Whether integers lie around 0 without a zero point.
    scale_format : {"float", "pow2"}, default="float"
        Whether scales are powers of two.
    clip : {"minmax", "mse", "percentile", "learned", "half_quadratic"}, default="mse"
        How the range of the weights is chosen.
    transform : tuple of str, default=()
        Function-preserving maps of the inputs, in their order: "input_scale", "smooth",
        "reorder", "hadamard", "klt".
    rounding : str, default="gptq+cd"
        "rtn" (to nearest), "gptq", "cd", "gptq+cd", "adaround", "flexround",
        "discquant".
    target : {"fp", "quantized"} or None, default=None
        What a layer repeats: the outputs of the float model, or those of the float
        weights on quantized inputs. None takes "fp".
    correction : tuple of str, default=("bias",)
        After rounding: "bias", "low_rank", "output_affine".
    rank : int, default=4
        Rank of the correction "low_rank", at least 1.
    outliers : float, default=0.0
        Share of the weights that stay in float, in [0, 0.5].
    skip : tuple of str, default=()
        Names of layers that stay in float.
    layer_bits : mapping or tuple of (name, bits), default=()
        Bits of single layers, as `allocate_bits` gives them.

    Raises
    ------
    ValueError
        If a part has no such name or number.

    See Also
    --------
    QuantizedRegressor : Takes a scheme or its string.
    allocate_bits : Chooses the bits of each layer.

    Notes
    -----
    All names are checked when a scheme is made, so that a search over schemes fails at
    once.

    Examples
    --------
    >>> from uqlib.quantized import QuantizationScheme
    >>> QuantizationScheme.parse("w4a8")
    QuantizationScheme(weights='int4', activations='int8')
    >>> QuantizationScheme.recipe("hadamard", bits=3).weights
    'int3'
    """

    weights: str | None = "int4"
    activations: str | None = None
    activation_range: str = "dynamic"
    granularity: str = "channel"
    group_size: int | None = None
    symmetric: bool = False
    scale_format: str = "float"
    clip: str = "mse"
    transform: tuple[str, ...] = ()
    rounding: str = "gptq+cd"
    target: str | None = None
    correction: tuple[str, ...] = ("bias",)
    rank: int = 4
    outliers: float = 0.0
    skip: tuple[str, ...] = ()
    layer_bits: Any = ()

    def __post_init__(self) -> None:
        for name in ("transform", "correction", "skip"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name), name))
        object.__setattr__(self, "layer_bits", _as_pairs(self.layer_bits))
        for name in ("rank", "outliers", "group_size", "symmetric"):
            object.__setattr__(self, name, _as_python(getattr(self, name)))
        _check(self)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{part.name}={getattr(self, part.name)!r}"
            for part in fields(self)
            if part.name == "weights" or getattr(self, part.name) != part.default
        )
        return f"{type(self).__name__}({shown})"

    @classmethod
    def parse(cls, text: str) -> "QuantizationScheme":
        """Return the scheme of a short name.

        Parameters
        ----------
        text : str
            "w" and the format of the weights, then "a" and the bits of the activations
            and "g" and the size of a group, both of which may be absent: "w4", "w8a8",
            "w4a8g32", "w3g16", "w1.58", "w1", "wnf4", "wfp4", "wpow4", "wcb4",
            "wbfp4g16". 16 or 32 bits stand for floats.

        Returns
        -------
        QuantizationScheme
            All else at its default.

        Raises
        ------
        ValueError
            If the text is no such name, or bits or group are out of range.
        """
        match = (
            _TOKEN.fullmatch(text.strip().lower()) if isinstance(text, str) else None
        )
        if match is None:
            raise ValueError(
                f"scheme={text!r} is no name of a scheme. Write 'w' and the bits of "
                "the weights, then 'a' and those of the activations or 'g' and a group "
                "size, as 'w4', 'w8a8', 'w4a8g32', 'w1.58', 'wnf4'; or pass a "
                "QuantizationScheme."
            )
        group = match["group"]
        settings: dict[str, Any] = {"weights": _long_format(match["weights"])}
        if match["activations"] and int(match["activations"]) not in _FLOAT_BITS:
            settings["activations"] = f"int{match['activations']}"
        if group:
            settings |= {"granularity": "group", "group_size": int(group)}
        return cls(**settings)

    @classmethod
    def recipe(
        cls, name: str, bits: Any = None, **changes: Any
    ) -> "QuantizationScheme":
        """Return a named scheme.

        Parameters
        ----------
        name : str
            A method of the literature; an unknown name lists all.
        bits : int, default=None
            Bits of the weights; None takes those of the recipe.
        **changes : dict
            Parameters of the scheme that replace those of the recipe.

        Returns
        -------
        QuantizationScheme
            What the recipe stands for.

        Raises
        ------
        ValueError
            If there is no recipe of that name, or the bits do not fit its format.
        """
        if name not in RECIPES:
            raise ValueError(
                f"There is no recipe {name!r}. There are: {', '.join(sorted(RECIPES))}."
            )
        scheme = cls(**(RECIPES[name] | changes))
        return scheme if bits is None else scheme.at_bits(bits)

    def at_bits(self, bits: Any) -> "QuantizationScheme":
        """Return the same scheme with other bits of the weights.

        Parameters
        ----------
        bits : int or float
            1 to 8; 1.58 stands for ternary weights; 16 and 32 for floats.

        Returns
        -------
        QuantizationScheme
            In the same family of formats where it has one of that size, else integers.

        Raises
        ------
        ValueError
            If no format has these bits.
        """
        weights = format_at_bits(self.weights, bits)
        # Activations are rounded for the sake of products with codes.
        activations = None if weights is None else self.activations
        return replace(self, weights=weights, activations=activations)

    @property
    def bits(self) -> float:
        """Nominal bits of a weight: 32.0 in float, 1.58 for ternary weights."""
        return format_bits(self.weights)

    @property
    def effective_target(self) -> str:
        """The target that None stands for."""
        return self.target or "fp"


def format_bits(weights: str | None) -> float:
    """Return the nominal bits of a number format.

    Parameters
    ----------
    weights : str or None
        As in a scheme.

    Returns
    -------
    float
        32.0 for None.
    """
    if weights is None:
        return 32.0
    return FIXED_FORMATS.get(weights) or float(re.sub(r"\D", "", weights))


def format_at_bits(weights: str | None, bits: Any) -> str | None:
    """Return the format of a family at other bits.

    Parameters
    ----------
    weights : str or None
        A format of the family.
    bits : int or float
        1 to 8, 1.58, 16 or 32.

    Returns
    -------
    str or None
        None for 16 and 32.
    """
    if isinstance(bits, bool) or not isinstance(bits, Real):
        raise ValueError(f"bits must be a number from 1 to 8, or 1.58, got {bits!r}.")
    number = float(bits)
    if number in _FLOAT_BITS:
        return None
    if number == 1.58:
        return "ternary"
    if not (1 <= number <= 8 and number.is_integer()):
        raise ValueError(
            f"bits must be an integer from 1 to 8, or 1.58 (ternary), got {bits!r}."
        )
    size, family = int(number), re.sub(r"\d", "", weights or "int")
    low, high = SIZED_FORMATS.get(family, (0, 0))
    if f"{family}{size}" in FIXED_FORMATS or low <= size <= high:
        return f"{family}{size}"
    return f"int{size}"


def _long_format(text: str) -> str | None:
    if text == "1.58":
        return "ternary"
    family, digits = re.sub(r"\d", "", text), int(re.sub(r"\D", "", text))
    if f"{family}{digits}" in FIXED_FORMATS:
        return f"{family}{digits}"
    if family not in _SHORT_FORMATS:
        raise ValueError(
            f"scheme='w{text}' names no number format: {family!r} exists as "
            f"{sorted(name for name in FIXED_FORMATS if name.startswith(family))}."
        )
    if family in ("", "int") and digits in _FLOAT_BITS:
        return None
    return f"{_SHORT_FORMATS[family]}{digits}"


def _as_tuple(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(item, str) for item in names):
        raise ValueError(f"{name} must be a tuple of names, got {value!r}.")
    return names


def _as_pairs(value: Any) -> tuple[tuple[str, Any], ...]:
    pairs = value.items() if isinstance(value, Mapping) else (value or ())
    try:
        return tuple((str(name), _as_python(bits)) for name, bits in pairs)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "layer_bits must map names of layers to bits, as {'layer_0': 4}, got "
            f"{value!r}."
        ) from error


def _as_python(value: Any) -> Any:
    """Return a number of NumPy as one of Python, which shows as it is written."""
    return value.item() if isinstance(value, np.generic) else value


def _check(scheme: QuantizationScheme) -> None:
    _check_format(scheme.weights, "weights", SIZED_FORMATS, FIXED_FORMATS)
    _check_format(scheme.activations, "activations", {"int": (2, 8)}, {})
    for name, legal in (
        ("activation_range", ACTIVATION_RANGES),
        ("granularity", GRANULARITIES),
        ("scale_format", SCALE_FORMATS),
        ("clip", CLIPS),
        ("rounding", ROUNDINGS),
        ("target", (*TARGETS, None)),
    ):
        _check_name(name, getattr(scheme, name), legal)
    for name, legal in (("transform", TRANSFORMS), ("correction", CORRECTIONS)):
        for item in getattr(scheme, name):
            _check_name(name, item, legal)
    if scheme.weights is None and scheme.activations is not None:
        raise ValueError(
            f"activations={scheme.activations!r} need weights on a grid, got "
            "weights=None. Write for example 'w8a8'."
        )
    for _, bits in scheme.layer_bits:
        format_at_bits(scheme.weights, bits)
    _check_sizes(scheme)


def _check_sizes(scheme: QuantizationScheme) -> None:
    if scheme.granularity == "group" and scheme.group_size is None:
        raise ValueError("granularity='group' needs group_size, for example 32.")
    if scheme.group_size is not None and not _is_count(scheme.group_size):
        raise ValueError(
            f"group_size must be an integer of at least 1, got {scheme.group_size!r}."
        )
    if not _is_count(scheme.rank):
        raise ValueError(f"rank must be an integer of at least 1, got {scheme.rank!r}.")
    share = scheme.outliers
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 0.5:
        raise ValueError(f"outliers must be a share in [0, 0.5], got {share!r}.")


def _is_count(value: Any) -> bool:
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    return is_integer and int(value) >= 1


def _check_name(parameter: str, value: Any, legal: tuple[Any, ...]) -> None:
    if value not in legal:
        names = ", ".join(repr(name) for name in legal)
        raise ValueError(f"{parameter}={value!r} must be one of {names}.")


def _check_format(
    value: Any,
    parameter: str,
    sized: Mapping[str, tuple[int, int]],
    fixed: Mapping[str, float],
) -> None:
    if value is None or (isinstance(value, str) and value in fixed):
        return
    match = re.fullmatch(r"([a-z]+)(\d+)", value) if isinstance(value, str) else None
    low, high = sized.get(match[1], (1, 0)) if match else (1, 0)
    if match is None or not low <= int(match[2]) <= high:
        ranges = [f"'{name}{a}' to '{name}{b}'" for name, (a, b) in sized.items()]
        names = ", ".join([*ranges, *(repr(name) for name in fixed)])
        raise ValueError(f"{parameter}={value!r} must be None or one of {names}.")
