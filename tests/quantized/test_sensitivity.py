"""What a layer alone does: drift, divergence, traces, losses and widths."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier

from tests.quantized._sensitivity_networks import mlp, rows
from uqlib._core.ranks import conformal_quantile
from uqlib.quantized._dense import linear_network, mlp_network
from uqlib.quantized._driver import quantize_network
from uqlib.quantized._scheme import QuantizationScheme
from uqlib.quantized._sensitivity import (
    CalibratedNetwork,
    divergence,
    drift,
    loss_gradient,
    measured_sensitivity,
    output_levels,
    taylor_sensitivity,
    trace_sensitivity,
)
from uqlib.quantized._sensitivity_width import (
    check_width_rows,
    smoothed_width,
    smoothing_levels,
)

W4 = QuantizationScheme.parse("w4")
CHOICES = (2, 3, 4, 8)


def calibrated(model, X, scheme=W4, classes=None):
    return CalibratedNetwork(mlp_network(model), X, scheme, classes, 0)


# Drift and divergence.


def test_drift_is_the_mean_squared_change():
    exact, found = rows(8, 3), rows(8, 3, seed=2)
    expected = np.mean(
        [np.sum((f - e) ** 2) for f, e in zip(found, exact, strict=True)]
    )
    assert drift(exact, found, "identity") == pytest.approx(expected)


def test_a_common_shift_of_logits_is_no_drift():
    exact = rows(8, 3)
    shifted = exact + rows(8, 1, seed=2)
    assert drift(exact, shifted, "softmax") == pytest.approx(0, abs=1e-25)
    assert drift(exact, shifted, "logistic") > 0.1


def kl(p, q):
    return np.mean(np.sum(p * np.log(p / q), axis=1))


def test_divergence_of_classes_is_that_of_their_probabilities():
    exact, found = rows(8, 3), rows(8, 3, seed=2)
    p, q = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (exact, found))
    assert divergence(exact, found, "softmax") == pytest.approx(kl(p, q))
    p, q = (1 / (1 + np.exp(-z[:, :1])) for z in (exact, found))
    both = kl(np.hstack([p, 1 - p]), np.hstack([q, 1 - q]))
    assert divergence(exact[:, :1], found[:, :1], "logistic") == pytest.approx(both)


def test_divergence_of_logits_far_out_is_finite():
    far = np.array([[800.0, -800.0], [-800.0, 800.0]])
    for link in ("softmax", "logistic"):
        assert np.isfinite(divergence(far, -far, link))
        assert divergence(far, far, link) == 0


def test_divergence_of_points_is_the_drift_in_units_of_their_spread():
    exact, found = rows(40, 1), rows(40, 1, seed=2)
    expected = drift(exact, found, "identity") / (2 * exact.var())
    assert divergence(exact, found, "identity") == pytest.approx(expected)
    scaled = divergence(7 * exact + 3, 7 * found + 3, "identity")
    assert scaled == pytest.approx(expected)
    assert divergence(np.ones((5, 1)), np.zeros((5, 1)), "identity") == 0.5


# Layers alone and together.


@pytest.mark.parametrize("text", ["w4", "w4a8", "w3g4"])
def test_joint_layers_are_those_of_quantize_network(text):
    model, X = mlp(), rows()
    scheme = QuantizationScheme.parse(text)
    network, bits = calibrated(model, X, scheme), (4, 2, 8)
    names = [spec.name for spec in network.layers]
    expected = quantize_network(
        network.adapter,
        replace(scheme, layer_bits=tuple(zip(names, bits, strict=True))),
        X,
        last_layer_bits=8,
        random_state=np.random.RandomState(0),
    ).layers
    found = network.joint(bits)
    for name in names:
        np.testing.assert_array_equal(found[name].codes, expected[name].codes)
        np.testing.assert_array_equal(found[name].bias, expected[name].bias)
    # Others with the same first layers share them.
    assert network.joint((4, 2, 3))[names[1]] is found[names[1]]


def test_joint_layers_get_affine_outputs_where_the_scheme_says_so():
    model, X = mlp(), rows()
    scheme = QuantizationScheme(correction=("output_affine",))
    plain = calibrated(model, X, QuantizationScheme(correction=()))
    found = calibrated(model, X, scheme)
    assert found.damage((2, 2, 2), "drift") < plain.damage((2, 2, 2), "drift")


def test_a_layer_alone_sees_float_inputs():
    model, X = mlp(), rows()
    network = calibrated(model, X)
    for position, spec in enumerate(network.layers):
        others = tuple(s.name for s in network.layers if s is not spec)
        expected = quantize_network(
            network.adapter,
            replace(W4, skip=others, layer_bits=((spec.name, 3),)),
            X,
            last_layer_bits=None,
            random_state=np.random.RandomState(0),
        ).layers
        (found,) = network.alone(position, 3).values()
        np.testing.assert_array_equal(found.codes, expected[spec.name].codes)


def test_skipped_and_empty_layers_get_no_bits():
    model, X = mlp(), rows()
    network = calibrated(model, X, replace(W4, skip=("layer_1",)))
    assert [spec.name for spec in network.layers] == ["layer_0", "layer_2"]
    assert set(network.joint((3, 4))) == {"layer_0", "layer_2"}
    assert network.names == ["layer_0", "layer_1", "layer_2"]


def test_a_scheme_in_float_still_gets_bits():
    network = calibrated(mlp(), rows(), QuantizationScheme.parse("w16"))
    assert len(network.layers) == 3
    assert network.joint((3, 3, 3))["layer_0"].grid.n_levels == 8


def sensitivity(network, criterion):
    y = np.random.default_rng(9).normal(size=len(network.exact))
    if criterion == "trace":
        return trace_sensitivity(network, CHOICES, None)
    if criterion == "taylor":
        return taylor_sensitivity(network, CHOICES, y, None)
    return measured_sensitivity(
        network, CHOICES, lambda layers: network.measured(layers, criterion)
    )


@pytest.mark.parametrize("criterion", ["drift", "kl", "trace", "taylor"])
@pytest.mark.parametrize("rounding", ["rtn", "gptq+cd"])
def test_sensitivities_fall_with_bits_on_average(criterion, rounding):
    scheme = QuantizationScheme(rounding=rounding)
    found = np.mean(
        [
            sensitivity(calibrated(mlp(seed=seed), rows(120), scheme), criterion)
            for seed in range(6)
        ],
        axis=0,
    )
    assert found.shape == (3, 4)
    assert (found > 0).all()
    assert (np.diff(found, axis=1) < 0).all()


def test_trace_sensitivity_of_one_linear_layer_is_its_formula():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    model = Ridge().fit(X, X @ rng.normal(size=5))
    network = CalibratedNetwork(linear_network(model), X, W4, None, 0)
    (found,) = trace_sensitivity(network, (3,), None)
    (layer,) = network.alone(0, 3).values()
    error = layer.effective_weight() - model.coef_
    assert found[0] == pytest.approx(np.mean(X**2) * np.sum(error**2))


@pytest.mark.parametrize("scheme", [W4, QuantizationScheme(rounding="rtn")])
def test_trace_of_linear_layers_predicts_drift_where_inputs_are_white(scheme):
    # With E x x^T = I the trace over the number of weights is 1, and so is the ratio.
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.normal(size=(60, 5)))[0] * np.sqrt(60)
    model = Ridge(fit_intercept=False).fit(X, X @ rng.normal(size=5))
    scheme = replace(scheme, correction=())
    network = CalibratedNetwork(linear_network(model), X, scheme, None, 0)
    found = trace_sensitivity(network, CHOICES, None)
    expected = measured_sensitivity(
        network, CHOICES, lambda layers: network.measured(layers, "drift")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# Losses and their gradients.


def pinball(f, y, levels):
    error = y[:, None] - f
    return np.mean(np.maximum(levels * error, (levels - 1) * error))


def test_pinball_gradient_equals_finite_differences():
    network = calibrated(mlp(n_outputs=2), rows())
    y = rows(50, 1, seed=3).ravel()
    levels = np.array([0.05, 0.95])
    found = loss_gradient(network, y, levels)
    f = network.exact
    for at in [(0, 0), (7, 1), (49, 0)]:
        step = np.zeros_like(f)
        step[at] = 1e-7
        slope = (pinball(f + step, y, levels) - pinball(f - step, y, levels)) / 2e-7
        assert found[at] == pytest.approx(slope, abs=1e-8)


def test_squared_gradient_of_points():
    network = calibrated(mlp(), rows())
    y = rows(50, 1, seed=3).ravel()
    expected = (network.exact[:, 0] - y)[:, None] / 50
    np.testing.assert_allclose(loss_gradient(network, y, None), expected)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_log_loss_gradient_of_labels(n_classes):
    rng = np.random.default_rng(0)
    X, names = rows(), np.array(["b", "a", "c"])[:n_classes]
    y = np.concatenate([names, rng.choice(names, 50 - n_classes)])
    model = LogisticRegression().fit(X, y)
    network = CalibratedNetwork(linear_network(model), X, W4, model.classes_, 0)
    found = loss_gradient(network, y, None)
    p = model.predict_proba(X)
    target = y[:, None] == model.classes_
    expected = (p - target)[:, -found.shape[1] :] / 50
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"y has labels .* know: \['d'\]"):
        loss_gradient(network, np.where(y == "a", "d", y), None)


def test_labels_that_do_not_exclude_one_another_are_independent():
    X = rows()
    y = (X[:, :2] > 0).astype(int)
    model = MLPClassifier(
        hidden_layer_sizes=(4,), solver="lbfgs", max_iter=20, tol=1.0, random_state=0
    ).fit(X, y)
    network = calibrated(model, X, classes=model.classes_)
    assert network.link == "logistic"
    found = loss_gradient(network, y, None)
    np.testing.assert_allclose(found, (model.predict_proba(X) - y) / 50, atol=1e-12)


def test_levels_of_outputs():
    class Model:
        quantiles_ = (0.1, 0.5, 0.9)

    y = np.zeros(4)
    np.testing.assert_array_equal(output_levels(Model, y, 3, 0.9), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(output_levels(None, y, 2, 0.8), [0.1, 0.9])
    assert output_levels(None, y, 1, 0.8) is None
    assert output_levels(None, np.zeros((4, 2)), 2, 0.8) is None
    with pytest.raises(ValueError, match=r"needs a loss.* 3 outputs .*no quantiles_"):
        output_levels(None, y, 3, 0.8)


# Smoothed widths.


def test_levels_lie_evenly_around_the_one_asked_for():
    levels = smoothing_levels(0.9)
    assert levels == [Fraction(85 + 2 * k, 100) for k in range(6)]
    assert sum(smoothing_levels(0.2)) == 6 * Fraction(1, 5)


def slow_width(intervals_at, scores, confidence_level):
    """Return the mean of intervals_at(threshold, rows) over folds and levels."""
    n, total = len(scores), []
    for level in smoothing_levels(confidence_level):
        for fold in range(5):
            outside = [i for i in range(n) if i % 5 != fold]
            threshold = conformal_quantile(scores[outside], level)
            total += [intervals_at(threshold, i) for i in range(fold, n, 5)]
    return np.mean(total)


@pytest.mark.parametrize("n_samples", [60, 61, 64])
def test_width_of_points_equals_slow_width(n_samples):
    y, f = rows(n_samples, 2).T
    expected = slow_width(lambda t, i: 2 * t, np.abs(y - f), 0.8)
    assert smoothed_width(f, y, 0.8) == pytest.approx(expected)
    assert smoothed_width(f[:, None], y, 0.8) == pytest.approx(expected)


def test_width_of_quantiles_equals_slow_width():
    y, *ends = rows(60, 4).T
    q = np.column_stack(ends)
    low, high = q.min(axis=1), q.max(axis=1)
    scores = np.maximum(low - y, y - high)
    expected = slow_width(lambda t, i: max(0, high[i] - low[i] + 2 * t), scores, 0.7)
    assert smoothed_width(q, y, 0.7) == pytest.approx(expected)
    # Intervals that are too wide shrink, at most to nothing.
    wide = np.column_stack([y - 5, y + 5])
    assert smoothed_width(wide, y, 0.7) == pytest.approx(0)


def test_width_of_many_targets_is_the_mean_of_theirs():
    y, f = rows(60, 3), rows(60, 3, seed=4)
    each = [smoothed_width(f[:, k], y[:, k], 0.8) for k in range(3)]
    assert smoothed_width(f, y, 0.8) == pytest.approx(np.mean(each))
    with pytest.raises(ValueError, match="one target for each prediction"):
        smoothed_width(f[:, :2], y, 0.8)


def test_width_is_in_the_units_of_y():
    y, f = rows(60, 2).T
    width = smoothed_width(f, y, 0.9)
    assert smoothed_width(3 * f + 1, 3 * y + 1, 0.9) == pytest.approx(3 * width)


def test_width_needs_rows_for_its_highest_level():
    # The highest of the levels around 0.9 is 0.95, which needs 19 scores.
    check_width_rows(24, 0.9)
    y, f = rows(24, 2).T
    assert np.isfinite(smoothed_width(f, y, 0.9))
    with pytest.raises(ValueError, match=r"at least 19 rows .*got 18 of 23"):
        check_width_rows(23, 0.9)
