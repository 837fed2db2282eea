"""Rows, outputs and predictions of torch modules and of networks of skorch."""

import copy
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.utils import check_random_state

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from tests.quantized._torch_models import (  # noqa: E402
    MODELS,
    Mlp,
    X,
    all_hand_made,
    evaluated,
    fingerprint,
    inputs,
    isolated,
    traced,
    weights_of,
    with_weights,
)
from uqlib.exceptions import UncertaintyWarning  # noqa: E402
from uqlib.quantized._activations import DynamicRange  # noqa: E402
from uqlib.quantized._open_torch import (  # noqa: E402
    is_torch_model,
    is_torch_module,
    torch_adapter,
    torch_predictor,
)

# Of torch itself, where it packs padded samples.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
all_models = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _isolated():
    yield from isolated()


# --- rows and outputs -------------------------------------------------------------


def frozen_array(X):
    own = X.copy()
    own.flags.writeable = False
    return own


KINDS_OF_ROWS = {
    "float64": lambda X: X.astype(np.float64),
    "lists": lambda X: X.tolist(),
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: X[::-1][::-1],
    "read-only": frozen_array,
    "Fortran": np.asfortranarray,
    "objects": lambda X: X.astype(object),
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "tensor": torch.tensor,
    "tensor, float64": lambda X: torch.tensor(X, dtype=torch.float64),
    "tensor with gradients": lambda X: torch.tensor(X, requires_grad=True),
}


@pytest.mark.parametrize("kind", KINDS_OF_ROWS)
def test_rows_of_every_kind(kind):
    model = Mlp().eval()
    rows = KINDS_OF_ROWS[kind](X)
    adapter = traced(model, rows)
    np.testing.assert_array_equal(adapter.outputs(rows, {}), evaluated(model, X))
    np.testing.assert_array_equal(inputs(adapter, rows, "first"), X)


def test_integers_are_features_in_arrays_and_tokens_in_tensors():
    numbers = np.arange(12).reshape(2, 6)
    model = Mlp().eval()
    expected = evaluated(model, numbers.astype(np.float32))
    np.testing.assert_array_equal(torch_adapter(model).outputs(numbers, {}), expected)
    words = nn.Sequential(nn.Embedding(12, 3), nn.Flatten(), nn.Linear(18, 1)).eval()
    rows = torch.as_tensor(numbers)
    adapter = traced(words, rows)
    np.testing.assert_array_equal(adapter.outputs(rows, {}), evaluated(words, rows))


def test_many_rows_go_through_in_chunks():
    model = Mlp(2).eval()
    rows = check_random_state(0).normal(size=(700, 6))
    adapter = traced(model, rows)
    np.testing.assert_allclose(
        adapter.outputs(rows, {}),
        evaluated(model, rows.astype(np.float32)),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        inputs(adapter, rows, "first"), rows.astype(np.float32)
    )


@pytest.mark.parametrize("n_rows", [0, 1])
def test_no_row_and_one_row(n_rows):
    adapter = traced(Mlp(3))
    layers = all_hand_made(adapter, activation=DynamicRange(8))
    assert adapter.outputs(X[:n_rows], {}).shape == (n_rows, 3)
    assert adapter.outputs(X[:n_rows], layers).shape == (n_rows, 3)
    assert inputs(adapter, X[:n_rows], "last").shape == (n_rows, 5)


def test_double_precision_is_kept():
    model = Mlp().double().eval()
    rows = check_random_state(0).normal(size=(5, 6))
    adapter = traced(model, rows)
    layers = all_hand_made(adapter)
    ours = adapter.outputs(rows, layers)
    assert ours.dtype == np.float64
    assert adapter.layers[0].weight.dtype == np.float64
    assert inputs(adapter, rows, "last").dtype == np.float64
    expected = evaluated(with_weights(model, weights_of(layers)), rows)
    np.testing.assert_allclose(ours, expected, rtol=1e-13, atol=1e-13)


