"""Traces and gradients of the weights: against finite differences, and by torch."""

from dataclasses import replace

import numpy as np
import pytest

from tests.quantized._sensitivity_networks import mlp, rows
from uqlib.quantized._dense import ACTIVATIONS, mlp_network
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._sensitivity import CalibratedNetwork, trace_sensitivity
from uqlib.quantized._sensitivity_gradients import (
    SLOPES,
    exact_traces,
    gradient_function,
    hutchinson_traces,
    output_traces,
    weight_gradients,
)


def network_with(activation, **sizes):
    """Return layers with any activation, those that MLPs do not have included."""
    return replace(mlp_network(mlp("tanh", **sizes)), activation=activation)


def jacobian(network, X, name):
    """Return d outputs / d weights of a layer, by central differences."""
    depth = [spec.name for spec in network.layers].index(name)
    weight = network.layers[depth].weight
    columns = []
    for at in np.ndindex(*weight.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = weight.copy()
            moved[at] += step
            layers = list(network.layers)
            layers[depth] = layers[depth]._replace(weight=moved)
            ends.append(replace(network, layers=tuple(layers)).outputs(X, {}))
        columns.append((ends[0] - ends[1]).ravel() / 2e-5)
    return np.stack(columns, axis=1)  # (n_samples * n_outputs, n_weights)


# The slopes and the exact Gauss-Newton trace.


def test_every_activation_has_a_slope():
    assert set(SLOPES) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes_equal_central_differences(name):
    z = np.linspace(-4, 4, 80)  # without 0, where relu has no slope
    step = 1e-5
    f = ACTIVATIONS[name]
    np.testing.assert_allclose(
        SLOPES[name](z), (f(z + step) - f(z - step)) / (2 * step), atol=1e-8
    )


def test_silu_slope_is_finite_far_out():
    assert np.isfinite(SLOPES["silu"](np.array([-1e4, 1e4]))).all()


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_exact_trace_equals_that_of_finite_differences(activation, n_outputs):
    network = network_with(
        activation, hidden=(5, 4), n_inputs=3, n_outputs=n_outputs, seed=2
    )
    X = rows(15, 3)
    traces = exact_traces(network, X, n_outputs)
    for name, found in traces.items():
        expected = np.sum(jacobian(network, X, name) ** 2) / len(X)
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_weight_gradients_equal_finite_differences(activation):
    network = network_with(activation, hidden=(5, 4), n_inputs=3, n_outputs=2, seed=3)
    X, v = rows(10, 3), rows(10, 2, seed=4)
    for name, found in weight_gradients(network, X, v).items():
        expected = v.ravel() @ jacobian(network, X, name)
        np.testing.assert_allclose(found.ravel(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_hutchinson_trace_is_within_five_percent_on_200_parameters(n_outputs):
    network = mlp_network(mlp(hidden=(12, 8), n_outputs=n_outputs))
    n_parameters = sum(s.weight.size + s.bias.size for s in network.layers)
    assert 190 <= n_parameters <= 220
    X = rows(100)
    exact = exact_traces(network, X, n_outputs)

    def gradients(v):
        return weight_gradients(network, X, v)

    found = [
        hutchinson_traces(gradients, (100, n_outputs), np.random.RandomState(seed))
        for seed in range(20)
    ]
    for name, trace in exact.items():
        values = np.array([one[name] for one in found])
        assert values.mean() == pytest.approx(trace, rel=0.05)
        assert np.std(values) <= 2 * 0.05 * trace  # the error that ends the probes


def test_hutchinson_is_exact_for_one_row_and_one_output():
    network = mlp_network(mlp())
    X = rows(1)
    exact = exact_traces(network, X, 1)
    gradients = gradient_function(network, X, "trace")
    found = hutchinson_traces(gradients, (1, 1), np.random.RandomState(0))
    assert found == pytest.approx(exact, rel=1e-12)


def test_traces_of_many_outputs_are_estimated():
    network = mlp_network(mlp(hidden=(4,), n_outputs=65))
    X = rows(30)
    found = output_traces(network, X, 65, np.random.RandomState(0))
    exact = exact_traces(network, X, 65)
    for name, trace in exact.items():
        assert found[name] == pytest.approx(trace, rel=0.3)
    few = mlp_network(mlp(hidden=(4,), n_outputs=64))
    assert output_traces(few, X, 64, None) == exact_traces(few, X, 64)


def test_a_network_without_gradients_names_the_criterion():
    with pytest.raises(ValueError, match=r"criterion='trace' needs gradients.*object"):
        gradient_function(object(), rows(), "trace")


def test_float32_networks_have_the_same_traces():
    wide, narrow = mlp(bits=64), mlp(bits=32)
    X = rows()
    a = exact_traces(mlp_network(wide), X, 1)
    b = exact_traces(mlp_network(narrow), X.astype(np.float32), 1)
    assert b == pytest.approx(a, rel=1e-4)


# Torch networks, through autograd.


def torch_network(X, layers):
    torch = pytest.importorskip("torch")
    from uqlib.quantized._open_torch import torch_adapter

    torch.manual_seed(0)
    module = torch.nn.Sequential(*layers(torch.nn)).double()
    return module, torch_adapter(module).traced(X)


def test_torch_gradients_equal_those_of_the_same_dense_network():
    X, v = rows(600), rows(600, 2, seed=5)  # more rows than go through at once
    module, network = torch_network(
        X, lambda nn: (nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 2))
    )
    before = {key: value.clone() for key, value in module.state_dict().items()}
    model = mlp("tanh", hidden=(5,), n_outputs=2)
    linear = [module[0], module[2]]
    model.coefs_ = [layer.weight.detach().numpy().T for layer in linear]
    model.intercepts_ = [layer.bias.detach().numpy() for layer in linear]
    dense = replace(mlp_network(model), activation="silu")
    found = gradient_function(network, X, "trace")(v)
    expected = weight_gradients(dense, X, v)
    assert list(found) == ["0", "2"]
    for own, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-12)
    after = module.state_dict()
    assert all((after[key] == value).all() for key, value in before.items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_torch_convolutions_have_gradients_in_the_shape_of_their_layer():
    X = rows(20, 36).reshape(20, 1, 6, 6)
    _, network = torch_network(
        X, lambda nn: (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    )
    found = gradient_function(network, X, "taylor")(np.ones((20, 2)))
    for spec in network.layers:
        assert found[spec.name].shape == spec.weight.shape
        assert np.abs(found[spec.name]).sum() > 0


def test_a_torch_network_has_traces_and_sensitivities():
    X = rows(100)
    _, network = torch_network(
        X, lambda nn: (nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    )
    own = CalibratedNetwork(network, X, QuantizationScheme(), None, 0)
    found = trace_sensitivity(own, (2, 3, 4, 8), np.random.RandomState(0))
    assert found.shape == (2, 4)
    assert (np.diff(found, axis=1) < 0).all()
