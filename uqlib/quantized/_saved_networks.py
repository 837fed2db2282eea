"""Quantized parts of a model in a file: networks and ensembles of trees."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uqlib.quantized._adapter import LayerSpec, SkippedLayer
from uqlib.quantized._dense import DenseNetwork
from uqlib.quantized._driver import QuantizedNetwork
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._open import OpenedModel, open_model, single_part
from uqlib.quantized._parts import NetworkPart
from uqlib.quantized._saved_arrays import ArrayReader, ArrayWriter
from uqlib.quantized._saved_checks import count_of, demand, text_of
from uqlib.quantized._saved_estimators import (
    estimator_from,
    first_difference,
    stored_estimator,
    unfitted_from,
)
from uqlib.quantized._saved_layers import Arrays, Settings, layer_from, stored_layer
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._tree_part import TreePart
from uqlib.quantized._tree_storage import stored_trees, trees_from_stored

_DIGITS = 16  # of a digest that tells float models apart
_LOAD = "load(path, estimator=...)"


class StoredNetwork(NamedTuple):
    """A network from a file.

    `order` names all its layers, `floats` are the weights that stayed in float. `model`
    is what `stored_estimator` gave, None where a model cannot be made from the file.
    """

    name: str
    layers: dict[str, QuantizedLayer]
    skipped: tuple[SkippedLayer, ...]
    order: tuple[str, ...]
    floats: Arrays
    model: Settings | None
    digest: str

    @property
    def is_complete(self) -> bool:
        """Whether the model can be made from the file."""
        return self.model is not None

    def opened(self) -> OpenedModel:
        """Return a model with zeros where weights are quantized."""
        specs = [_empty_spec(self, name) for name in self.order]
        return open_model(estimator_from(self.model or {}, specs), self.name)

    def unfitted(self) -> Any:
        """Return a model of this kind that is not fitted."""
        return unfitted_from(self.model or {})

    def part(self, adapter: Any) -> NetworkPart:
        """Return the layers in a model, which must be made like the stored one."""
        if _is_torch(adapter):
            from uqlib.quantized._torch_saved import completed

            adapter = completed(adapter, self.order, self.layers, self.floats)
        self._check(adapter)
        return NetworkPart(adapter, QuantizedNetwork(self.layers, self.skipped))

    def is_part_of(self, adapter: Any) -> bool:
        """Return whether a model is the one that was quantized."""
        if _is_torch(adapter):
            from uqlib.quantized._torch_saved import surveyed

            adapter = surveyed(adapter, self.order)
        return weights_digest(adapter.layers) == self.digest

    def _check(self, adapter: Any) -> None:
        if not hasattr(adapter, "layers") or hasattr(adapter, "ensemble"):
            raise ValueError(f"{_here(self)} a network, the estimator has trees.")
        given = None
        if isinstance(adapter, DenseNetwork):
            given = stored_estimator(adapter.model)
        if self.model is not None and given is not None:
            difference = first_difference(self.model, given)
            if difference is not None:
                raise ValueError(
                    f"The estimator is not made like the model in the file: "
                    f"{difference}."
                )
        _check_layers(self, {spec.name: spec for spec in adapter.layers})


class StoredTrees(NamedTuple):
    """An ensemble of trees from a file, which is complete."""

    name: str
    trees: TreePart
    digest: str

    @property
    def is_complete(self) -> bool:
        """Whether the model can be made from the file."""
        return True

    def opened(self) -> OpenedModel:
        """Return the trees as a model."""
        return single_part(self.name, self.trees)

    def part(self, adapter: Any) -> TreePart:
        """Return the trees beside the float model, where there is one."""
        own = self.trees.ensemble
        if adapter is self.trees:
            return TreePart(own)
        if not hasattr(adapter, "ensemble"):
            raise ValueError(f"{_here(self)} trees, the estimator has a network.")
        given = adapter.ensemble
        for what in ("n_trees", "n_outputs", "source", "link"):
            stored, found = getattr(own, what), getattr(given, what)
            if stored != found:
                raise ValueError(
                    f"The estimator is not made like the model in the file: {what} is "
                    f"{stored!r} there and {found!r} here."
                )
        if self.is_part_of(adapter):
            return TreePart(own, given, adapter.model)
        return TreePart(own)

    def is_part_of(self, adapter: Any) -> bool:
        """Return whether a model is the one that was quantized."""
        return trees_digest(adapter) == self.digest


StoredPart = StoredNetwork | StoredTrees


def stored_part(
    name: str,
    part: Any,
    writer: ArrayWriter,
    base: QuantizationScheme | None,
    digest: str | None = None,
) -> Settings:
    """Return the settings of a quantized part and collect its arrays.

    Parameters
    ----------
    name : str
        Of the part in its model.
    part : NetworkPart or TreePart
        The part.
    writer : ArrayWriter
        Gets the arrays.
    base : QuantizationScheme or None
        Of the model.
    digest : str, default=None
        Of the float model; None takes that of the part.

    Returns
    -------
    dict
        As JSON takes it.
    """
    if isinstance(part, TreePart):
        settings = _stored_trees(part, writer)
        digest = trees_digest(part) if digest is None else digest
        return {"name": name, "kind": "trees", "digest": digest, **settings}
    settings = {"name": name, "kind": "network", "layers": []}
    for layer in part.layers.values():
        own, arrays = stored_layer(layer, base)
        settings["layers"].append(own | {"arrays": writer.put(arrays)})
    order = [spec.name for spec in part.adapter.layers]
    if order != list(part.layers):
        settings["order"] = order
    if part.skipped:
        settings["skipped"] = [list(layer) for layer in part.skipped]
    if digest is None:
        digest = weights_digest(part.adapter.layers)
    settings["digest"] = digest
    model = None
    if isinstance(part.adapter, DenseNetwork):
        model = stored_estimator(part.adapter.model)
    if model is not None:
        settings["model"] = model
    floats = _floats(part, is_complete=model is not None)
    if floats:  # the names of torch may have any letters
        numbered = {f"a{k}": array for k, array in enumerate(floats.values())}
        settings["floats"], settings["float_arrays"] = [*floats], writer.put(numbered)
    return settings


def part_from(
    settings: Mapping[str, Any], reader: ArrayReader, base: QuantizationScheme | None
) -> StoredPart:
    """Return a part from a file.

    Parameters
    ----------
    settings : mapping
        As `stored_part` gave them, of any origin.
    reader : ArrayReader
        Has the arrays.
    base : QuantizationScheme or None
        Of the model.

    Returns
    -------
    StoredNetwork or StoredTrees
        The part.

    Raises
    ------
    ValueError
        If anything does not fit. Settings that are not there or of another type may
        raise LookupError, TypeError and AttributeError as well.
    """
    name, digest = text_of(settings["name"]), text_of(settings["digest"])
    if settings["kind"] == "trees":
        ensemble = trees_from_stored(settings["trees"], reader.take(settings["arrays"]))
        return StoredTrees(name, TreePart(ensemble), digest)
    demand(settings["kind"] == "network", f"no part of the kind {settings['kind']!r}")
    layers = [
        layer_from(own, reader.take(own["arrays"]), base) for own in settings["layers"]
    ]
    named = {layer.name: layer for layer in layers}
    order = tuple(text_of(each) for each in settings.get("order", named))
    demand(len(named) == len(layers) and set(named) <= set(order), "layers repeat")
    demand(len(set(order)) == len(order), "layers repeat")
    names = settings.get("floats", [])
    found = reader.take(settings.get("float_arrays", ""))
    floats = dict(zip(map(text_of, names), found.values(), strict=True))
    skipped = tuple(
        SkippedLayer(text_of(layer), text_of(reason), count_of(size))
        for layer, reason, size in settings.get("skipped", ())
    )
    model = settings.get("model")
    return StoredNetwork(name, named, skipped, order, floats, model, digest)


def weights_digest(layers: Sequence[LayerSpec]) -> str:
    """Return a number that tells float networks apart.

    Parameters
    ----------
    layers : sequence of LayerSpec
        All layers.

    Returns
    -------
    str
        64 bits of the SHA-256 of weights and biases.
    """
    digest = hashlib.sha256()
    for layer in layers:
        for array in (layer.weight, layer.bias):
            if array is not None:
                digest.update(
                    repr((layer.name, str(array.dtype), array.shape)).encode()
                )
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGITS]


def trees_digest(part: Any) -> str:
    """Return a number that tells float trees apart.

    Parameters
    ----------
    part : TreePart or TreeAdapter
        With exact trees, or leaves that were exact.

    Returns
    -------
    str
        64 bits of the SHA-256 of what is stored of them; empty if they are not known.
    """
    exact = part.exact if isinstance(part, TreePart) else part.ensemble
    if exact is None:
        return ""
    digest = hashlib.sha256()
    for name, array in stored_trees(exact)[1].items():
        digest.update(repr((name, str(array.dtype), array.shape)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGITS]


def _stored_trees(part: TreePart, writer: ArrayWriter) -> Settings:
    settings, arrays = stored_trees(part.ensemble)
    line = writer.put(arrays)
    return {"trees": settings, "arrays": line}


def _floats(part: Any, is_complete: bool) -> Arrays:
    """Return the weights that the codes do not tell."""
    if _is_torch(part.adapter):
        from uqlib.quantized._torch_saved import float_state

        return float_state(part.adapter, part.layers)
    found: Arrays = {}
    for spec in part.adapter.layers if is_complete else ():
        if spec.name not in part.layers:
            found[f"{spec.name}.weight"] = _short(spec.weight)
            if spec.bias is not None:
                found[f"{spec.name}.bias"] = _short(spec.bias)
    return found


def _short(values: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in single precision if that is what they are."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    return single if np.array_equal(single, values) else values


def _empty_spec(stored: StoredNetwork, name: str) -> LayerSpec:
    if name in stored.layers:
        layer = stored.layers[name]
        shape = layer.codes.shape[0], layer.details["n_in"]
        had_bias = layer.details["has_bias"]
        return LayerSpec(
            name, np.zeros(shape), np.zeros(shape[:1]) if had_bias else None
        )
    weight = stored.floats.get(f"{name}.weight")
    bias = stored.floats.get(f"{name}.bias")
    if weight is None or weight.ndim != 2:
        raise ValueError(f"what is stored is damaged: no weights of layer {name!r}.")
    demand(bias is None or bias.shape == weight.shape[:1], "a bias does not fit")
    return LayerSpec(name, weight, bias)


def _check_layers(stored: StoredNetwork, specs: Mapping[str, LayerSpec]) -> None:
    for name in (*stored.order, *specs):
        if name not in specs or name not in stored.order:
            where = "file" if name in stored.order else "estimator"
            raise ValueError(
                f"Layer {name!r} is in the {where} alone. The file has the layers "
                f"{list(stored.order)}, the estimator has {list(specs)}. Pass a model "
                f"that is made like the saved one to {_LOAD}."
            )
    for name, spec in specs.items():
        layer = stored.layers.get(name)
        if layer is None:
            _check_floats(stored, spec)
            continue
        shape = layer.codes.shape[0], layer.details["n_in"]
        if shape != spec.weight.shape:
            raise ValueError(
                f"Layer {name!r} has the shape {shape} in the file and "
                f"{spec.weight.shape} in the estimator. Pass a model that is made like "
                f"the saved one to {_LOAD}."
            )


def _check_floats(stored: StoredNetwork, spec: LayerSpec) -> None:
    for what, array in (("weight", spec.weight), ("bias", spec.bias)):
        kept = stored.floats.get(f"{spec.name}.{what}")
        if stored.model is None or kept is None or array is None:
            continue
        if not np.array_equal(kept, array):
            raise ValueError(
                f"Layer {spec.name!r} stayed in float, but the estimator has another "
                f"{what} than the model that was saved. Pass that model to {_LOAD}."
            )


def _here(stored: StoredPart) -> str:
    return f"Part {stored.name!r} of the file is" if stored.name else "The file holds"


def _is_torch(adapter: Any) -> bool:
    return hasattr(adapter, "host")