def test_half_precision_is_read_in_single():
    model = Mlp().bfloat16().eval()
    adapter = traced(model)
    assert adapter.layers[0].weight.dtype == np.float32
    layers = all_hand_made(adapter, bits=8)
    expected = evaluated(copy.deepcopy(model).float(), X)
    ours = adapter.outputs(X, {})
    np.testing.assert_allclose(ours, expected, atol=0.05)
    assert ours.dtype == adapter.outputs(X, layers).dtype == np.float32
    rounded = with_weights(copy.deepcopy(model).float(), weights_of(layers))
    np.testing.assert_allclose(
        adapter.outputs(X, layers), evaluated(rounded, X), atol=0.05
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([["a"] * 6] * 3), "must be an array of numbers .* could not convert"),
        (np.float64(1.0), "one row for each sample"),
        ({"x": X}, "must be an array of numbers"),
    ],
)
def test_rows_that_are_not_numbers(rows, message):
    with pytest.raises(ValueError, match=message):
        traced(Mlp(), rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_found_where_they_enter(value):
    rows = X.astype(np.float64)
    rows[1, 2] = value
    adapter = traced(Mlp())
    with pytest.raises(ValueError, match="'middle' gets values that are not finite"):
        inputs(adapter, rows, "middle")


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Linear(6, 2), what

    def forward(self, x):
        return self.what(self.layer(x))


STRANGE = {
    "tuple": (lambda y: (y, y), "an object of type tuple for 9 rows"),
    "dict": (lambda y: {"logits": y}, "an object of type dict"),
    "None": (lambda y: None, "an object of type NoneType"),
    "3-D": (lambda y: y[:, None], r"of type torch.float32 and shape \(9, 1, 2\)"),
    "0-D": (torch.mean, r"shape \(\)"),
    "rows": (lambda y: y[1:], r"shape \(8, 2\) for 9 rows"),
    "complex": (torch.fft.fft, "torch.complex64"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_outputs_are_refused(name):
    what, message = STRANGE[name]
    with pytest.raises(ValueError, match=f"Returns returned .*{message}"):
        traced(Returns(what))


# --- predictions --------------------------------------------------------------------


def test_modules_are_recognized_without_torch():
    assert is_torch_module(Mlp())
    assert is_torch_model(Mlp())
    assert is_torch_model(torch_predictor(Mlp(), "regression", X))
    for other in (None, "a", X, type("Module", (), {})()):
        assert not is_torch_module(other)
        assert not is_torch_model(other)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_predictions_of_a_regressor(n_outputs):
    model = Mlp(n_outputs)
    modes = [part.training for part in model.modules()]
    ours = torch_predictor(model, "regression", X)
    expected = evaluated(model, X).astype(np.float64)
    points = ours.predict(pd.DataFrame(X))
    assert points.dtype == np.float64
    np.testing.assert_array_equal(
        points, expected[:, 0] if n_outputs == 1 else expected
    )
    assert [part.training for part in model.modules()] == modes
    assert not hasattr(ours, "predict_proba")
    assert not hasattr(ours, "classes_")
    assert ours.module is model


@pytest.mark.parametrize("n_outputs", [1, 2, 4])
def test_predictions_of_a_classifier(n_outputs):
    model = Mlp(n_outputs)
    ours = torch_predictor(model, "classification", X)
    logits = evaluated(model, X).astype(np.float64)
    if n_outputs == 1:
        positive = 1 / (1 + np.exp(-logits))
        expected = np.hstack([1 - positive, positive])
    else:
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ours.predict_proba(X), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(ours.classes_, np.arange(max(2, n_outputs)))
    np.testing.assert_array_equal(ours.predict(X), expected.argmax(axis=1))


def test_logits_of_any_size_give_probabilities():
    ours = torch_predictor(nn.Identity(), "classification", X)
    proba = ours.predict_proba(1e6 * X[:, :3])
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    one = torch_predictor(nn.Identity(), "classification", X[:, :1])
    np.testing.assert_array_equal(
        one.predict_proba(np.array([[-1e6], [1e6], [0.0]])), [[1, 0], [0, 1], [0.5] * 2]
    )


def test_probabilities_in_the_place_of_logits_are_noticed():
    model = nn.Sequential(Mlp(3), nn.Softmax(dim=1))
    with pytest.warns(UncertaintyWarning, match="taken for logits"):
        torch_predictor(model, "classification", X)


def test_a_task_must_exist():
    with pytest.raises(ValueError, match="task='ranking' must be one of"):
        torch_predictor(Mlp(), "ranking", X)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_predictor_is_quantized_as_a_predictor(task):
    model = Mlp(3)
    ours = torch_predictor(model, task, X)
    adapter = traced(ours)
    layers = all_hand_made(adapter)
    other = with_weights(model, weights_of(layers))
    expected = torch_predictor(other, task, X)
    for made_of in (adapter.quantized_model(layers), adapter.dequantized(layers)):
        loaded = pickle.loads(pickle.dumps(made_of))
        for method in ("predict", *["predict_proba"] * (task == "classification")):
            np.testing.assert_allclose(
                getattr(loaded, method)(X),
                getattr(expected, method)(X),
                rtol=1e-5,
                atol=1e-6,
            )
        assert hasattr(loaded, "classes_") == (task == "classification")
    assert ours.module is model


# --- skorch -----------------------------------------------------------------------


def fitted_net(kind, module, y, **kwargs):
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    net = getattr(skorch, kind)(
        module, max_epochs=2, train_split=None, verbose=0, batch_size=4, **kwargs
    )
    return net.fit(X, y)


class Probabilities(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(-1))


class Logits(nn.Sequential):
    def __init__(self, n_outputs=3):
        super().__init__(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, n_outputs))


class Squeezed(Logits):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Two(Logits):
    def forward(self, x):
        return super().forward(x), x


class First(nn.CrossEntropyLoss):
    """The loss of the first of several outputs."""

    def forward(self, outputs, y):
        return super().forward(outputs[0], y)


LABELS = np.arange(len(X)) % 3
TARGET = X[:, :1] * 2
NETS = {
    "regressor": ("NeuralNetRegressor", Logits, TARGET, {"module__n_outputs": 1}),
    "probabilities": ("NeuralNetClassifier", Probabilities, LABELS, {}),
    "logits": (
        "NeuralNetClassifier",
        Logits,
        LABELS,
        {"criterion": nn.CrossEntropyLoss},
    ),
    "binary": (
        "NeuralNetBinaryClassifier",
        Squeezed,
        (X[:, 0] > 0).astype(np.float32),
        {"module__n_outputs": 1},
    ),
    "two outputs": (
        "NeuralNetClassifier",
        Two,
        LABELS,
        {"criterion": First},
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_networks_of_skorch_predict_by_their_own_methods(name):
    kind, module, y, kwargs = NETS[name]
    net = fitted_net(kind, module, y, **kwargs)
    net.criterion_.train()
    before = fingerprint(net.module_)
    kept = dict(vars(net))
    assert is_torch_model(net)
    adapter = traced(net)
    assert [spec.name for spec in adapter.layers] == ["0", "2"]
    raw = net.forward(X)
    raw = (raw[0] if isinstance(raw, tuple) else raw).numpy().reshape(len(X), -1)
    np.testing.assert_array_equal(adapter.outputs(X, {}), raw)
    layers = all_hand_made(adapter)
    expected = copy.deepcopy(net)
    expected.module_.load_state_dict(
        with_weights(net.module_, weights_of(layers)).state_dict()
    )
    net.criterion_.train()
    for ours in (adapter.quantized_model(layers), adapter.dequantized(layers)):
        assert type(ours) is type(net)
        for model in (ours, pickle.loads(pickle.dumps(ours))):
            for method in ("predict", "predict_proba"):
                if hasattr(net, method):
                    np.testing.assert_allclose(
                        getattr(model, method)(X),
                        getattr(expected, method)(X),
                        rtol=1e-5,
                        atol=1e-6,
                    )
        if hasattr(net, "classes_"):
            np.testing.assert_array_equal(ours.classes_, net.classes_)
    assert fingerprint(net.module_)[1:3] == before[1:3]
    assert net.criterion_.training
    assert vars(net) == kept


def test_a_network_of_skorch_must_be_fitted():
    skorch = pytest.importorskip("skorch")
    with pytest.raises(Exception, match="not initialized"):
        torch_adapter(skorch.NeuralNetRegressor(Logits))
