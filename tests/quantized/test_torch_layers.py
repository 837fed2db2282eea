"""Modules of torch that compute with quantized layers, and attention in parts."""

import copy
import itertools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from tests.quantized._torch_models import hand_made, with_input_scale  # noqa: E402
from uqlib.quantized import _torch_layers  # noqa: E402
from uqlib.quantized._activations import DynamicRange  # noqa: E402
from uqlib.quantized._torch_attention import (  # noqa: E402
    OpenAttention,
    close_attention,
    open_attention,
)
from uqlib.quantized._torch_layers import (  # noqa: E402
    layer_rows,
    layer_spec,
    set_quantized,
    write_weights,
)


@pytest.fixture(autouse=True)
def _seeded():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n_threads)


def quantized(module, layer):
    changed = copy.deepcopy(module).eval()
    set_quantized(changed, layer)
    return changed


def rounded(module, layer):
    """The float module with the weights of a quantized layer, by assignment."""
    copied = copy.deepcopy(module).eval()
    weight = torch.as_tensor(layer.effective_weight()).reshape(module.weight.shape)
    copied.weight.data = weight.to(module.weight.dtype)
    if layer.bias is not None:
        copied.bias = nn.Parameter(torch.as_tensor(layer.bias).to(module.weight.dtype))
    return copied


def close(ours, expected, tolerance=1e-6):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


# --- linear layers and convolutions -------------------------------------------

ONE = (2, 5, 12)  # samples, channels, length
TWO = (2, 3, 9, 8)
CONVOLUTIONS = [
    (nn.Conv1d, ONE, {"kernel_size": 3}),
    (nn.Conv1d, ONE, {"kernel_size": 4, "padding": "same", "dilation": 2}),
    (nn.Conv1d, ONE, {"kernel_size": 3, "padding": "valid", "stride": 2}),
    (nn.Conv1d, ONE, {"kernel_size": 5, "padding": 3, "padding_mode": "reflect"}),
    (nn.Conv1d, ONE, {"kernel_size": 1, "bias": False}),
    (nn.Conv2d, TWO, {"kernel_size": 3, "padding": 1}),
    (nn.Conv2d, TWO, {"kernel_size": (3, 2), "padding": (2, 0), "stride": (1, 3)}),
    (nn.Conv2d, TWO, {"kernel_size": (2, 4), "padding": "same"}),
    (nn.Conv2d, TWO, {"kernel_size": 3, "dilation": (2, 1), "padding": (0, 2)}),
    *(
        (nn.Conv2d, TWO, {"kernel_size": 3, "padding": (2, 1), "padding_mode": mode})
        for mode in ("reflect", "replicate", "circular")
    ),
]
EVEN = "ignore:Using padding='same' with even kernel"  # torch itself is slower there


def convolutions(function):
    cases = pytest.mark.parametrize(("kind", "shape", "settings"), CONVOLUTIONS)
    return pytest.mark.filterwarnings(EVEN)(cases(function))


def positions(module, x):
    """Every patch of a padded input, by indexing."""
    pad = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = nn.functional.pad(x, pad, mode=mode)
    spans = []
    geometry = (x.shape[2:], module.kernel_size, module.dilation, module.stride)
    for length, kernel, dilation, stride in zip(*geometry, strict=True):
        reach = dilation * (kernel - 1)
        starts = range(0, length - reach, stride)
        spans.append([[s + dilation * k for k in range(kernel)] for s in starts])
    rows = []
    for sample in x:
        for corner in itertools.product(*spans):
            patch = sample[(slice(None), *np.ix_(*corner))]
            rows.append(patch.reshape(-1))
    return torch.stack(rows).numpy()


@convolutions
def test_patches_are_those_of_indexing(kind, shape, settings):
    module, x = kind(shape[1], 4, **settings), torch.randn(shape)
    (rows,) = layer_rows(module, x)
    np.testing.assert_array_equal(rows, positions(module, x))


