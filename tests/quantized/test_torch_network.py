"""Torch modules as layers: what is seen, and that nothing is changed."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.utils import check_random_state

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from tests.quantized._torch_models import (  # noqa: E402
    MODELS,
    Mlp,
    SelfAttention,
    Tokens,
    X,
    all_hand_made,
    encoder,
    evaluated,
    fingerprint,
    hand_made,
    inputs,
    isolated,
    made,
    traced,
    weights_of,
    with_weights,
)
from uqlib.quantized._activations import DynamicRange  # noqa: E402
from uqlib.quantized._driver import quantize_network  # noqa: E402
from uqlib.quantized._open_torch import (  # noqa: E402
    torch_adapter,
    torch_predictor,
)
from uqlib.quantized._scheme import QuantizationScheme  # noqa: E402

# Of torch itself, where it packs padded samples.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
all_models = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _isolated():
    yield from isolated()


# --- what the module computes ---------------------------------------------------


@all_models
def test_in_float_outputs_are_those_of_the_module_bit_for_bit(name):
    model, rows = made(name)
    np.testing.assert_array_equal(
        torch_adapter(model).outputs(rows, {}), evaluated(model, rows)
    )


def calls_of(model, rows):
    """Inputs and outputs of every module by hooks of our own, in order."""
    observed, calls = copy.deepcopy(model).eval(), []

    def note(name):
        def hook(part, args, kwargs, output):
            given = {k: v.clone() for k, v in kwargs.items() if torch.is_tensor(v)}
            result = output[0] if isinstance(output, tuple) else output
            args = [a.clone() for a in args if torch.is_tensor(a)]
            calls.append((name, part, args, given, result.clone()))

        return hook

    for name, part in observed.named_modules():
        part.register_forward_hook(note(name or "module"), with_kwargs=True)
    with torch.no_grad():
        observed(torch.as_tensor(rows))
    return calls


def flat(part, tensor):
    """Outputs as rows, one for each row of inputs."""
    if isinstance(part, nn.Conv1d | nn.Conv2d):
        tensor = tensor.flatten(2).transpose(1, 2)
    return tensor.reshape(-1, tensor.shape[-1]).numpy()


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"padded"}))  # packed: no hooks
def test_inputs_times_weights_are_the_outputs_of_the_layer(name):
    model, rows = made(name)
    adapter = traced(model, rows)
    specs = {spec.name: spec for spec in adapter.layers if spec.kind != "grouped"}
    calls = calls_of(model, rows)
    compared = set()
    for layer, spec in specs.items():
        outputs = [flat(p, y) for n, p, _, _, y in calls if n == layer]
        if layer.endswith("attention.out_proj") or layer.endswith("attn.out_proj"):
            attention = layer.removesuffix(".out_proj")
            outputs = [flat(p, y) for n, p, _, _, y in calls if n == attention]
        if not outputs:
            continue
        x = inputs(adapter, rows, layer)
        bias = 0 if spec.bias is None else spec.bias
        np.testing.assert_allclose(
            x @ spec.weight.T + bias, np.concatenate(outputs), rtol=1e-5, atol=2e-6
        )
        compared.add(layer)
    left = set(specs) - compared
    assert all(".in_proj" in layer for layer in left)
    for layer in left:  # what enters an attention enters its projections
        attention, _, part = layer.partition(".in_proj")
        position = "qkv".index(part[1:] or "q")
        x = inputs(adapter, rows, layer)
        seen = [
            flat(p, [*args, *given.values()][position])
            for n, p, args, given, _ in calls
            if n == attention
        ]
        np.testing.assert_allclose(x, np.concatenate(seen), rtol=1e-5, atol=2e-6)


@all_models
@pytest.mark.parametrize("bits", [2, 8])
def test_quantized_outputs_are_those_of_rounded_weights(name, bits):
    model, rows = made(name)
    adapter = traced(model, rows)
    layers = {spec.name: hand_made(spec, bits) for spec in adapter.layers}
    expected = evaluated(with_weights(model, weights_of(layers)), rows)
    ours = adapter.outputs(rows, layers)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6)
    for layer, quantized in layers.items():  # and each layer for itself
        alone = {layer: quantized}
        expected = evaluated(with_weights(model, weights_of(alone)), rows)
        ours = adapter.outputs(rows, alone)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6)


@all_models
def test_the_dequantized_module_has_the_rounded_weights(name):
    model, rows = made(name)
    adapter = traced(model, rows)
    layers = all_hand_made(adapter)
    ours = adapter.dequantized(layers)
    expected = with_weights(model, weights_of(layers)).state_dict()
    assert type(ours) is type(model)
    assert list(ours.state_dict()) == list(expected)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)
    modes = [(n, type(m), m.training) for n, m in ours.named_modules()]
    assert modes == [(n, type(m), m.training) for n, m in model.named_modules()]
    assert all(p.requires_grad and p.is_leaf for p in ours.parameters())
    np.testing.assert_allclose(
        evaluated(ours, rows), adapter.outputs(rows, layers), rtol=1e-5, atol=2e-6
    )


@all_models
def test_inputs_come_from_the_quantized_layers_before(name):
    model, rows = made(name)
    adapter = traced(model, rows)
    layers = all_hand_made(adapter)
    rounded = traced(adapter.dequantized(layers), rows)
    for spec in adapter.layers:
        if spec.kind == "grouped":
            continue
        ours = list(adapter.layer_inputs(rows, spec.name, layers))
        expected = list(rounded.layer_inputs(rows, spec.name, {}))
        assert [x.shape for x in ours] == [x.shape for x in expected]
        assert all(x.shape[1] == spec.weight.shape[1] for x in ours)
        for x, y in zip(ours, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@all_models
def test_rounded_activations_are_used_in_every_layer(name):
    model, rows = made(name)
    adapter = traced(model, rows)
    plain = all_hand_made(adapter, bits=8)
    for spec in adapter.layers:
        if spec.kind == "grouped" or spec.weight.shape[1] == 1:
            continue  # a row of one number is its own scale
        active = plain | {spec.name: hand_made(spec, 8, activation=DynamicRange(8))}
        coarse = plain | {spec.name: hand_made(spec, 8, activation=DynamicRange(2))}
        exact, fine, rough = (
            adapter.outputs(rows, layers) for layers in (plain, active, coarse)
        )
        np.testing.assert_allclose(fine, exact, atol=0.1)
        assert np.abs(rough - exact).max() > 3 * np.abs(fine - exact).max() > 0


@all_models
def test_the_quantized_model_survives_a_pickle(name):
    model, rows = made(name)
    adapter = traced(model, rows)
    layers = all_hand_made(adapter, bits=8, activation=None)
    ours = adapter.quantized_model(layers)
    expected = adapter.outputs(rows, layers)
    loaded = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(evaluated(ours, rows), expected)
    np.testing.assert_array_equal(evaluated(loaded, rows), expected)
    again = pickle.loads(pickle.dumps(adapter))
    np.testing.assert_array_equal(again.outputs(rows, layers), expected)
    # Stored layers can be put into a module that no rows have gone through.
    untraced = torch_adapter(model).quantized_model(layers)
    np.testing.assert_array_equal(evaluated(untraced, rows), expected)


def test_a_layer_may_be_called_in_some_chunks_only():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.rare, self.head = nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, x):
            chosen = x[:, 0] > 0
            x = x.clone()
            if chosen.any():
                x[chosen] = self.rare(x[chosen])
            return self.head(x)

    rows = np.full((600, 6), -1.0)
    rows[300:310, 0] = 1.0
    adapter = traced(Gate(), rows)
    assert inputs(adapter, rows, "rare").shape == (10, 6)
    assert [len(x) for x in adapter.layer_inputs(rows, "head", {})] == [256, 256, 88]


def test_the_same_layer_gives_the_inputs_of_both_uses():
    model, rows = made("residual")
    adapter = traced(model, rows)
    x = inputs(adapter, rows, "inner")
    np.testing.assert_array_equal(x[:11], rows)
    with torch.no_grad():
        second = rows + torch.relu(model.inner(torch.as_tensor(rows))).numpy()
    np.testing.assert_allclose(x[11:], second, rtol=1e-6, atol=1e-6)


def test_attention_splits_only_where_it_must():
    shared = Tokens(SelfAttention(batch_first=False)).eval()
    names = [spec.name for spec in traced(shared).layers]
    assert "body.attention.in_proj" in names
    # Layers of a split attention fit an untraced module, too.
    split = torch_adapter(shared)
    spec = traced(shared).layers[1]
    assert spec.weight.shape == (24, 8)
    parts = {}
    for k, part in enumerate("qkv"):
        rows = slice(8 * k, 8 * k + 8)
        own = spec._replace(
            name=f"{spec.name}.{part}", weight=spec.weight[rows], bias=spec.bias[rows]
        )
        parts[own.name] = hand_made(own)
    expected = evaluated(with_weights(shared, weights_of(parts)), X)
    np.testing.assert_allclose(split.outputs(X, parts), expected, rtol=1e-5, atol=1e-6)


def test_the_driver_quantizes_a_module():
    model, rows = made("encoder")
    adapter = traced(model, rows)
    before = fingerprint(model)
    exact = adapter.outputs(rows, {})
    errors = []
    for bits in (2, 4, 8):
        scheme = QuantizationScheme.parse(f"w{bits}")
        done = quantize_network(
            adapter, scheme, rows, last_layer_bits=8, random_state=check_random_state(0)
        )
        assert list(done.layers) == [spec.name for spec in adapter.layers]
        errors.append(np.abs(adapter.outputs(rows, done.layers) - exact).max())
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.05
    assert fingerprint(model) == before


# --- the module is not touched ----------------------------------------------------


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        if (self.norm(self.body(x)) == self.norm(self.body(x))).all():
            raise RuntimeError("broken")


@all_models
def test_nothing_in_the_module_changes(name):
    model, rows = made(name)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = fingerprint(model)
    original, rows_before = copy.copy(vars(model)), rows.copy()
    adapter = traced(model, rows)
    layers = all_hand_made(adapter)
    for spec in adapter.layers:
        if spec.kind != "grouped":
            inputs(adapter, rows, spec.name, layers)
    adapter.outputs(rows, layers)
    quantized, rounded = adapter.quantized_model(layers), adapter.dequantized(layers)
    with torch.no_grad():
        for p in rounded.parameters():
            p.zero_()
    assert torch.is_grad_enabled()
    assert fingerprint(model) == before
    assert vars(model) == original
    np.testing.assert_array_equal(rows, rows_before)
    own = {p.data_ptr() for p in model.parameters()}
    for other in (quantized, rounded):
        assert own.isdisjoint(t.data_ptr() for t in other.state_dict().values())


def test_nothing_changes_when_the_module_fails():
    model = Fails().train()
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="broken"):
        traced(model)
    adapter = torch_adapter(model)
    with pytest.raises(RuntimeError, match="broken"):
        inputs(adapter, X, "body")
    with pytest.raises(RuntimeError, match="broken"):
        adapter.outputs(X, {})
    with pytest.raises(RuntimeError, match="broken"):
        torch_predictor(model, "regression", X)
    assert fingerprint(model) == before
    assert torch.is_grad_enabled()


def test_gradients_stay_on_between_chunks():
    adapter = traced(Mlp().eval())
    rows = np.zeros((600, 6), dtype=np.float32)
    together = zip(
        adapter.layer_inputs(rows, "last", {}),
        adapter.layer_inputs(rows, "middle", {}),
        strict=True,
    )
    for _ in together:
        assert torch.is_grad_enabled()
    abandoned = adapter.layer_inputs(rows, "last", {})
    next(abandoned)
    assert torch.is_grad_enabled()


def test_hooks_of_the_user_still_run():
    model = Mlp().eval()
    model.middle.register_forward_hook(lambda part, args, y: 2 * y)
    model.first.register_forward_pre_hook(lambda part, args: (args[0] + 1,))
    adapter = traced(model)
    np.testing.assert_allclose(inputs(adapter, X, "first"), X + 1)
    layers = all_hand_made(adapter)
    expected = evaluated(with_weights(model, weights_of(layers)), X)
    np.testing.assert_allclose(adapter.outputs(X, layers), expected, atol=1e-6)


def test_encoders_whose_attention_stays_call_their_layers():
    model = Tokens(encoder()).eval()
    a, b = (layer.self_attn for layer in model.body.layers)
    b.in_proj_weight = a.in_proj_weight
    adapter = traced(model)
    assert not any("self_attn" in spec.name for spec in adapter.layers)
    layers = all_hand_made(adapter)
    spec = next(s for s in adapter.layers if s.name.endswith("0.linear2"))
    rough = {spec.name: hand_made(spec, activation=DynamicRange(2))}
    exact = adapter.outputs(X, layers)
    expected = evaluated(with_weights(model, weights_of(layers)), X)
    np.testing.assert_allclose(exact, expected, rtol=1e-5, atol=2e-6)
    assert np.abs(adapter.outputs(X, layers | rough) - exact).max() > 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_modules_on_another_device(name):
    model, rows = made(name)
    expected = traced(model, rows)
    layers = all_hand_made(expected, activation=None)
    active = {
        spec.name: hand_made(spec, 8, activation=DynamicRange(8))
        for spec in expected.layers
        if spec.kind != "grouped"
    }
    ours = traced(model.to("cuda"), rows)
    assert [spec.name for spec in ours.layers] == list(layers)
    for chosen in ({}, layers, active):
        np.testing.assert_allclose(
            ours.outputs(rows, chosen), expected.outputs(rows, chosen), atol=1e-3
        )
    other = ours.quantized_model(layers)
    assert all(tensor.is_cuda for tensor in other.state_dict().values())
    assert all(p.is_cuda for p in ours.dequantized(layers).parameters())
