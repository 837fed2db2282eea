"""What a file holds of a torch module beside its quantized layers, and how it is read.

A module is code, which a file never holds: whoever loads one passes a module of the
same architecture, trained or not. All its parameters and buffers come from the file.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from uqlib.quantized._adapter import QuantizedLayers
from uqlib.quantized._open_torch import torch_adapter
from uqlib.quantized._torch_attention import close_attention
from uqlib.quantized._torch_layers import numpy_array
from uqlib.quantized._torch_network import (
    TorchNetwork,
    _open_attentions,
    _split_attentions,
)
from uqlib.quantized._torch_predictor import TorchPredictor
from uqlib.quantized._torch_survey import (
    ROOT,
    candidates,
    copied,
    open_attentions,
    opened,
    survey,
)

Arrays = dict[str, NDArray[Any]]


def predictor(module: Any, task: str, classes: NDArray[Any] | None) -> TorchPredictor:
    """Return a module with the prediction methods of scikit-learn, without any rows.

    Parameters
    ----------
    module : nn.Module
        Used as it stands.
    task : {"regression", "classification"}
        What its outputs stand for.
    classes : ndarray of shape (n_classes,) or None
        Of a classifier.

    Returns
    -------
    TorchPredictor
        As one that was made with rows.
    """
    made = object.__new__(TorchPredictor)
    made.module, made.task = module, task
    if classes is not None:
        made.classes_ = classes
    return made


def float_state(adapter: TorchNetwork, quantized: QuantizedLayers) -> Arrays:
    """Return the parameters and buffers that quantized layers do not hold.

    Parameters
    ----------
    adapter : TorchNetwork
        The float module.
    quantized : mapping of str to QuantizedLayer
        Its quantized layers.

    Returns
    -------
    dict of str to ndarray
        By the names that an open copy of the module has for them.
    """
    module = opened(adapter.host.module, adapter.split)
    own = _own_names(candidates(module), quantized)
    state = module.state_dict()
    return {name: _array(name, state[name]) for name in state if name not in own}


def surveyed(adapter: TorchNetwork, names: Collection[str]) -> TorchNetwork:
    """Return a network with given layers, which no rows have gone through.

    Parameters
    ----------
    adapter : TorchNetwork
        Its module has these layers.
    names : collection of str
        All layers in the order of their calls.

    Returns
    -------
    TorchNetwork
        With `layers` and `skipped`.
    """
    split = _split_attentions(names)
    module = opened(adapter.host.module, split)
    found = candidates(module)
    for name in names:
        if name not in found:
            raise ValueError(
                f"Layer {name!r} is in the file alone. The module has {sorted(found)}. "
                "Pass a module of the same architecture as the saved one."
            )
    return replace(adapter, split=split, found=survey(module, list(names)))


def completed(
    adapter: TorchNetwork,
    names: Collection[str],
    quantized: QuantizedLayers,
    floats: Mapping[str, NDArray[Any]],
) -> TorchNetwork:
    """Return a network with the parameters of a file in a copy of the module.

    Parameters
    ----------
    adapter : TorchNetwork
        Of a module of the same architecture, never changed.
    names : collection of str
        All layers in the order of their calls.
    quantized : mapping of str to QuantizedLayer
        The quantized ones.
    floats : mapping of str to ndarray
        As `float_state` gave them.

    Returns
    -------
    TorchNetwork
        With `layers` and `skipped`.

    Raises
    ------
    ValueError
        If the module has other parameters; the message names the first.
    """
    split = surveyed(adapter, names).split
    module = copied(adapter.host.module)
    open_attentions(module, split)
    state = module.state_dict()
    expected = set(state) - _own_names(candidates(module), quantized)
    for name in sorted({*expected, *floats}):
        _check_names(name, expected, floats)
        value = torch.as_tensor(floats[name])
        if value.shape != state[name].shape:
            raise ValueError(
                f"{name!r} has the shape {tuple(value.shape)} in the file and "
                f"{tuple(state[name].shape)} in the module. Pass a module of the same "
                "architecture as the saved one."
            )
        state[name].copy_(value)
    for attention in _open_attentions(module).values():
        close_attention(attention)
    other: TorchNetwork = torch_adapter(adapter.host.with_module(module))
    return surveyed(other, names)


def _check_names(name: str, expected: Collection[str], floats: Collection[str]) -> None:
    if name not in floats or name not in expected:
        where = "file" if name in floats else "module"
        raise ValueError(
            f"{name!r} is in the {where} alone. Pass a module of the same architecture "
            "as the saved one."
        )


def _own_names(found: Mapping[str, Any], quantized: QuantizedLayers) -> set[str]:
    """Return the names of the parameters of quantized layers."""
    return {
        own if name == ROOT else f"{name}.{own}"
        for name in quantized
        if name in found
        for own in found[name].state_dict()
    }


def _array(name: str, value: Any) -> NDArray[Any]:
    if not isinstance(value, torch.Tensor) or value.is_complex():
        raise ValueError(
            f"{name!r} of the module is no tensor of real numbers, so that it cannot "
            "be saved."
        )
    if value.is_floating_point():
        return numpy_array(value)
    return np.array(value.detach().cpu().numpy())