@convolutions
def test_patches_times_weights_are_the_convolution(kind, shape, settings):
    module, x = kind(shape[1], 4, **settings), torch.randn(shape)
    spec = layer_spec("c", module)
    (rows,) = layer_rows(module, x)
    expected = module(x).detach().flatten(2).transpose(1, 2).reshape(-1, 4).numpy()
    bias = 0 if spec.bias is None else spec.bias
    np.testing.assert_allclose(rows @ spec.weight.T + bias, expected, atol=1e-5)
    assert spec.kind == "conv"


@convolutions
def test_a_convolution_with_codes_is_one_with_rounded_weights(kind, shape, settings):
    module, x = kind(shape[1], 4, **settings), torch.randn(shape)
    layer = hand_made(layer_spec("c", module))
    ours = quantized(module, layer)
    close(ours(x), rounded(module, layer)(x).detach())
    close(ours(x[0]), rounded(module, layer)(x[0]).detach())  # no batch


@convolutions
def test_a_convolution_with_rounded_inputs_is_the_layer_on_patches(
    kind, shape, settings
):
    module, x = kind(shape[1], 4, **settings), torch.randn(shape)
    spec = layer_spec("c", module)
    layer = hand_made(spec, activation=DynamicRange(8))
    layer = with_input_scale(layer, np.linspace(0.5, 3, spec.weight.shape[1]))
    expected = module(x)
    rows = layer(positions(module, x))
    by_hand = rows.reshape(len(x), -1, 4).transpose(0, 2, 1).reshape(expected.shape)
    ours = quantized(module, layer)
    close(ours(x), torch.as_tensor(by_hand), 1e-5)
    close(ours(x[1]), torch.as_tensor(by_hand[1]), 1e-5)


def test_patches_come_a_few_samples_at_a_time(monkeypatch):
    module, x = nn.Conv2d(3, 4, 3), torch.randn(7, 3, 6, 6)
    layer = hand_made(layer_spec("c", module), activation=DynamicRange(8))
    ours = quantized(module, layer)
    (whole,), expected = layer_rows(ours, x), ours(x)
    monkeypatch.setattr(_torch_layers, "_CHUNK", 3 * 9 * 16 * 2)  # of two samples
    parts = list(layer_rows(ours, x))
    assert [len(part) for part in parts] == [32, 32, 32, 16]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    close(ours(x), expected)


