"""TorchSPAHead: every parameter, and every error."""

import re
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from tests.spa._torch_heads import (
    FULL,
    LABELS,
    X,
    Y,
    check_defined,
    class_rows,
    logits,
    network,
    nn,
    one_thread,  # noqa: F401
    quick,
    table,
    table_head,
    torch,
)
from uqlib._core.split_point import self_consistency_discrepancy
from uqlib.exceptions import UncertaintyWarning
from uqlib.spa._head_uncertainty import discrepancies


def test_the_best_state_on_the_held_out_rows_is_kept():
    rng = np.random.default_rng(7)
    inputs = table(rng.normal(size=80), n_features=10)
    head = table_head(learning_rate=0.05, max_iter=1000, validation_fraction=0.3)
    head.fit(inputs, np.zeros(80))
    curve = head.validation_curve_
    assert head.validation_loss_ == curve.min() <= curve[0]
    assert curve[-1] > curve.min()  # training went on, and harmed
    assert len(curve) == len(head.loss_curve_) + 1
    patient = clone(head).set_params(n_iter_no_change=200).fit(inputs, np.zeros(80))
    assert patient.n_iter_ == 50 * patient.validation_curve_.argmin() + 200
    assert patient.validation_loss_ == head.validation_loss_


def test_without_early_stopping_all_rows_train():
    head = quick(early_stopping=False, max_iter=120, n_iter_no_change=1).fit(X, Y)
    assert head.n_iter_ == 120
    assert head.validation_curve_ is None
    assert head.validation_loss_ is None


def test_the_number_of_rows_held_out():
    from uqlib.spa._head_checks import held_out_rows

    random_state = np.random.RandomState(0)
    assert held_out_rows(41, 0.1, random_state).sum() == 5
    assert held_out_rows(41, None, random_state) is None
    message = "With n_samples=1 and validation_fraction=0.1 no row is left"
    with pytest.raises(ValueError, match=re.escape(message)):
        table_head().fit(table([1.0]), np.zeros(1))


def test_batches_of_automatic_size():
    auto, given = (
        quick(batch_size=size, early_stopping=False).fit(X, Y) for size in ("auto", 32)
    )
    np.testing.assert_array_equal(auto.coefs_[0], given.coefs_[0])
    every = quick(batch_size=300, early_stopping=False).fit(X, Y)
    more = quick(batch_size=301, early_stopping=False).fit(X, Y)
    np.testing.assert_array_equal(every.coefs_[0], more.coefs_[0])
    assert not np.array_equal(every.coefs_[0], auto.coefs_[0])


