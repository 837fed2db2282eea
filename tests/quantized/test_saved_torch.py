"""Saved torch modules: the file has all numbers, the user brings the code."""

import copy

import numpy as np
import pytest

from uqlib.quantized._models import QuantizedClassifier, QuantizedRegressor, quantize
from uqlib.quantized._saved_models import load_estimator, save_model
from uqlib.quantized._scheme import QuantizationScheme

torch = pytest.importorskip("torch")
nn = torch.nn

N_FEATURES = 6
X = np.random.default_rng(0).normal(size=(40, N_FEATURES)).astype(np.float32)


def mlp(n_outputs=1):
    return nn.Sequential(
        nn.Linear(N_FEATURES, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 5, bias=False),
        nn.SiLU(),
        nn.Linear(5, n_outputs),
    )


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv1d(2, 4, 2, groups=2)
        self.dense = nn.Conv1d(4, 3, 2)
        self.parts = nn.ModuleDict({"last-one": nn.Linear(3, 1)})

    def forward(self, x):
        x = torch.relu(self.grouped(x.reshape(-1, 2, 3)))
        return self.parts["last-one"](self.dense(x).flatten(1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, batch_first=True)
        self.position = nn.Parameter(torch.randn(N_FEATURES, 8))
        self.last = nn.Linear(8, 1)

    def forward(self, x):
        h = self.encoder(self.first(x[..., None]) + self.position)
        return self.last((h + self.cross(h, h * 2, h * 3)[0]).mean(1))


def trained(make):
    """A module whose buffers are not those of a new one."""
    torch.manual_seed(0)
    module = make().train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.from_numpy(X) * 2)
    return module.eval()


MODULES = {"mlp": mlp, "convolution": Convolution, "attention": Attention}
SCHEMES = {
    "w4": QuantizationScheme(rounding="rtn"),
    "w8a8": QuantizationScheme.parse("w8a8"),
    "w2 outliers": QuantizationScheme(weights="int2", outliers=0.05, rounding="rtn"),
}


def saved(model, folder):
    path = folder / "model"
    save_model(path, model)
    return path


@pytest.mark.filterwarnings("ignore:.*rows of calibration")
@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("kind", list(MODULES))
def test_untrained_modules_get_all_numbers(kind, scheme, tmp_path):
    module = trained(MODULES[kind])
    model = quantize(module, SCHEMES[scheme], X)
    path = saved(model, tmp_path)
    torch.manual_seed(1)
    skeleton = MODULES[kind]()
    before = copy.deepcopy(skeleton.state_dict())
    again = load_estimator(QuantizedRegressor, path, skeleton)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.nbytes_ == model.nbytes_
    assert again.effective_bits_ == model.effective_bits_
    assert again.report_.skipped == model.report_.skipped
    assert again.layers_["layer"].tolist() == model.layers_["layer"].tolist()
    assert not hasattr(again, "estimator_")
    # The module that was passed is not changed.
    for name, value in skeleton.state_dict().items():
        assert torch.equal(value, before[name])
    # What comes out is a module of that class with the rounded weights.
    rounded, expected = again.dequantize(), model.dequantize()
    assert type(rounded) is type(module)
    for name, value in expected.state_dict().items():
        assert torch.equal(rounded.state_dict()[name], value)
    save_model(tmp_path / "again", again)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.filterwarnings("ignore:.*rows of calibration")
@pytest.mark.parametrize("kind", list(MODULES))
def test_the_float_module_can_be_passed(kind, tmp_path):
    module = trained(MODULES[kind])
    model = quantize(module, "w4", X, method="rtn")
    again = load_estimator(QuantizedRegressor, saved(model, tmp_path), module)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.drift(X), model.drift(X))


def test_classifiers(tmp_path):
    module = trained(lambda: mlp(3))
    model = quantize(module, "w4", X, task="classification")
    path = saved(model, tmp_path)
    again = load_estimator(QuantizedClassifier, path, mlp(3))
    for method in ("predict", "predict_proba"):
        found, expected = getattr(again, method)(X), getattr(model, method)(X)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again.classes_, [0, 1, 2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype, tmp_path):
    module = trained(mlp).to(dtype)
    model = quantize(module, "w4", X, method="rtn")
    path = saved(model, tmp_path)
    again = load_estimator(QuantizedRegressor, path, mlp().to(dtype))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_layers_that_stay_in_float(tmp_path):
    scheme = QuantizationScheme(skip=("3",), rounding="rtn")
    model = quantize(trained(mlp), scheme, X)
    again = load_estimator(QuantizedRegressor, saved(model, tmp_path), mlp())
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.report_.skipped == model.report_.skipped != []


def test_a_file_has_no_module(tmp_path):
    path = saved(quantize(trained(mlp), "w4", X), tmp_path)
    with pytest.raises(ValueError, match=r"load\(path, estimator="):
        load_estimator(QuantizedRegressor, path)


DIFFERENT = {
    "no norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)),
        "Layer '3' is in the file alone",
    ),
    "wider": (
        lambda: nn.Sequential(*mlp()[:3], nn.Linear(8, 7, bias=False), *mlp()[4:]),
        r"Layer '3' has the shape \(5, 8\) in the file and \(7, 8\)",
    ),
    "other norm": (
        lambda: nn.Sequential(mlp()[0], nn.LayerNorm(8), *mlp()[2:]),
        "'1.num_batches_tracked' is in the file alone",
    ),
    "more norms": (
        lambda: nn.Sequential(*mlp(), nn.LayerNorm(1)),
        "'6.bias' is in the module alone",
    ),
    "wider norm": (
        lambda: nn.Sequential(mlp()[0], nn.BatchNorm1d(9), *mlp()[2:]),
        r"'1.bias' has the shape \(8,\) in the file and \(9,\) in the module",
    ),
}


@pytest.mark.parametrize("kind", list(DIFFERENT))
def test_modules_of_another_architecture(kind, tmp_path):
    make, match = DIFFERENT[kind]
    path = saved(quantize(trained(mlp), "w4", X), tmp_path)
    with pytest.raises(ValueError, match=match):
        load_estimator(QuantizedRegressor, path, make())


def test_state_that_is_no_tensor(tmp_path):
    class Stateful(nn.Linear):
        def get_extra_state(self):
            return {"anything": print}

        def set_extra_state(self, state):
            raise AssertionError

    module = nn.Sequential(nn.Linear(N_FEATURES, 4), Stateful(4, 1))
    model = quantize(module, "w4", X)
    with pytest.raises(ValueError, match="no tensor of real numbers"):
        save_model(tmp_path / "model", model)