@pytest.mark.parametrize(("n_out", "groups"), [(4, 2), (8, 4)])
def test_grouped_convolutions(n_out, groups):
    module, x = nn.Conv1d(4, n_out, 3, groups=groups, padding=1), torch.randn(3, 4, 7)
    spec = layer_spec("c", module)
    assert (spec.kind, spec.weight.shape) == ("grouped", (n_out, 12 // groups))
    layer = hand_made(spec)
    close(quantized(module, layer)(x), rounded(module, layer)(x).detach())
    with pytest.raises(ValueError, match="'c' is a grouped convolution"):
        quantized(module, hand_made(spec, activation=DynamicRange(8)))


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6), (0, 6), (2, 1, 3, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_take_inputs_of_any_shape(shape, bias):
    module, x = nn.Linear(6, 3, bias=bias), torch.randn(shape)
    layer = hand_made(layer_spec("l", module))
    close(quantized(module, layer)(x), rounded(module, layer)(x).detach())
    active = hand_made(layer_spec("l", module), activation=DynamicRange(8))
    active = with_input_scale(active, [0.1, 1, 2, 3, 4, 9])
    by_hand = active(x.numpy().reshape(-1, 6)).reshape(*shape[:-1], 3)
    close(quantized(module, active)(x), torch.as_tensor(by_hand), 1e-5)


@pytest.mark.parametrize("activation", [None, DynamicRange(8)])
def test_double_precision_stays_double(activation):
    module, x = nn.Linear(6, 3).double(), torch.randn(4, 6).double()
    layer = hand_made(layer_spec("l", module), activation=activation)
    ours = quantized(module, layer)(x)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours.numpy(), layer(x.numpy()), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_half_precision_is_rounded_once_at_the_end(dtype, kind):
    module = nn.Linear(6, 3) if kind == "linear" else nn.Conv1d(2, 3, 3)
    module = module.to(dtype)
    x = torch.randn((4, 6) if kind == "linear" else (4, 2, 3)).to(dtype)
    layer = hand_made(layer_spec("l", module))
    ours = quantized(module, layer)(x)
    exact = layer(x.float().numpy().reshape(4, 6))
    assert ours.dtype == dtype
    close(ours.reshape(4, 3), torch.as_tensor(exact).to(dtype))


def test_names_of_parameters_stay_and_are_buffers():
    module = nn.Linear(6, 3)
    ours = quantized(module, hand_made(layer_spec("l", module)))
    assert list(ours.parameters()) == []
    assert {"weight", "bias"} <= {name for name, _ in ours.named_buffers()}
    assert isinstance(ours, nn.Linear)
    loaded = pickle.loads(pickle.dumps(ours))
    x = torch.randn(3, 6)
    torch.testing.assert_close(loaded(x), ours(x), rtol=0, atol=0)


def test_a_layer_of_another_shape_is_refused():
    layer = hand_made(layer_spec("l", nn.Linear(6, 3)))
    with pytest.raises(ValueError, match=r"'l' has weights of shape \(3, 6\), but"):
        set_quantized(nn.Linear(3, 6), layer)
    with pytest.raises(ValueError, match=r"'l' has weights of shape \(3, 6\), but"):
        write_weights(nn.Linear(3, 6), layer)


@pytest.mark.parametrize("had", [True, False])
@pytest.mark.parametrize("has", [True, False])
def test_rounded_weights_and_a_bias_may_be_written(had, has):
    module, donor = nn.Linear(6, 3, bias=had), nn.Linear(6, 3, bias=has)
    layer = hand_made(layer_spec("l", donor))
    write_weights(module, layer)
    x = torch.randn(4, 6)
    np.testing.assert_allclose(module(x).detach(), layer(x.numpy()), atol=1e-6)
    assert (module.bias is not None) == has
    assert all(p.requires_grad and p.is_leaf for p in module.parameters())


# --- attention ----------------------------------------------------------------


def attention_inputs(same, batch_first, kdim=8, vdim=8, n=3, length=5, n_keys=4):
    def sequence(size, steps):
        x = torch.randn(n, steps, size)
        return x if batch_first else x.transpose(0, 1)

    if same:
        x = sequence(8, length)
        return x, x, x
    return sequence(8, length), sequence(kdim, n_keys), sequence(vdim, n_keys)


def causal(length, n_keys):
    return torch.ones(length, n_keys, dtype=torch.bool).triu(1)


def as_float(mask):
    return torch.zeros(mask.shape).masked_fill(mask, -np.inf)


def padding(n, n_keys):
    mask = torch.zeros(n, n_keys, dtype=torch.bool)
    mask[0, -1] = mask[1, -2:] = True
    return mask


MASKS = {
    "none": lambda n, a, b: {},
    "2-D": lambda n, a, b: {"attn_mask": causal(a, b)},
    "2-D, float": lambda n, a, b: {"attn_mask": torch.randn(a, b)},
    "3-D": lambda n, a, b: {"attn_mask": torch.randn(n * 2, a, b) > 2},
    "3-D, float": lambda n, a, b: {"attn_mask": torch.randn(n * 2, a, b)},
    "padding": lambda n, a, b: {"key_padding_mask": padding(n, b)},
    "padding, float": lambda n, a, b: {"key_padding_mask": torch.randn(n, b)},
    "both": lambda n, a, b: {
        "attn_mask": causal(a, b),
        "key_padding_mask": padding(n, b),
    },
    "both, float": lambda n, a, b: {
        "attn_mask": as_float(causal(a, b)),
        "key_padding_mask": as_float(padding(n, b)),
    },
    "causal": lambda n, a, b: {"attn_mask": causal(a, b), "is_causal": True},
}


def opened(module, split):
    ours = copy.deepcopy(module)
    open_attention(ours, split)
    assert type(ours) is OpenAttention
    return ours


def same_results(module, ours, inputs, **kwargs):
    y, weights = module(*inputs, **kwargs)
    our_y, our_weights = ours(*inputs, **kwargs)
    close(our_y, y, 1e-5)
    assert (our_weights is None) == (weights is None)
    if weights is not None:
        close(our_weights, weights, 1e-5)


def made_attention(**kwargs):
    module = nn.MultiheadAttention(8, 2, **kwargs).eval()
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)  # biases start at zero
    return module


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_open_attention_computes_the_same(masks, need_weights, batch_first, same):
    module = made_attention(batch_first=batch_first)
    inputs = attention_inputs(same, batch_first)
    kwargs = MASKS[masks](3, 5, 5 if same else 4) | {"need_weights": need_weights}
    for split, grad in itertools.product((True, False), (True, False)):
        with torch.set_grad_enabled(grad):  # without gradients torch fuses
            same_results(module, opened(module, split), inputs, **kwargs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kdim", "vdim"), [(5, 3), (8, 3), (None, None)])
def test_sizes_biases_and_weights_of_each_head(bias, kdim, vdim):
    module = made_attention(bias=bias, kdim=kdim, vdim=vdim, batch_first=True)
    inputs = attention_inputs(False, True, kdim or 8, vdim or 8)
    ours = opened(module, split=False)
    split = kdim is not None
    assert isinstance(ours.in_proj, nn.ModuleDict) == split  # no choice there
    same_results(module, ours, inputs, average_attn_weights=False)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", ["none", "2-D", "padding"])
def test_attention_without_a_batch(need_weights, masks):
    module = made_attention()
    inputs = [torch.randn(5, 8), torch.randn(4, 8), torch.randn(4, 8)]
    kwargs = MASKS[masks](2, 5, 4) | {"need_weights": need_weights}
    if masks == "padding":
        kwargs["key_padding_mask"] = kwargs["key_padding_mask"][1]
    for split in (True, False):
        same_results(module, opened(module, split), inputs, **kwargs)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"kdim": 5, "vdim": 3}])
