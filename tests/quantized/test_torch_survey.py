"""Which parts of torch modules are found, in which order, and why others are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, prune  # noqa: E402

from tests.quantized._torch_models import (  # noqa: E402
    MODELS,
    Mlp,
    Tokens,
    X,
    all_hand_made,
    evaluated,
    fingerprint,
    isolated,
    made,
    traced,
)
from uqlib.quantized._open_torch import (  # noqa: E402
    torch_adapter,
)

# Of torch itself, where it packs padded samples.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
all_models = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _isolated():
    yield from isolated()


# --- what is found --------------------------------------------------------------

ORDERS = {
    "linear": ["module"],
    "mlp": ["first", "middle", "last"],
    "residual": ["inner", "head"],
    "signal": ["a", "b", "depthwise", "head"],
    "images": ["features.0", "features.3", "head"],
    "self-attention": ["embed", "body.attention.in_proj", "body.attention.out_proj"],
    "cross-attention": [
        "embed",
        "body.to_key",
        "body.to_value",
        *(f"body.attention.in_proj.{part}" for part in "qkv"),
        "body.attention.out_proj",
        "head",
    ],
    "encoder": [
        "embed",
        *(
            f"body.layers.{k}.{part}"
            for k in range(2)
            for part in (
                "self_attn.in_proj",
                "self_attn.out_proj",
                "linear1",
                "linear2",
            )
        ),
        "head",
    ],
    "decoder": [
        "embed",
        "body.layer.self_attn.in_proj",
        "body.layer.self_attn.out_proj",
        *(f"body.layer.multihead_attn.in_proj.{part}" for part in "qkv"),
        "body.layer.multihead_attn.out_proj",
        "body.layer.linear1",
        "body.layer.linear2",
        "head",
    ],
}


@pytest.mark.parametrize("name", ORDERS)
def test_layers_come_in_the_order_of_execution(name):
    model, rows = made(name)
    found = [spec.name for spec in traced(model, rows).layers]
    expected = ORDERS[name]
    if name == "self-attention":
        expected = [*expected, "head"]
    assert found == expected


def n_counted(adapter):
    in_layers = sum(
        spec.weight.size + (0 if spec.bias is None else spec.bias.size)
        for spec in adapter.layers
    )
    return (
        in_layers
        + sum(part.n_parameters for part in adapter.skipped)
        + adapter.n_small_parameters
    )


@all_models
def test_every_parameter_is_counted_once(name):
    model, rows = made(name)
    adapter = traced(model, rows)
    assert n_counted(adapter) == sum(p.numel() for p in model.parameters())
    expected = ["position"] if isinstance(model, Tokens) else []
    assert [part.name for part in adapter.skipped] == expected


class MyLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).abs()


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 6))
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x):
        return x @ self.matrix + self.shift


class Around(nn.Module):
    """A part whose inputs or outputs are not (n_samples, 6)."""

    def __init__(self, part, before=None, after=None):
        super().__init__()
        self.part, self.before, self.after = part, before, after

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        y = self.part(*x) if isinstance(x, tuple) else self.part(x)
        y = y if self.after is None else self.after(y)
        return y.reshape(len(y), -1)[:, :6]


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(6, 2)

    def forward(self, x):
        return x


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def replaced_forward():
    layer = nn.Linear(6, 6)
    layer.forward = torch.sin
    return layer


def three(x):
    return (x[:, None], x[:, None], x[:, None])


def first(y):
    return y[0]


def tokens(x):
    return x.abs().long().clamp(max=4)


def channels(x):
    return x[:, None]


def plane(x):
    return x[:, None, :, None]


def volume(x):
    return x[:, None, :, None, None]


def pair(x):
    return x, x


def attention(**kwargs):
    return Around(nn.MultiheadAttention(6, 2, batch_first=True, **kwargs), three, first)


PARTS = {
    "linear": (lambda: nn.Linear(6, 6), None),
    "conv": (lambda: Around(nn.Conv1d(1, 6, 1), channels), None),
    "attention": (attention, None),
    "norm": (lambda: nn.LayerNorm(6), None),
    "prelu": (lambda: nn.PReLU(6), None),
    "bilinear": (lambda: Around(nn.Bilinear(6, 6, 6), pair), "multiply two inputs"),
    "lstm": (lambda: Around(nn.LSTM(6, 6), None, first), "recurrent"),
    "gru cell": (lambda: nn.GRUCell(6, 6), "recurrent"),
    "embedding": (lambda: Around(nn.Embedding(5, 6), tokens), "looked up"),
    "transposed": (
        lambda: Around(nn.ConvTranspose1d(1, 6, 1), channels),
        "transposed",
    ),
    "conv 3-D": (lambda: Around(nn.Conv3d(1, 6, 1), volume), "three dimensions"),
    "subclass": (lambda: MyLinear(6, 6), "MyLinear is a type of its own"),
    "forward": (replaced_forward, "its forward has been replaced"),
    "own": (Own, "a parameter of Own itself"),
    "unused": (Unused, "is never called"),
    "tied": (Tied, "shares weights with another layer"),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(6, 6)),
        "parametrization",
    ),
    "parametrized attention": (
        lambda: Around(
            parametrizations.orthogonal(
                nn.MultiheadAttention(6, 2, batch_first=True), "in_proj_weight"
            ),
            three,
            first,
        ),
        "parametrization",
    ),
    "pruned": (
        lambda: prune.l1_unstructured(nn.Linear(6, 6), "weight", amount=0.5),
        "computed by a hook",
    ),
    "bias_k": (lambda: attention(add_bias_kv=True), "add_bias_kv"),
    "zero_attn": (lambda: attention(add_zero_attn=True), "add_zero_attn"),
}


@pytest.mark.parametrize("name", PARTS)
def test_what_is_not_supported_has_a_reason_and_the_rest_is_found(name):
    make, reason = PARTS[name]
    model = nn.Sequential(nn.Linear(6, 6), make(), nn.Linear(6, 1))
    adapter = traced(model)
    found = [spec.name for spec in adapter.layers]
    assert (found[0], found[-1]) == ("0", "2")
    if reason is None:
        assert adapter.skipped == ()
    else:
        assert len(found) == 2
        assert reason in adapter.skipped[0].reason
        assert all(part.name.startswith("1") for part in adapter.skipped)
    assert n_counted(adapter) == sum(p.numel() for p in model.parameters())
    np.testing.assert_array_equal(adapter.outputs(X, {}), evaluated(model, X))
    layers = all_hand_made(adapter)
    ours, other = adapter.outputs(X, layers), adapter.dequantized(layers)
    np.testing.assert_allclose(ours, evaluated(other, X), rtol=1e-5, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=4))
def test_the_count_of_parameters_adds_up(names):
    parts = [PARTS[name][0]() for name in names]
    model = nn.Sequential(*parts, parts[0])  # one of them twice
    before = fingerprint(model)
    adapter = traced(model, X[:3])
    assert n_counted(adapter) == sum(p.numel() for p in model.parameters())
    assert fingerprint(model) == before
    named = [part.name for part in (*adapter.layers, *adapter.skipped)]
    assert len(named) == len(set(named))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_hooks_compute_are_left_alone():
    layer = torch.nn.utils.weight_norm(nn.Linear(6, 6))
    model = nn.Sequential(layer, nn.Linear(6, 1))
    model(torch.as_tensor(X))  # leaves a tensor that torch does not copy
    adapter = traced(model)
    assert "computed by a hook" in adapter.skipped[0].reason
    assert n_counted(adapter) == sum(p.numel() for p in model.parameters())
    np.testing.assert_array_equal(adapter.outputs(X, {}), evaluated(model, X))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_layers_that_saw_no_rows_are_skipped_and_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(6), nn.Linear(6, 1), nn.LazyBatchNorm1d())
    adapter = traced(model)
    assert [(part.name, part.n_parameters) for part in adapter.skipped] == [
        ("0", 0),
        ("2", 0),
    ]
    assert all("is lazy" in part.reason for part in adapter.skipped)
    assert [spec.name for spec in adapter.layers] == ["1"]
    assert model[0].has_uninitialized_params()
    model(torch.as_tensor(X))
    found = traced(model)
    assert [spec.name for spec in found.layers] == ["0", "1"]
    assert found.skipped == ()
    assert n_counted(found) == sum(p.numel() for p in model.parameters())


class Doubled(nn.Module):
    """Layers whose weights are not numbers that can be rounded."""

    def __init__(self, dtype):
        super().__init__()
        self.real = nn.Linear(6, 1)
        self.other = nn.Linear(6, 6, dtype=dtype)

    def forward(self, x):
        return self.real(torch.real(self.other(x.to(self.other.weight.dtype))))


def test_weights_of_other_types_are_skipped():
    model = Doubled(torch.complex64)
    adapter = traced(model)
    assert [tuple(part) for part in adapter.skipped] == [
        ("other", "its weights are of the type torch.complex64", 42)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_quantized_by_torch_are_skipped():
    layer = torch.ao.nn.quantized.dynamic.Linear(6, 6)
    model = nn.Sequential(layer, nn.Linear(6, 1))
    adapter = traced(model)
    assert [tuple(part) for part in adapter.skipped] == [
        ("0", "Linear is quantized by torch", 0)
    ]
    assert [spec.name for spec in adapter.layers] == ["1"]


def test_a_compiled_module_is_the_module_inside():
    class Compiled(nn.Module):  # as torch.compile wraps it
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def forward(self, x):
            raise AssertionError("the compiled code must not run on copies")

    model = Mlp()
    adapter = traced(Compiled(model))
    assert [spec.name for spec in adapter.layers] == ["first", "middle", "last"]


def test_layers_need_rows():
    with pytest.raises(ValueError, match=r"Call traced\(X\) first"):
        torch_adapter(Mlp()).layers  # noqa: B018


def test_unknown_layers_are_named():
    adapter = traced(Mlp())
    with pytest.raises(ValueError, match=r"no layer 'fist' .* \['first', 'last', "):
        list(adapter.layer_inputs(X, "fist", {}))
    layer = next(iter(all_hand_made(adapter).values()))
    for use in (adapter.dequantized, adapter.quantized_model):
        with pytest.raises(ValueError, match="no layer 'fist'"):
            use({"fist": layer})
