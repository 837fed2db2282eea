"""What the parameters of a quantized estimator stand for."""

from collections.abc import Mapping
from dataclasses import fields, replace
from numbers import Integral
from typing import Any

from uqlib.quantized._layer_kernels import CUDA, load_cuda_kernels
from uqlib.quantized._recipes import RECIPES
from uqlib.quantized._scheme import ROUNDINGS, QuantizationScheme

BACKENDS = ("auto", "cuda", "numba", "reference")
AUTO = "auto"
NETWORK_SCHEME = "w8a8"


def find_scheme(scheme: Any, method: str | None) -> QuantizationScheme | None:
    """Return the scheme that two parameters stand for.

    Parameters
    ----------
    scheme : "auto", str or QuantizationScheme
        A short name as "w4a8g32", or a scheme.
    method : str or None
        Name of a rounding, or of a recipe, whose parts replace those of the scheme.

    Returns
    -------
    QuantizationScheme or None
        None for "auto", which each part of a model reads for itself.
    """
    if isinstance(scheme, str) and scheme == AUTO:
        if method is None:
            return None
        scheme = NETWORK_SCHEME
    if isinstance(scheme, str):
        scheme = with_input_scales(QuantizationScheme.parse(scheme))
    if not isinstance(scheme, QuantizationScheme):
        raise TypeError(
            "scheme must be 'auto', a short name such as 'w4' or a QuantizationScheme, "
            f"got {scheme!r}."
        )
    return scheme if method is None else _with_method(scheme, method)


def with_input_scales(scheme: QuantizationScheme) -> QuantizationScheme:
    """Return a scheme in which features of any units survive.

    Parameters
    ----------
    scheme : QuantizationScheme
        As a short name gives it.

    Returns
    -------
    QuantizationScheme
        With a scale for every input column if activations are rounded.
    """
    if scheme.activations is None or scheme.transform:
        return scheme
    # Features in raw units may differ by orders of magnitude: every input column gets
    # its own scale, folded into the weights, before one scale serves a row.
    return replace(scheme, transform=("input_scale",))


def part_scheme(
    scheme: QuantizationScheme | None, name: str, names: list[str]
) -> QuantizationScheme | None:
    """Return what a scheme says of one part of a model.

    Parameters
    ----------
    scheme : QuantizationScheme or None
        Of the model. Where there are several parts, its layers are named "part.layer".
    name : str
        Of the part.
    names : list of str
        Of all parts.

    Returns
    -------
    QuantizationScheme or None
        The same with names of layers of this part alone.

    Raises
    ------
    ValueError
        If a layer belongs to no part.
    """
    if scheme is None:
        return None
    own = f"{name}."

    def inner(layer: str) -> str | None:
        if layer.startswith(own):
            return layer.removeprefix(own)
        if len(names) == 1:
            return layer
        if not any(layer.startswith(f"{other}.") for other in names):
            raise ValueError(
                f"The scheme names the layer {layer!r}, but the model has several "
                f"parts: write its part before it, as {names[0]!r} + '.layer_0'. The "
                f"parts are {names}."
            )
        return None

    bits = [(inner(layer), value) for layer, value in scheme.layer_bits]
    skip = [inner(layer) for layer in scheme.skip]
    return replace(
        scheme,
        layer_bits=tuple((layer, value) for layer, value in bits if layer is not None),
        skip=tuple(layer for layer in skip if layer is not None),
    )


def check_backend(backend: Any) -> None:
    """Refuse a backend that does not exist.

    Parameters
    ----------
    backend : str
        As in the estimators.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r} must be one of {list(BACKENDS)}.")


def check_device(backend: str, adapters: Mapping[str, Any]) -> None:
    """Refuse a backend for models that are not where it computes.

    Parameters
    ----------
    backend : str
        One that exists.
    adapters : mapping of str to adapter
        Of the parts of a model, by name.

    Raises
    ------
    ValueError
        If the backend is "cuda" and some part is no torch module on a GPU.
    KernelUnavailableError
        If the kernels for GPUs are not there.
    """
    if backend != CUDA:
        return
    problem = "" if adapters else "nothing of this model can be quantized"
    for name, adapter in adapters.items():
        found = getattr(adapter, "device_types", None)
        what = f"part {name!r}" if name else "this model"
        if found is None:
            problem = f"{what} is no torch module"
        elif not found:
            problem = f"{what} has no parameters"
        elif found != {CUDA}:
            where = ", ".join(map(repr, sorted(found)))
            problem = f"the parameters of {what} are on {where}"
    if problem:
        raise ValueError(
            f"backend={CUDA!r} computes torch modules on a GPU, but {problem}. Move "
            "the module with module.to('cuda') before it is quantized, or pass "
            "backend='auto'."
        )
    load_cuda_kernels()


def check_last_layer_bits(bits: Any) -> None:
    """Refuse a number of bits that a layer cannot have.

    Parameters
    ----------
    bits : int or None
        As in the estimators.
    """
    if bits is None:
        return
    is_integer = isinstance(bits, Integral) and not isinstance(bits, bool)
    if not is_integer or not 1 <= int(bits) <= 8:
        raise ValueError(
            f"last_layer_bits={bits!r} must be an integer from 1 to 8, or None to "
            "treat the last layer like the others."
        )


def _with_method(scheme: QuantizationScheme, method: str) -> QuantizationScheme:
    known = isinstance(method, str)
    if known and method in ROUNDINGS:
        return replace(scheme, rounding=method)
    if not known or method not in RECIPES:
        names = sorted({*ROUNDINGS, *RECIPES})
        raise ValueError(f"method={method!r} must be one of {names}.")
    kept = {part.name: getattr(scheme, part.name) for part in fields(scheme)}
    recipe = QuantizationScheme.recipe(method)
    changed = dict(RECIPES[method])
    changed.pop("activations", None)
    if "weights" in changed:  # the format of the recipe at the bits of the scheme
        bits = scheme.bits if scheme.bits <= 8 else recipe.bits
        changed["weights"] = recipe.at_bits(bits).weights
    return QuantizationScheme(**(kept | changed))
