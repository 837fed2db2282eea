"""Which parts of a torch module can be quantized, and why the others cannot.

Every parameter is counted once: in a layer, in a skipped part, or among the small ones
(norms and vectors), which are left in float without a word.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.rnn import RNNCellBase
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils.parametrize import is_parametrized

from uqlib.quantized._adapter import LayerSpec, SkippedLayer
from uqlib.quantized._torch_attention import (
    OpenAttention,
    open_attention,
    without_fused_paths,
)
from uqlib.quantized._torch_layers import LAYERS, layer_spec

ROOT = "module"  # the name of the layer of a module that is one layer
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_KNOWN = (*LAYERS, nn.MultiheadAttention)  # by their exact types
_SMALL = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)
_UNSUPPORTED: tuple[tuple[Any, str], ...] = (
    (nn.Bilinear, "bilinear layers multiply two inputs at once"),
    ((nn.RNNBase, RNNCellBase), "recurrent layers are not supported"),
    ((nn.Embedding, nn.EmbeddingBag), "embeddings are looked up, not multiplied"),
    (_ConvTransposeNd, "transposed convolutions are not supported"),
    (nn.Conv3d, "convolutions over three dimensions are not supported"),
)
_LazyBuffer: Any = UninitializedBuffer
_NEVER_CALLED = "is never called on the rows of calibration"


class Survey(NamedTuple):
    """The layers in the order of their first calls, and what stays in float."""

    layers: tuple[LayerSpec, ...]
    skipped: tuple[SkippedLayer, ...]
    n_small_parameters: int


def copied(module: Any) -> Any:
    """Return a deep copy of a module.

    Parameters
    ----------
    module : nn.Module
        What torch does not copy is made anew: tensors that it has computed and kept
        (detached), and lazy buffers.

    Returns
    -------
    nn.Module
        The copy.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    for buffer in filter(is_lazy, module.buffers()):
        memo[id(buffer)] = _LazyBuffer(device=buffer.device, dtype=buffer.dtype)
    return deepcopy(module, memo)


def opened(module: Any, split: Collection[str]) -> Any:
    """Return a copy in evaluation mode whose attentions are open.

    Parameters
    ----------
    module : nn.Module
        Never changed.
    split : collection of str
        Names of attentions whose queries, keys and values have layers of their own.

    Returns
    -------
    nn.Module
        The copy.
    """
    copy = copied(module).eval()
    open_attentions(copy, split)
    without_fused_paths(copy)
    return copy


def open_attentions(module: Any, split: Collection[str]) -> None:
    """Open all attentions that can be quantized, in place.

    Parameters
    ----------
    module : nn.Module
        A copy, changed.
    split : collection of str
        Names of attentions whose queries, keys and values have layers of their own.
    """
    shared = _shared_parameters(module)
    for name, part in list(module.named_modules()):
        if type(part) is nn.MultiheadAttention and _problem(part, shared) is None:
            open_attention(part, split=name in split)


def candidates(module: Any) -> dict[str, Any]:
    """Return the layers of an open module that can be quantized, by name.

    Parameters
    ----------
    module : nn.Module
        As `opened` gives it, before it has run.

    Returns
    -------
    dict of str to module
        In the order of registration.
    """
    shared = _shared_parameters(module)
    return {
        name or ROOT: part
        for name, part, _ in _parts(module)
        if type(part) in LAYERS and _problem(part, shared) is None
    }


def survey(module: Any, calls: list[str]) -> Survey:
    """Return what becomes of every parameter.

    Parameters
    ----------
    module : nn.Module
        As `opened` gives it, before it has run.
    calls : list of str
        Names of candidates in the order of their first calls.

    Returns
    -------
    Survey
        Sizes of weights, biases, skipped parts and small parameters add up to the
        number of parameters of the module.
    """
    found, shared = candidates(module), _shared_parameters(module)
    count = _Count()
    for name, part, whole in _parts(module):
        if (name or ROOT) in calls:
            count.new(part.parameters(recurse=False))
        elif (name or ROOT) in found:
            count.skip(name, _NEVER_CALLED, part.parameters(recurse=False))
        elif whole or isinstance(part, (*LAYERS, LazyModuleMixin)):
            count.skip(name, _problem(part, shared), part.parameters(recurse=whole))
        else:
            _count_other(count, name, part)
    layers = tuple(layer_spec(name, found[name]) for name in calls)
    return Survey(layers, tuple(count.skipped), count.n_small)


