r"""Attention of torch with its projections as layers.

`torch.nn.MultiheadAttention` multiplies with four matrices inside one function. An open
attention is the same module with linear layers in their places: `in_proj`, which gives
queries, keys and values together, or `in_proj.q`, `in_proj.k` and `in_proj.v` where
these come from different inputs, and `out_proj`. In every head with queries Q, keys K
and values V of d columns, and a mask M that is added,

    softmax(Q K^T / sqrt(d) + M) V .

Opening and closing change a module in place: it is done to copies only.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

PROJECTIONS = ("q", "k", "v")
_OWN_PARAMETERS = (
    "in_proj_weight",
    *(f"{name}_proj_weight" for name in PROJECTIONS),
    "in_proj_bias",
)


class OpenAttention(nn.MultiheadAttention):
    """An attention that `open_attention` has opened; it has no dropout."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the outputs and, if asked for, the weights of the values."""
        out_proj: Any = self.out_proj
        batched = query.dim() == 3
        q, k, v = (self._heads(x) for x in self._projected(query, key, value))
        if is_causal and key_padding_mask is None and not need_weights:
            mask = None  # torch believes the hint
        else:
            mask, is_causal = _added(attn_mask, key_padding_mask, q), False
        weights = None
        if need_weights:
            logits = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
            weights = torch.softmax(logits if mask is None else logits + mask, dim=-1)
            y = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            causal = is_causal and attn_mask is not None
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        y = out_proj(self._joined(y, batched))
        return y, weights if batched or weights is None else weights[0]

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Any:
        in_proj: Any = self.in_proj
        inputs = (query, key, value)
        if isinstance(in_proj, nn.ModuleDict):
            return [in_proj[n](x) for n, x in zip(PROJECTIONS, inputs, strict=True)]
        if is_self_attention(*inputs):
            return in_proj(query).chunk(3, dim=-1)
        return [in_proj(x).chunk(3, dim=-1)[part] for part, x in enumerate(inputs)]

    def _heads(self, x: Tensor) -> Tensor:
        """Return (n, heads, length, d) of (n, length, E), (length, n, E) or one."""
        if x.dim() == 2:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        parted = x.reshape(*x.shape[:2], self.num_heads, self.head_dim)
        return parted.transpose(1, 2)

    def _joined(self, y: Tensor, batched: bool) -> Tensor:
        y = y.transpose(1, 2).flatten(2)
        if not batched:
            return y[0]
        return y if self.batch_first else y.transpose(0, 1)


def is_self_attention(query: Any, key: Any, value: Any) -> bool:
    """Return whether queries, keys and values are made of the same input.

    Parameters
    ----------
    query, key, value : Tensor
        As an attention gets them.

    Returns
    -------
    bool
        True if they are one object.
    """
    return query is key and key is value


def open_attention(attention: Any, split: bool) -> None:
    """Give an attention linear layers for its projections, in place.

    Parameters
    ----------
    attention : nn.MultiheadAttention
        Without `bias_k`, `bias_v` and `add_zero_attn`.
    split : bool
        Whether queries, keys and values have layers of their own, as they must where
        their inputs have different sizes.
    """
    if attention._qkv_same_embed_dim:
        wholes = [attention.in_proj_weight]
    else:
        wholes = [getattr(attention, f"{name}_proj_weight") for name in PROJECTIONS]
    trained = all(whole.requires_grad for whole in wholes)
    weight, bias = wholes[0], attention.in_proj_bias
    if len(wholes) == 1 and not split:
        attention.in_proj = _linear(weight, bias, trained)
    else:
        weights = weight.chunk(3) if len(wholes) == 1 else wholes
        biases = [None] * 3 if bias is None else bias.chunk(3)
        parts = zip(PROJECTIONS, weights, biases, strict=True)
        layers = {name: _linear(w, b, trained) for name, w, b in parts}
        attention.in_proj = nn.ModuleDict(layers)
    attention.in_proj.train(attention.training)
    for name in _OWN_PARAMETERS:
        attention._parameters[name] = None
    attention.out_proj.__class__ = nn.Linear
    attention.__class__ = OpenAttention


def close_attention(attention: Any) -> None:
    """Undo `open_attention`, with the weights that the layers have now.

    Parameters
    ----------
    attention : OpenAttention
        All its layers in float.
    """
    split = isinstance(attention.in_proj, nn.ModuleDict)
    layers = attention.in_proj.values() if split else [attention.in_proj]
    weights = [layer.weight for layer in layers]
    trained = weights[0].requires_grad
    if attention._qkv_same_embed_dim:
        _set_parameter(attention, "in_proj_weight", torch.cat(weights), trained)
    else:
        for name, weight in zip(PROJECTIONS, weights, strict=True):
            _set_parameter(attention, f"{name}_proj_weight", weight, trained)
    if any(layer.bias is not None for layer in layers):
        biases = [
            torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
            for layer in layers
        ]
        _set_parameter(attention, "in_proj_bias", torch.cat(biases), trained)
    del attention.in_proj
    attention.out_proj.__class__ = NonDynamicallyQuantizableLinear
    attention.__class__ = nn.MultiheadAttention


def without_fused_paths(module: Any) -> None:
    """Let the encoders of transformers call their layers, in place.

    In evaluation mode torch computes a whole encoder layer without calling the layers
    in it. It also packs padded samples, after which the outputs at padded positions are
    0, unlike in training.

    Parameters
    ----------
    module : nn.Module
        A copy, changed.
    """
    for part in list(module.modules()):
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0  # the fused path knows no other than these
        if isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor:
            part.use_nested_tensor = False
            last: Any = part.layers[-1]
            last.register_forward_hook(_with_zero_padding, with_kwargs=True)


def _with_zero_padding(layer: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    padding = kwargs.get("src_key_padding_mask")
    if padding is None or kwargs.get("src_mask") is not None:
        return output
    padded = padding != 0  # numbers by now, -inf where padded
    if (padded[:, :-1] > padded[:, 1:]).any():  # only padding at the end is packed
        return output
    return output.masked_fill(padded[..., None], 0.0)


def _linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    n_out, n_in = weight.shape
    # On the device "meta" nothing is drawn at random.
    layer = nn.Linear(n_in, n_out, bias=bias is not None, device="meta")
    _set_parameter(layer, "weight", weight, trained)
    if bias is not None:
        _set_parameter(layer, "bias", bias, trained)
    return layer


def _set_parameter(module: Any, name: str, value: Tensor, trained: bool) -> None:
    module._parameters[name] = nn.Parameter(value.detach().clone(), trained)


def _added(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
) -> Tensor | None:
    """Return the sum of the masks, to be added to (n, heads, length, n_keys)."""
    n, n_heads, length, _ = q.shape
    masks = []
    if attn_mask is not None:
        mask = _as_numbers(attn_mask, q.dtype)
        if mask.dim() == 3:  # one for each sample and head
            mask = mask.reshape(n, n_heads, length, -1)
        masks.append(mask)
    if key_padding_mask is not None:
        masks.append(_as_numbers(key_padding_mask, q.dtype).reshape(n, 1, 1, -1))
    return sum(masks[1:], masks[0]) if masks else None


def _as_numbers(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    zeros = torch.zeros_like(mask, dtype=dtype)
    return zeros.masked_fill(mask, -math.inf)
