"""Torch modules to quantize, and quantized layers made by hand."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from tests.quantized._rounding_problems import minmax_grid
from uqlib.quantized._layers import QuantizedLayer
from uqlib.quantized._open_torch import torch_adapter

N_FEATURES = 6


def hand_made(spec, bits=3, **parts):
    """Round a layer to nearest, with a bias of its own so that a lost one is seen."""
    grid = minmax_grid(spec.weight.astype(np.float64), bits)
    bias = None if spec.bias is None else (spec.bias + 0.25).astype(np.float32)
    codes = grid.encode(spec.weight.astype(np.float64))
    return QuantizedLayer(spec.name, codes, grid, bias, **parts)


def all_hand_made(adapter, **parts):
    """Round all layers."""
    return {spec.name: hand_made(spec, **parts) for spec in adapter.layers}


def with_input_scale(layer, scale):
    """Let a layer have a transform, without a change of its function."""
    weight = layer.effective_weight() * np.asarray(scale, dtype=np.float64)
    grid = minmax_grid(weight, 8)
    scales = _Scale(np.asarray(scale, dtype=np.float32))
    return replace(layer, codes=grid.encode(weight), grid=grid, transforms=(scales,))


class _Scale:
    kind = "scale"

    def __init__(self, scale):
        self.scale = scale

    def inputs(self, x):
        return x / self.scale.astype(x.dtype)

    def restored(self, weight):
        return weight / self.scale.astype(np.float64)


class Mlp(nn.Module):
    """Batch norm, dropout, and layers registered in another order than they run."""

    def __init__(self, n_outputs=1):
        super().__init__()
        self.last = nn.Linear(5, n_outputs)
        self.norm = nn.BatchNorm1d(8)
        self.first = nn.Linear(N_FEATURES, 8)
        self.middle = nn.Linear(8, 5, bias=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        h = self.dropout(torch.relu(self.norm(self.first(x))))
        return self.last(torch.tanh(self.middle(h)))


class Residual(nn.Module):
    """A layer used twice, by two names and from a list, whose output is changed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(N_FEATURES, N_FEATURES)
        self.same = self.inner
        self.head = nn.Linear(N_FEATURES, 2)
        self.plain_list = [self.inner, self.same]

    def forward(self, x):
        for layer in self.plain_list:
            x = x + layer(input=x).relu_()
        return self.head(x)


class Inplace(nn.Module):
    """The input of a layer is overwritten after its use."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(N_FEATURES, 4)
        self.b = nn.Linear(4, 1)

    def forward(self, x):
        h = self.a(x)
        y = self.b(h)
        h.zero_()
        return y[:, 0]


class Signal(nn.Module):
    """One-dimensional convolutions of every kind of padding."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(1, 4, 3, padding="same", dilation=2)
        self.b = nn.Conv1d(4, 4, 4, stride=2, padding=2, padding_mode="reflect")
        self.depthwise = nn.Conv1d(4, 8, 2, groups=4)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.b(torch.relu(self.a(x[:, None]))))
        return self.head(self.depthwise(h).mean(dim=2))


class Images(nn.Module):
    """Two-dimensional convolutions, a norm and no bias."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), padding=(1, 2), padding_mode="circular"),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=(2, 1), dilation=(1, 2), bias=False),
            nn.GELU(),
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))


class Tokens(nn.Module):
    """Every feature becomes a token of its own."""

    def __init__(self, body):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.position = nn.Parameter(torch.randn(1, N_FEATURES, 8))
        self.body = body
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        h = self.body(self.embed(x[..., None]) + self.position)
        return self.head(h.mean(dim=1))


def encoder(**kwargs):
    """The encoder of a transformer, with its fused path where torch has one."""
    layer = nn.TransformerEncoderLayer(
        8, 2, dim_feedforward=12, batch_first=True, **kwargs
    )
    return nn.TransformerEncoder(layer, 2)


class SelfAttention(nn.Module):
    """Attention with a mask, whose batch is the second axis."""

    def __init__(self, **kwargs):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, **kwargs)

    def forward(self, h):
        h = h.transpose(0, 1)
        mask = torch.ones(len(h), len(h), dtype=torch.bool, device=h.device).triu(1)
        return (h + self.attention(h, h, h, attn_mask=mask)[0]).transpose(0, 1)


class CrossAttention(nn.Module):
    """Attention of the tokens to what is made of them, of other sizes."""

    def __init__(self, kdim=5, vdim=3):
        super().__init__()
        self.to_key = nn.Linear(8, kdim)
        self.to_value = nn.Linear(8, vdim)
        self.attention = nn.MultiheadAttention(
            8, 2, batch_first=True, kdim=kdim, vdim=vdim
        )

    def forward(self, h):
        key, value = self.to_key(h), self.to_value(h)
        return self.attention(query=h, key=key, value=value)[0]


class Padded(nn.Module):
    """An encoder of samples of different lengths, which torch packs."""

    def __init__(self, at_the_end=True):
        super().__init__()
        self.encoder = encoder()
        self.at_the_end = at_the_end

    def forward(self, h):
        steps = torch.arange(h.shape[1], device=h.device)
        steps = steps if self.at_the_end else steps.flip(0)
        samples = torch.arange(len(h), device=h.device)[:, None]
        lengths = 2 + samples % (h.shape[1] - 1)
        return self.encoder(h, src_key_padding_mask=steps >= lengths)


class Decoder(nn.Module):
    """A decoder layer: attention to itself and to the memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 10, batch_first=True)

    def forward(self, h):
        return self.layer(h, torch.flip(h, dims=(1,)) * 2)


