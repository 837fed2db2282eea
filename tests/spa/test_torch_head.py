"""TorchSPAHead: what the heads learn, their losses, degenerate residuals."""

import copy

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor

from tests.spa._torch_heads import (
    FULL,
    REGRESSION,
    X,
    Y,
    check_defined,
    network,
    one_thread,  # noqa: F401
    quick,
    table,
    table_head,
    torch,
)
from uqlib.spa._head_outputs import REGRESSION_HEADS

# --------------------------------------------------------- the heads, by an other way


def network_features(net, X):
    """Input of the last layer, by hand."""
    with torch.no_grad():
        return copy.deepcopy(net).eval()[:-1](torch.tensor(X)).numpy()


def by_hand(head, features):
    """Heads of a regression in NumPy, from the fitted arrays."""
    value = (features - head.feature_center_) / head.feature_scale_
    *hidden, last = zip(head.coefs_, head.intercepts_, strict=True)
    for matrix, bias in hidden:
        value = np.maximum(value @ matrix + bias, 0)
    z = value @ last[0] + last[1]
    scale = np.sqrt(np.mean((Y - head.predict(X)) ** 2))
    means = np.log1p(np.exp(z[:, :3])) if head.positive else z[:, :3]
    return [
        *(scale * means).T,
        *(scale * np.log1p(np.exp(z[:, 3:5]))).T,
        expit(z[:, 5]),
    ]


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
@pytest.mark.parametrize("positive", [True, False])
def test_uncertainty_is_the_formulas_on_the_same_features(hidden, positive):
    net = network(dropout=0.5)
    head = quick(net, hidden=hidden, positive=positive).fit(X, Y)
    found = head.predict_uncertainty(X)
    features = network_features(net, X)
    np.testing.assert_allclose(head.features(X), features, rtol=1e-12)
    m, up, down, q_up, q_down, p = by_hand(head, features)
    expected = {
        "mar": m, "mar_up": up, "mar_down": down, "p_up": p,
        "quantile_up": q_up, "quantile_down": q_down,
        "aleatoric": up + down,
        "bias": p * up - (1 - p) * down,
        "sds": np.abs(2 * up * down - m * (up + down)),
    }  # fmt: skip
    expected["epistemic"] = np.sqrt(expected["sds"])
    expected["relative_sds"] = expected["sds"] / np.abs(m * (up + down))
    assert set(found) == set(expected) == REGRESSION
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name], values, rtol=1e-5, atol=1e-9, err_msg=name
        )
    interval = head.predict_interval(X)
    point = head.predict(X)
    np.testing.assert_allclose(interval[:, 0], point - q_down, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(interval[:, 1], point + q_up, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("positive", [True, False])
def test_arrays_are_the_heads_that_were_trained(monkeypatch, positive):
    from uqlib.spa import _torch_training

    trained = {}
    arrays = _torch_training.HeadModule.arrays

    def keep(module):
        trained["module"] = module
        return arrays(module)

    monkeypatch.setattr(_torch_training.HeadModule, "arrays", keep)
    head = quick(positive=positive).fit(X, Y)
    module = trained["module"]
    features = (head.features(X) - head.feature_center_) / head.feature_scale_
    with torch.no_grad():
        z = module._linked(module(torch.tensor(features, dtype=torch.float32))).numpy()
    found = head.predict_uncertainty(X)
    scale = np.sqrt(np.mean((Y - head.predict(X)) ** 2))
    for k, name in enumerate(REGRESSION_HEADS):
        unit = 1 if name == "p_up" else scale
        np.testing.assert_allclose(found[name], unit * z[:, k], rtol=1e-5, atol=1e-5)


def test_linear_heads_become_least_squares_a_logistic_and_a_quantile_regression():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(600, 2))
    r = features @ [0.3, 0.0] + np.exp(0.3 * features[:, 1]) * rng.normal(size=600)
    inputs, zero, up = np.column_stack([features, -r]), np.zeros(600), r > 0
    head = table_head(
        hidden=(), positive=False, learning_rate=0.02, max_iter=1500, **FULL
    ).fit(inputs, zero)
    found = head.predict_uncertainty(inputs)
    every = np.ones(600, dtype=bool)
    for name, kept in {"mar": every, "mar_up": up, "mar_down": ~up}.items():
        line = LinearRegression().fit(features[kept], np.abs(r)[kept])
        np.testing.assert_allclose(
            found[name], line.predict(features), atol=2e-3, err_msg=name
        )
    share = LogisticRegression(C=1e9).fit(features, up).predict_proba(features)[:, 1]
    np.testing.assert_allclose(found.p_up, share, atol=2e-3)
    np.testing.assert_allclose(
        found.bias, share * found.mar_up - (1 - share) * found.mar_down, atol=5e-3
    )


def pinball(y, q, level):
    return np.mean(np.maximum(level * (y - q), (level - 1) * (y - q)))


@pytest.mark.parametrize("loss", ["pinball", "coverage"])
def test_side_quantiles_are_trained_on_their_own_rows(loss):
    rng = np.random.default_rng(3)
    features = rng.uniform(-1, 1, size=(600, 2))
    r = (1.5 + features[:, 1]) * rng.normal(size=600)
    inputs, up = np.column_stack([features, -r]), r > 0
    head = table_head(
        hidden=(),
        quantile_loss=loss,
        confidence_level=0.8,
        learning_rate=0.02,
        max_iter=1500,
        **FULL,
    ).fit(inputs, np.zeros(600))
    found = head.predict_uncertainty(inputs)
    for q, kept in ((found.quantile_up, up), (found.quantile_down, ~up)):
        size = np.abs(r)[kept]
        assert np.mean(size <= q[kept]) == pytest.approx(0.8, abs=0.02)
        best = QuantileRegressor(quantile=0.8, alpha=0).fit(features[kept], size)
        optimum = pinball(size, best.predict(features[kept]), 0.8)
        # Softplus bends the line a little; of coverage alone there are many optima.
        worst = {"pinball": 1.03, "coverage": 1.5}[loss]
        assert pinball(size, q[kept], 0.8) < worst * optimum
    inside = head.predict_interval(inputs)
    covered = (inside[:, 0] <= 0) & (inside[:, 1] >= 0)
    assert covered.mean() == pytest.approx(0.8, abs=0.02)


def test_without_training_heads_are_the_means_and_quantiles_of_all_rows():
    head = quick(learning_rate=1e-12, max_iter=1, **FULL, confidence_level=0.7)
    found = head.fit(X, Y).predict_uncertainty(X)
    r = Y - head.predict(X)
    up, down = r[r > 0], -r[r <= 0]
    expected = {
        "mar": np.abs(r).mean(),
        "mar_up": up.mean(),
        "mar_down": down.mean(),
        "p_up": np.mean(r > 0),
        "bias": r.mean(),
        "quantile_up": np.quantile(up, 0.7, method="inverted_cdf"),
        "quantile_down": np.quantile(down, 0.7, method="inverted_cdf"),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    assert (head.n_up_, head.n_down_) == (up.size, down.size)


@pytest.mark.parametrize("delta", [0.5, -0.5])
def test_the_bias_of_a_shifted_network_is_found(delta):
    rng = np.random.default_rng(4)
    features = rng.normal(size=(2000, 2))
    truth = features[:, 0]
    y = truth + rng.normal(size=2000)
    inputs = np.column_stack([features, truth + delta])
    head = table_head(max_iter=300).fit(inputs, y)
    bias = head.predict_uncertainty(inputs).bias
    assert bias.mean() == pytest.approx(-delta, rel=0.1)
    assert np.abs(bias + delta).mean() < 0.2


@pytest.mark.parametrize("factor", [2.0**12, 2.0**-12])
def test_a_change_of_units_changes_the_units(factor):
    net = network()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[-1].weight *= factor
        other[-1].bias *= factor
    one = quick(net).fit(X, Y).predict_uncertainty(X)
    two = quick(other).fit(X, factor * Y).predict_uncertainty(X)
    for name in REGRESSION:
        power = {"sds": 2, "p_up": 0, "relative_sds": 0}.get(name, 1)
        np.testing.assert_allclose(two[name], factor**power * one[name], rtol=1e-9)


def test_a_mirrored_target_swaps_the_sides():
    inputs = table(Y)
    one = table_head(hidden=(), **FULL).fit(inputs, np.zeros(300))
    inputs_mirrored = inputs * [1, 1, -1]
    two = table_head(hidden=(), **FULL).fit(inputs_mirrored, np.zeros(300))
    one, two = one.predict_uncertainty(inputs), two.predict_uncertainty(inputs_mirrored)
    for name, other in [
        ("mar", two.mar),
        ("mar_up", two.mar_down),
        ("quantile_up", two.quantile_down),
        ("p_up", 1 - two.p_up),
        ("bias", -two.bias),
        ("sds", two.sds),
    ]:
        np.testing.assert_allclose(one[name], other, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------- the losses


def test_losses_by_hand():
    from uqlib.spa._torch_training import coverage_loss, mean_over, pinball

    values, up = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False])
    assert mean_over(values, up).item() == 1.5
    q = torch.tensor([2.0, 1.0, 5.0])
    # Errors -1 and 1 of the two rows.
    loss = mean_over(pinball(values - q, 0.9), up).item()
    assert loss == pytest.approx((0.1 + 0.9) / 2)
    # One of two rows is covered, 0.4 too few: by 1 too short.
    assert coverage_loss(q, values, up, 0.9).item() == pytest.approx(0.4)
    # 0.25 too many: by 1 too wide.
    assert coverage_loss(q, values, up, 0.25).item() == pytest.approx(0.25)
    all_covered = coverage_loss(q + 10, values, up, 0.9).item()
    assert all_covered == pytest.approx(0.1 * (11 + 9) / 2)


@pytest.mark.parametrize("loss", ["pinball", "coverage"])
def test_a_side_without_rows_adds_nothing(loss):
    from uqlib.spa._head_outputs import regression_heads
    from uqlib.spa._torch_training import HeadModule, Task

    r = Y - Y.mean()
    plan = regression_heads(r, 0.9, True)
    module = HeadModule(2, (4,), Task(plan, 0.9, loss))
    features = torch.tensor(X[:5], dtype=torch.float32)
    outputs = module(features)
    size = torch.tensor([0.5, 1.0, 2.0, 0.1, 0.2])
    for sign, column in ((1, 2), (-1, 1)):
        module.zero_grad()
        value = module.loss(outputs, sign * size)
        assert torch.isfinite(value)
        value.backward(retain_graph=True)
        slope = module.layers[-1].bias.grad
        assert torch.isfinite(slope).all()
        assert slope[column] == 0.0  # the mean of the empty side
        assert slope[column + 2] == 0.0  # its quantile
        assert (slope[[0, 3 - column, 5]] != 0.0).all()


@pytest.mark.parametrize("loss", ["pinball", "coverage"])
def test_batches_with_one_side_only(loss):
    # 25 of 300 rows are up: most batches of 2 have none.
    inputs = table(np.where(np.arange(300) % 12 == 0, 1.0, -1.0) * (1 + np.abs(Y)))
    head = table_head(batch_size=2, quantile_loss=loss).fit(inputs, np.zeros(300))
    assert head.constant_heads_ == {}
    assert np.isfinite(head.loss_curve_).all()
    assert np.isfinite(head.validation_curve_).all()
    assert all(np.isfinite(v).all() for v in head.predict_uncertainty(inputs).values())


# ---------------------------------------------------------------- degenerate residuals


def test_a_perfect_network():
    inputs = table(np.zeros(100))
    head = table_head().fit(inputs, np.zeros(100))
    found = check_defined(head, inputs)
    assert head.constant_heads_ == dict.fromkeys(REGRESSION_HEADS, 0.0)
    assert head.n_iter_ == 0
    assert all(np.all(values == 0) for values in found.values())
    np.testing.assert_array_equal(head.predict_interval(inputs), 0.0)


@pytest.mark.parametrize("side", ["up", "down"])
def test_residuals_of_one_side(side):
    sign = 1 if side == "up" else -1
    other = {"up": "down", "down": "up"}[side]
    inputs = table(sign * (0.1 + np.abs(Y)))
    head = table_head().fit(inputs, np.zeros(300))
    found = check_defined(head, inputs)
    empty = {f"mar_{other}": 0.0, f"quantile_{other}": 0.0, "p_up": float(sign > 0)}
    assert head.constant_heads_ == empty
    np.testing.assert_array_equal(found.bias, sign * found[f"mar_{side}"])
    np.testing.assert_allclose(found.sds, found.mar * found[f"mar_{side}"])
    assert np.all(found.mar > 0)


def test_equal_residuals_are_constant_heads():
    inputs = table(np.full(50, -2.0))
    head = table_head().fit(inputs, np.zeros(50))
    found = check_defined(head, inputs)
    assert set(head.constant_heads_) == set(REGRESSION_HEADS)
    assert np.all(found.mar == 2)
    assert np.all(found.bias == -2)
    np.testing.assert_array_equal(head.predict_interval(inputs), [[0.0, 2.0]] * 50)


@pytest.mark.parametrize(("n_up", "constant"), [(19, True), (20, False)])
def test_a_side_with_few_rows_is_constant(n_up, constant):
    r = -0.1 - np.abs(Y)
    r[:n_up] *= -1
    inputs = table(r)
    head = table_head(confidence_level=0.5, early_stopping=False)
    found = check_defined(head.fit(inputs, np.zeros(300)), inputs)
    assert head.n_up_ == n_up
    assert ("mar_up" in head.constant_heads_) == constant
    assert ("quantile_up" in head.constant_heads_) == constant
    if constant:
        assert np.unique(found.mar_up) == pytest.approx(r[:n_up].mean())
        assert np.unique(found.quantile_up) == np.sort(r[:n_up])[9]
    assert np.unique(found.mar_down).size > 1
    assert np.unique(found.p_up).size > 1


def test_an_exact_zero_is_below():
    inputs = table([0.0, 0.0, 3.0, -3.0] * 10)
    head = table_head(learning_rate=1e-12, max_iter=1, **FULL)
    found = head.fit(inputs, np.zeros(40)).predict_uncertainty(inputs)
    assert (head.n_up_, head.n_down_) == (10, 30)
    np.testing.assert_allclose(found.sds, 0.0, atol=1e-5)
    np.testing.assert_allclose(found.mar_down, 1.0, rtol=1e-5)


def test_a_constant_target_and_one_feature():
    net = network(n_features=1, width=1)
    head = quick(net).fit(X[:, :1], np.full(300, 7.0))
    check_defined(head, X[:, :1])
    assert head.feature_center_.shape == (1,)


def test_a_constant_feature_and_a_far_row():
    inputs = table(Y)
    inputs[:, 1] = 0.1
    head = table_head().fit(inputs, np.zeros(300))
    far = inputs.copy()
    far[:, 0], far[:, 1] = 1e9, 1e9
    check_defined(head, far)
    assert head.feature_scale_[1] == 1.0


def test_one_row():
    head = table_head(early_stopping=False).fit(table([2.0]), np.zeros(1))
    assert head.constant_heads_["mar"] == 2.0
    check_defined(head, table([2.0]))