class _Count:
    """Counts every parameter once."""

    def __init__(self) -> None:
        self.skipped: list[SkippedLayer] = []
        self.n_small = 0
        self._seen: set[int] = set()

    def new(self, parameters: Iterable[Any]) -> int:
        """Return the size of the parameters that have not been counted."""
        size = 0
        for parameter in parameters:
            if id(parameter) not in self._seen and not is_lazy(parameter):
                self._seen.add(id(parameter))
                size += int(parameter.numel())
        return size

    def skip(self, name: str, reason: Any, parameters: Iterable[Any]) -> None:
        part = SkippedLayer(name or ROOT, reason, self.new(parameters))
        self.skipped.append(part)


def _count_other(count: _Count, name: str, part: Any) -> None:
    """Count the parameters of a module of another type, its children left out."""
    for types, reason in _UNSUPPORTED:
        if isinstance(part, types):
            count.skip(name, reason, part.parameters(recurse=False))
            return
    reason = f"a parameter of {type(part).__name__} itself, not of a layer"
    for own, parameter in part.named_parameters(recurse=False):
        if isinstance(part, _SMALL) or parameter.dim() <= 1:
            count.n_small += count.new([parameter])
        else:
            count.skip(f"{name}.{own}" if name else own, reason, [parameter])


def _parts(module: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield modules, and whether one is to be taken with all that is in it."""
    inside: tuple[str, ...] = ()
    for name, part in module.named_modules():
        if name.startswith(inside):
            continue
        is_closed = isinstance(part, nn.MultiheadAttention)
        whole = is_closed or is_parametrized(part) or _is_quantized(part)
        if isinstance(part, OpenAttention):
            whole = False
        if whole:
            inside = (*inside, f"{name}." if name else "")
        yield name, part, whole


def _problem(part: Any, shared: set[int]) -> str | None:
    """Return why a linear layer, convolution or attention cannot be quantized."""
    name = type(part).__name__
    parameters = list(part.parameters())
    if any(is_lazy(p) for p in parameters):
        return f"{name} is lazy and has not seen any rows"
    if _is_quantized(part):
        return f"{name} is quantized by torch"
    if any(is_parametrized(inner) for inner in part.modules()):
        return "its weights are computed by a parametrization"
    if type(part) not in _KNOWN:
        return f"{name} is a type of its own, whose computation is not known"
    if any("forward" in vars(inner) for inner in part.modules()):
        return "its forward has been replaced"
    if type(part) is nn.MultiheadAttention:
        if part.bias_k is not None or part.bias_v is not None or part.add_zero_attn:
            return "attention with add_bias_kv or add_zero_attn is not supported"
    elif part._parameters.get("weight") is None:
        return "its weights are computed by a hook, as of weight norm or of pruning"
    if any(p.dtype not in _FLOATS for p in parameters):
        types = sorted({str(p.dtype) for p in parameters})
        return f"its weights are of the type {', '.join(types)}"
    if any(id(p) in shared for p in parameters):
        return "it shares weights with another layer"
    return None


def _is_quantized(part: Any) -> bool:
    return type(part).__module__.startswith(("torch.ao.nn", "torch.nn.quantized"))


def _shared_parameters(module: Any) -> set[int]:
    """Return the parameters (by id) that more than one module owns."""
    owners = Counter(
        id(p)
        for part in module.modules()
        for p in {id(p): p for p in part.parameters(recurse=False)}.values()
    )
    return {key for key, n_owners in owners.items() if n_owners > 1}