def test_weight_decay_shrinks_the_heads():
    sizes = [
        np.abs(quick(weight_decay=decay, hidden=(), **FULL).fit(X, Y).coefs_[0]).sum()
        for decay in (0.0, 10.0)
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_a_higher_level_is_a_wider_interval():
    widths = [
        np.diff(quick(confidence_level=level).fit(X, Y).predict_interval(X)).mean()
        for level in (0.5, 0.9)
    ]
    assert widths[0] < 0.7 * widths[1]


def test_the_level_asked_for_is_the_one_that_was_fitted():
    head = quick(confidence_level=0.8).fit(X, Y)
    interval = head.predict_interval(X)
    np.testing.assert_array_equal(head.predict_interval(X, 1 - 0.2), interval)
    with pytest.raises(ValueError, match=re.escape("confidence_level=0.9 was not fit")):
        head.predict_interval(X, 0.9)


def test_unconstrained_means_can_be_negative():
    inputs = table(np.exp(X[:, 0]) * Y)
    far = inputs * [30.0, 30.0, 1.0]
    free = table_head(positive=False, learning_rate=0.02).fit(inputs, np.zeros(300))
    found = free.predict_uncertainty(far)
    assert min(found.mar.min(), found.mar_up.min(), found.mar_down.min()) < 0
    assert not any(np.isnan(values).any() for values in found.values())
    assert np.all(found.sds >= 0)
    assert np.all(found.quantile_up > 0)
    assert np.all(found.quantile_down > 0)
    kept = table_head(learning_rate=0.02).fit(inputs, np.zeros(300))
    found = kept.predict_uncertainty(far)
    assert min(found.mar.min(), found.mar_up.min(), found.mar_down.min()) >= 0


def test_discrepancies_of_any_numbers():
    rng = np.random.default_rng(8)
    m, up, down = rng.uniform(0.1, 2, size=(3, 50))
    positive = discrepancies(m, up, down)
    for name, kind in [
        ("sds", "raw"),
        ("epistemic", "sqrt"),
        ("relative_sds", "relative"),
    ]:
        expected = self_consistency_discrepancy(m, up, down, kind=kind)
        np.testing.assert_array_equal(positive[name], expected)
    # One more row, below zero, sends all rows the other way.
    more = discrepancies(*(np.append(values, -0.5) for values in (m, up, down)))
    for name, values in positive.items():
        np.testing.assert_allclose(more[name][:-1], values, rtol=1e-9, atol=1e-12)
    found = discrepancies(*np.array([[0.0, 0.0], [-1.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(found["relative_sds"], [np.inf, 0.0])


def test_equal_seeds_give_equal_heads_and_nothing_global_changes():
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    head = quick().fit(X, Y)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.rand(3)
    again, other = quick().fit(X, Y), quick(random_state=1).fit(X, Y)
    np.testing.assert_array_equal(again.coefs_[0], head.coefs_[0])
    assert not np.array_equal(other.coefs_[0], head.coefs_[0])


@pytest.mark.parametrize("early_stopping", [True, False])
def test_divergence_is_told_and_leaves_a_finite_state(early_stopping):
    head = quick(learning_rate=1e30, early_stopping=early_stopping)
    with pytest.warns(UncertaintyWarning, match="training loss was not finite"):
        head.fit(X, Y)
    check_defined(head, X)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"task": "ranking"}, ValueError, "task must be one of"),
        ({"outputs": "scores"}, ValueError, "outputs must be one of"),
        ({"quantile_loss": "huber"}, ValueError, "quantile_loss must be one of"),
        ({"positive": "softplus"}, TypeError, "positive must be an instance of"),
        ({"early_stopping": 1}, TypeError, "early_stopping must be an instance of"),
        ({"confidence_level": 1.0}, ValueError, "confidence_level must lie strictly"),
        ({"hidden": 64}, ValueError, "hidden must be a sequence of widths, got 64"),
        ({"hidden": (0,)}, ValueError, "hidden == 0, must be >= 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate == 0.0, must be > 0"),
        ({"learning_rate": np.inf}, ValueError, "learning_rate must be finite"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay == -1.0, must be >= 0"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction == 1.0"),
        ({"batch_size": 0}, ValueError, "batch_size == 0, must be >= 1"),
        ({"batch_size": "all"}, TypeError, "batch_size must be an instance of"),
        ({"max_iter": 0}, ValueError, "max_iter == 0, must be >= 1"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change == 0, must be >= 1"),
        ({"network": LinearRegression()}, TypeError, "network must be a fitted torch"),
        ({"feature_layer": "9"}, ValueError, "feature_layer='9' is no module"),
    ],
    ids=str,
)
def test_bad_parameters(parameters, error, message):
    head = quick().set_params(**parameters)
    with pytest.raises(error, match=re.escape(message)):
        head.fit(X, Y)
    assert not hasattr(head, "network_")


class Function(nn.Module):
    """A network without layers."""

    def __init__(self, function):
        super().__init__()
        self.function, self.idle = function, nn.Linear(2, 2)

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "parameters", "message"),
    [
        (lambda x: x[:, 0], {}, "The network called no linear layer"),
        (lambda x: x[:, 0], {"feature_layer": "idle"}, "called no layer 'idle'"),
        (lambda x: (x, x), {}, "The output of the network must have one row for each"),
        (lambda x: x[:-1, 0], {}, "must have one row for each of 300 rows of X, got"),
        (lambda x: x[:, 0] * torch.nan, {}, "The output of the network holds NaN"),
        (lambda x: x[:, 0] / 0.0, {}, "The output of the network holds NaN or inf"),
    ],
)
def test_networks_that_do_not_answer(function, parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        quick(Function(function), **parameters).fit(X, Y)


def test_outputs_that_do_not_suit_the_task():
    with pytest.raises(ValueError, match="must give one number a row"):
        quick(network(n_outputs=2)).fit(X, Y)
    image = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)))
    with pytest.raises(ValueError, match="must give one row of scores for"):
        quick(image, task="classification").fit(X, LABELS)
    proba = table_head(n_outputs=3, task="classification", outputs="proba")
    with pytest.raises(ValueError, match="the outputs of the network") as caught:
        proba.fit(class_rows(logits()), LABELS)
    assert "outputs='logits'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (LABELS + 1.5, None, "Unknown label type"),
        (np.where(LABELS == 1, "a", "b"), None, "The network has 3 classes, but y has"),
        (LABELS, [0, 1], "3 classes, but classes has 2 labels"),
        (LABELS, [0, 1, 1], "classes must be distinct labels"),
        (LABELS, [0, 1, 5], "y has labels that the estimator does not know: 2"),
    ],
)
def test_labels_that_do_not_suit_the_network(y, classes, message):
    head = table_head(n_outputs=3, task="classification", classes=classes)
    with pytest.raises(ValueError, match=message):
        head.fit(class_rows(logits()), y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(bad):
    features, target = X.copy(), Y.copy()
    features[3, 1] = target[5] = bad
    with pytest.raises(ValueError, match="Input X contains"):
        quick().fit(features, Y)
    with pytest.raises(ValueError, match="Input y contains"):
        quick().fit(X, target)
    for head in (quick().fit(X, Y), quick()):
        with pytest.raises(ValueError, match="Input X contains"):
            head.features(features)


def test_bad_input_leaves_a_fitted_head_alone():
    head = quick().fit(X, Y)
    before = head.predict_uncertainty(X)
    with pytest.raises(ValueError, match="holds dates"):
        head.fit(X, np.arange(300).astype("datetime64[D]"))
    head.set_params(network=network(n_outputs=2))
    with pytest.raises(ValueError, match="must give one number a row"):
        head.fit(X, Y)
    for name, values in head.predict_uncertainty(X).items():
        np.testing.assert_array_equal(values, before[name])


def test_not_fitted():
    for method in ("predict", "predict_uncertainty", "predict_interval"):
        with pytest.raises(NotFittedError):
            getattr(quick(), method)(X)


def test_without_torch_the_error_says_how_to_install_it(monkeypatch):
    head = quick()
    monkeypatch.setitem(sys.modules, "torch", None)
    message = "TorchSPAHead needs torch. Install it with: pip install uqlib[torch]"
    for call in (lambda: head.fit(X, Y), lambda: head.features(X)):
        with pytest.raises(ImportError, match=re.escape(message)):
            call()


def test_a_fit_that_fails_leaves_the_head_as_it_was():
    head = quick(max_iter=10).fit(X, Y)
    before = head.predict_interval(X)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        head.fit(X[:, :1], Y)
    assert head.n_features_in_ == 2
    np.testing.assert_array_equal(head.predict_interval(X), before)
