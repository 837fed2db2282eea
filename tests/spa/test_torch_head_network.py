"""TorchSPAHead: the network stays as it is, and an estimator among others."""

import copy
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from tests.spa._torch_heads import (
    Awkward,
    X,
    Y,
    check_defined,
    network,
    nn,
    one_thread,  # noqa: F401
    quick,
    rows,
    torch,
)
from uqlib._predictions import predict_interval, predict_point
from uqlib.conformal import SplitConformalRegressor

# ------------------------------------------------------- the network stays as it stands


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_nothing_in_the_network_changes():
    net = Awkward()
    net.train()
    net.norm.eval()  # one part in another mode than the rest
    net.last.bias.grad = torch.ones(1)
    before, modes = state(net), [m.training for m in net.modules()]
    needs = [p.requires_grad for p in net.parameters()]
    head = quick(net).fit(X, Y)
    for method in (head.predict, head.predict_uncertainty, head.predict_interval):
        method(X)
    head.features(X)
    assert head.network_ is net
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == needs
    grads = {name: p.grad for name, p in net.named_parameters()}
    assert torch.equal(grads.pop("last.bias"), torch.ones(1))
    assert all(grad is None for grad in grads.values())
    assert not any(m._forward_pre_hooks for m in net.modules())
    # It can still be trained.
    net(torch.tensor(X, dtype=torch.float32)).sum().backward()


def test_the_network_is_asked_in_evaluation_mode():
    net = Awkward().train()
    quiet = copy.deepcopy(net).eval()
    with torch.no_grad():
        expected = quiet(torch.tensor(X, dtype=torch.float32)).numpy()
        hidden = quiet.norm(quiet.first(torch.tensor(X, dtype=torch.float32))).numpy()
    head = quick(net).fit(X, Y)
    np.testing.assert_allclose(head.predict(X), expected, rtol=1e-6, atol=1e-6)
    # The linear layer that was called last, though it was made first.
    np.testing.assert_allclose(head.features(X), hidden, rtol=1e-6, atol=1e-6)


def test_modes_are_restored_after_an_error():
    class Broken(Awkward):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("broken")

    net = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        quick(net).fit(X, Y)
    assert all(m.training for m in net.modules())
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_type_of_the_network(dtype):
    net = network().to(dtype)
    seen = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    head = quick(net).fit(X.astype(np.float32), Y)
    assert set(seen) == {dtype}
    assert head.predict(X).dtype == np.float64
    expected = np.float64 if dtype == torch.float64 else np.float32
    assert head.features(X).dtype == expected
    check_defined(head, X)


def test_features_of_a_named_layer():
    net = network()
    assert quick(net).features(X).shape == (300, 4)
    np.testing.assert_array_equal(quick(net, feature_layer="0").features(X), X)
    named = quick(net, feature_layer="3").features(X)
    np.testing.assert_array_equal(named, quick(net).features(X))


def test_images_and_features_of_several_dimensions():
    net = nn.Sequential(nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 1))
    images = np.random.default_rng(5).normal(size=(40, 3, 4, 4))
    head = quick(net).fit(images, images.mean(axis=(1, 2, 3)))
    check_defined(head, images)
    assert head.features(images).shape == (40, 18)
    assert quick(net, feature_layer="1").features(images).shape == (40, 18)
    assert quick(net, feature_layer="0").features(images).shape == (40, 48)


def test_a_network_without_parameters():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.identity = nn.Identity()

        def forward(self, x):
            return self.identity(x).mean(dim=1)

    head = quick(Mean(), feature_layer="identity").fit(X, Y)
    np.testing.assert_allclose(head.predict(X), X.mean(axis=1), atol=1e-6)


def test_a_few_rows_at_a_time_are_all_rows(monkeypatch):
    head = quick().fit(X, Y)
    whole = head.predict_uncertainty(X)
    monkeypatch.setattr("uqlib.spa._torch_features._CHUNK_ROWS", 7)
    for name, values in head.predict_uncertainty(X).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("uqlib.spa._torch_training._CHUNK_ROWS", 7)
    curve = quick().fit(X, Y).validation_curve_
    np.testing.assert_allclose(curve, head.validation_curve_, rtol=1e-5)


@pytest.mark.gpu
def test_a_network_on_another_device():
    net = network().to("cuda")
    head = quick(net).fit(X, Y)
    assert next(net.parameters()).is_cuda
    expected = quick(network()).fit(X, Y)
    np.testing.assert_allclose(head.predict(X), expected.predict(X), rtol=1e-9)
    found, other = head.predict_uncertainty(X), expected.predict_uncertainty(X)
    for name in ("mar", "quantile_up", "p_up"):
        np.testing.assert_allclose(found[name], other[name], rtol=1e-2, atol=1e-2)


# ---------------------------------------------------------------------- an estimator


def test_clones_and_copies():
    head = quick(hidden=(4, 4), feature_layer="3").fit(X, Y)
    copied = clone(head)
    assert copied.network is not head.network
    assert copied.get_params().keys() == head.get_params().keys()
    found = head.predict_uncertainty(X)
    again = copied.fit(X, Y).predict_uncertainty(X)
    loaded = pickle.loads(pickle.dumps(head)).predict_uncertainty(X)
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values)
        np.testing.assert_array_equal(loaded[name], values)


def test_the_feature_map_is_a_callable_that_can_be_copied():
    feature_map = quick().features
    for same in (copy.deepcopy(feature_map), pickle.loads(pickle.dumps(feature_map))):
        np.testing.assert_array_equal(same(X), feature_map(X))


def test_frames(df_module):
    frame = df_module.make_dataframe({"a": X[:, 0], "b": X[:, 1]})
    head = quick().fit(frame, df_module.make_series(Y))
    assert list(head.feature_names_in_) == ["a", "b"]
    np.testing.assert_array_equal(head.predict(frame), quick().fit(X, Y).predict(X))
    np.testing.assert_array_equal(head.features(frame), quick().features(frame))


def test_arrays_of_any_layout():
    head = quick().fit(X, Y)
    expected = head.predict_uncertainty(X).mar
    backwards = np.ascontiguousarray(X[::-1])[::-1]
    frozen = np.asfortranarray(X)
    frozen.flags.writeable = False
    for values in (backwards, frozen, X.tolist()):
        again = quick().fit(values, Y.tolist()).predict_uncertainty(values).mar
        np.testing.assert_allclose(again, expected, rtol=1e-9)


def test_it_meets_other_estimators_by_protocol():
    head = quick().fit(X, Y)
    np.testing.assert_array_equal(predict_point(head, X), head.predict(X))
    np.testing.assert_array_equal(predict_interval(head, X), head.predict_interval(X))
    conformal = SplitConformalRegressor(FrozenEstimator(head)).fit(*rows(seed=9))
    assert conformal.predict_interval(X).shape == (300, 2)


def test_no_warning_escapes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head = quick(Awkward().train()).fit(X, Y)
        head.predict_uncertainty(X)
