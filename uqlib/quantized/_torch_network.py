"""Fitted torch modules as networks of layers that can be quantized.

Everything runs on deep copies: the module that was given keeps its weights, buffers,
gradients, hooks and modes, even when its code fails.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from uqlib._typing import FloatArray
from uqlib.quantized._adapter import LayerSpec, QuantizedLayers, SkippedLayer
from uqlib.quantized._torch_attention import (
    PROJECTIONS,
    OpenAttention,
    close_attention,
    is_self_attention,
)
from uqlib.quantized._torch_kernels import device_type, module_operation
from uqlib.quantized._torch_layers import (
    layer_rows,
    set_quantized,
    write_weights,
)
from uqlib.quantized._torch_predictor import gathered
from uqlib.quantized._torch_survey import (
    Survey,
    candidates,
    copied,
    open_attentions,
    opened,
    survey,
)


@dataclass(frozen=True, eq=False)
class TorchNetwork:
    """The layers of a torch module; an adapter.

    The order of the layers shows only when the module runs: `traced` returns the
    network with its `layers`. All else needs no trace, so that stored layers can be put
    into a module without rows.

    Parameters
    ----------
    host : ModuleHost or SkorchHost
        What holds the module.
    split : frozenset of str
        Names of attentions that made queries, keys and values of different inputs.
    found : Survey or None
        What `traced` found.
    """

    host: Any
    split: frozenset[str] = frozenset()
    found: Survey | None = None

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """Layers in the order of their first calls."""
        return self._survey().layers

    @property
    def device_types(self) -> set[str]:
        """Where the parameters of the module are: "cpu", "cuda" and others."""
        return {device_type(p.device) for p in self.host.module.parameters()}

    @property
    def skipped(self) -> tuple[SkippedLayer, ...]:
        """What stays in float, and why, without what is small."""
        return self._survey().skipped

    @property
    def n_small_parameters(self) -> int:
        """Number of parameters in norms and vectors, which stay in float."""
        return self._survey().n_small_parameters

    def traced(self, X: Any) -> "TorchNetwork":
        """Return the network with the layers that rows of calibration go through.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, ...)
            Rows; the module runs once on all of them, twice if it has attention to
            other inputs.

        Returns
        -------
        TorchNetwork
            With `layers` and `skipped`.
        """
        calls, split = self._trace(X, frozenset())
        if split:
            calls, _ = self._trace(X, split)
        found = survey(opened(self.host.module, split), calls)
        return replace(self, split=split, found=found)

    def layer_inputs(
        self, X: Any, name: str, quantized: QuantizedLayers
    ) -> Iterator[FloatArray]:
        """Yield what enters a layer, some rows of X at a time.

        A layer that is called more than once gives the inputs of all calls, in their
        order within the rows that go through the module together.
        """
        module, layers = self.with_layers(quantized, name)
        layer, seen = layers[name], []

        def keep(_: Any, args: Any, kwargs: Any) -> None:
            # A copy: what comes after may change the tensor in place.
            seen.append((args[0] if args else kwargs["input"]).detach().clone())

        layer.register_forward_pre_hook(keep, with_kwargs=True)
        for _ in self.host.run(module, X):
            for x in seen:
                for rows in layer_rows(layer, x):
                    yield _finite(rows, name)
            seen.clear()

    def outputs(self, X: Any, quantized: QuantizedLayers) -> FloatArray:
        """Return the outputs of the network, of shape (n_samples, n_outputs)."""
        if not quantized:
            return gathered(self.host.run(copied(self.host.module).eval(), X))
        return gathered(self.host.run(self.with_layers(quantized)[0], X))

    def quantized_model(
        self, quantized: QuantizedLayers, backend: str = "reference"
    ) -> Any:
        """Return a model of the kind that was given, which predicts from the codes."""
        module, _ = self.with_layers(quantized, backend=backend)
        return self.host.with_module(module)

    def operations(self, quantized: QuantizedLayers, backend: str) -> dict[str, str]:
        """Return what computes each quantized layer, by name."""
        layers = self._candidates(quantized)[1]
        return {
            name: module_operation(_named(layers, name), layer, backend)
            for name, layer in quantized.items()
        }

    def dequantized(self, quantized: QuantizedLayers) -> Any:
        """Return a copy of the float model with the rounded weights."""
        module = copied(self.host.module)
        open_attentions(module, self.split | _split_attentions(quantized))
        layers = candidates(module)
        for name, layer in quantized.items():
            write_weights(_named(layers, name), layer)
        for attention in _open_attentions(module).values():
            close_attention(attention)
        return self.host.with_module(module)

    def _survey(self) -> Survey:
        if self.found is None:
            raise ValueError(
                "The layers of a torch module are known once rows have gone through "
                "it. Call traced(X) first."
            )
        return self.found

    def with_layers(
        self, quantized: QuantizedLayers, *needed: str, backend: str = "reference"
    ) -> tuple[Any, dict[str, Any]]:
        """Return an open copy that computes with quantized layers, and all layers."""
        module, layers = self._candidates([*quantized, *needed])
        for name in needed:
            _named(layers, name)
        for name, layer in quantized.items():
            set_quantized(_named(layers, name), layer, backend)
        return module, layers

    def _candidates(self, names: Iterable[str]) -> tuple[Any, dict[str, Any]]:
        """Return an open copy in which layers of these names are, and all layers."""
        module = opened(self.host.module, self.split | _split_attentions(names))
        return module, candidates(module)

    def _trace(self, X: Any, split: frozenset[str]) -> tuple[list[str], frozenset[str]]:
        """Return the layers that are called, and attentions to different inputs."""
        module = opened(self.host.module, split)
        calls: dict[str, None] = {}  # a set that keeps its order
        crossed: set[str] = set()
        for name, layer in candidates(module).items():
            layer.register_forward_pre_hook(partial(_note_call, calls, name))
        for name, attention in _open_attentions(module).items():
            note = partial(_note_inputs, crossed, name)
            attention.register_forward_pre_hook(note, with_kwargs=True)
        for _ in self.host.run(module, X):
            pass
        return list(calls), frozenset(crossed)


def _note_call(calls: dict[str, None], name: str, layer: Any, args: Any) -> None:
    calls[name] = None


def _note_inputs(
    crossed: set[str], name: str, attention: Any, args: Any, kwargs: Any
) -> None:
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    if not is_self_attention(named["query"], named["key"], named["value"]):
        crossed.add(name)


def _open_attentions(module: Any) -> dict[str, Any]:
    parts = module.named_modules()
    return {name: part for name, part in parts if isinstance(part, OpenAttention)}


def _split_attentions(names: Iterable[str]) -> frozenset[str]:
    """Return the attentions that layers like "attention.in_proj.q" belong to."""
    endings = tuple(f".in_proj.{part}" for part in PROJECTIONS)
    return frozenset(
        name.removesuffix(name[-2:]).removesuffix(".in_proj")
        for name in names
        if name.endswith(endings)
    )


def _named(layers: dict[str, Any], name: str) -> Any:
    if name not in layers:
        raise ValueError(
            f"The module has no layer {name!r} that can be quantized. It has "
            f"{sorted(layers)}."
        )
    return layers[name]


def _finite(rows: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(rows).all():
        raise ValueError(
            f"Layer {name!r} gets values that are not finite. Check X for missing or "
            "very large values."
        )
    return rows