MODELS = {
    "linear": lambda: nn.Linear(N_FEATURES, 2),
    "sequential": lambda: nn.Sequential(
        nn.Linear(N_FEATURES, 7), nn.SiLU(), nn.LayerNorm(7), nn.Linear(7, 1)
    ),
    "mlp": Mlp,
    "residual": Residual,
    "in place": Inplace,
    "signal": Signal,
    "images": Images,
    "encoder": lambda: Tokens(encoder()),
    "encoder, gelu, norm first": lambda: Tokens(
        encoder(activation="gelu", norm_first=True)
    ),
    "padded": lambda: Tokens(Padded()),
    "padded at the start": lambda: Tokens(Padded(False)),
    "self-attention": lambda: Tokens(SelfAttention()),
    "self-attention without bias": lambda: Tokens(SelfAttention(bias=False)),
    "cross-attention": lambda: Tokens(CrossAttention()),
    "cross-attention of one size": lambda: Tokens(CrossAttention(8, 8)),
    "decoder": lambda: Tokens(Decoder()),
}


def made(name, seed=0):
    """Return a model in training mode whose norms have seen rows, and rows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with_warnings = {"encoder, gelu, norm first"}
        model = _quietly(MODELS[name]) if name in with_warnings else MODELS[name]()
        shape = (11, 2, 6, 7) if name == "images" else (11, N_FEATURES)
        X = torch.randn(shape).numpy()
        model.train()
        model(torch.from_numpy(X))  # moves the statistics of batch norm
        for parameter in model.parameters():
            if parameter.dim() == 1:  # zero biases would hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model, X


def _quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is no fused path
        return make()


def with_weights(model, weights):
    """Return a copy in evaluation mode, weights written by plain assignment.

    `weights` maps the names of layers to (matrix, bias); the projections of an
    attention are written into its parameters.
    """
    copied = copy.deepcopy(model).eval()
    state = dict(copied.named_parameters())
    with torch.no_grad():
        for name, (matrix, bias) in weights.items():
            _write(state, name, torch.as_tensor(matrix), bias)
    return copied


def _write(state, name, matrix, bias):
    if name == "module":
        targets = state["weight"], state.get("bias")
    elif name.endswith(".in_proj"):
        targets = state[f"{name}_weight"], state.get(f"{name}_bias")
    elif ".in_proj." in name:
        base, part = name.rsplit(".in_proj.", 1)
        rows = slice(8 * "qkv".index(part), 8 * "qkv".index(part) + 8)
        own = state.get(f"{base}.{part}_proj_weight")
        whole = state.get(f"{base}.in_proj_bias")
        weight = state[f"{base}.in_proj_weight"][rows] if own is None else own
        targets = weight, None if whole is None else whole[rows]
    else:
        targets = state[f"{name}.weight"], state.get(f"{name}.bias")
    weight, own_bias = targets
    weight.copy_(matrix.reshape(weight.shape))
    if own_bias is not None:
        own_bias.copy_(torch.as_tensor(bias))


def fingerprint(model):
    """Return all that must not change: bytes, gradients, modes, hooks, random state."""
    parts = []
    for name, part in model.named_modules():
        hooks = (len(part._forward_hooks), len(part._forward_pre_hooks))
        parts.append((name, type(part), part.training, hooks, sorted(vars(part))))
    state = [(k, v.numpy().tobytes()) for k, v in model.state_dict().items()]
    grads = [(k, p.requires_grad, p.grad is None) for k, p in model.named_parameters()]
    return parts, state, grads, torch.get_rng_state().numpy().tobytes()


X = np.random.default_rng(0).normal(size=(9, N_FEATURES)).astype(np.float32)


def isolated():
    """Run a test with one thread, a seed, and the threads given back."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only wait for a second thread
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n_threads)


def traced(model, rows=X):
    """The adapter of a model that rows have gone through."""
    return torch_adapter(model).traced(rows)


def evaluated(model, rows):
    """What a module gives in evaluation mode, by its own call."""
    modes = [(part, part.training) for part in model.modules()]
    with torch.no_grad():
        y = model.eval()(torch.as_tensor(rows))
    for part, training in modes:
        part.training = training
    return (y if y.dim() == 2 else y[:, None]).numpy()


def inputs(adapter, rows, name, quantized=None):
    """All that enters a layer."""
    chunks = list(adapter.layer_inputs(rows, name, quantized or {}))
    return np.concatenate(chunks)


def weights_of(layers):
    """Weights and biases by name, as `with_weights` takes them."""
    return {
        name: (layer.effective_weight(), layer.bias) for name, layer in layers.items()
    }