def test_closing_undoes_opening_bit_for_bit(split, settings):
    module = made_attention(**settings).train()
    ours = copy.deepcopy(module)
    random = torch.get_rng_state()
    open_attention(ours, split)
    with torch.no_grad():
        close_attention(ours)
    assert torch.equal(torch.get_rng_state(), random)
    assert type(ours) is nn.MultiheadAttention
    assert list(ours.state_dict()) == list(module.state_dict())
    for (name, own), p in zip(
        ours.named_parameters(), module.parameters(), strict=True
    ):
        assert torch.equal(own, p), name
        assert own.requires_grad == p.requires_grad
    assert [m.training for m in ours.modules()] == [True, True]
    inputs = attention_inputs(False, False, settings.get("kdim", 8), 3)
    if settings.get("vdim") == 3:
        same_results(module.eval(), ours.eval(), inputs)


def test_frozen_projections_stay_frozen():
    module = made_attention().requires_grad_(False)
    open_attention(module, split=True)
    assert not any(p.requires_grad for p in module.parameters())
    close_attention(module)
    assert not any(p.requires_grad for p in module.parameters())


def test_a_bias_of_one_projection_makes_one_for_all():
    module = made_attention(bias=False)
    ours = opened(module, split=True)
    ours.in_proj["k"].bias = nn.Parameter(torch.randn(8))
    inputs = attention_inputs(False, False)
    expected, _ = ours(*inputs)
    close_attention(ours)
    close(ours(*inputs)[0], expected)
