"""A fitted network as it stands: its outputs, and features from within it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uqlib._typing import FloatArray

# Rows and numbers put into the network at once.
_CHUNK_ROWS = 2**12
_CHUNK_NUMBERS = 2**22


def check_network(network: Any, feature_layer: Any) -> None:
    """Refuse what is no network, or has no layer of the name asked for.

    Parameters
    ----------
    network : object
        The parameter of the estimator.
    feature_layer : object
        The parameter of the estimator.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"network must be a fitted torch.nn.Module, got {network!r}. For a model "
            "of another kind take SPARegressor or SPAClassifier."
        )
    names = [name for name, _ in network.named_modules() if name]
    if feature_layer is not None and feature_layer not in names:
        raise ValueError(
            f"feature_layer={feature_layer!r} is no module of the network. Its modules "
            f"are {names}."
        )


def network_device(network: nn.Module) -> torch.device:
    """Return where a network lives.

    Parameters
    ----------
    network : Module
        Any.

    Returns
    -------
    device
        That of its first parameter or buffer, else the CPU.
    """
    return _like(network).device


def run_network(
    network: nn.Module,
    X: FloatArray,
    feature_layer: str | None = None,
    read: Callable[[FloatArray], FloatArray] | None = None,
) -> tuple[FloatArray | None, FloatArray]:
    """Return outputs of a network, and what is read from its features.

    The network is in evaluation mode meanwhile and in its own mode afterwards, module
    by module; no gradient is recorded and nothing in it changes.

    Parameters
    ----------
    network : Module
        Fitted.
    X : ndarray of shape (n_samples, ...)
        Inputs, brought to the type and the device of the network a few rows at a time.
    feature_layer : str, default=None
        Module whose input is the features; None takes the linear layer that is called
        last.
    read : callable, default=None
        Takes the features of a few rows, an ndarray of shape (n_rows, n_features) in
        float64 or float32, and returns an array of as many rows. None looks for no
        features.

    Returns
    -------
    values : ndarray of shape (n_samples, ...) or None
        What was read.
    outputs : ndarray of shape (n_samples, ...)
        Float64.
    """
    like = _like(network)
    step = max(1, min(_CHUNK_ROWS, _CHUNK_NUMBERS // max(1, X[0].size)))
    values, outputs = [], []
    with _as_it_stands(network), _caught(network, feature_layer, read) as inputs:
        for first in range(0, len(X), step):
            chunk = np.ascontiguousarray(X[first : first + step])
            rows = torch.tensor(chunk, dtype=like.dtype, device=like.device)
            output = _array(network(rows), len(chunk), "output")
            outputs.append(output.astype(np.float64))
            if read is not None:
                values.append(read(_features(inputs, len(chunk), feature_layer)))
    return np.concatenate(values) if values else None, np.concatenate(outputs)


@contextmanager
def _as_it_stands(network: nn.Module) -> Iterator[None]:
    # Not one flag for all: parts of a network may be in evaluation mode for good.
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        # Not inference_mode, whose tensors, once stored by a network that caches some,
        # could never take part in training again.
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _caught(
    network: nn.Module, feature_layer: str | None, read: Any
) -> Iterator[list[Any]]:
    """Give a list that holds the input of the layer once the network was called."""
    inputs: list[Any] = []

    def catch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        # The last call counts, whatever the order in which layers were made.
        inputs[:] = arguments[:1]

    if read is None:
        layers = []
    elif feature_layer is None:
        layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    else:
        layers = [network.get_submodule(feature_layer)]
    handles = [layer.register_forward_pre_hook(catch) for layer in layers]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _features(inputs: list[Any], n_rows: int, feature_layer: str | None) -> FloatArray:
    if not inputs:
        what = "linear layer" if feature_layer is None else f"layer {feature_layer!r}"
        raise ValueError(
            f"The network called no {what} with a tensor, so that it has no features "
            "there. Name the module whose input is the features by feature_layer."
        )
    features = _array(inputs.pop(), n_rows, "feature layer")
    return features.reshape(n_rows, -1)


def _array(tensor: Any, n_rows: int, what: str) -> FloatArray:
    if not isinstance(tensor, Tensor) or tensor.shape[:1] != (n_rows,):
        got = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor)
        raise ValueError(
            f"The {what} of the network must have one row for each of {n_rows} rows of "
            f"X, got {got}. Wrap the network in a module that returns one such tensor, "
            "or choose another feature_layer."
        )
    tensor = tensor.detach().cpu()
    double = tensor.dtype == torch.float64
    values = tensor.to(torch.float64 if double else torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"The {what} of the network holds NaN or infinity for the rows of X. "
            "Check its training, and the scale of X."
        )
    return values


def _like(network: nn.Module) -> Tensor:
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.zeros(0)
